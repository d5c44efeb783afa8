//! Identify of I/O command sets: which there are, and what is specific to one or to none.

use alloc::vec::Vec;

use nvme_host::{Config, command};
use nvme_spec::command_set::{CNTID_THIS, CommandSets, IndependentNamespace, NvmNamespace};
use nvme_spec::feature::{CommandSetProfile, Select};
use nvme_spec::identify::{NIDT_CSI, NamespaceFeatures};
use nvme_spec::registers::{CAP_CSS_IOCSS, CC_CSS_ALL};
use nvme_spec::{Cns, Csi, FeatureId, IDENTIFY_BYTES, Sqe, Status};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::identify::descriptors;
use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "identify":
    command_sets_are_listed, "Base 2.1 5.1.13.2",
        "Where CAP.CSS offers I/O command sets, one combination at least is listed, and each namespace's command set is in one.";
    command_sets_of_this_controller, "Base 2.1 5.1.13.2",
        "The I/O Command Set data structure with CNTID FFFFh is that of the controller's own identifier.";
    command_set_profile_selects_a_combination, "Base 2.1 5.1.25.1",
        "I/O Command Set Profile names a combination that is listed, takes it again, and refuses an empty one with I/O Command Set Combination Rejected.";
    all_command_sets_can_be_selected, "Base 2.1 3.1.4.5",
        "Where CAP.CSS offers I/O command sets, a controller enabled with CC.CSS = 110b reads and writes.";
    nvm_namespace_formats_are_possible, "NVM 1.1 4.1.5.3",
        "The NVM Command Set's Identify Namespace gives each LBA format a storage tag that fits its guard.";
    nvm_namespace_refuses_invalid_nsid, "Base 2.1 3.2.1.3",
        "Identify Namespace of the NVM Command Set with an invalid NSID completes with Invalid Namespace or Format.";
    unknown_command_set_is_refused, "Base 2.1 5.1.13",
        "Identify Namespace and Identify Controller of a reserved I/O command set are refused.";
    nvm_active_list_is_the_active_list, "Base 2.1 5.1.13.2",
        "The active namespaces of the NVM Command Set are the active namespaces whose descriptor names no other.";
    independent_namespace_agrees, "Base 2.1 5.1.13.2.8",
        "The I/O command set independent Identify Namespace says what CNS 00h says, and that the namespace is ready.";
    independent_namespace_refuses_invalid_nsid, "Base 2.1 3.2.1.3",
        "The I/O command set independent Identify Namespace with an invalid NSID completes with Invalid Namespace or Format.";
}

/// A Command Set Identifier no version up to 2.1 defines.
const RESERVED_CSI: Csi = Csi(0x2F);

/// Skips the test unless Identify takes Command Set Identifiers.
fn needs_command_sets(env: &Env<'_>) -> Outcome {
    require!(
        env.context.cap.css() & CAP_CSS_IOCSS != 0,
        "CAP.CSS bit 6 does not offer I/O command sets"
    );
    Ok(())
}

fn active(env: &Env<'_>) -> Vec<u32> {
    let namespaces = &env.context.found.namespaces;
    namespaces.iter().map(|ns| ns.nsid).collect()
}

/// A structure that Identify returns.
fn identify<D: FromBytes + IntoBytes>(env: &mut Env<'_>, sqe: Sqe) -> Outcome<D> {
    let mut data = D::new_zeroed();
    env.nvme.admin_data_ok(sqe, data.as_mut_bytes())?;
    Ok(data)
}

/// The command set of a namespace, by its descriptor.
fn command_set(env: &mut Env<'_>, nsid: u32) -> Outcome<Csi> {
    let list = env.nvme.identify(Cns::NAMESPACE_DESCRIPTORS, nsid)?;
    let found = descriptors(&list)?.into_iter();
    let mut found = found.filter(|(nidt, _)| *nidt == NIDT_CSI);
    Ok(match found.next().as_ref().map(|(_, id)| id.as_slice()) {
        Some(&[csi]) => Csi(csi),
        _ => Csi::NVM,
    })
}

/// The combinations of this controller, as bits.
fn combinations(env: &mut Env<'_>) -> Outcome<Vec<u64>> {
    let sqe = command::identify(Cns::IO_COMMAND_SETS, 0);
    let sets: CommandSets = identify(env, command::with_controller(sqe, CNTID_THIS))?;
    Ok(sets.vectors.iter().map(|vector| (*vector).into()).collect())
}

