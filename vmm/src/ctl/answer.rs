//! What requests are answered with, from what machine and controllers hold themselves.

use std::sync::Arc;

use ::nvme::{
    Clock, Controller, Stats,
    trace::{Latency, Operation, Statistics, Tally},
};
use serde_json::{Map, Value, json};

use super::{
    fields,
    protocol::{COMMANDS, Command, ErrorCode, Refused, Request, VERSION},
};
use crate::{
    machine::LiveExits,
    nvme::WorkerSleeps,
    trace::{command_json, command_text},
};

/// A controller and the threads that serve it.
pub struct Subject {
    /// The controller.
    pub controller: Arc<Controller>,
    /// How often its workers slept.
    pub sleeps: Vec<Arc<WorkerSleeps>>,
    /// The clock that they poll by.
    pub clock: Arc<dyn Clock>,
}

/// All that can be asked about.
pub struct Subjects {
    /// The controllers, in the order of their device numbers.
    pub controllers: Vec<Subject>,
    /// The machine's exits.
    pub exits: Arc<LiveExits>,
    /// Ends the run; must not wait for it.
    pub quit: Box<dyn Fn() + Send + Sync>,
}

type Answer = Result<Value, Refused>;

impl Subjects {
    /// Answers a request.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn answer(&self, request: Request) -> Answer {
        let Request {
            command,
            controller,
        } = request;
        match command {
            Command::Help => Ok(help()),
            Command::Version => Ok(json!({
                "ferrite": env!("CARGO_PKG_VERSION"),
                "protocol": VERSION,
            })),
            Command::Identify { namespace } => {
                let (_, subject) = self.one(controller)?;
                match namespace {
                    None => {
                        let data = fields::controller(&subject.controller)?;
                        Ok(fields::controller_fields(&data))
                    }
                    Some(nsid) => {
                        let data = fields::namespace(&subject.controller, nsid)?;
                        Ok(fields::namespace_fields(&data))
                    }
                }
            }
            Command::Limits => limits(self.one(controller)?.1),
            Command::Features => Ok(features(self.one(controller)?.1)),
            Command::Namespaces => namespaces(self.one(controller)?.1),
            Command::Stats => self.stats(controller),
            Command::Trace { last } => self.trace(controller, last),
            Command::SetTrace(on) => self.set_trace(controller, on),
            Command::Quit => {
                (self.quit)();
                Ok(json!({ "ends": true }))
            }
        }
    }

    /// The controller that is meant, the first unless said.
    fn one(&self, index: Option<usize>) -> Result<(usize, &Subject), Refused> {
        let index = index.unwrap_or(0);
        let subject = self.controllers.get(index);
        subject.map(|subject| (index, subject)).ok_or_else(|| {
            let count = self.controllers.len();
            let message = match count {
                0 => "the machine has no controller".to_string(),
                _ => format!(
                    "there is no controller {index}; there are 0 to {}",
                    count - 1
                ),
            };
            Refused::new(ErrorCode::NotFound, message)
        })
    }

    /// The controllers that are meant, all unless said.
    fn those(&self, index: Option<usize>) -> Result<Vec<(usize, &Subject)>, Refused> {
        match index {
            Some(_) => Ok(vec![self.one(index)?]),
            None => Ok((0..).zip(&self.controllers).collect()),
        }
    }

    fn stats(&self, controller: Option<usize>) -> Answer {
        let controllers: Vec<Value> = self
            .those(controller)?
            .into_iter()
            .map(|(index, subject)| stats(index, subject))
            .collect();
        let exits = self.exits.counts();
        let mut kinds: Map<String, Value> = exits
            .iter()
            .map(|(kind, count)| (kind.replace(' ', "_"), count.into()))
            .collect();
        kinds.insert("total".into(), exits.total().into());
        Ok(json!({ "controllers": controllers, "exits": kinds }))
    }

    fn trace(&self, controller: Option<usize>, last: u64) -> Answer {
        let mut commands = Vec::new();
        for (index, subject) in self.those(controller)? {
            let events = subject.controller.recorded();
            let skip = events
                .len()
                .saturating_sub(usize::try_from(last).unwrap_or(usize::MAX));
            let events = events.iter().skip(skip);
            commands.extend(events.map(|event| {
                let mut object = command_json(index, event);
                if let Some(object) = object.as_object_mut() {
                    object.insert("line".into(), command_text(index, event).into());
                }
                object
            }));
        }
        Ok(json!({ "commands": commands }))
    }

    fn set_trace(&self, controller: Option<usize>, on: bool) -> Answer {
        for (index, subject) in self.those(controller)? {
            if subject.controller.set_tracing(on) != on {
                let message =
                    format!("controller {index} was started without anything to trace to");
                return Err(Refused::new(ErrorCode::NotAvailable, message));
            }
        }
        Ok(json!({ "tracing": on }))
    }
}

fn help() -> Value {
    let commands = COMMANDS.iter().map(|info| {
        json!({
            "command": info.name,
            "arguments": info.arguments,
            "help": info.help,
        })
    });
    json!({ "commands": commands.collect::<Vec<_>>() })
}

