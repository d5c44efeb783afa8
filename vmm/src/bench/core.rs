//! `ferrite bench core`: the controller in this process, from doorbell to completion.
//!
//! A transfer over RAM is held against a bare copy of the same bytes of the same device, in the
//! same order and to as many buffers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use storage::{BlockDevice, BlockQueue, GuestRam, Op, Request, Submitted, ram::Ram};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};

use super::{
    Table,
    sample::{Case, Sample, measure},
    work::{
        BUFFERS, Behind, COPY, COPY_LARGE, COPY_WIDE, Copied, DEVICE_BYTES, WORK, Work, places,
    },
};

/// What to measure and for how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The cases, by identifier; all of them if there is none.
    pub cases: Vec<String>,
    /// For how long, over all cases.
    pub time: Duration,
    /// Do this many commands of each case once instead, and take no samples: for profilers that
    /// count instructions.
    pub operations: Option<u64>,
}

/// Writes a whole device, so that each block has memory of its own.
fn fill(device: &dyn BlockDevice) -> anyhow::Result<()> {
    const CHUNK: u32 = 1 << 20;
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), usize::try_from(CHUNK)?)])?;
    memory.write_slice(&vec![0xA5; usize::try_from(CHUNK)?], GuestAddress(0))?;
    let memory = Arc::new(memory);
    let mut queue = device.open_queue(1)?;
    let mut request = Box::new(Request::default());
    let mut reaped = Vec::new();
    for offset in (0..DEVICE_BYTES).step_by(usize::try_from(CHUNK)?) {
        request.reset(0, Op::Write, offset, u64::from(CHUNK));
        request.push_segment(0, CHUNK);
        let mut submitted = queue.submit(request, &memory);
        (request, _) = loop {
            match submitted {
                Submitted::Done(request, result) => break (request, result?),
                Submitted::Full(_) => anyhow::bail!("a queue of one request is full of none"),
                Submitted::Pending => queue.reap(&mut reaped),
            }
            submitted = match reaped.pop() {
                Some((request, result)) => Submitted::Done(request, result),
                None => Submitted::Pending,
            };
        };
    }
    Ok(())
}

/// The floor under a read over RAM: the same bytes copied, and nothing else.
fn bare_copy(ram: &Arc<Ram>, copied: &Copied) -> anyhow::Result<Box<dyn FnMut(u64) -> Sample>> {
    let (ram, bytes) = (ram.clone(), copied.bytes);
    let count_bytes = usize::try_from(bytes)?;
    let size = usize::try_from(BUFFERS * bytes)?;
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), size)])?;
    let places: Vec<(usize, u64)> = (0..copied.entries)
        .map(|slot| places(slot, bytes))
        .map(|(offset, buffer)| Ok((usize::try_from(offset)?, buffer * bytes)))
        .collect::<anyhow::Result<_>>()?;
    let mut slot = 0;
    Ok(Box::new(move |count| {
        let (device, start) = (ram.memory(), Instant::now());
        for _ in 0..count {
            let (from, to) = places.get(slot).copied().unwrap_or_default();
            if let (Ok(from), Ok(to)) = (
                device.get_slice(from, count_bytes),
                memory.get_slice(GuestAddress(to), count_bytes),
            ) {
                from.copy_to_volatile_slice(to);
            }
            slot = (slot + 1) % places.len();
        }
        Sample {
            took: start.elapsed(),
            count,
        }
    }))
}

/// Measures what is planned.
///
/// # Errors
/// When there is no such case, no memory for it, or a command failed that should not.
pub fn run(plan: &Plan) -> anyhow::Result<Table> {
    let copies = [COPY, COPY_WIDE, COPY_LARGE];
    let ids = || copies.iter().map(|c| c.id).chain(WORK.iter().map(|w| w.id));
    if let Some(unknown) = plan.cases.iter().find(|id| ids().all(|known| known != *id)) {
        let known: Vec<_> = ids().collect();
        anyhow::bail!("no case \"{unknown}\"; there are: {}", known.join(", "));
    }
    let asked = |id: &str| plan.cases.is_empty() || plan.cases.iter().any(|case| case == id);
    // What a ratio refers to is measured too.
    let wanted = |id: &str| {
        let is_base = |work: &Work| work.base == id && asked(work.id);
        asked(id) || (plan.operations.is_none() && WORK.iter().any(is_base))
    };
    let chosen: Vec<&Work> = WORK.iter().filter(|work| wanted(work.id)).collect();
    let copied: Vec<&Copied> = copies.iter().filter(|copy| wanted(copy.id)).collect();
    let ram = Arc::new(Ram::new(DEVICE_BYTES)?);
    if !copied.is_empty() || chosen.iter().any(|work| work.on != Behind::Null) {
        fill(&*ram)?;
    }
    let mut rigs = chosen
        .iter()
        .map(|work| work.rig(&ram))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for copy in copied {
        cases.push(Case {
            id: copy.id,
            name: copy.name,
            base: copy.id,
            bytes: copy.bytes,
            work: bare_copy(&ram, copy)?,
        });
    }
    for (work, (rig, lanes)) in chosen.iter().zip(&mut rigs) {
        cases.push(Case {
            id: work.id,
            name: work.name,
            base: work.base,
            bytes: if work.on == Behind::Null {
                0
            } else {
                work.bytes
            },
            work: Box::new(|count| rig.run(lanes, count)),
        });
    }
    let table = measure(cases, plan.time, plan.operations);
    for (work, (rig, _)) in chosen.iter().zip(&rigs) {
        let errors = rig.errors();
        anyhow::ensure!(errors == 0, "{}: {errors} commands failed", work.name);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cases: &[&str]) -> Plan {
        Plan {
            cases: cases.iter().map(ToString::to_string).collect(),
            time: Duration::from_millis(1),
            operations: None,
        }
    }

    #[test]
    fn every_case_is_measured_and_no_command_fails() {
        let table = run(&plan(&[])).expect("measured");
        assert_eq!(table.cases.len(), 3 + WORK.len());
        for case in &table.cases {
            assert!(case.median_ns > 0.0 && case.ratio > 0.0, "{case:?}");
        }
    }

    #[test]
    fn a_case_is_measured_with_what_it_is_held_against_and_an_unknown_one_is_named() {
        let table = run(&plan(&["ram-4k"])).expect("measured");
        let ids: Vec<_> = table.cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!(ids, ["copy-4k", "ram-4k"]);
        let error = run(&plan(&["ram-5k"])).expect_err("unknown").to_string();
        assert!(
            error.contains("\"ram-5k\"") && error.contains("ram-4k"),
            "{error}"
        );
    }

    #[test]
    fn operations_are_counted_and_not_sampled() {
        let table = run(&Plan {
            operations: Some(100),
            ..plan(&["null-4k"])
        });
        let table = table.expect("done");
        assert_eq!((table.cases.len(), table.cases[0].samples), (1, 1));
        assert_eq!(table.cases[0].operations, 128, "whole batches");
    }
}
