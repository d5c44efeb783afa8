//! The thread that writes.

use std::{
    io::{self, BufWriter, Write},
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
};

use ::nvme::lifecycle::Lifecycle;

use super::{Item, Shared, TraceFormat, line, records};

/// What it has.
pub(super) struct Writer {
    pub(super) output: BufWriter<Box<dyn Write + Send>>,
    /// Where the records of a controller that fails go.
    pub(super) failures: Option<Box<dyn Write + Send>>,
    pub(super) format: TraceFormat,
    /// Whether steps of lifecycles are written.
    pub(super) lifecycle: bool,
    pub(super) shared: Arc<Shared>,
}

impl Writer {
    /// Writes until the end comes. An output that fails, or whose reader has gone, takes nothing
    /// more, and the ring goes on being emptied: nobody's run ends for a trace.
    pub(super) fn run(mut self, items: &Receiver<Item>) {
        let (mut told, mut well) = (0, true);
        'run: while let Ok(first) = items.recv() {
            let mut next = Some(first);
            while let Some(item) = next {
                let lost = self.shared.lost.load(Ordering::Relaxed);
                if lost > told {
                    well = well && self.lost(lost - told).is_ok();
                    told = lost;
                }
                match item {
                    Item::End => break 'run,
                    item => well = self.item(&item, well),
                }
                next = items.try_recv().ok();
            }
            // Nothing is waiting: who looks on sees all.
            well = well && self.output.flush().is_ok();
        }
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if well && lost > told {
            let _ = self.lost(lost - told);
        }
        let _ = self.output.flush();
    }

    /// Writes an item if all was well so far; whether it still is.
    fn item(&mut self, item: &Item, well: bool) -> bool {
        let json = self.format == TraceFormat::Json;
        let text = match item {
            Item::Command(index, event) if json => line::command_json(*index, event).to_string(),
            Item::Command(index, event) => line::command_text(*index, event),
            Item::Lifecycle(index, event) => {
                if matches!(event.to, Lifecycle::Failed { .. }) {
                    // Standard error may have gone; there is nowhere to say so.
                    let _ = self.failed(*index);
                }
                match (self.lifecycle, json) {
                    (false, _) => return well,
                    (true, true) => line::lifecycle_json(*index, event).to_string(),
                    (true, false) => line::lifecycle_text(*index, event),
                }
            }
            Item::End => return well,
        };
        well && writeln!(self.output, "{text}").is_ok()
    }

    fn lost(&mut self, count: u64) -> io::Result<()> {
        match self.format {
            TraceFormat::Text => writeln!(self.output, "{}", line::lost_text(count)),
            TraceFormat::Json => writeln!(self.output, "{}", line::lost_json(count)),
        }
    }

    /// A controller has failed: what it did last.
    fn failed(&mut self, index: usize) -> io::Result<()> {
        let Some(controller) = self.shared.controller(index) else {
            return Ok(());
        };
        let (Some(failures), records) = (&mut self.failures, records(index, &controller)) else {
            return Ok(());
        };
        if records.is_empty() {
            return Ok(());
        }
        let head = format!("ferrite: nvme{index} has failed (CSTS.CFS); its last commands:\n");
        failures.write_all((head + &records).as_bytes())?;
        failures.flush()
    }
}
