//! Registers, doorbells, MSI-X and configuration space, accessed in every way, against a plain
//! model of what they hold.

use nvme::ControllerConfig;
use nvme_spec::registers::{Aqa, CQE_LOG2, Cap, Cc, Csts, Register, SQE_LOG2, Shn, Shst};
use pci::{Effects, PciFunction, capability, header};
use storage::ram::Ram;

use crate::{
    input::Input,
    machine::{
        DATA, DATA_BYTES, MSIX_BAR, Machine, QUEUES, QUEUES_BYTES, REGISTER_BAR, VECTORS, namespace,
    },
    trace,
};

/// Accesses of one input.
const STEPS: u32 = 400;
/// Bytes of BAR0 below the doorbells.
const REGISTERS: usize = 0x1000;
/// The largest memory page that CAP offers: 64 KiB.
const MPSMAX: u8 = 4;

/// What the writable registers hold, by the rules of Base 3.1.4 and nothing else.
#[derive(Clone, Copy, Default)]
struct Model {
    cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    mask: u32,
}

impl Model {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let disabled = self.cc & 1 == 0;
        let value = data
            .iter()
            .rev()
            .fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let dword = u32::try_from(value & 0xFFFF_FFFF).unwrap_or_default();
        match (offset, data.len()) {
            (0x0C, 4) => self.mask |= dword,
            (0x10, 4) => self.mask &= !dword,
            (0x14, 4) => {
                let writable = if disabled { 0x00FF_FFF1 } else { 0x00FF_C001 };
                self.cc = self.cc & !writable | dword & writable;
            }
            (0x24, 4) if disabled => self.aqa = dword & 0x0FFF_0FFF,
            (0x28 | 0x2C | 0x30 | 0x34, 4) | (0x28 | 0x30, 8) if disabled => {
                let register = if offset < 0x30 {
                    &mut self.asq
                } else {
                    &mut self.acq
                };
                let shift = offset % 8 * 8;
                let bits = if data.len() == 8 {
                    u64::MAX
                } else {
                    0xFFFF_FFFF << shift
                };
                *register = (*register & !bits | value << shift & bits) & !0xFFF;
            }
            _ => {}
        }
    }

    /// The bytes below the doorbells: what never changes, and these.
    fn image(&self, constant: &[u8], csts: u32) -> Vec<u8> {
        let mut image = constant.to_vec();
        for (register, value) in [
            (Register::Intms, self.mask),
            (Register::Intmc, self.mask),
            (Register::Cc, self.cc),
            (Register::Csts, csts),
            (Register::Aqa, self.aqa),
        ] {
            put(&mut image, register, &value.to_le_bytes());
        }
        put(&mut image, Register::Asq, &self.asq.to_le_bytes());
        put(&mut image, Register::Acq, &self.acq.to_le_bytes());
        image
    }

    /// Whether a controller with these capabilities can be enabled with these registers.
    fn can_enable(&self, cap: Cap) -> bool {
        let (cc, aqa) = (Cc::from(self.cc), Aqa::from(self.aqa));
        // CAP.CSS has a bit for each of 000b, 110b and 111b.
        let css = matches!(cc.css(), 0 | 6 | 7) && cap.css() >> cc.css() & 1 != 0;
        if !css || cc.ams() != 0 || cc.mps() > MPSMAX {
            return false;
        }
        let page = 4096u64 << cc.mps();
        let lies = |base: u64, entries_z: u16, entry_bytes: u64| {
            let bytes = (u64::from(entries_z) + 1) * entry_bytes;
            let within = |start: u64, size: u64| {
                base >= start && base - start < size && bytes <= size - (base - start)
            };
            entries_z > 0
                && base.is_multiple_of(page)
                && (within(DATA, DATA_BYTES) || within(QUEUES, QUEUES_BYTES))
        };
        lies(self.asq, aqa.asqs_z(), 64) && lies(self.acq, aqa.acqs_z(), 16)
    }
}

