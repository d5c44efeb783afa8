//! The kernel's checks of itself and of the machine below it: `selfcheck[=WHAT]` on its command
//! line, used by the machine's own tests.

mod echo;
mod pci;

use crate::exit::{self, ExitCode};
use crate::irq::{self, Vector};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::{acpi, call, port, println, time};

const MILLISECOND: u64 = 1_000_000;

/// Runs what the command line asks for: `selfcheck` alone says hello; `selfcheck=WHAT` is one of
/// `panic`, `page-fault`, `stack-overflow`, `invalid-opcode`, `ring0-fault`, `triple-fault`, `hang`, `halt`,
/// `say-and-halt`, `unclaimed`, `echo`, `exit` (with `value=`), `msi` (with `device=`), `pci` (with
/// `class=`).
pub fn run(machine: &mut Machine) -> ExitCode {
    let number = |key| machine.command_line.number(key);
    match machine.command_line.get("selfcheck").unwrap_or_default() {
        "" => hello(machine),
        "panic" => panic!("asked for by selfcheck=panic"),
        "page-fault" => {
            // SAFETY: meant to fault: the first address past the identity map.
            let value = unsafe { core::ptr::read_volatile((1_u64 << 32) as *const u64) };
            println!("read {value:#x} from an unmapped page");
            ExitCode::Failure
        }
        "stack-overflow" => {
            println!("depth {}", deeper(0));
            ExitCode::Failure
        }
        "invalid-opcode" => {
            // SAFETY: meant to fault: a UD2 without the magic is no call.
            unsafe { core::arch::asm!("ud2", in("rax") 0, in("r10") 0) };
            ExitCode::Failure
        }
        "ring0-fault" => {
            call::ring0_fault();
            ExitCode::Failure
        }
        "triple-fault" => {
            call::triple_fault();
            ExitCode::Failure
        }
        "hang" => loop {
            core::hint::spin_loop();
        },
        "halt" => halt(),
        "say-and-halt" => {
            println!("halting");
            halt()
        }
        "exit" => exit::write(number("value").unwrap_or_default() as u8),
        "unclaimed" => unclaimed(),
        "power-off" => power(machine, false),
        "reset" => power(machine, true),
        "echo" => echo::run(),
        "pci" => pci::run(machine),
        "msi" => msi(machine, number("device").unwrap_or_default()),
        other => {
            println!("selfcheck: unknown check {other}");
            ExitCode::Failure
        }
    }
}

/// Calls itself until the stack is full.
#[expect(unconditional_recursion, reason = "what is wanted")]
fn deeper(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    deeper(depth + 1) + frame.iter().sum::<u64>()
}

fn halt() -> ! {
    loop {
        call::wait(irq::total());
    }
}

/// Prints what was found and tries each thing the kernel offers.
fn hello(machine: &mut Machine) -> ExitCode {
    println!("hello from ring {}", ring());
    println!("command line: {}", machine.command_line.as_str());
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "memory: {} MiB, end {:#x}, heap {} MiB, DMA {} MiB",
        mib(machine.memory.ram),
        machine.memory.end,
        mib(machine.memory.heap),
        mib(machine.dma.free()),
    );
    let clock = &machine.clock;
    println!("TSC: {} kHz ({:?})", clock.tsc_hz() / 1000, clock.source());
    for module in &machine.modules {
        println!(
            "module: {} bytes, \"{}\"",
            module.data.len(),
            module.command_line
        );
    }
    match machine.pci {
        Some(ref bus) => println!("PCI: {:?}", bus.access()),
        None => println!("PCI: none"),
    }
    let mut good = pci_functions(machine);
    good &= check("timer ends a wait", timer(machine));
    good &= check("DMA pool", dma(machine));
    good &= check("floating point", floating_point());
    if good {
        ExitCode::Success
    } else {
        ExitCode::Failure
    }
}

fn check(what: &str, good: bool) -> bool {
    println!("{what}: {}", if good { "ok" } else { "FAILED" });
    good
}

fn pci_functions(machine: &mut Machine) -> bool {
    let Some(bus) = machine.pci.as_mut() else {
        return true;
    };
    for mut function in bus.functions() {
        println!("PCI: {function}");
        if function.class() != crate::pci::CLASS_NVME {
            continue;
        }
        if let Err(error) = bus.set_up(&mut function) {
            println!("PCI: {error}");
            return false;
        }
        let (Some(bar), Some(msix)) = (function.bar(0), function.msix()) else {
            println!("NVMe: no BAR0 or no MSI-X");
            return false;
        };
        println!(
            "NVMe: BAR0 {:#x}+{:#x}, CAP {:#018x}, VS {:#x}, {} vectors",
            bar.base(),
            bar.bytes(),
            bar.read64(0),
            bar.read32(8),
            msix.vectors(),
        );
    }
    true
}

