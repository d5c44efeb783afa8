//! What the tests of optional I/O commands have in common.

use alloc::vec::Vec;

use nvme_host::{Buffer, command};
use nvme_spec::command_set::NvmController;
use nvme_spec::identify::IdentifyNamespace;
use nvme_spec::{Cns, Cqe, NSID_BROADCAST, Sqe, Status};
use zerocopy::{FromZeros, IntoBytes};

use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

/// The most data that tests move in one command to fill or read an area.
const CHUNK_BYTES: u64 = 1 << 20;

/// A namespace and the queue pair [`IO`], where ONCS offers a command.
pub(super) fn offered(env: &mut Env<'_>, oncs: u16, name: &str) -> Outcome<Namespace> {
    require!(
        env.context.controller.oncs & oncs != 0,
        "ONCS does not offer {name}"
    );
    let ns = env.ns()?;
    env.io()?;
    Ok(ns)
}

/// Issues a command with PRPs for `data`, if its opcode says that it moves data; its PRPs are
/// reserved otherwise (Base 4.1.1).
fn exec(env: &mut Env<'_>, sqe: Sqe, data: Buffer) -> Outcome<Cqe> {
    const DIRECTION: u8 = 0b11;
    Ok(match sqe.opcode & DIRECTION {
        0 => env.nvme.exec(IO, sqe)?,
        _ => env.nvme.exec_data(IO, sqe, data)?,
    })
}

/// Checks that a command of one block is refused with every namespace identifier that is not an
/// active namespace's (Base 3.2.1). `make` gives the command for an identifier.
pub(super) fn refuses_nsids(
    env: &mut Env<'_>,
    ns: Namespace,
    make: impl Fn(u32) -> Sqe,
) -> Outcome {
    const INVALID: &[Status] = &[Status::INVALID_NAMESPACE];
    let mut cases = alloc::vec![
        (0, INVALID),
        (
            NSID_BROADCAST,
            &[Status::INVALID_NAMESPACE, Status::INVALID_FIELD]
        ),
    ];
    cases.extend(env.invalid_nsid().map(|nsid| (nsid, INVALID)));
    let inactive: &[Status] = &[Status::INVALID_FIELD];
    cases.extend(env.inactive_nsid().map(|nsid| (nsid, inactive)));
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for (nsid, allowed) in cases {
        let cqe = exec(env, make(nsid), buffer)?;
        let what = alloc::format!("NSID {nsid:#x}");
        check::one_of(&what, cqe, allowed)?;
    }
    env.alive()
}

/// Checks that a command is refused with LBA Out of Range for ranges that begin beyond the
/// namespace's end, cross it, or cross 2^64, and that the last block keeps what it holds. `make`
/// gives the command for an SLBA and an NLB.
pub(super) fn refuses_ranges(
    env: &mut Env<'_>,
    ns: Namespace,
    make: impl Fn(u64, u16) -> Sqe,
) -> Outcome {
    let last = ns.blocks - 1;
    env.write_pattern(ns, last, 1, 0x0C01)?;
    env.write_pattern(ns, 0, 1, 0x0C02)?;
    let mut cases = alloc::vec![
        (ns.blocks, 0),
        (ns.blocks + 1, 0),
        (1 << 63, 0),
        (u64::MAX, 0),
    ];
    if env.max_blocks(ns) >= 2 {
        cases.extend([(last, 1), (u64::MAX, 1)]);
    }
    let buffer = env.nvme.alloc(2 * ns.block_bytes)?;
    for (slba, nlb_z) in cases {
        let data = buffer.slice(0, (u64::from(nlb_z) + 1) * ns.block_bytes);
        let cqe = exec(env, make(slba, nlb_z), data)?;
        let what = alloc::format!("SLBA {slba:#x} NLB {nlb_z}");
        check::status(&what, cqe, Status::LBA_OUT_OF_RANGE)?;
    }
    env.expect_pattern(ns, last, 1, 0x0C01)?;
    env.expect_pattern(ns, 0, 1, 0x0C02)
}

