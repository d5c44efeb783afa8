//! The virtual machine around the drive: CPUs, memory, buses, and the few devices a kernel needs
//! to start, speak and end.
//!
//! ```text
//!   Machine::new ──► memory (memfd), KVM's VM with its interrupt controllers, CPUs, buses
//!   attach_pci … ──► functions on PCI bus 0
//!   run ───────────► BARs placed, kernel loaded, a thread a CPU, until someone ends it
//! ```
//!
//! A CPU's exit is answered on its own thread: port and memory accesses go through [`Buses`] to
//! the device, which must not block. A run ends by the guest's write to the debug exit, by
//! [`StopHandle::stop`], by the time allowed, or by an error that says where the guest was.
//! [`Debugger`] stops the CPUs in between, each between two instructions.
//!
//! Unsafe code is in `memory` (KVM is told addresses), `vcpu` (`kvm_run`'s unions and the signal
//! that gets a CPU out of the guest) and `ioevent` (a descriptor changes its type).
//!
//! ACPI's tables tell the guest of its CPUs, its PCI bus and how to go off; beside them the machine
//! has a PC's clock, its reset ports, and the PICs, PIT and IOAPIC that KVM keeps.
//!
//! Left out: MP tables; firmware; interrupts of the clock; sleep states but off; snapshots.

mod acpi;
mod boot;
mod bus;
mod cmos;
mod control;
mod cpuid;
mod debug;
mod debug_exit;
mod error;
mod exits;
mod firmware;
mod ioevent;
mod irq;
mod kvm;
pub mod layout;
mod memory;
mod pci;
mod power;
mod serial;
mod vcpu;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::pci::{Bdf, PciFunction};
use kvm_ioctls::VmFd;
use vm_memory::GuestAddressSpace;

pub use boot::{Entry, load as load_kernel};
pub use bus::{Buses, MmioDevice, PortDevice};
pub use control::{GuestExit, StopHandle};
pub use debug::{Debugger, Ended as RunEnded, Stop};
pub use error::{CpuState, MachineError, RunError};
pub use exits::{ExitCounts, LiveExits};
pub use ioevent::{BarEvents, Event};
pub use irq::{IrqRoutes, MsiBlock};
pub use kvm::{is_pvm, open as open_kvm};
pub use memory::{GuestMemory, check as check_memory, ranges as memory_ranges};
pub use serial::{Lines, SerialInput, SerialSink};

/// What tests of other modules need.
#[cfg(test)]
pub(crate) mod test_support {
    use std::sync::Arc;

    pub(crate) use super::serial::guest::Guest;
    use super::{StopHandle, control::Control};

    pub(crate) fn stop_handle() -> StopHandle {
        Arc::new(Control::default()).stop_handle()
    }
}

use control::Control;
use debug::{Gate, GateOwner};
use vcpu::{Running, Vcpu};

/// What a machine is made of.
pub struct MachineConfig {
    /// Bytes of memory, a multiple of 4,096, at least 4 MiB.
    pub memory: u64,
    /// CPUs, 1 to what KVM allows (255 at most).
    pub cpus: u8,
    /// An uncompressed ELF with a PVH entry point, or a Linux bzImage.
    pub kernel: Cow<'static, [u8]>,
    /// The kernel's command line, at most 4,095 bytes; a bzImage says how many it takes.
    pub command_line: String,
    /// Files passed to the kernel; Linux takes the first as its initrd.
    pub modules: Vec<Module>,
    /// Where serial output goes; see [`Lines`].
    pub serial: SerialSink,
    /// How long the guest may run.
    pub timeout: Option<Duration>,
    /// Where its exits are counted, for those who look while it runs.
    pub exits: Arc<LiveExits>,
}

impl Default for MachineConfig {
    /// 256 MiB, one CPU, the embedded test kernel, output to nowhere, no limit in time.
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            cpus: 1,
            kernel: Cow::Borrowed(crate::TEST_KERNEL),
            command_line: String::new(),
            modules: Vec::new(),
            serial: Box::new(std::io::sink()),
            timeout: None,
            exits: Arc::default(),
        }
    }
}

/// A file passed to the kernel.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its content.
    pub data: Arc<[u8]>,
    /// Its own command line.
    pub command_line: String,
}

