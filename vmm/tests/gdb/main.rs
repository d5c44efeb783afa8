//! The debugger's server, packet by packet, with the test kernel as the guest.
//!
//! What is tested here works on every kind of KVM, PVM too: its ring 0 can be stepped and has debug
//! registers. Linux under GDB itself is a job of guest-tests/linux.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod client;
mod hostile;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use client::{Client, bytes};
use ferrite::gdb::{GdbAddress, GdbServer, RunEnd};
use ferrite::machine::{GuestExit, Machine, MachineConfig, RunError, is_pvm};
use support::{Output, SUCCESS, have_kvm};
use tempfile::TempDir;

/// Where the test kernel begins, in 32-bit mode.
const ENTRY: u64 = 0x10_0000;

/// Numbers of registers.
const RSP: usize = 7;
const CR3: usize = 62;
const EFER: usize = 65;

/// A guest with a debugger's server, which stands at its first instruction.
pub(crate) struct Guest {
    folder: TempDir,
    run: JoinHandle<Result<GuestExit, RunError>>,
    output: Output,
}

impl Guest {
    pub(crate) fn start(command_line: &str, cpus: u8) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::default();
        let machine = Machine::new(MachineConfig {
            memory: 64 << 20,
            cpus,
            command_line: command_line.to_owned(),
            serial: output.sink(),
            timeout: Some(std::time::Duration::from_secs(60)),
            ..MachineConfig::default()
        });
        let mut machine = machine.expect("a machine");
        let address = GdbAddress::Unix(folder.path().join("gdb"));
        let debugger = machine.debugger().expect("descriptors");
        let server = GdbServer::start(&address, true, debugger, machine.stop_handle());
        let server = server.expect("a free path");
        let run = thread::spawn(move || {
            let outcome = machine.run().map(|outcome| outcome.exit);
            server.finish(match outcome {
                Ok(GuestExit::Code(code)) => RunEnd::Exited(u8::try_from(code).expect("a byte")),
                Ok(GuestExit::TimedOut) => RunEnd::TimedOut,
                Ok(_) => RunEnd::Stopped,
                Err(_) => RunEnd::Crashed,
            });
            outcome
        });
        Self {
            folder,
            run,
            output,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("gdb")
    }

    pub(crate) fn attach(&self) -> Client {
        let mut client = Client::connect(&self.path());
        client.greet();
        client
    }

    pub(crate) fn end(self) -> Result<GuestExit, RunError> {
        let end = self.run.join().expect("no panic");
        println!("{}", self.output.text());
        end
    }
}

/// A guest that was stepped into ring 0's 64-bit code, and the client that did it.
fn in_long_mode(cpus: u8) -> (Guest, Client) {
    let guest = Guest::start("selfcheck", cpus);
    let mut client = guest.attach();
    for _ in 0..100 {
        if client.register(EFER) & 1 << 10 != 0 {
            return (guest, client);
        }
        assert_eq!(client.step(1), "T05thread:p01.01;");
    }
    panic!("no long mode after 100 steps, at {:#x}", client.rip());
}

/// Where the kernel comes by in ring 0, and its stack pointer there.
fn later() -> (u64, u64) {
    let (guest, mut client) = in_long_mode(1);
    for _ in 0..5 {
        client.step(1);
    }
    let found = (client.rip(), client.register(RSP));
    client.send("k");
    assert_eq!(guest.end().expect("a run"), GuestExit::Stopped);
    found
}

#[test]
fn held_guest_shows_registers_and_memory_and_steps() {
    if !have_kvm() {
        return;
    }
    let guest = Guest::start("selfcheck", 1);
    let mut client = guest.attach();
    assert_eq!(client.rip(), ENTRY);
    assert_eq!(client.ask("m100000,2"), "fcbc", "cld, mov to esp");
    assert_eq!(client.step(1), "T05thread:p01.01;");
    assert_eq!(client.rip(), ENTRY + 1);
    assert_eq!(client.step(1), "T05thread:p01.01;");
    let (rip, rsp) = (client.rip(), client.register(RSP));
    assert_eq!((rip, rsp != 0), (ENTRY + 6, true));
    // All at once say the same.
    let all = bytes(&client.ask("g"));
    assert_eq!(all.len(), 0x218 + 9 * 8);
    assert_eq!(all[0x80..0x88], rip.to_le_bytes());
    // Back to the first instruction: it is done once more.
    assert_eq!(client.ask("P10=0000100000000000"), "OK");
    assert_eq!(client.step(1), "T05thread:p01.01;");
    assert_eq!(client.rip(), ENTRY + 1);
    let xml = client.ask("qXfer:features:read:target.xml:0,fff");
    assert!(
        xml.starts_with(['l', 'm']) && xml.contains("i386:x86-64"),
        "{xml}"
    );
    assert_eq!(client.ask("vCont;c"), "W21");
    assert_eq!(guest.end().expect("a run"), SUCCESS);
}