/// How many blocks one command of an area may carry that is filled piece by piece.
fn chunk(env: &Env<'_>, ns: Namespace) -> u64 {
    env.max_blocks(ns).min(CHUNK_BYTES / ns.block_bytes).max(1)
}

/// Writes one block's data over each block of an area.
pub(super) fn fill(
    env: &mut Env<'_>,
    ns: Namespace,
    slba: u64,
    blocks: u64,
    block: &[u8],
) -> Outcome {
    let each = chunk(env, ns).min(blocks);
    let buffer = env.nvme.alloc(each * ns.block_bytes)?;
    for at in 0..each {
        let part = buffer.slice(at * ns.block_bytes, ns.block_bytes);
        env.nvme.copy_to(part, block);
    }
    let mut done = 0;
    while done < blocks {
        let now = each.min(blocks - done);
        let part = buffer.slice(0, now * ns.block_bytes);
        env.nvme.write(IO, ns.nsid, slba + done, now, part)?;
        done += now;
    }
    env.nvme.free(buffer);
    Ok(())
}

/// Reads an area and says of each block whether it holds `old`; any that does not must hold
/// `new` in every byte.
pub(super) fn changed(
    env: &mut Env<'_>,
    ns: Namespace,
    (slba, blocks): (u64, u64),
    old: &[u8],
    new: Option<u8>,
) -> Outcome<Vec<bool>> {
    let each = chunk(env, ns);
    let size = usize::try_from(ns.block_bytes).unwrap_or(1);
    let mut changed = Vec::new();
    let mut done = 0;
    while done < blocks {
        let now = each.min(blocks - done);
        let data = env.read_blocks(ns, slba + done, now)?;
        for (lba, block) in (slba + done..).zip(data.chunks(size)) {
            let is_old = block == old;
            if let (false, Some(new)) = (is_old, new) {
                let wrong = block.iter().position(|byte| *byte != new);
                ensure!(
                    wrong.is_none(),
                    "LBA {lba:#x} holds neither what was written nor {new:#04x} alone"
                );
            }
            changed.push(!is_old);
        }
        done += now;
    }
    Ok(changed)
}

/// What each byte of a deallocated block reads as, if DLFEAT says so (NVM 4.1.5.1).
pub(super) fn deallocated_byte(identify: &IdentifyNamespace) -> Option<u8> {
    match identify.dlfeat & 0b111 {
        0b001 => Some(0x00),
        0b010 => Some(0xFF),
        _ => None,
    }
}

/// Fields of Identify Controller of the NVM Command Set, CNS 06h (NVM 4.1.5.4).
pub(super) struct NvmLimits {
    /// The most bytes of a Verify, 0 for no limit.
    pub(super) verify_bytes: u64,
    /// The most bytes of a Write Zeroes, 0 for no limit.
    pub(super) write_zeroes_bytes: u64,
    /// The most ranges of a Dataset Management, 1 to 256.
    pub(super) dsm_ranges: u16,
    /// The most blocks of a range of it.
    pub(super) dsm_range_blocks: u64,
}

/// What the controller says of its optional commands; no limits where it has no such structure.
pub(super) fn nvm_limits(env: &mut Env<'_>) -> Outcome<NvmLimits> {
    let mut data = NvmController::new_zeroed();
    let sqe = command::identify(Cns::CSI_CONTROLLER, 0);
    let cqe = env.nvme.admin_data(sqe, data.as_mut_bytes())?;
    if !cqe.status().is_success() {
        data = NvmController::new_zeroed();
    }
    let unit = env.context.found.min_page_bytes;
    let bytes = |log2: u8| match log2 {
        0 => 0,
        log2 => unit.checked_shl(u32::from(log2)).unwrap_or(0),
    };
    Ok(NvmLimits {
        verify_bytes: bytes(data.vsl),
        write_zeroes_bytes: bytes(data.wzsl),
        dsm_ranges: match data.dmrl {
            0 => 256,
            most => u16::from(most),
        },
        dsm_range_blocks: match data.dmrsl {
            0 => u64::MAX,
            most => most.into(),
        },
    })
}
