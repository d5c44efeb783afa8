//! A run: a controller made ready, and case after case.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use nvme_host::{Config, Driver, Error, Transport};
use nvme_spec::identify::{IdentifyController, OACS_DOORBELL_BUFFER_CONFIG};

use crate::drive::{Area, Drive};
use crate::hot::{self, Broken, Places, Random, Times};
use crate::{Case, Histogram, Line, Op, Wait};

/// The vector of all queues; 0 is the admin queue's, and theirs if there is no other.
const VECTOR: u16 = 1;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The cases, in this order.
    pub cases: Vec<Case>,
    /// How long each runs before it is measured, in nanoseconds.
    pub warm_ns: u64,
    /// How long each is measured, in nanoseconds.
    pub ns: u64,
    /// The most of the first namespace that is used, in bytes.
    pub area: u64,
}

/// What cases must be within.
struct Limits {
    area: Area,
    /// The most data of a command in bytes.
    transfer: u64,
    /// Queue pairs granted.
    queues: u32,
    /// Entries of a queue.
    entries: u32,
    vectors: u16,
}

/// Takes every case of a plan, and tells of each in lines. Whether all could be measured, or
/// skipped.
pub fn run<T: Transport + ?Sized>(
    transport: &mut T,
    plan: &Plan,
    out: &mut dyn FnMut(&Line<'_>),
) -> bool {
    match take(transport, plan, out) {
        Ok(commands) => {
            out(&Line::End { commands });
            true
        }
        Err(reason) => {
            out(&Line::Failed { reason: &reason });
            false
        }
    }
}

/// Text of Identify: ASCII, padded with spaces.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_string()
}

/// What an error says.
fn say(error: Error) -> String {
    error.to_string()
}