#[test]
fn memory_is_reached_through_the_page_tables() {
    if !have_kvm() {
        return;
    }
    let (guest, mut client) = in_long_mode(1);
    assert_ne!(client.register(CR3), 0);
    assert_eq!(client.ask("m100000,2"), "fcbc");
    assert_eq!(
        client.monitor("translate 0x100000"),
        "0x100000 is 0x100000 by CPU 0\n"
    );
    // The stack's guard page is not mapped, nor is the other end of the address space.
    assert_eq!(client.ask("m7fffffff0000,8"), "E0e");
    assert_eq!(client.ask("mffffffffffffff00,100"), "E0e");
    assert_eq!(client.ask("Mffff800000000000,1:00"), "E0e");
    // Addresses of devices, mapped one to one, are no memory.
    assert_eq!(client.ask("mfee00000,4"), "E0e");
    // The kernel's code, which ring 3 may not write: a debugger may, and the guest executes it.
    let rip = client.rip();
    let before = client.ask(&format!("m{rip:x},1"));
    assert_eq!(client.ask(&format!("M{rip:x},1:90")), "OK");
    assert_eq!(client.step(1), "T05thread:p01.01;");
    assert_eq!(client.rip(), rip + 1, "a NOP");
    assert_eq!(client.ask(&format!("M{rip:x},1:{before}")), "OK");
    assert_eq!(client.ask(&format!("P10={}", hex(rip))), "OK");
    assert_eq!(client.ask("D;1"), "OK");
    assert_eq!(guest.end().expect("a run"), SUCCESS);
}

/// Of a register, as packets have it.
fn hex(value: u64) -> String {
    value
        .to_le_bytes()
        .map(|byte| format!("{byte:02x}"))
        .concat()
}

#[test]
fn debug_registers_stop_in_ring_0() {
    if !have_kvm() {
        return;
    }
    let (place, stack) = later();
    let guest = Guest::start("selfcheck", 1);
    let mut client = guest.attach();
    assert_eq!(client.ask(&format!("Z1,{place:x},1")), "OK");
    assert_eq!(client.ask("vCont;c"), "T05thread:p01.01;hwbreak:;");
    assert_eq!((client.rip(), client.register(RSP)), (place, stack));
    assert_eq!(client.ask(&format!("z1,{place:x},1")), "OK");
    assert_eq!(client.ask(&format!("z1,{place:x},1")), "E16", "it is gone");
    // What the kernel pushes before it goes to ring 3. PVM's emulator does not look at data.
    let top = client.register(RSP) - 8;
    if is_pvm() {
        assert_eq!(client.ask(&format!("Z2,{top:x},8")), "E16");
    } else {
        assert_eq!(client.ask(&format!("Z2,{top:x},8")), "OK");
        let watch = format!("T05thread:p01.01;watch:{top:x};");
        assert_eq!(client.ask("vCont;c"), watch);
        assert_eq!(client.register(RSP), top, "after the push");
        assert_eq!(client.ask(&format!("z2,{top:x},8")), "OK");
    }
    // x86 has four, and none for reads alone.
    assert_eq!(client.ask("Z3,1000,4"), "E16");
    for slot in 0..4 {
        assert_eq!(client.ask(&format!("Z1,{:x},1", 0x1000 + slot)), "OK");
    }
    assert_eq!(client.ask("Z1,2000,1"), "E16");
    assert_eq!(client.ask("D;1"), "OK");
    assert_eq!(guest.end().expect("a run"), SUCCESS);
}

#[test]
fn what_pvm_cannot_do_is_refused_and_hurts_nobody() {
    if !have_kvm() || !is_pvm() {
        println!("skipped: this host's KVM is not PVM");
        return;
    }
    let guest = Guest::start("selfcheck=hang", 1);
    let mut client = guest.attach();
    assert!(client.monitor("kvm").contains("break: no"));
    assert_eq!(client.ask("Z0,100000,1"), "E16");
    assert_eq!(client.ask("m100000,1"), "fc", "no INT3 there");
    client.send("vCont;c");
    stop_in_ring_3(&mut client);
    let rip = client.rip();
    // A signal that GDB stops its `step` for, and why.
    assert_eq!(client.step(1), "T11thread:p01.01;");
    assert!(
        client
            .console
            .contains("the trap flag would go to the guest")
    );
    assert_eq!(client.rip(), rip);
    client.send("k");
    assert_eq!(guest.end().expect("a run"), GuestExit::Stopped);
}