fn put(image: &mut [u8], register: Register, bytes: &[u8]) {
    let at = usize::try_from(register.offset()).expect("small");
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A machine and its model.
struct Bench {
    machine: Machine,
    model: Model,
    cap: Cap,
    constant: Vec<u8>,
    config: Vec<u8>,
    /// The bits of configuration space that software may change.
    config_writable: Vec<u8>,
}

/// Writes and reads BAR0, the MSI-X table and configuration space with any offset and width, polls
/// shards in between and resets the function. Registers hold what was written where that is
/// allowed, all else is constant, and the lifecycle comes to rest where CC says.
pub fn registers(data: &[u8]) {
    let input = &mut Input::new(data);
    let device = Ram::new(1 << 16).expect("memory");
    let machine = Machine::new(ControllerConfig {
        io_queues: 3,
        vectors: VECTORS,
        mdts_bytes: 8192,
        shards: input.pick(&[1, 2, 3]),
        namespaces: vec![namespace(device, 512)],
        ..ControllerConfig::default()
    });
    let mut constant = vec![0; REGISTERS];
    machine.function.bar_read(REGISTER_BAR, 0, &mut constant);
    let cap = constant
        .first_chunk()
        .map(|&cap| Cap::from(u64::from_le_bytes(cap)));
    let cap = cap.expect("registers");
    let mut config = vec![0; header::EXTENDED_SIZE];
    machine.function.config_read(0, &mut config);
    let config_writable = writable_bits(&machine);
    let mut bench = Bench {
        machine,
        model: Model::default(),
        cap,
        constant,
        config,
        config_writable,
    };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        bench.step(input);
        bench.check();
    }
    bench.rest();
    bench.check();
    bench.machine.freeze(None);
}

/// Header and capabilities, by their specifications (PCI 3.0 6.1, 6.8.2; PCIe 7.8; PM 3.2).
fn writable_bits(machine: &Machine) -> Vec<u8> {
    let mut masks = vec![0u8; header::EXTENDED_SIZE];
    let mut allow = |offset: u16, mask: u32| {
        for (place, bits) in masks[usize::from(offset)..]
            .iter_mut()
            .zip(mask.to_le_bytes())
        {
            *place |= bits;
        }
    };
    allow(header::COMMAND, 0x0546);
    allow(header::CACHE_LINE_SIZE, 0xFF);
    allow(header::INTERRUPT_LINE, 0xFF);
    for bar in [REGISTER_BAR, MSIX_BAR] {
        let at = header::BAR0 + 4 * u16::from(bar);
        let bars = machine.function.bars();
        let size = bars[usize::from(bar)].expect("a BAR").size;
        allow(
            at,
            u32::try_from(!(size - 1) & 0xFFFF_FFF0).expect("32 bits"),
        );
        allow(at + 4, u32::MAX);
    }
    allow(
        machine.capability(capability::ID_POWER_MANAGEMENT) + 4,
        0b11,
    );
    allow(machine.msix_control, 0xC000);
    allow(machine.device_control, 0x781F);
    allow(machine.device_control + 0x20, 0x10);
    masks
}

