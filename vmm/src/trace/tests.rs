use std::sync::{Condvar, Mutex};

use ::nvme::{
    lifecycle::{Event, Lifecycle},
    trace::{Dropped, End},
};
use nvme_spec::{NvmOpcode, Sqe, Status, queue::RwCdw12};

use super::*;

/// An output that is looked at from elsewhere, and takes nothing while its gate is closed.
#[derive(Clone, Default)]
struct Shown(Arc<(Mutex<Held>, Condvar)>);

/// Whether the gate is closed, and what was written.
type Held = (bool, Vec<u8>);

impl Shown {
    fn close(&self, closed: bool) {
        self.0.0.lock().expect("no panic").0 = closed;
        self.0.1.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        let shown = self.0.0.lock().expect("no panic");
        let text = String::from_utf8(shown.1.clone()).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

impl Write for Shown {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let guard = self.0.0.lock().expect("no panic");
        let mut guard = self
            .0
            .1
            .wait_while(guard, |(closed, _)| *closed)
            .expect("no panic");
        guard.1.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(cid: u16, end: End) -> CommandEvent {
    let mut sqe = Sqe {
        opcode: NvmOpcode::READ.0,
        cid,
        nsid: 1,
        ..Sqe::default()
    };
    sqe.set_slba(64);
    sqe.cdw12 = RwCdw12::new().with_nlb_z(7).with_fua(true).into();
    CommandEvent {
        shard: 0,
        sqid: 2,
        sqe,
        fetched_ns: 1_500_000_000,
        ended_ns: 1_500_012_345,
        end,
    }
}

const GOOD: End = End::Completed {
    status: Status::SUCCESS,
    dw0: 0,
};

#[test]
fn a_line_has_all_that_a_command_is() {
    assert_eq!(
        command_text(0, &read(0x12, GOOD)),
        "     1.500012 nvme0 q2 cid=0x0012 read nsid=1 slba=64 nlb=8 fua=1 -> SUCCESS 12.3us"
    );
    let bad = End::Completed {
        status: Status::LBA_OUT_OF_RANGE.dnr().more(),
        dw0: 5,
    };
    let line = command_text(1, &read(1, bad));
    assert!(
        line.ends_with("-> LBA_OUT_OF_RANGE|DNR dw0=0x5 12.3us"),
        "{line}"
    );
    let line = command_text(1, &read(1, End::Dropped(Dropped::Reset)));
    assert!(line.ends_with("-> dropped (reset) 12.3us"), "{line}");
    assert!(command_text(1, &read(1, End::Pending)).ends_with("-> under way"));
    let object = command_json(3, &read(7, bad));
    assert_eq!(object["controller"], 3);
    assert_eq!(object["details"]["slba"], 64);
    assert_eq!(object["status"]["sc"], 0x80);
    assert_eq!(object["latency_ns"], 12_345);
}

#[test]
fn what_finds_no_room_is_counted_and_the_rest_is_written_in_order() {
    let shown = Shown::default();
    shown.close(true);
    let tracer = Tracer::with_output(Box::new(shown.clone()), None, TraceFormat::Json, true);
    let tracer = tracer.expect("a thread");
    let tap = tracer.tap(0);
    let given = RING * 2;
    for cid in 0..given {
        // Never waits, though nobody takes anything.
        tap.command(&read(u16::try_from(cid).expect("few"), GOOD));
    }
    let lost = tracer.lost();
    assert!(lost > 0);
    shown.close(false);
    tracer.finish();
    let lines: Vec<serde_json::Value> = shown
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let counted: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(counted, lost);
    let cids: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["cid"].as_u64())
        .collect();
    assert_eq!(cids.len() as u64 + lost, given as u64);
    assert!(cids.is_sorted());
}

#[test]
fn steps_are_written_if_they_are_asked_for() {
    for asked in [false, true] {
        let shown = Shown::default();
        let output = Box::new(shown.clone());
        let tracer = Tracer::with_output(output, None, TraceFormat::Text, asked).expect("a thread");
        tracer.tap(4).lifecycle(&LifecycleEvent {
            time_ns: 0,
            from: Lifecycle::Disabled,
            event: Event::Enable,
            to: Lifecycle::Enabling,
        });
        tracer.finish();
        let line = "     0.000000 nvme4 controller Enable: Disabled -> Enabling";
        assert_eq!(shown.lines(), if asked { vec![line] } else { vec![] });
    }
}

#[test]
fn an_output_that_nobody_takes_from_does_not_keep_the_end_for_ever() {
    let shown = Shown::default();
    shown.close(true);
    let output = Box::new(shown.clone());
    let tracer = Tracer::with_output(output, None, TraceFormat::Text, false).expect("a thread");
    let tap = tracer.tap(0);
    for cid in 0..200 {
        tap.command(&read(cid, GOOD));
    }
    tracer.finish();
    assert_eq!(shown.lines(), [""; 0]);
    shown.close(false);
}

#[test]
fn what_is_asked_for_is_read_and_what_is_not_is_refused() {
    let parse = |text| TraceTarget::parse(text).map(|target| (target.format(), target.file));
    assert_eq!(parse("nvme"), Ok((TraceFormat::Text, None)));
    let file = |name: &str| Some(PathBuf::from(name));
    assert_eq!(parse("nvme=a=b"), Ok((TraceFormat::Text, file("a=b"))));
    assert_eq!(
        parse("nvme=t.json"),
        Ok((TraceFormat::Json, file("t.json")))
    );
    for wrong in ["", "pci", "nvme=", "=x"] {
        let error = parse(wrong).expect_err(wrong);
        assert!(error.contains("nvme=FILE"), "{error}");
    }
}
