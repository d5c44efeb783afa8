//! The machine, driven by the test kernel's checks of itself (`selfcheck=` on its command line).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ferrite::machine::{
    GuestExit, Machine, MachineConfig, MachineError, Module, MsiBlock, RunError,
};
use pci::{MsiMessage, MsiRouter};
use support::{SUCCESS, have_kvm, machine, run};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

#[test]
fn kernel_boots_to_hello_and_ends_with_success() {
    if !have_kvm() {
        return;
    }
    let (outcome, text) = run("selfcheck word=value");
    println!("{text}");
    let outcome = outcome.expect("the kernel runs to its end");
    println!("{outcome:?}");
    assert_eq!(outcome.exit, SUCCESS, "{text}");
    for line in [
        "hello from ring 3",
        "command line: selfcheck word=value",
        "memory: 63 MiB",
        "PCI: Ports",
        "PCI: 00:00.0 fe26:0001 class 060000",
        "timer ends a wait: ok",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    assert!(outcome.exits.io_out > text.len() as u64);
    assert_eq!(
        outcome.exits.total(),
        outcome.exits.iter().map(|(_, count)| count).sum::<u64>()
    );
}

#[test]
fn kernel_sees_modules_and_more_cpus_do_no_harm() {
    if !have_kvm() {
        return;
    }
    let output = support::Output::default();
    let machine = Machine::new(MachineConfig {
        cpus: 3,
        command_line: "selfcheck".into(),
        modules: vec![Module {
            data: vec![1; 12345].into(),
            command_line: "one=1".into(),
        }],
        serial: output.sink(),
        timeout: Some(Duration::from_secs(20)),
        ..MachineConfig::default()
    });
    let outcome = machine.expect("a machine").run().expect("a run");
    assert_eq!(outcome.exit, SUCCESS);
    assert!(
        output.text().contains("module: 12345 bytes, \"one=1\""),
        "{}",
        output.text()
    );
}

#[test]
fn memory_above_4_gib_is_told_to_the_guest() {
    if !have_kvm() {
        return;
    }
    let output = support::Output::default();
    let machine = Machine::new(MachineConfig {
        memory: 5 << 30,
        command_line: "selfcheck".into(),
        serial: output.sink(),
        timeout: Some(Duration::from_secs(20)),
        ..MachineConfig::default()
    });
    assert_eq!(
        machine.expect("a machine").run().expect("a run").exit,
        SUCCESS
    );
    assert!(
        output.text().contains("end 0x180000000"),
        "{}",
        output.text()
    );
}

#[test]
fn debug_exit_value_becomes_the_exit_code() {
    if !have_kvm() {
        return;
    }
    for (value, code) in [(0, 1), (0x7f, 0xff), (0x15, 43)] {
        let (outcome, _) = run(&format!("selfcheck=exit value={value}"));
        let outcome = outcome.expect("a run");
        assert_eq!(outcome.exit, GuestExit::Code(code));
        assert!(outcome.stopped_at.is_none());
    }
}

#[test]
fn guest_goes_off_and_resets_by_acpis_tables() {
    if !have_kvm() {
        return;
    }
    for (check, exit) in [
        ("power-off", GuestExit::PowerOff),
        ("reset", GuestExit::Reset),
    ] {
        let (outcome, text) = run(&format!("selfcheck={check}"));
        assert_eq!(outcome.expect("a run").exit, exit, "{text}");
    }
}

#[test]
fn guest_panic_and_fault_are_reported_with_their_place() {
    if !have_kvm() {
        return;
    }
    for (check, code, words) in [
        ("panic", 37, "PANIC: panicked at"),
        (
            "page-fault",
            39,
            "FAULT: #PF page fault (vector 14) in ring 3: error 0x4",
        ),
        ("page-fault", 39, "CR2 0x100000000"),
        ("stack-overflow", 39, "FAULT: the stack of ring 3 is full"),
        (
            "invalid-opcode",
            39,
            "FAULT: #UD invalid opcode (vector 6) in ring 3",
        ),
        (
            "ring0-fault",
            39,
            "FAULT: #PF page fault (vector 14) in ring 0: error 0x0",
        ),
    ] {
        let (outcome, text) = run(&format!("selfcheck={check}"));
        assert_eq!(
            outcome.expect("a run").exit,
            GuestExit::Code(code),
            "{text}"
        );
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

#[test]
fn triple_fault_is_an_error_that_says_where() {
    if !have_kvm() {
        return;
    }
    let (outcome, text) = run("selfcheck=triple-fault");
    let error = outcome.expect_err(&text);
    println!("{error}");
    assert!(matches!(error, RunError::TripleFault(_)), "{error}");
    assert!(
        error.to_string().contains("CPU 0: ring 0, RIP 0x10"),
        "{error}"
    );
}

/// An ELF whose PVH entry point, at 1 MiB, is `code`.
fn elf(code: &[u8]) -> Vec<u8> {
    const ENTRY: u64 = 0x10_0000;
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 24;
    let program_header = |kind: u32, offset: u64, address: u64, bytes: u64| {
        let words = [offset, address, address, bytes, bytes, 4];
        let mut header = [kind.to_le_bytes(), 5_u32.to_le_bytes()].concat();
        header.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        header
    };
    // ELF64, little-endian, version 1; executable, x86-64; two program headers behind it.
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.extend([ENTRY, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(
        [0_u16, 0, 64, 56, 2, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    elf.extend(program_header(4, HEADERS, 0, NOTE));
    elf.extend(program_header(1, HEADERS + NOTE, ENTRY, code.len() as u64));
    elf.extend([4_u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.extend(code);
    elf
}

#[test]
fn guest_that_cannot_go_on_shows_its_code_and_on_pvm_the_reason() {
    if !have_kvm() {
        return;
    }
    // XORPS, UD2 with no IDT: hardware shuts down, PVM's emulator gives up.
    let machine = Machine::new(MachineConfig {
        kernel: elf(&[0x0f, 0x57, 0xc0, 0x0f, 0x0b]).into(),
        timeout: Some(Duration::from_secs(20)),
        ..MachineConfig::default()
    });
    let error = machine.expect("a machine").run().expect_err("no kernel");
    let text = error.to_string();
    println!("{text}");
    assert!(
        text.contains("ring 0, RIP 0x100000, bytes there 0f 57 c0 0f 0b"),
        "{text}"
    );
    match error {
        RunError::Internal { .. } if ferrite::machine::is_pvm() => {
            assert!(
                text.contains("KVM is PVM: ring 0 of the guest is emulated"),
                "{text}"
            );
        }
        error => assert!(matches!(error, RunError::TripleFault(_)), "{text}"),
    }
}

#[test]
fn kernel_without_pvh_entry_is_refused() {
    if !have_kvm() {
        return;
    }
    let mut kernel = elf(&[0xf4]);
    kernel[64] = 0; // the note's program header is none
    let config = MachineConfig {
        kernel: kernel.into(),
        ..MachineConfig::default()
    };
    let error = Machine::new(config)
        .expect("a machine")
        .run()
        .expect_err("no entry");
    assert!(error.to_string().contains("CONFIG_PVH"), "{error}");
}

#[test]
fn time_allowed_ends_a_guest_that_spins_or_halts() {
    if !have_kvm() {
        return;
    }
    for check in ["hang", "halt"] {
        let mut config = MachineConfig {
            cpus: 2,
            command_line: format!("selfcheck={check}"),
            ..MachineConfig::default()
        };
        config.timeout = Some(Duration::from_millis(200));
        let start = Instant::now();
        let outcome = Machine::new(config)
            .expect("a machine")
            .run()
            .expect("a run");
        assert_eq!(outcome.exit, GuestExit::TimedOut);
        let ring = if check == "hang" { 3 } else { 0 };
        let place = outcome.stopped_at.expect("where it was");
        println!("{place}");
        assert_eq!((place.cpu, place.ring), (0, ring), "{place}");
        // Its own code: a spin in ring 3, behind HLT in ring 0.
        assert!((0x10_0000..0x20_0000).contains(&place.rip), "{place}");
        assert!(!place.code.is_empty());
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn stop_handle_ends_a_run_before_and_after_its_start() {
    if !have_kvm() {
        return;
    }
    let (early, _) = machine("selfcheck=halt");
    early.stop_handle().stop();
    assert_eq!(early.run().expect("a run").exit, GuestExit::Stopped);

    let (said, hear) = mpsc::channel();
    let mut config = MachineConfig {
        command_line: "selfcheck=say-and-halt".into(),
        ..MachineConfig::default()
    };
    config.serial = Box::new(ferrite::machine::Lines::new(move |_: &str| {
        // The receiver is gone after the first line.
        let _ = said.send(());
    }));
    let late = Machine::new(config).expect("a machine");
    let stop = late.stop_handle();
    let stopper = thread::spawn(move || {
        hear.recv().expect("the guest says a line");
        stop.stop();
    });
    assert_eq!(late.run().expect("a run").exit, GuestExit::Stopped);
    stopper.join().expect("no panic");
}

#[test]
fn unclaimed_accesses_are_ones_and_counted() {
    if !have_kvm() {
        return;
    }
    let (outcome, text) = run("selfcheck=unclaimed");
    let outcome = outcome.expect("a run");
    assert_eq!(outcome.exit, SUCCESS, "{text}");
    let (reads, writes) = outcome.unclaimed;
    assert!(reads >= 7 && writes >= 7, "{reads} reads, {writes} writes");
    assert!(outcome.exits.mmio_read >= 4 && outcome.exits.mmio_write >= 4);
}

/// Registers: 0 address of the message (u64), 8 its data (u32), Ch (u32) sends it that many
/// microseconds later, from another thread unless 0.
struct Messenger {
    msi: MsiBlock,
    message: Mutex<MsiMessage>,
    later: mpsc::Sender<Duration>,
}

impl DeviceMmio for Messenger {
    fn mmio_read(&self, _: MmioAddress, _: MmioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let mut wide = [0; 8];
        wide[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(wide);
        let value32 = u32::try_from(value & 0xffff_ffff).expect("masked");
        let mut message = self.message.lock().expect("no panic");
        match offset {
            0 => message.address = value,
            8 => {
                message.data = value32;
                self.msi.route(Self::VECTOR, Some(*message));
                self.msi.commit();
            }
            _ if value == 0 => self.msi.signal(Self::VECTOR),
            _ => self
                .later
                .send(Duration::from_micros(value))
                .expect("the sender lives"),
        }
    }
}

impl Messenger {
    /// Not the first, so that a block's base counts.
    const VECTOR: u16 = 3;
}

#[test]
fn messages_reach_the_guest_while_it_spins_and_while_it_halts() {
    if !have_kvm() {
        return;
    }
    const ADDRESS: u64 = 0xc000_0000;
    let (machine, output) = machine(&format!("selfcheck=msi device={ADDRESS:#x}"));
    let (later, delays) = mpsc::channel();
    let _other = machine.msi(7).expect("routes");
    let msi = machine.msi(4).expect("routes");
    let message = Mutex::new(MsiMessage {
        address: 0,
        data: 0,
    });
    let device = Arc::new(Messenger {
        msi,
        message,
        later,
    });
    machine
        .buses()
        .add_mmio(ADDRESS, 16, Arc::clone(&device) as _)
        .expect("free");

    // Ends when the machine's device does: the sender is in it.
    let weak = Arc::downgrade(&device);
    drop(device);
    let sender = thread::spawn(move || {
        for delay in delays {
            thread::park_timeout(delay);
            if let Some(device) = weak.upgrade() {
                device.msi.signal(Messenger::VECTOR);
            }
        }
    });
    let outcome = machine.run().expect("a run");
    println!("{}\n{outcome:?}", output.text());
    assert_eq!(outcome.exit, SUCCESS, "{}", output.text());
    sender.join().expect("no panic");
}

#[test]
fn vectors_beyond_what_kvm_routes_are_refused() {
    if !have_kvm() {
        return;
    }
    let (machine, _) = machine("");
    assert!(machine.msi(2048).is_ok());
    let error = machine.msi(u16::MAX).err().expect("too many");
    assert!(
        matches!(
            error,
            MachineError::Vectors {
                asked: u16::MAX,
                ..
            }
        ),
        "{error}"
    );
}

/// Runs a test of this file in a process of its own under `ulimit -n` with these arguments.
fn run_with_ulimit(arguments: &str, test: &str) {
    let program = std::env::current_exe().expect("this program");
    let script = format!("ulimit {arguments} && exec \"$0\" --exact {test} --nocapture");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .env(UNDER_ULIMIT, "1")
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

/// Set where a test runs by [`run_with_ulimit`].
const UNDER_ULIMIT: &str = "FERRITE_TEST_UNDER_ULIMIT";

#[test]
fn soft_limit_of_descriptors_is_no_limit_of_vectors() {
    if have_kvm() {
        run_with_ulimit("-S -n 256", "vectors_beyond_what_kvm_routes_are_refused");
    }
}

#[test]
fn too_few_descriptors_are_named_and_cost_nothing() {
    if !have_kvm() {
        return;
    }
    if std::env::var_os(UNDER_ULIMIT).is_none() {
        run_with_ulimit("-n 256", "too_few_descriptors_are_named_and_cost_nothing");
        return;
    }
    let (machine, _) = machine("");
    // Had each try kept its GSIs, KVM's 4,096 would be gone first; its eventfds, the last block's.
    for _ in 0..4 {
        let error = machine.msi(2048).err().expect("too many");
        let text = error.to_string();
        assert!(
            text.contains("2048 interrupt vectors") && text.contains("256 open descriptors"),
            "{text}"
        );
        assert!(text.contains("ulimit -n"), "{text}");
    }
    assert!(machine.msi(200).is_ok());
}

#[test]
fn impossible_machines_are_refused() {
    if !have_kvm() {
        return;
    }
    let refuse = |config| Machine::new(config).err().expect("refused").to_string();
    let text = refuse(MachineConfig {
        cpus: 0,
        ..MachineConfig::default()
    });
    assert!(text.starts_with("0 CPUs: a machine has 1 to"), "{text}");
    let text = refuse(MachineConfig {
        memory: 12345,
        ..MachineConfig::default()
    });
    assert!(text.contains("12345"), "{text}");
}