impl Bench {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 20 {
            0..=2 => self.write_register(input),
            3 => {
                let (offset, data) = (offset(input), width(input));
                self.write(offset, &input.number().to_le_bytes()[..data]);
            }
            4 => {
                let count = usize::from(input.u8() & 63);
                let (offset, data) = (offset(input), input.bytes(count).to_vec());
                self.write(offset, &data);
            }
            5 => self.read(input),
            6 | 7 => {
                let (qid, head) = (u16::from(input.u8() & 7), input.bool());
                let value = u32::try_from(input.number() & 0xFFFF_FFFF).unwrap_or_default();
                trace!("ring {qid}, head {head}: {value:#x}");
                self.machine.ring(qid, head, value);
            }
            8 | 9 => {
                self.machine.advance(u64::from(input.u8()) * 1_000);
                self.machine.poll(usize::from(input.u8()), 8);
            }
            10 | 11 => self.rest(),
            12 => self.describe(input),
            13 => {
                let cc = Cc::from(self.model.cc);
                let cc = match input.below(4) {
                    0 => cc.with_en(true),
                    1 => cc.with_en(false),
                    2 => cc.with_shn(Shn::Normal),
                    _ => cc.with_shn(Shn::None),
                };
                self.write(Register::Cc.offset(), &u32::from(cc).to_le_bytes());
            }
            14 => {
                let offset = u16::from(input.u8()) | u16::from(input.wrong()) << 8;
                let data = &input.number().to_le_bytes()[..width(input)];
                self.config_write(offset, data);
            }
            15 => {
                let on = input.bool();
                trace!("bus master {on}");
                self.machine.set_bus_master(on);
            }
            16 => {
                let control = self.machine.device_control;
                self.config_write(control, &0x8000u16.to_le_bytes());
            }
            17 => {
                trace!("reset");
                self.machine.function.reset();
                self.model = Model::default();
            }
            18 => self.table(input),
            _ => {
                let address = DATA + u64::from(input.u16());
                let value = input.number();
                self.machine.write(address & !7, &value.to_le_bytes());
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        trace!("write {offset:#x}: {data:x?}");
        self.machine.bar_write(offset, data);
        self.model.write(offset, data);
    }

    /// A register, whole, with what it may hold.
    fn write_register(&mut self, input: &mut Input<'_>) {
        let register = input.pick(&Register::ALL);
        let value = match register {
            Register::Asq | Register::Acq if !input.wrong() => QUEUES + 0x1_0000 * input.below(2),
            Register::Aqa if !input.wrong() => u64::from(input.u16()) << 16 & 0x3F_0000 | 7,
            _ => input.number(),
        };
        let bytes = value.to_le_bytes();
        let width = usize::try_from(register.bytes()).expect("4 or 8");
        self.write(register.offset(), &bytes[..width]);
    }

    /// Admin queues that will do, and CC to enable them; wrong in one field, if the input says so.
    fn describe(&mut self, input: &mut Input<'_>) {
        let mps = input.pick(&[0, 1, 2, 3, 4, 5, 15]);
        let mut aqa = Aqa::new().with_asqs_z(15).with_acqs_z(7);
        let (mut asq, mut acq) = (QUEUES, QUEUES + 0x1_0000);
        let mut cc = Cc::new()
            .with_en(true)
            .with_mps(mps)
            .with_iosqes(SQE_LOG2)
            .with_iocqes(CQE_LOG2);
        match input.below(8) {
            1 => asq = input.number(),
            2 => acq = input.number(),
            3 => aqa = Aqa::from(input.u32()),
            4 => cc = Cc::from(input.u32()).with_en(true),
            5 => asq = DATA,
            _ => {}
        }
        if input.wrong() {
            cc = cc.with_shn(Shn::Normal);
        }
        self.write(Register::Aqa.offset(), &u32::from(aqa).to_le_bytes());
        self.write(Register::Asq.offset(), &asq.to_le_bytes());
        self.write(Register::Acq.offset(), &acq.to_le_bytes());
        self.write(Register::Cc.offset(), &u32::from(cc).to_le_bytes());
    }

