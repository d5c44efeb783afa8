//! Format NVM: what is refused, and changes nothing.

use alloc::vec::Vec;

use nvme_spec::identify::{FNA_CRYPTOGRAPHIC_ERASE, FNA_NO_BROADCAST, IdentifyNamespace};
use nvme_spec::queue::{FormatCdw10, SES_CRYPTOGRAPHIC};
use nvme_spec::{NSID_BROADCAST, Status};

use super::format::{exec, how, offered, put_back, usable};
use crate::{Env, Namespace, Outcome, check};

group! { "format":
    format_beyond_nlbaf_is_refused, "Base 2.1 5.1.10",
        "Format NVM to an LBA format that is not listed completes with Invalid Format and changes nothing.";
    protection_without_metadata_is_refused, "Base 2.1 5.1.10",
        "Format NVM with protection information in a format without metadata completes with Invalid Format and changes nothing.";
    reserved_secure_erase_is_refused, "Base 2.1 5.1.10",
        "Format NVM with a reserved secure erase setting is refused and changes nothing.";
    cryptographic_erase_is_there_as_advertised, "Base 2.1 5.1.13.2.1",
        "A cryptographic erase works if FNA bit 2 is set, and is refused and changes nothing if it is clear.";
    invalid_nsid_is_refused, "Base 2.1 3.2.1",
        "Format NVM of a namespace that is not there is refused, and the others keep their data.";
    broadcast_formats_all, "Base 2.1 5.1.10",
        "Format NVM with NSID FFFFFFFFh formats every namespace, and is refused where FNA bit 3 says so.";
}

/// Checks that a command that `refuse` issues changes neither format nor data.
fn unchanged(
    env: &mut Env<'_>,
    refuse: impl FnOnce(&mut Env<'_>, Namespace, &IdentifyNamespace) -> Outcome,
) -> Outcome {
    let (ns, identify) = offered(env)?;
    env.io()?;
    env.write_pattern(ns, 0, 1, 0xF80)?;
    refuse(env, ns, &identify)?;
    let now = env.nvme.identify_namespace(ns.nsid)?;
    check::equal("FLBAS", now.flbas, identify.flbas)?;
    check::equal("NSZE", now.nsze, identify.nsze)?;
    env.expect_pattern(ns, 0, 1, 0xF80)
}

fn format_beyond_nlbaf_is_refused(env: &mut Env<'_>) -> Outcome {
    unchanged(env, |env, ns, identify| {
        let beyond = identify.nlbaf_z.saturating_add(1);
        require!(
            beyond < 16,
            "all 16 indices that LBAFL can name are formats"
        );
        for index in [beyond, 15] {
            let cqe = exec(env, ns.nsid, how(identify, index))?;
            let what = alloc::format!("LBA format {index} of {beyond}");
            check::status(&what, cqe, Status::INVALID_FORMAT)?;
        }
        Ok(())
    })
}

fn protection_without_metadata_is_refused(env: &mut Env<'_>) -> Outcome {
    unchanged(env, |env, ns, identify| {
        for pi in 1..=3 {
            for pil in [false, true] {
                let how = how(identify, identify.flbas.index());
                let cqe = exec(env, ns.nsid, how.with_pi(pi).with_pil(pil))?;
                let what = alloc::format!("protection of type {pi} without metadata");
                check::status(&what, cqe, Status::INVALID_FORMAT)?;
            }
        }
        Ok(())
    })
}

fn reserved_secure_erase_is_refused(env: &mut Env<'_>) -> Outcome {
    unchanged(env, |env, ns, identify| {
        for ses in 0b011..=0b111 {
            let how = how(identify, identify.flbas.index());
            let cqe = exec(env, ns.nsid, how.with_ses(ses))?;
            let what = alloc::format!("secure erase setting {ses}");
            check::status(&what, cqe, Status::INVALID_FIELD)?;
        }
        Ok(())
    })
}

fn cryptographic_erase_is_there_as_advertised(env: &mut Env<'_>) -> Outcome {
    let erase = |identify: &IdentifyNamespace| -> FormatCdw10 {
        how(identify, identify.flbas.index()).with_ses(SES_CRYPTOGRAPHIC)
    };
    if env.context.controller.fna & FNA_CRYPTOGRAPHIC_ERASE != 0 {
        let (ns, identify) = offered(env)?;
        env.io()?;
        env.write_pattern(ns, 0, 1, 0xF81)?;
        let cqe = exec(env, ns.nsid, erase(&identify))?;
        check::status("a cryptographic erase", cqe, Status::SUCCESS)?;
        let kept = env.expect_pattern(ns, 0, 1, 0xF81).is_ok();
        ensure!(!kept, "the data is there");
        return Ok(());
    }
    unchanged(env, |env, ns, identify| {
        let cqe = exec(env, ns.nsid, erase(identify))?;
        check::refused("a cryptographic erase", cqe)
    })
}

fn invalid_nsid_is_refused(env: &mut Env<'_>) -> Outcome {
    const INVALID: &[Status] = &[Status::INVALID_NAMESPACE];
    const EITHER: &[Status] = &[Status::INVALID_NAMESPACE, Status::INVALID_FIELD];
    unchanged(env, |env, _, identify| {
        let how = how(identify, identify.flbas.index());
        let mut cases = alloc::vec![(0, EITHER)];
        cases.extend(env.invalid_nsid().map(|nsid| (nsid, INVALID)));
        cases.extend(env.inactive_nsid().map(|nsid| (nsid, EITHER)));
        for (nsid, allowed) in cases {
            let cqe = exec(env, nsid, how)?;
            check::one_of(&alloc::format!("NSID {nsid:#x}"), cqe, allowed)?;
        }
        Ok(())
    })
}

fn broadcast_formats_all(env: &mut Env<'_>) -> Outcome {
    let (_, first) = offered(env)?;
    if env.context.controller.fna & FNA_NO_BROADCAST != 0 {
        return unchanged(env, |env, _, identify| {
            let cqe = exec(env, NSID_BROADCAST, how(identify, identify.flbas.index()))?;
            check::refused("NSID FFFFFFFFh", cqe)
        });
    }
    let all: Vec<Namespace> = env.namespaces().collect();
    require!(
        all.len() == env.context.found.namespaces.len(),
        "a namespace has metadata or few blocks"
    );
    let mut homes = Vec::new();
    let mut indices: Vec<u8> = (0..=first.nlbaf_z).collect();
    for ns in &all {
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        let usable = usable(env, *ns, &identify);
        indices.retain(|index| usable.contains(index));
        homes.push((*ns, how(&identify, identify.flbas.index())));
    }
    require!(
        !indices.is_empty(),
        "no LBA format is one of all namespaces"
    );
    env.io()?;
    let outcome = indices.iter().try_for_each(|&index| {
        let cqe = exec(env, NSID_BROADCAST, how(&first, index))?;
        let what = alloc::format!("LBA format {index} for all namespaces");
        check::status(&what, cqe, Status::SUCCESS)?;
        for ns in &all {
            let identify = env.nvme.identify_namespace(ns.nsid)?;
            check::equal("FLBAS", identify.flbas.index(), index)?;
            let now = crate::found::describe(ns.nsid, &env.context.controller, &identify);
            env.write_pattern(now, now.blocks - 1, 1, 0xF82)?;
            env.expect_pattern(now, now.blocks - 1, 1, 0xF82)?;
        }
        Ok(())
    });
    homes.into_iter().fold(outcome, |outcome, (ns, home)| {
        put_back(env, ns.nsid, home, outcome)
    })
}