impl Module {
    /// A file without a command line.
    #[must_use]
    pub fn unnamed(data: Vec<u8>) -> Self {
        Self {
            data: data.into(),
            command_line: String::new(),
        }
    }
}

/// How a run ended, and what it took.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// Who ended it.
    pub exit: GuestExit,
    /// Exits of all CPUs.
    pub exits: ExitCounts,
    /// Reads and writes, by port or by memory, that no device claimed.
    pub unclaimed: (u64, u64),
    /// Where CPU 0 was when the guest was stopped or its time was over.
    pub stopped_at: Option<Box<CpuState>>,
    /// From the start of the CPUs to the end.
    pub elapsed: Duration,
}

/// A machine that has not run yet.
pub struct Machine {
    cpus: Vec<Vcpu>,
    buses: Arc<Buses>,
    input: SerialInput,
    routes: Arc<IrqRoutes>,
    vm: Arc<VmFd>,
    pci: ::pci::Bus,
    /// By function and BAR.
    events: Vec<(Bdf, u8, Arc<BarEvents>)>,
    control: Arc<Control>,
    memory: GuestMemory,
    kernel: Cow<'static, [u8]>,
    command_line: String,
    modules: Vec<Module>,
    timeout: Option<Duration>,
    exits: Arc<LiveExits>,
    /// Ends with the run; none without a debugger.
    gate: Option<GateOwner>,
}

impl Machine {
    /// Makes the machine: memory, CPUs, interrupt controllers, serial port, debug exit, and an
    /// empty PCI bus. Raises this process's soft limit of open descriptors to the hard one.
    ///
    /// # Errors
    /// When KVM is absent or refuses, or the configuration asks for what cannot be.
    pub fn new(config: MachineConfig) -> Result<Self, MachineError> {
        let kvm = kvm::open()?;
        irq::raise_descriptors();
        let most = u8::try_from(kvm.get_max_vcpus()).unwrap_or(u8::MAX);
        if config.cpus == 0 || config.cpus > most {
            return Err(MachineError::Cpus {
                asked: config.cpus,
                most,
            });
        }
        let memory = memory::create(config.memory)?;
        let vm: Arc<VmFd> = Arc::new(kvm::create_vm(&kvm)?);
        memory::give_to_kvm(&vm, &memory)?;
        let buses = Arc::new(Buses::default());
        let control = Arc::new(Control::default());
        let routes = Arc::new(IrqRoutes::new(Arc::clone(&vm)));

        let line = serial::Line(routes.line(layout::SERIAL_IRQ)?);
        let serial = serial::SerialPort::new(line, config.serial);
        let input = serial.input();
        buses.add_ports(layout::SERIAL_PORT, 8, Arc::new(serial))?;
        let debug_exit = debug_exit::DebugExit(Arc::clone(&control));
        buses.add_ports(
            layout::DEBUG_EXIT_PORT,
            debug_exit::PORTS,
            Arc::new(debug_exit),
        )?;

        add_fixed_hardware(&buses, &control)?;

        cpuid::without_counters(&vm);
        let supported = cpuid::supported(&kvm)?;
        let cpus = (0..config.cpus)
            .map(|id| {
                let parts = (Arc::clone(&buses), memory.clone());
                let exits = Arc::clone(&config.exits);
                Vcpu::new(&vm, id, config.cpus, &supported, parts, exits)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            cpus,
            buses,
            input,
            routes,
            vm,
            pci: pci::bus()?,
            events: Vec::new(),
            control,
            memory,
            kernel: config.kernel,
            command_line: config.command_line,
            modules: config.modules,
            timeout: config.timeout,
            exits: config.exits,
            gate: None,
        })
    }