fn command_sets_are_listed(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let sets = combinations(env)?;
    ensure!(
        sets.iter().any(|set| *set != 0),
        "no combination of command sets is listed"
    );
    for nsid in active(env) {
        let csi = command_set(env, nsid)?;
        let bit = 1_u64.checked_shl(csi.0.into()).unwrap_or(0);
        ensure!(
            sets.iter().any(|set| set & bit != 0),
            "namespace {nsid} is of {csi:?}, which is in no combination"
        );
    }
    Ok(())
}

fn command_sets_of_this_controller(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let own = env.context.controller.cntlid;
    let sqe = command::identify(Cns::IO_COMMAND_SETS, 0);
    let sets: CommandSets = identify(env, command::with_controller(sqe, own))?;
    let found: Vec<u64> = sets.vectors.iter().map(|vector| (*vector).into()).collect();
    let expected = combinations(env)?;
    let what = alloc::format!("combinations with CNTID {own:#x}");
    check::equal(&what, found, expected)
}

fn command_set_profile_selects_a_combination(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let fid = FeatureId::IO_COMMAND_SET_PROFILE;
    let sets = combinations(env)?;
    let index = env.nvme.get_feature(fid, Select::Current, 0)?;
    let index = usize::from(CommandSetProfile::from(index).iocsci());
    ensure!(
        sets.get(index).is_some_and(|set| *set != 0),
        "combination {index} is selected, and is empty"
    );
    let cqe = |env: &mut Env<'_>, index: usize| {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let value = CommandSetProfile::new().with_iocsci(index);
        env.nvme.admin(command::set_features(fid, value.into()))
    };
    let again = cqe(env, index)?;
    check::one_of(
        "the same combination",
        again,
        &[Status::SUCCESS, Status::FEATURE_NOT_CHANGEABLE],
    )?;
    let Some(empty) = sets.iter().position(|set| *set == 0) else {
        skip!("every combination is there");
    };
    let refused = cqe(env, empty)?;
    check::one_of(
        "an empty combination",
        refused,
        &[
            Status::COMMAND_SETS_REJECTED,
            Status::FEATURE_NOT_CHANGEABLE,
        ],
    )
}

fn all_command_sets_can_be_selected(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let ns = env.ns()?;
    env.restart(&Config {
        css: CC_CSS_ALL,
        ..Config::default()
    })?;
    env.request_queues()?;
    env.io()?;
    env.write_pattern(ns, 0, 1, 0x1DE7)?;
    env.expect_pattern(ns, 0, 1, 0x1DE7)?;
    env.nvme.delete_sq(IO)?;
    env.nvme.delete_cq(IO)?;
    check::equal_hex("CC.CSS", env.nvme.cc().css(), CC_CSS_ALL)
}

fn nvm_namespace_formats_are_possible(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    for nsid in active(env) {
        if command_set(env, nsid)? != Csi::NVM {
            continue;
        }
        let sqe = command::identify(Cns::CSI_NAMESPACE, nsid);
        let specific: NvmNamespace = identify(env, command::with_command_set(sqe, Csi::NVM))?;
        let ns = env.nvme.identify_namespace(nsid)?;
        let formats = usize::from(ns.nlbaf_z) + usize::from(ns.nulbaf) + 1;
        for (index, format) in specific.elbaf.iter().enumerate() {
            let what = alloc::format!("namespace {nsid}, LBA format {index}");
            if index >= formats {
                let found = u32::from(*format);
                ensure!(found == 0, "{what} is not there and extended by {found:#x}");
                continue;
            }
            // Guards of 16, 32 and 64 bits leave 32, 80 and 48 bits to tags.
            let (least, most) = match format.pif() {
                0 => (0, 32),
                1 => (16, 64),
                2 => (0, 48),
                other => {
                    ensure!(
                        other == 3 && format.qpif() != 0,
                        "{what}: PIF {other} is reserved"
                    );
                    continue;
                }
            };
            let sts = format.sts();
            ensure!(
                (least..=most).contains(&sts),
                "{what}: a storage tag of {sts} bits, {least} to {most} fit PIF {}",
                format.pif()
            );
        }
    }
    Ok(())
}

