//! What no sane host does with registers and doorbells: whatever comes of it, a reset mends it.

use nvme_host::{Config, Error};
use nvme_spec::registers::{Aqa, CQE_LOG2, Cc, Register, SQE_LOG2};

use super::hostile::SEED;
use super::place::nowhere;
use crate::rng::Rng;
use crate::{Env, Outcome, check};

group! { "hostile":
    admin_queues_nowhere_can_be_mended, "Base 2.1 3.5.1",
        "Enabling with admin queues where there is no memory ends, and a reset mends it.";
    one_entry_admin_queues_can_be_mended, "Base 2.1 3.1.4.8",
        "Enabling with admin queues of one entry ends, and a reset mends it.";
    page_size_beyond_range_can_be_mended, "Base 2.1 3.1.4.5",
        "Enabling with CC.MPS above CAP.MPSMAX ends, and a reset mends it.";
    configuration_changed_while_enabled, "Base 2.1 3.1.4.5",
        "Changing CC.MPS and entry sizes while enabled does not stop the controller for good.";
    odd_register_accesses_are_harmless, "PCIe 1.1 3.1.1",
        "Accesses of other widths and alignments than a register's change nothing else and hang nothing.";
    random_doorbells_can_be_mended, "PCIe 1.1 3.1.2.1",
        "Random values in every doorbell but the admin queue's leave a controller that a reset mends.";
}

/// Sets CC.EN and lets the controller come up, fail, or do neither.
fn try_to_enable(env: &mut Env<'_>, config: &Config) -> Outcome {
    env.nvme.start(config);
    match env.nvme.wait_ready(true) {
        Ok(()) | Err(Error::Fatal { .. } | Error::Timeout { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn admin_queues_nowhere_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let address = nowhere(env);
    let transport = env.nvme.transport();
    transport.write64(Register::Asq.offset(), address);
    transport.write64(Register::Acq.offset(), address);
    try_to_enable(env, &config)?;
    env.nvme.write_sq_doorbell(0, 1);
    env.settle();
    env.alive_after_reset()
}

fn one_entry_admin_queues_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let aqa = Aqa::new();
    env.nvme
        .transport()
        .write32(Register::Aqa.offset(), aqa.into());
    env.nvme.start(&config);
    env.settle();
    env.nvme.write_sq_doorbell(0, 1);
    env.settle();
    env.alive_after_reset()
}

fn page_size_beyond_range_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let largest = env.context.cap.mpsmax();
    require!(largest < 15, "CAP.MPSMAX allows every page size");
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let cc = Cc::new()
        .with_mps(largest + 1)
        .with_iosqes(SQE_LOG2)
        .with_iocqes(CQE_LOG2);
    env.nvme.set_cc(cc);
    env.nvme.set_cc(cc.with_en(true));
    env.settle();
    env.alive_after_reset()
}

fn configuration_changed_while_enabled(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let cc = env.nvme.cc();
    env.nvme
        .set_cc(cc.with_mps(15).with_iosqes(0).with_iocqes(15));
    env.settle();
    env.nvme.set_cc(cc);
    env.settle();
    env.alive_after_reset()
}

fn odd_register_accesses_are_harmless(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    let transport = env.nvme.transport();
    for offset in [0, 1, 2, 3, 5, 7, 0x1A, 0x1D, 0x2C, 0x31, 0xFFD] {
        for bytes in [1, 2, 4, 8] {
            let mut data = [0; 8];
            if let Some(data) = data.get_mut(..bytes) {
                transport.bar_read(offset, data);
            }
        }
    }
    // Writes to what is read-only, in every width.
    for bytes in [1, 2, 4, 8] {
        let ones = [0xFF; 8];
        let ones = ones.get(..bytes).unwrap_or_default();
        for offset in [0, 1, 2, 9] {
            transport.bar_write(offset, ones);
        }
    }
    let found = transport.read64(Register::Cap.offset());
    check::equal_hex("CAP", found, u64::from(cap))?;
    env.alive()?;
    // Parts of registers that can be written: undefined, but it ends.
    let transport = env.nvme.transport();
    for offset in [0x16, 0x24, 0x29, 0x33] {
        transport.bar_write(offset, &[0xFF]);
        transport.bar_write(offset, &[0xFF; 2]);
    }
    env.settle();
    env.alive_after_reset()
}

fn random_doorbells_can_be_mended(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let mut rng = Rng::new(SEED + 3);
    for qid in 1..40 {
        env.nvme.write_sq_doorbell(qid, rng.next32());
        env.nvme
            .write_cq_doorbell(qid, rng.next32() >> rng.below(32));
    }
    env.settle();
    env.nvme.identify_controller()?;
    env.alive_after_reset()
}
