//! Facts as `key=value`: what the suite found and what it did, written and read by one table.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::{Found, Namespace, Summary, Writes};

/// Facts read from a run's output.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// What the suite found.
    pub found: Found,
    /// What it did.
    pub summary: Summary,
    /// Facts the suite did not write, in order.
    pub others: Vec<(String, String)>,
}

impl Facts {
    /// Takes one fact in.
    pub fn accept(&mut self, key: &str, value: &str) {
        if self.accept_known(key, value).is_none() {
            self.others.push((key.to_string(), value.to_string()));
        }
    }

    fn accept_known(&mut self, key: &str, value: &str) -> Option<()> {
        let found = &mut self.found;
        let summary = &mut self.summary;
        match key {
            "model" => found.model = value.to_string(),
            "serial" => found.serial = value.to_string(),
            "firmware" => found.firmware = value.to_string(),
            "version" => found.version = parse_version(value)?,
            "submission-queues" => found.submission_queues = value.parse().ok()?,
            "completion-queues" => found.completion_queues = value.parse().ok()?,
            "queue-entries" => found.queue_entries = value.parse().ok()?,
            "vectors" => found.vectors = value.parse().ok()?,
            "max-transfer-bytes" => found.max_transfer_bytes = value.parse().ok()?,
            "min-page-bytes" => found.min_page_bytes = value.parse().ok()?,
            "max-page-bytes" => found.max_page_bytes = value.parse().ok()?,
            "namespace" => found.namespaces.push(parse_namespace(value)?),
            "passed" => summary.passed = value.parse().ok()?,
            "failed" => summary.failed = value.parse().ok()?,
            "skipped" => summary.skipped = value.parse().ok()?,
            "commands" => summary.commands = value.parse().ok()?,
            "bytes-to-device" => summary.bytes_to_device = value.parse().ok()?,
            "bytes-from-device" => summary.bytes_from_device = value.parse().ok()?,
            "elapsed-ns" => summary.elapsed_ns = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// What was found, as keys and values.
pub(crate) fn of_found(found: &Found) -> Vec<(&'static str, String)> {
    let (major, minor, tertiary) = found.version;
    let mut facts = alloc::vec![
        ("model", found.model.clone()),
        ("serial", found.serial.clone()),
        ("firmware", found.firmware.clone()),
        ("version", format!("{major}.{minor}.{tertiary}")),
        ("submission-queues", found.submission_queues.to_string()),
        ("completion-queues", found.completion_queues.to_string()),
        ("queue-entries", found.queue_entries.to_string()),
        ("vectors", found.vectors.to_string()),
        ("max-transfer-bytes", found.max_transfer_bytes.to_string()),
        ("min-page-bytes", found.min_page_bytes.to_string()),
        ("max-page-bytes", found.max_page_bytes.to_string()),
    ];
    for ns in &found.namespaces {
        let Namespace {
            nsid,
            blocks,
            block_bytes,
            metadata_bytes,
            writes,
        } = ns;
        let Writes {
            granularity,
            unit,
            unit_power_fail,
            compare_and_write,
            boundary,
            boundary_power_fail,
            boundary_offset,
            multiple,
        } = writes;
        facts.push((
            "namespace",
            format!(
                "{nsid} blocks:{blocks} lba:{block_bytes} metadata:{metadata_bytes} \
                 npwg:{granularity} awun:{unit} awupf:{unit_power_fail} acwu:{compare_and_write} nabsn:{boundary} \
                 nabspf:{boundary_power_fail} nabo:{boundary_offset} mam:{}",
                u8::from(*multiple)
            ),
        ));
    }
    facts
}

/// What was done, as keys and values.
pub(crate) fn of_summary(summary: &Summary) -> [(&'static str, u64); 7] {
    [
        ("passed", summary.passed),
        ("failed", summary.failed),
        ("skipped", summary.skipped),
        ("commands", summary.commands),
        ("bytes-to-device", summary.bytes_to_device),
        ("bytes-from-device", summary.bytes_from_device),
        ("elapsed-ns", summary.elapsed_ns),
    ]
}

fn parse_version(value: &str) -> Option<(u16, u8, u8)> {
    let mut parts = value.split('.');
    let version = (
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(version)
}

fn parse_namespace(value: &str) -> Option<Namespace> {
    let mut words = value.split(' ');
    let mut ns = Namespace {
        nsid: words.next()?.parse().ok()?,
        ..Namespace::default()
    };
    for word in words {
        let (key, value) = word.split_once(':')?;
        match key {
            "blocks" => ns.blocks = value.parse().ok()?,
            "lba" => ns.block_bytes = value.parse().ok()?,
            "metadata" => ns.metadata_bytes = value.parse().ok()?,
            "npwg" => ns.writes.granularity = value.parse().ok()?,
            "awun" => ns.writes.unit = value.parse().ok()?,
            "awupf" => ns.writes.unit_power_fail = value.parse().ok()?,
            "acwu" => ns.writes.compare_and_write = value.parse().ok()?,
            "nabsn" => ns.writes.boundary = value.parse().ok()?,
            "nabspf" => ns.writes.boundary_power_fail = value.parse().ok()?,
            "nabo" => ns.writes.boundary_offset = value.parse().ok()?,
            "mam" => ns.writes.multiple = value == "1",
            _ => return None,
        }
    }
    Some(ns)
}