    /// What a debugger stops the CPUs by; asked for once, before the run.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn debugger(&mut self) -> Result<Debugger, MachineError> {
        let gate = Arc::new(Gate::new(self.cpus.len())?);
        for cpu in &mut self.cpus {
            cpu.set_gate(Arc::clone(&gate));
        }
        self.gate = Some(GateOwner(Arc::clone(&gate)));
        Ok(Debugger::new(gate, self.memory.clone(), self.cpus.len()))
    }

    /// The guest's memory, for devices.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The buses, for devices that are not on PCI.
    #[must_use]
    pub fn buses(&self) -> &Arc<Buses> {
        &self.buses
    }

    /// Interrupt vectors for one device.
    ///
    /// # Errors
    /// When KVM has no routes left, or the host no descriptors: each vector takes an eventfd.
    pub fn msi(&self, vectors: u16) -> Result<MsiBlock, MachineError> {
        self.routes.block(vectors)
    }

    /// Puts a function at device number `device` (1 to 31) of PCI bus 0.
    ///
    /// # Errors
    /// When the number is taken or none.
    pub fn attach_pci(
        &mut self,
        device: u8,
        function: Arc<dyn PciFunction>,
    ) -> Result<Bdf, MachineError> {
        Ok(self.pci.add(device, function)?)
    }

    /// Registers of a function's BAR whose writes are to be events; asked for before the run.
    pub fn bar_events(&mut self, function: Bdf, bar: u8) -> Arc<BarEvents> {
        let events = Arc::new(BarEvents::new(Arc::clone(&self.vm)));
        self.events.push((function, bar, Arc::clone(&events)));
        events
    }

    /// The host's end of the serial line.
    #[must_use]
    pub fn serial_input(&self) -> SerialInput {
        self.input.clone()
    }

    /// Ends the run from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.control.stop_handle()
    }

    /// Places the BARs, loads the kernel and runs the guest to its end. No thread of the machine
    /// is left when it returns; devices and the serial sink are dropped with the machine.
    ///
    /// # Errors
    /// When the machine cannot be completed, or the guest cannot go on.
    pub fn run(self) -> Result<RunOutcome, RunError> {
        pci::connect(
            self.pci,
            &self.buses,
            self.events,
            Arc::clone(&self.control),
        )?;
        let memory = self.memory.memory();
        let cpus = u8::try_from(self.cpus.len()).unwrap_or(u8::MAX);
        let rsdp = acpi::write(&memory, cpus)?;
        let entry = boot::load(
            &memory,
            &self.kernel,
            &self.command_line,
            &self.modules,
            rsdp,
        )?;
        if let Some(first) = self.cpus.first() {
            first.start_at(entry)?;
        }
        let start = Instant::now();
        let mut running = Vec::with_capacity(self.cpus.len());
        for cpu in self.cpus {
            match cpu.start(Arc::clone(&self.control)) {
                Ok(cpu) => running.push(cpu),
                Err(error) => self.control.end(Err(error.into())),
            }
        }
        self.control.wait(self.timeout);
        drop(self.gate);
        running.iter().for_each(Running::kick);
        let mut stopped_at = None;
        for cpu in running {
            // A panic has ended the run by itself.
            if let Ok(state) = cpu.join() {
                stopped_at = stopped_at.or(state);
            }
        }
        let elapsed = start.elapsed();
        let exit = self.control.take()?;
        Ok(RunOutcome {
            exit,
            exits: self.exits.counts(),
            unclaimed: self.buses.unclaimed(),
            stopped_at,
            elapsed,
        })
    }
}

/// What a PC has at fixed ports and KVM does not keep: power management, the clock, ways to reset.
fn add_fixed_hardware(buses: &Buses, control: &Arc<Control>) -> Result<(), MachineError> {
    let [data, command] = layout::KEYBOARD_PORTS;
    let shared = || Arc::clone(control);
    let devices: [(u16, u16, PortDevice); 6] = [
        (
            layout::PM1_PORTS,
            power::PM1_PORTS,
            Arc::new(power::Pm1::new(shared())),
        ),
        (
            layout::CMOS_PORTS,
            cmos::PORTS,
            Arc::<cmos::Cmos>::default(),
        ),
        (data, 1, Arc::new(power::Keyboard::Data)),
        (command, 1, Arc::new(power::Keyboard::Command(shared()))),
        (layout::PORT_92, 1, Arc::new(power::Port92(shared()))),
        (layout::POST_PORT, 1, Arc::new(power::Ignored)),
    ];
    for (base, ports, device) in devices {
        buses.add_ports(base, ports, device)?;
    }
    Ok(())
}