    /// A read of any width is a part of the whole.
    fn read(&mut self, input: &mut Input<'_>) {
        let (offset, count) = (offset(input), usize::from(input.u8() & 63));
        let mut data = vec![0xEE; count];
        self.machine
            .function
            .bar_read(REGISTER_BAR, offset, &mut data);
        let image = self.image();
        for (index, byte) in (0u64..).zip(data) {
            let at = offset + index;
            let expected = usize::try_from(at).ok().and_then(|at| image.get(at));
            assert_eq!(byte, expected.copied().unwrap_or(0), "at {at:#x}");
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut image = vec![0; REGISTERS];
        self.machine.function.bar_read(REGISTER_BAR, 0, &mut image);
        image
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        trace!("configuration {offset:#x}: {data:x?}");
        let effects = self.machine.function.config_write(offset, data);
        if effects.contains(Effects::FUNCTION_LEVEL_RESET) {
            self.model = Model::default();
        }
    }

    /// The MSI-X table: an aligned dword holds what was written, as far as it can.
    fn table(&mut self, input: &mut Input<'_>) {
        let entry = input.below(u64::from(VECTORS) + 2);
        let dword = input.below(4);
        let at = entry * 16 + dword * 4;
        let value = u32::try_from(input.number() & 0xFFFF_FFFF).unwrap_or_default();
        let function = &self.machine.function;
        function.bar_write(MSIX_BAR, at, &value.to_le_bytes());
        let mut data = [0; 4];
        function.bar_read(MSIX_BAR, at, &mut data);
        let kept = match dword {
            _ if entry >= u64::from(VECTORS) => 0,
            0 => !0b11,
            3 => 1,
            _ => u32::MAX,
        };
        assert_eq!(
            u32::from_le_bytes(data),
            value & kept,
            "table entry {entry}, dword {dword}"
        );
        // And an access that is none of those does no harm.
        let (offset, count) = (
            u64::from(input.u16()) % 0x2004,
            usize::from(input.u8() & 31),
        );
        let data = input.bytes(count);
        function.bar_write(MSIX_BAR, offset, data);
        function.bar_read(MSIX_BAR, offset, &mut vec![0; count]);
    }

    /// Lets the controller come to rest: CSTS is what CC asks for.
    fn rest(&mut self) {
        self.machine.settle();
        let (cc, csts) = (self.machine.cc(), self.machine.csts());
        let state = self.machine.function.controller().lifecycle();
        trace!("at rest: {csts:?}");
        if !cc.en() {
            assert!(!csts.rdy() && !csts.cfs(), "{state:?}");
        } else if csts.shst() == Shst::Normal {
            let works = self.model.can_enable(self.cap);
            assert_eq!(
                (csts.rdy(), csts.cfs()),
                (works, !works),
                "{state:?} with {cc:?}"
            );
        }
        assert!(
            csts.shst() != Shst::Occurring || !self.machine.bus_master(),
            "{state:?}"
        );
    }

    /// What holds after every step.
    fn check(&mut self) {
        let csts = self.machine.csts();
        let defined = Csts::new().with_rdy(true).with_cfs(true);
        let defined = u32::from(defined) | 0b1100;
        assert_eq!(
            u32::from(csts) & !defined,
            0,
            "reserved bits of CSTS: {csts:?}"
        );
        let expected = self.model.image(&self.constant, csts.into());
        let image = self.image();
        if image != expected {
            let at = image
                .iter()
                .zip(&expected)
                .position(|(one, other)| one != other);
            panic!("register byte {at:x?}: {image:x?}");
        }
        let mut now = vec![0; header::EXTENDED_SIZE];
        self.machine.function.config_read(0, &mut now);
        let conventional = header::CONVENTIONAL_SIZE;
        assert!(
            now[conventional..] == self.config[conventional..],
            "extended configuration"
        );
        for (at, constant) in self.config_writable[..conventional]
            .iter()
            .map(|bits| !bits)
            .enumerate()
        {
            assert_eq!(
                now[at] & constant,
                self.config[at] & constant,
                "configuration byte {at:#x}"
            );
        }
        let cc = self.machine.cc();
        let why = if !self.machine.bus_master() {
            Some("the function was no bus master")
        } else if csts.shst() == Shst::Complete {
            Some("the controller was shut down")
        } else if !cc.en() && !csts.rdy() {
            Some("the controller was disabled")
        } else {
            None
        };
        self.machine.freeze(why);
    }
}

/// An offset in BAR0, mostly where registers are.
fn offset(input: &mut Input<'_>) -> u64 {
    match input.below(4) {
        0 => input.below(0x70),
        1 => 0xFF0 + input.below(0x60),
        2 => input.u16().into(),
        // The front end keeps offset and length from overflowing.
        _ => input.number() & !0x3F,
    }
}

fn width(input: &mut Input<'_>) -> usize {
    input.pick(&[4, 8, 1, 2, 3])
}
