//! Events as lines.

use std::fmt::Write;

use ::nvme::trace::{CommandEvent, End, LifecycleEvent};
use serde_json::{Map, Value, json};

/// Of the JSON lines; what is added later does not change it.
const VERSION: u32 = 1;

/// Seconds, to the microsecond.
fn seconds(ns: u64) -> String {
    let us = ns / 1000;
    format!("{:6}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Microseconds, to the tenth.
fn microseconds(ns: u64) -> String {
    let tenths = ns / 100;
    format!("{}.{}us", tenths / 10, tenths % 10)
}

/// A command as a line for people, without its end: `1.234567 nvme0 q1 cid=0x0012 read nsid=1 slba=0
/// nlb=8 -> SUCCESS 12.3us`.
#[must_use]
pub fn command_text(controller: usize, event: &CommandEvent) -> String {
    let CommandEvent {
        sqid,
        sqe,
        fetched_ns,
        ended_ns,
        ..
    } = event;
    let mut line = format!(
        "{} nvme{controller} q{sqid} cid={:#06x} ",
        seconds(*ended_ns),
        sqe.cid
    );
    // Writing to a string does not fail.
    let _ = match event.opcode_name() {
        Some(name) => write!(line, "{}", name.to_ascii_lowercase()),
        None => write!(line, "opcode={:#04x}", sqe.opcode),
    };
    let _ = write!(line, " nsid={}", nsid(sqe.nsid));
    for detail in event.details() {
        let _ = match detail.hexadecimal {
            true => write!(line, " {}={:#x}", detail.name, detail.value),
            false => write!(line, " {}={}", detail.name, detail.value),
        };
    }
    let took = microseconds(ended_ns.saturating_sub(*fetched_ns));
    let _ = match event.end {
        End::Pending => write!(line, " -> under way"),
        End::Dropped(why) => write!(line, " -> dropped ({}) {took}", why.name()),
        End::Completed { status, dw0: 0 } => write!(line, " -> {status} {took}"),
        End::Completed { status, dw0 } => write!(line, " -> {status} dw0={dw0:#x} {took}"),
    };
    line
}

fn nsid(nsid: u32) -> String {
    match nsid {
        u32::MAX => "all".into(),
        nsid => nsid.to_string(),
    }
}

/// A command as an object.
#[must_use]
pub fn command_json(controller: usize, event: &CommandEvent) -> Value {
    let details: Map<String, Value> = event
        .details()
        .map(|detail| (detail.name.to_string(), detail.value.into()))
        .collect();
    let mut object = json!({
        "version": VERSION,
        "event": "command",
        "controller": controller,
        "shard": event.shard,
        "sqid": event.sqid,
        "cid": event.sqe.cid,
        "opcode": event.sqe.opcode,
        "opcode_name": event.opcode_name(),
        "nsid": event.sqe.nsid,
        "details": details,
        "fetched_ns": event.fetched_ns,
    });
    let end = match event.end {
        End::Pending => json!({ "end": "pending" }),
        End::Dropped(why) => json!({
            "end": "dropped",
            "reason": why.name(),
            "ended_ns": event.ended_ns,
        }),
        End::Completed { status, dw0 } => json!({
            "end": "completed",
            "ended_ns": event.ended_ns,
            "latency_ns": event.ended_ns.saturating_sub(event.fetched_ns),
            "dw0": dw0,
            "status": {
                "sct": status.sct(),
                "sc": status.sc(),
                "name": status.name(),
                "dnr": status.is_dnr(),
            },
        }),
    };
    if let (Some(object), Value::Object(end)) = (object.as_object_mut(), end) {
        object.extend(end);
    }
    object
}

/// A step of the lifecycle for people.
pub(super) fn lifecycle_text(controller: usize, event: &LifecycleEvent) -> String {
    let LifecycleEvent {
        time_ns,
        from,
        event,
        to,
    } = event;
    let time = seconds(*time_ns);
    format!("{time} nvme{controller} controller {event:?}: {from:?} -> {to:?}")
}

/// A step of the lifecycle as an object.
pub(super) fn lifecycle_json(controller: usize, event: &LifecycleEvent) -> Value {
    json!({
        "version": VERSION,
        "event": "lifecycle",
        "controller": controller,
        "time_ns": event.time_ns,
        "cause": format!("{:?}", event.event),
        "from": format!("{:?}", event.from),
        "to": format!("{:?}", event.to),
        "csts": u32::from(event.to.csts()),
    })
}

/// Events that were not written.
pub(super) fn lost_text(count: u64) -> String {
    format!("lost {count} events: they came faster than they could be written")
}

/// The same as an object.
pub(super) fn lost_json(count: u64) -> Value {
    json!({ "version": VERSION, "event": "lost", "count": count })
}
