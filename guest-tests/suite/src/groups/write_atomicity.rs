//! Write Atomicity Normal.

use nvme_host::Config;
use nvme_spec::FeatureId;
use nvme_spec::feature::{Select, WriteAtomicityNormal};

use super::features::{get, needs_select, set};
use crate::{Env, Outcome, check};

group! { "write_atomicity":
    disable_normal_is_kept, "NVM 1.1 4.1.3.3",
        "Disable Normal can be set and cleared, and is read back.";
    disable_normal_is_clear_by_default, "NVM 1.1 4.1.3.3",
        "Disable Normal is clear by default, whatever its current value.";
    reset_clears_disable_normal, "Base 2.1 3.7.2",
        "After a Controller Reset Disable Normal, which was not saved, is clear.";
    writes_work_either_way, "NVM 1.1 4.1.3.3",
        "Blocks are written and read right with Disable Normal set and clear.";
}

const FID: FeatureId = FeatureId::WRITE_ATOMICITY_NORMAL;

fn set_dn(env: &mut Env<'_>, dn: bool) -> Outcome {
    set(env, FID, WriteAtomicityNormal::new().with_dn(dn).into())
}

fn expect_dn(env: &mut Env<'_>, dn: bool) -> Outcome {
    let found = get(env, FID, 0)?;
    let expected = u32::from(WriteAtomicityNormal::new().with_dn(dn));
    check::equal_hex("Write Atomicity Normal", found, expected)
}

fn disable_normal_is_kept(env: &mut Env<'_>) -> Outcome {
    for dn in [true, false, true, false] {
        set_dn(env, dn)?;
        expect_dn(env, dn)?;
    }
    Ok(())
}

fn disable_normal_is_clear_by_default(env: &mut Env<'_>) -> Outcome {
    needs_select(env)?;
    for dn in [true, false] {
        set_dn(env, dn)?;
        let default = env.nvme.get_feature(FID, Select::Default, 0)?;
        check::equal_hex("default value", default, 0)?;
    }
    Ok(())
}

fn reset_clears_disable_normal(env: &mut Env<'_>) -> Outcome {
    set_dn(env, true)?;
    env.restart(&Config::default())?;
    expect_dn(env, false)
}

fn writes_work_either_way(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    for (dn, seed) in [(true, 0xA7), (false, 0xA8)] {
        set_dn(env, dn)?;
        env.write_pattern(ns, slba, blocks, seed)?;
        env.expect_pattern(ns, slba, blocks, seed)?;
    }
    Ok(())
}
