//! What a user says of a controller.

use ferrite::options::{NvmeOptions, OptionError};
use nvme::{CacheMode, Controller, ControllerConfig, Interrupt};
use nvme_spec::registers::Vs;
use storage::{GuestRam, GuestRamHandle, null::Null};
use vm_memory::GuestAddress;

use crate::{input::Input, machine::namespace, trace};

/// The most bytes of namespaces that are really made: the rest is arithmetic.
const MADE_BYTES: u64 = 64 << 20;

/// Reads `--nvme` lists, and checks configurations that no list can give. What is refused is
/// named, and what is accepted works.
pub fn options(data: &[u8]) {
    let input = &mut Input::new(data);
    if input.u8() & 3 == 3 {
        configuration(input);
        return;
    }
    let rest = std::mem::replace(input, Input::new(&[])).rest();
    let text = String::from_utf8_lossy(rest);
    trace!("{text}");
    let mut options = NvmeOptions::default();
    for list in text.split('\n') {
        if let Err(error) = options.apply(list) {
            check_error(&error);
            // Two commas in a list are one of a value, so only their place can be compared.
            let list = one_comma(list);
            let has = |part: &str| list.contains(&one_comma(part));
            assert!(has(&error.key) && has(&error.value), "{error}");
        }
    }
    match options.each_namespace() {
        Err(error) => check_error(&error),
        Ok(each) => {
            assert_eq!(each.len(), options.namespaces);
            let bytes = each.iter().map(|ns| ns.size).fold(0, u64::saturating_add);
            if bytes <= MADE_BYTES && each.len() <= 4 {
                build(&options);
            }
        }
    }
    let _ = options.memory_note();
}

/// `text` with each run of commas as one.
fn one_comma(text: &str) -> String {
    let mut last = ' ';
    let mut keep = |at: &char| std::mem::replace(&mut last, *at) != ',' || *at != ',';
    text.chars().filter(|at| keep(at)).collect()
}

fn build(options: &NvmeOptions) {
    match options.build() {
        Err(error) => check_error(&error),
        Ok(config) => {
            assert_eq!(config.validate(), Ok(()));
            make(config);
        }
    }
}

/// An error names the key and the value.
fn check_error(error: &OptionError) {
    let text = error.to_string();
    assert!(
        text.contains(&error.key) && text.contains(&error.value),
        "{text}"
    );
    assert!(!error.reason.is_empty());
}

/// Any configuration: `validate` says what is wrong with it, or it works.
fn configuration(input: &mut Input<'_>) {
    let mut config = ControllerConfig::default();
    let count = input.below(4) + if input.wrong() { 1024 } else { 0 };
    for _ in 0..count {
        let (bytes, lba) = if input.wrong() {
            (input.number(), input.number())
        } else {
            (1 << 20, 512)
        };
        let lba = u32::try_from(lba).unwrap_or(u32::MAX);
        config.namespaces.push(namespace(Null::new(bytes), lba));
    }
    let number = |input: &mut Input<'_>, right: u64| {
        if input.wrong() { input.number() } else { right }
    };
    let short = |value: u64| u16::try_from(value & 0xFFFF).unwrap_or_default();
    let word = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap_or_default();
    config.io_queues = short(number(input, 4));
    config.queue_entries = word(number(input, 64));
    config.vectors = short(number(input, 5));
    config.mdts_bytes = word(number(input, 8192));
    config.shards = short(number(input, 2));
    config.cache = input.pick(&[CacheMode::None, CacheMode::Volatile]);
    config.version = Vs::from(word(number(input, u32::from(Vs::V1_4).into())));
    for text in [&mut config.serial, &mut config.model, &mut config.firmware] {
        if input.wrong() {
            let length = usize::from(input.u8() & 63);
            *text = String::from_utf8_lossy(input.bytes(length)).into_owned();
        }
    }
    trace!("{config:?}");
    match config.validate() {
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains(error.key) && text.contains(&error.value),
                "{text}"
            );
            assert!(!error.rule.is_empty() && !error.hint.is_empty());
        }
        Ok(()) => make(config),
    }
}

struct Nowhere;

impl Interrupt for Nowhere {
    fn signal(&self, _vector: u16) {}
}

/// What was accepted works; large ones are too slow to try.
fn make(config: ControllerConfig) {
    if config.io_queues > 256 || config.shards > 4 || config.namespaces.len() > 8 {
        return;
    }
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
    let bytes = Controller::bar_bytes_of(&config);
    assert!(bytes.is_power_of_two() && bytes > 0x1000);
    let made = Controller::new(
        config,
        GuestRamHandle::new(ram),
        std::sync::Arc::new(Nowhere),
    );
    let (controller, mut shards) = made.expect("a valid configuration");
    for shard in &mut shards {
        shard.poll(0, 1);
    }
    let mut cap = [0; 8];
    controller.bar_read(0, &mut cap);
    assert_ne!(cap, [0; 8]);
}