/// Interrupts the running guest until that finds it in ring 3.
fn stop_in_ring_3(client: &mut Client) {
    const CS: usize = 18;
    loop {
        client.raw(&[3]);
        assert_eq!(client.reply().expect("it answers"), "T02thread:p01.01;");
        if client.register(CS) & 3 == 3 {
            return;
        }
        client.send("vCont;c");
    }
}

#[test]
fn software_breakpoint_stops_and_is_not_seen() {
    if !have_kvm() || is_pvm() {
        println!("skipped: INT3 does not reach this host's KVM");
        return;
    }
    let (place, stack) = later();
    let guest = Guest::start("selfcheck", 1);
    let mut client = guest.attach();
    let code = client.ask(&format!("m{place:x},4"));
    assert_eq!(client.ask(&format!("Z0,{place:x},1")), "OK");
    assert_eq!(client.ask(&format!("m{place:x},4")), code);
    assert_eq!(client.ask("vCont;c"), "T05thread:p01.01;swbreak:;");
    assert_eq!((client.rip(), client.register(RSP)), (place, stack));
    assert_eq!(client.ask(&format!("z0,{place:x},1")), "OK");
    assert_eq!(client.step(1), "T05thread:p01.01;");
    assert_eq!(client.ask("vCont;c"), "W21");
    assert_eq!(guest.end().expect("a run"), SUCCESS);
}

#[test]
fn each_cpu_is_a_thread_and_steps_alone() {
    if !have_kvm() {
        return;
    }
    let (guest, mut client) = in_long_mode(3);
    assert_eq!(client.ask("qfThreadInfo"), "mp01.01,p01.02,p01.03");
    let names = [
        "CPU 0, runs",
        "CPU 1, waits for INIT",
        "CPU 2, waits for INIT",
    ];
    for (thread, name) in (1..).zip(names) {
        let extra = client.ask(&format!("qThreadExtraInfo,p1.{thread}"));
        assert_eq!(String::from_utf8(bytes(&extra)).expect("text"), name);
        assert_eq!(client.ask(&format!("Tp1.{thread}")), "OK");
    }
    assert_ne!(client.ask("Tp1.4"), "OK");
    let rip = client.rip();
    assert_eq!(client.ask("Hgp1.3"), "OK");
    let other = client.rip();
    assert_ne!(other, rip);
    assert_eq!(client.step(1), "T05thread:p01.01;");
    assert_ne!(client.rip(), rip, "stops make the thread current");
    assert_eq!(client.ask("Hgp1.3"), "OK");
    assert_eq!(client.rip(), other);
    assert!(client.ask("Hgp1.9") != "OK" || client.ask("p10").starts_with('E'));
    assert_eq!(client.ask("vCont;c:p1.-1"), "W21");
    assert_eq!(guest.end().expect("a run"), SUCCESS);
}

#[test]
fn running_guest_is_interrupted_again_and_again_and_let_go() {
    if !have_kvm() {
        return;
    }
    let guest = Guest::start("selfcheck=hang", 1);
    let mut client = guest.attach();
    for _ in 0..20 {
        client.send("vCont;c");
        stop_in_ring_3(&mut client);
    }
    // Page tables of ring 3, as KVM knows them too.
    let rip = client.rip();
    assert!(client.ask(&format!("m{rip:x},4")).len() == 8);
    drop(client);
    // Gone without a word: the guest goes on, and the next one finds it.
    let mut client = guest.attach();
    client.send("vCont;c");
    client.raw(&[3]);
    assert_eq!(client.reply().expect("it answers"), "T02thread:p01.01;");
    client.send("k");
    assert_eq!(guest.end().expect("a run"), GuestExit::Stopped);
}

#[test]
fn crash_stops_in_the_debugger_and_ends_the_run_when_let_go() {
    if !have_kvm() {
        return;
    }
    let guest = Guest::start("selfcheck=triple-fault", 1);
    let mut client = guest.attach();
    assert_eq!(client.monitor("crash"), "the guest has not crashed\n");
    assert_eq!(client.ask("vCont;c"), "T0bthread:p01.01;");
    assert!(
        client.console.contains("triple fault on CPU 0"),
        "{}",
        client.console
    );
    assert!(client.monitor("crash").contains("triple fault on CPU 0"));
    client.rip();
    assert_eq!(client.ask("vCont;c"), "X06");
    assert!(matches!(guest.end(), Err(RunError::TripleFault(_))));
    // Without one, it ends at once.
    let guest = Guest::start("selfcheck=triple-fault", 1);
    let mut client = guest.attach();
    assert_eq!(client.ask("D;1"), "OK");
    assert!(matches!(guest.end(), Err(RunError::TripleFault(_))));
}