/// What the controller takes and promises, in bytes and counts: of Identify, CAP and its make.
fn limits(subject: &Subject) -> Answer {
    let controller = &subject.controller;
    let (data, cap, config) = (
        fields::controller(controller)?,
        controller.capabilities(),
        controller.config(),
    );
    let each = (1..=data.nn).map(|nsid| {
        let own = fields::namespace(controller, nsid)?;
        let block = fields::block_bytes(&own);
        let promised = own.nsfeat & nvme_spec::identify::NamespaceFeatures::NSABP.bits() != 0;
        let unit = |own: u16, all: u16| {
            let zero_based = if promised && own != 0 { own } else { all };
            (u64::from(zero_based) + 1) * block
        };
        Ok(json!({
            "nsid": nsid,
            "block_bytes": block,
            "atomic_write_bytes": unit(own.nawun_z, data.awun_z),
            "atomic_write_power_fail_bytes": unit(own.nawupf_z, data.awupf_z),
            "compare_and_write_bytes": unit(own.nacwu_z, data.acwu_z),
            "max_transfer_blocks": u64::from(config.mdts_bytes).checked_div(block),
        }))
    });
    Ok(json!({
        "max_transfer_bytes": config.mdts_bytes,
        "memory_page_bytes_min": 4096u64 << cap.mpsmin(),
        "memory_page_bytes_max": 4096u64 << cap.mpsmax(),
        "io_queue_pairs": config.io_queues,
        "queue_entries": u64::from(cap.mqes_z()) + 1,
        "interrupt_vectors": config.vectors,
        "workers": config.shards,
        "namespaces": each.collect::<Result<Vec<_>, Refused>>()?,
        "event_requests": u32::from(data.aerl_z) + 1,
        "aborts": u32::from(data.acl_z) + 1,
        "error_log_entries": u32::from(data.elpe_z) + 1,
    }))
}

fn features(subject: &Subject) -> Value {
    let features = subject.controller.features(subject.clock.now_ns());
    let each = features.iter().map(|feature| {
        let mut object = json!({
            "fid": feature.fid.0,
            "name": feature.fid.name(),
            "current": feature.current,
            "default": feature.default,
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(feature.nsid.map(|nsid| ("nsid".to_string(), nsid.into())));
            if let Some(data) = &feature.data {
                // All but the zeroes at the end.
                let used = data
                    .iter()
                    .rposition(|&byte| byte != 0)
                    .map_or(0, |at| at + 1);
                let bytes = data.iter().take(used).map(|byte| format!("{byte:02x}"));
                object.insert("data".into(), bytes.collect::<String>().into());
            }
        }
        object
    });
    json!({ "features": each.collect::<Vec<_>>() })
}

fn namespaces(subject: &Subject) -> Answer {
    let controller = &subject.controller;
    let count = fields::controller(controller)?.nn;
    let each = (1..=count).map(|nsid| {
        let data = fields::namespace(controller, nsid)?;
        let block = fields::block_bytes(&data);
        let formats = data.lbaf.iter().take(usize::from(data.nlbaf_z) + 1);
        let formats: Vec<u64> = formats
            .map(|format| 1u64 << format.lbads().min(63))
            .collect();
        Ok(json!({
            "nsid": nsid,
            "blocks": data.nsze,
            "block_bytes": block,
            "bytes": data.nsze.saturating_mul(block),
            "format": data.flbas.index(),
            "format_block_bytes": formats,
        }))
    });
    Ok(json!({ "namespaces": each.collect::<Result<Vec<_>, Refused>>()? }))
}

fn stats(index: usize, subject: &Subject) -> Value {
    let controller = &subject.controller;
    let Stats {
        admin_commands,
        io_commands,
        errors,
        media_errors,
        interrupts,
        polls,
        wakes,
        bytes_read,
        bytes_written,
        ..
    } = controller.stats();
    let workers: Vec<Value> = subject
        .sleeps
        .iter()
        .map(|sleeps| json!({ "woken": sleeps.woken(), "timed_out": sleeps.timed_out() }))
        .collect();
    let mut object = json!({
        "controller": index,
        "admin_commands": admin_commands,
        "io_commands": io_commands,
        "bytes_read": bytes_read,
        "bytes_written": bytes_written,
        "errors": errors,
        "media_errors": media_errors,
        "interrupts": interrupts,
        "polls": polls,
        "wakes_by_controller": wakes,
        "workers": workers,
        "counted": false,
    });
    if let (Some(object), Some(statistics)) = (object.as_object_mut(), controller.statistics()) {
        let Statistics {
            queues,
            namespaces,
            latency,
        } = statistics;
        let queues = queues
            .iter()
            .map(|queue| tally("sqid", queue.sqid.into(), &queue.tally));
        let namespaces = (1u32..).zip(&namespaces);
        let namespaces = namespaces.map(|(nsid, of)| tally("nsid", nsid, of));
        let latency = latency
            .iter()
            .map(|(operation, of)| percentiles(*operation, of));
        object.insert("counted".into(), true.into());
        object.insert("queues".into(), queues.collect());
        object.insert("namespaces".into(), namespaces.collect());
        object.insert("latency".into(), latency.collect());
    }
    object
}

fn tally(name: &str, number: u32, tally: &Tally) -> Value {
    let mut object = Map::new();
    object.insert(name.into(), number.into());
    for operation in Operation::ALL {
        let count = tally.completed(operation);
        if count > 0 {
            object.insert(operation.name().into(), count.into());
        }
    }
    for (name, count) in [
        ("completed", tally.total()),
        ("errors", tally.errors),
        ("dropped", tally.dropped),
        ("bytes_read", tally.bytes_read),
        ("bytes_written", tally.bytes_written),
    ] {
        object.insert(name.into(), count.into());
    }
    object.into()
}

fn percentiles(operation: Operation, latency: &Latency) -> Value {
    json!({
        "operation": operation.name(),
        "count": latency.count(),
        "p50_ns": latency.permille_ns(500),
        "p90_ns": latency.permille_ns(900),
        "p99_ns": latency.permille_ns(990),
        "p999_ns": latency.permille_ns(999),
        "max_ns": latency.most_ns(),
    })
}
