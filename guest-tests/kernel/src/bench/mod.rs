//! Measures, and prints [`nvme_bench::Line`]s: the word `bench` on the command line.
//!
//! `cases=A,B` names the cases, `floors=A,B` the floors (`floor`), `ms=N` and `warm_ms=N` say how
//! long each is measured and runs before it, `area=BYTES` how much of the namespace is used.

mod floor;

use alloc::string::String;
use alloc::vec::Vec;

use nvme_bench::{Case, Line, Plan};

use crate::exit::ExitCode;
use crate::machine::Machine;
use crate::nvme::PciTransport;
use crate::println;

/// Unless the command line says otherwise.
const MS: u64 = 100;
const WARM_MS: u64 = 10;
const AREA: u64 = 128 << 20;

/// Takes the floors and cases that are asked for.
pub fn run(machine: &mut Machine) -> ExitCode {
    match measure(machine) {
        Ok(true) => ExitCode::Success,
        Ok(false) => ExitCode::Failure,
        Err(reason) => {
            println!("{}", Line::Failed { reason: &reason });
            ExitCode::Failure
        }
    }
}

fn measure(machine: &mut Machine) -> Result<bool, String> {
    let line = &machine.command_line;
    let ns = |key, ms| line.number(key).unwrap_or(ms).saturating_mul(1_000_000);
    let cases: Result<Vec<Case>, _> = words(line.get("cases")).map(str::parse).collect();
    let plan = Plan {
        cases: cases.map_err(|_| "cases= names one that is none")?,
        warm_ns: ns("warm_ms", WARM_MS),
        ns: ns("ms", MS),
        area: line.number("area").unwrap_or(AREA),
    };
    let floors: Vec<String> = words(line.get("floors")).map(String::from).collect();
    for name in &floors {
        floor::run(machine, name, (plan.warm_ns, plan.ns))?;
    }
    let mut transport = PciTransport::find(machine)?;
    Ok(nvme_bench::run(&mut transport, &plan, &mut |line| {
        println!("{line}");
    }))
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default()
        .split(',')
        .filter(|word| !word.is_empty())
}