/// Three waits that nothing but the timer ends: not early, and not absurdly late.
fn timer(machine: &mut Machine) -> bool {
    let mut good = true;
    for _ in 0..3 {
        let start = machine.clock.now_ns();
        let seen = Vector::FIRST.count();
        good &= !irq::wait(&mut machine.clock, Vector::FIRST, seen, 2 * MILLISECOND);
        let took = machine.clock.now_ns() - start;
        println!("waited {took} ns for 2 ms");
        good &= (2 * MILLISECOND..1000 * MILLISECOND).contains(&took);
    }
    good
}

fn dma(machine: &mut Machine) -> bool {
    let pool = &mut machine.dma;
    let free = pool.free();
    let Some(address) = pool.alloc(3 << 20, 1 << 16) else {
        return false;
    };
    let (text, mut back) = (*b"test", [0; 4]);
    pool.write(address, &text);
    pool.read(address, &mut back);
    let good = address % (1 << 16) == 0
        && back == text
        && pool.load32(address) == u32::from_le_bytes(text)
        && pool.load32(u64::MAX - 3) == u32::MAX
        && pool.alloc(u64::MAX, 1).is_none();
    pool.reset();
    good && pool.free() == free
}

fn floating_point() -> bool {
    let third = core::hint::black_box(1.0_f64) / core::hint::black_box(3.0);
    (third * 3.0 - 1.0).abs() < 1e-9
}

/// The current privilege level.
fn ring() -> u16 {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {0:x}, cs", out(reg) selector, options(nomem, nostack)) };
    selector & 3
}

/// Ports and memory that nothing claims: all ones at each width; stores are dropped.
fn unclaimed() -> ExitCode {
    const PORT: u16 = 0x700;
    // SAFETY: no machine has anything there: the window for BARs, with no BAR.
    let nowhere = unsafe { Mmio::new(0xdfff_0000, 0x1000) };
    port::write8(PORT, 0);
    port::write16(PORT, 0);
    port::write32(PORT, 0);
    nowhere.write8(0, 0);
    nowhere.write16(0, 0);
    nowhere.write32(0, 0);
    nowhere.write64(0, 0);
    let good = port::read8(PORT) == u8::MAX
        && port::read16(PORT) == u16::MAX
        && port::read32(PORT) == u32::MAX
        && nowhere.read8(0) == u8::MAX
        && nowhere.read16(0) == u16::MAX
        && nowhere.read32(0) == u32::MAX
        && nowhere.read64(0) == u64::MAX;
    if check("all ones", good) {
        ExitCode::Success
    } else {
        ExitCode::Failure
    }
}

/// Goes off, or resets, as ACPI's tables say. Comes back only if that does not work.
fn power(machine: &Machine, reset: bool) -> ExitCode {
    /// SLP_EN, above SLP_TYP in bits 12:10.
    const SLEEP: u16 = 1 << 13;
    let Some(power) = acpi::power(machine.rsdp) else {
        println!("ACPI: no fixed description table, or no S5");
        return ExitCode::Failure;
    };
    println!("ACPI: {power:x?}");
    if reset {
        port::write8(power.reset.0, power.reset.1);
    } else {
        let kept = port::read16(power.control);
        port::write16(power.control, kept | u16::from(power.off) << 10 | SLEEP);
    }
    println!("ACPI: nothing happened");
    ExitCode::Failure
}

/// Messages from a device of the machine's tests, whose registers at `device=` are: 0 the
/// message's address (u64), 8 its data (u32), Ch (u32) sends it that many microseconds later.
fn msi(machine: &mut Machine, address: u64) -> ExitCode {
    const ROUNDS: u32 = 100;
    // SAFETY: the test says that its device is there.
    let device = unsafe { Mmio::new(address, 0x1000) };
    let Some(vector) = Vector::device(5) else {
        return ExitCode::Failure;
    };
    let (message, data) = vector.message();
    device.write64(0, message);
    device.write32(8, data);
    let clock = &mut machine.clock;

    let start = clock.now_ns();
    for round in 0..ROUNDS {
        let seen = vector.count();
        device.write32(12, 0);
        let deadline = clock.now_ns() + 2000 * MILLISECOND;
        while vector.count() == seen {
            if clock.now_ns() > deadline {
                println!("lost while spinning, round {round}");
                return ExitCode::Failure;
            }
            core::hint::spin_loop();
        }
    }
    println!(
        "spinning: {} ns a message",
        (clock.now_ns() - start) / u64::from(ROUNDS)
    );

    let mut late = 0;
    for round in 0..ROUNDS {
        let seen = vector.count();
        device.write32(12, 500);
        let start = clock.now_ns();
        if !irq::wait(clock, vector, seen, 2000 * MILLISECOND) {
            println!("lost while halted, round {round}");
            return ExitCode::Failure;
        }
        late += (clock.now_ns() - start).saturating_sub(500_000);
    }
    println!(
        "halted: {} ns a message above its delay",
        late / u64::from(ROUNDS)
    );
    let doubled = vector.count() != u64::from(2 * ROUNDS);
    println!("{} messages, TSC {}", vector.count(), time::tsc());
    if doubled {
        ExitCode::Failure
    } else {
        ExitCode::Success
    }
}