/// Checks that a structure of a namespace is refused for identifiers that are invalid.
fn refuses_invalid_nsids(env: &mut Env<'_>, cns: Cns) -> Outcome {
    let mut nsids = alloc::vec![0];
    nsids.extend(env.invalid_nsid());
    let mut data = alloc::vec![0; IDENTIFY_BYTES];
    for nsid in nsids {
        let cqe = env
            .nvme
            .admin_data(command::identify(cns, nsid), &mut data)?;
        let what = alloc::format!("Identify {cns:?} of NSID {nsid:#x}");
        check::status(&what, cqe, Status::INVALID_NAMESPACE)?;
    }
    Ok(())
}

fn nvm_namespace_refuses_invalid_nsid(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    refuses_invalid_nsids(env, Cns::CSI_NAMESPACE)
}

fn unknown_command_set_is_refused(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let nsid = env.ns()?.nsid;
    let mut data = alloc::vec![0; IDENTIFY_BYTES];
    for (cns, nsid) in [(Cns::CSI_NAMESPACE, nsid), (Cns::CSI_CONTROLLER, 0)] {
        let sqe = command::with_command_set(command::identify(cns, nsid), RESERVED_CSI);
        let cqe = env.nvme.admin_data(sqe, &mut data)?;
        let what = alloc::format!("Identify {cns:?} of CSI {:#04x}", RESERVED_CSI.0);
        check::one_of(
            &what,
            cqe,
            &[Status::INVALID_FIELD, Status::INVALID_COMMAND_SET],
        )?;
    }
    Ok(())
}

fn nvm_active_list_is_the_active_list(env: &mut Env<'_>) -> Outcome {
    needs_command_sets(env)?;
    let mut expected = Vec::new();
    for nsid in env.nvme.active_namespaces(0)? {
        if command_set(env, nsid)? == Csi::NVM {
            expected.push(nsid);
        }
    }
    let first = expected.first().copied().unwrap_or(0);
    for after in [0, first] {
        let sqe = command::identify(Cns::CSI_ACTIVE_NAMESPACES, after);
        let data: [u32; IDENTIFY_BYTES / 4] =
            identify(env, command::with_command_set(sqe, Csi::NVM))?;
        let found: Vec<u32> = data.into_iter().take_while(|nsid| *nsid != 0).collect();
        let above = expected.iter().copied().filter(|nsid| *nsid > after);
        let what = alloc::format!("namespaces of the NVM Command Set after {after}");
        check::equal(&what, found, above.collect())?;
    }
    Ok(())
}

/// Identify of CNS 08h; skips where the controller, of a version before 2.0, does not have it.
fn independent(env: &mut Env<'_>, nsid: u32) -> Outcome<IndependentNamespace> {
    let mut data: IndependentNamespace = FromZeros::new_zeroed();
    let sqe = command::identify(Cns::INDEPENDENT_NAMESPACE, nsid);
    let cqe = env.nvme.admin_data(sqe, data.as_mut_bytes())?;
    if env.context.vs.mjr() < 2 && cqe.status().same_code(Status::INVALID_FIELD) {
        skip!("CNS 08h became mandatory with version 2.0, and is not there");
    }
    check::status("Identify CNS 08h", cqe, Status::SUCCESS)?;
    Ok(data)
}

fn independent_namespace_agrees(env: &mut Env<'_>) -> Outcome {
    for nsid in active(env) {
        let found = independent(env, nsid)?;
        let ns = env.nvme.identify_namespace(nsid)?;
        ensure!(found.nstat.nrdy(), "namespace {nsid} is not ready");
        let reused = NamespaceFeatures::UIDREUSE.bits();
        let fields = [
            ("NSFEAT bit 3", found.nsfeat & reused, ns.nsfeat & reused),
            ("NMIC", found.nmic, ns.nmic),
            ("RESCAP", found.rescap, ns.rescap),
            ("FPI", found.fpi, ns.fpi),
            ("NSATTR", found.nsattr, ns.nsattr),
        ];
        for (name, found, expected) in fields {
            let what = alloc::format!("{name} of namespace {nsid}");
            check::equal_hex(&what, found, expected)?;
        }
        let groups = (found.anagrpid, found.nvmsetid, found.endgid);
        let what = alloc::format!("ANAGRPID, NVMSETID and ENDGID of namespace {nsid}");
        check::equal(&what, groups, (ns.anagrpid, ns.nvmsetid, ns.endgid))?;
    }
    Ok(())
}

fn independent_namespace_refuses_invalid_nsid(env: &mut Env<'_>) -> Outcome {
    let nsid = env.ns()?.nsid;
    independent(env, nsid)?;
    refuses_invalid_nsids(env, Cns::INDEPENDENT_NAMESPACE)
}