fn take<T: Transport + ?Sized>(
    transport: &mut T,
    plan: &Plan,
    out: &mut dyn FnMut(&Line<'_>),
) -> Result<u64, String> {
    let vectors = transport.vectors();
    let mut driver = Driver::new(transport).map_err(say)?;
    let limits = make_ready(&mut driver, plan, vectors, out)?;
    let mut drive = Drive {
        driver: &mut driver,
        area: limits.area,
        transfer: limits.transfer,
        commands: 0,
    };
    let (mut touched, mut filled) = (false, false);
    let vector = VECTOR.min(vectors.saturating_sub(1));
    let times = Times {
        warm_ns: plan.warm_ns,
        ns: plan.ns,
    };
    let mut random = Random::new(0x5EED);
    let mut histogram = Histogram::new();
    let mut timed = 0;
    for (number, case) in (1..).zip(&plan.cases) {
        let name = case.to_string();
        if let Some(reason) = limits.refuse(case) {
            let (case, reason) = (&name, &reason);
            out(&Line::Skipped { case, reason });
            continue;
        }
        match case.op {
            // What is read has to be known.
            Op::Read if !filled => {
                drive.fill().map_err(say)?;
                filled = true;
            }
            Op::Read => {}
            // Blocks that were never written may cost less, or more.
            Op::Write => {
                if !touched {
                    drive.fill().map_err(say)?;
                }
                filled = false;
            }
        }
        touched = true;
        let (mut queues, memory) = drive
            .set_up(case, number, vector)
            .map_err(|error| format!("{name}: {error}"))?;
        let places = Places {
            count: limits.area.bytes / u64::from(case.bytes),
            blocks: u64::from(case.bytes) / limits.area.lba,
        };
        out(&Line::Begin { case: &name });
        let measured = hot::measure(
            drive.driver.transport(),
            &mut queues,
            (case, vector),
            (times, places),
            &mut random,
            &mut histogram,
        );
        let measured = measured.map_err(|broken| match broken {
            Broken::Stuck => "no completion came for 10 s".to_string(),
            Broken::Status(status) => format!("a command ended with {status:?}"),
            Broken::Cid(cid) => format!("a completion has CID {cid:#x}, which no command has"),
        })?;
        timed += measured.all_ops;
        out(&Line::Done {
            case: &name,
            measured: &measured,
        });
        drive
            .tear_down(case, number, (queues, memory))
            .map_err(|reason| format!("{name}: {reason}"))?;
    }
    let commands = drive.commands + timed;
    driver.reset().map_err(say)?;
    Ok(commands)
}

/// Resets and enables the controller, with shadow doorbells if it offers them, and says what it
/// is.
fn make_ready<T: Transport + ?Sized>(
    driver: &mut Driver<'_, T>,
    plan: &Plan,
    vectors: u16,
    out: &mut dyn FnMut(&Line<'_>),
) -> Result<Limits, String> {
    driver.reset().map_err(say)?;
    driver.enable(&Config::default()).map_err(say)?;
    let controller = driver.identify_controller().map_err(say)?;
    let shadow = controller.oacs & OACS_DOORBELL_BUFFER_CONFIG != 0;
    if shadow {
        driver.enable_shadow_doorbells().map_err(say)?;
    }
    let most = plan.cases.iter().map(|case| case.queues).max();
    let (sqs, cqs) = driver.request_queues(most.unwrap_or(1)).map_err(say)?;
    let nsid = driver.active_namespaces(0).map_err(say)?;
    let nsid = *nsid.first().ok_or("there is no namespace")?;
    let area = area_of(driver, nsid, plan.area)?;
    for (key, value) in [
        ("model", text(&controller.mn)),
        ("firmware", text(&controller.fr)),
        ("area", area.bytes.to_string()),
        ("lba", area.lba.to_string()),
        (
            "doorbells",
            if shadow { "shadow" } else { "registers" }.to_string(),
        ),
    ] {
        let value = &value;
        out(&Line::Fact { key, value });
    }
    Ok(Limits {
        area,
        transfer: max_transfer(&controller, driver.cap().mpsmin()),
        queues: sqs.min(cqs),
        entries: u32::from(driver.cap().mqes_z()) + 1,
        vectors,
    })
}

/// The start of a namespace, of at most `most` bytes, in whole pieces of the largest transfer.
fn area_of<T: Transport + ?Sized>(
    driver: &mut Driver<'_, T>,
    nsid: u32,
    most: u64,
) -> Result<Area, String> {
    let namespace = driver.identify_namespace(nsid).map_err(say)?;
    let format = namespace.lbaf.get(usize::from(namespace.flbas.index()));
    let format = format.copied().unwrap_or_default();
    let lba = 1_u64.checked_shl(format.lbads().into()).unwrap_or(0);
    let largest = 128 << 10;
    let bytes = namespace.nsze.saturating_mul(lba).min(most) / largest * largest;
    if lba == 0 || format.ms() != 0 || bytes == 0 {
        return Err(format!(
            "namespace {nsid}: {} blocks of {lba} bytes with {} of metadata; there must be 128 KiB \
             of blocks without metadata",
            namespace.nsze,
            format.ms()
        ));
    }
    Ok(Area { nsid, lba, bytes })
}

/// MDTS in bytes (Base 5.1.13.2.1).
fn max_transfer(controller: &IdentifyController, mpsmin: u8) -> u64 {
    let page = 4096_u64 << mpsmin;
    match controller.mdts {
        0 => u64::MAX,
        mdts => page.checked_shl(mdts.into()).unwrap_or(u64::MAX),
    }
}

impl Limits {
    /// Why a case cannot be.
    fn refuse(&self, case: &Case) -> Option<String> {
        let (bytes, lba) = (u64::from(case.bytes), self.area.lba);
        if bytes < lba {
            return Some(format!("a logical block has {lba} bytes"));
        }
        if bytes > self.transfer {
            return Some(format!("MDTS allows {} bytes", self.transfer));
        }
        if u32::from(case.queues) > self.queues {
            return Some(format!("{} queue pairs are granted", self.queues));
        }
        if u32::from(case.depth) >= self.entries {
            return Some(format!("queues have {} entries", self.entries));
        }
        if case.wait == Wait::Interrupt && self.vectors == 0 {
            return Some("there is no interrupt vector".to_string());
        }
        None
    }
}
