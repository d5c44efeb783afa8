//! The jobs there are.

use anyhow::Result;

use crate::fetch::{Fetched, Kernel};
use crate::jobs::Job;
use crate::namespaces::{self, Namespace};

/// What every job's archive has.
const LIBRARY: &str = include_str!("../guest/lib.sh");
/// The steps there are.
const STEPS: [(&str, &str); 10] = [
    ("driver", include_str!("../guest/steps/driver.sh")),
    ("limits", include_str!("../guest/steps/limits.sh")),
    ("nvme-cli", include_str!("../guest/steps/nvme-cli.sh")),
    ("fio", include_str!("../guest/steps/fio.sh")),
    ("atomic", include_str!("../guest/steps/atomic.sh")),
    ("discard", include_str!("../guest/steps/discard.sh")),
    ("ext4", include_str!("../guest/steps/ext4.sh")),
    ("xfs", include_str!("../guest/steps/xfs.sh")),
    ("reset", include_str!("../guest/steps/reset.sh")),
    ("quiet", include_str!("../guest/steps/quiet.sh")),
];
/// The test controller's serial number.
const SERIAL: &str = "LINUX0001";
/// What `ferrite run` ends with.
const POWER_OFF: i32 = 0;

/// Every job, in the order in which they run.
pub(crate) fn all(fetched: &Fetched) -> Result<Vec<Job>> {
    let mut jobs = vec![selftest()];
    // The oldest line is booted only, as its distribution ships it.
    let old = fetched.kernel("6.1")?;
    jobs.push(guest(old, Form::BzImage, 1, &["driver", "limits", "quiet"]));
    let middle = [
        "driver", "limits", "nvme-cli", "fio", "atomic", "discard", "ext4", "reset", "quiet",
    ];
    jobs.push(guest(fetched.kernel("6.12")?, Form::Elf, 1, &middle));
    let newest = [
        "driver", "limits", "nvme-cli", "fio", "atomic", "discard", "ext4", "xfs", "reset", "quiet",
    ];
    jobs.push(guest(fetched.kernel("newest")?, Form::Elf, 1, &newest));
    jobs.push(guest(
        fetched.kernel("6.12")?,
        Form::Elf,
        2,
        &["driver", "fio", "quiet"],
    ));
    Ok(jobs)
}

/// The conformance suite where KVM is hardware's, or like it: its guest's ring 0 runs natively there.
fn selftest() -> Job {
    Job {
        name: "selftest".into(),
        script: "ferrite selftest --format tap || [ $? -eq 1 ]".into(),
        files: Vec::new(),
        seconds: 300,
        tries: 1,
        status: 0,
        reports: true,
        // They measure time, of which an emulated processor has its own.
        forgiven: &["coalescing."],
    }
}

/// How a kernel is given to Ferrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    BzImage,
    Elf,
}

/// A guest with the test controller that runs steps and powers off.
fn guest(kernel: &Kernel, form: Form, cpus: u32, steps: &[&str]) -> Job {
    let name = match cpus {
        1 => format!("guest-{}", kernel.name),
        _ => format!("guest-{}-{cpus}-cpus", kernel.name),
    };
    let image = match form {
        Form::BzImage => format!("bzImage-{}", kernel.name),
        Form::Elf => format!("vmlinux-{}", kernel.name),
    };
    let option = namespaces::option(SERIAL, &namespaces::ALL);
    let seconds = 240;
    let script = format!(
        "cat $G/tools.cpio $G/modules-{}.cpio $J/{name}.cpio >$T/initrd\n\
         ferrite run --kernel $G/{image} --initrd $T/initrd --cpus {cpus} --memory 1G \\\n  \
         --cmdline 'console=ttyS0 quiet loglevel=1 panic=-1' --timeout {seconds} \\\n  \
         --nvme {option}\n",
        kernel.name
    );
    Job {
        files: steps_archive(kernel.version(), cpus, steps),
        name,
        script,
        seconds: seconds + 20,
        // Two CPUs of an emulated machine in an emulated machine fail now and then by themselves.
        tries: if cpus == 1 { 1 } else { 3 },
        status: POWER_OFF,
        reports: true,
        forgiven: &[],
    }
}

/// The archive of a job that runs steps: the library, the steps, what they are to find, and a main
/// script.
fn steps_archive(version: (u32, u32), cpus: u32, steps: &[&str]) -> Vec<(String, String)> {
    let mut main = String::from(". /job/lib.sh\n. /job/expect.sh\n");
    let mut files = vec![
        ("job/lib.sh".to_owned(), LIBRARY.to_owned()),
        ("job/expect.sh".to_owned(), expectations(version, cpus)),
        ("job/expected.sh".to_owned(), limits(version)),
    ];
    for (name, text) in STEPS.iter().filter(|(name, _)| steps.contains(name)) {
        files.push((format!("job/{name}.sh"), (*text).to_owned()));
        main.push_str(&format!(". /job/{name}.sh\n"));
    }
    main.push_str("end\n");
    files.push(("job/main.sh".to_owned(), main));
    files
}

/// What steps are to find, as a shell's variables.
fn expectations(version: (u32, u32), cpus: u32) -> String {
    let nsids = |wanted: &dyn Fn(&Namespace) -> bool| {
        let all = (1_u32..).zip(&namespaces::ALL);
        let wanted = all.filter(|(_, n)| n.is_visible(version) && wanted(n));
        let names: Vec<_> = wanted
            .map(|(number, _)| format!("nvme0n{number}"))
            .collect();
        names.join(" ")
    };
    let visible = nsids(&|_| true);
    let [_, _, third, ..] = namespaces::ALL;
    // One queue a CPU, and the admin queue; a vector each.
    format!(
        "SERIAL={SERIAL} CONTROLLERS=1 QUEUES={} NAMESPACES={} NPWG3={} NAWUPF3={}\n\
         NSIDS='{visible}'\nVISIBLE={}\nATOMIC_NSIDS='{}'\nLARGE_NSIDS='{}'\n",
        cpus + 1,
        namespaces::ALL.len(),
        third.npwg(),
        third.nawupf(),
        visible.split_whitespace().count(),
        nsids(&|n| n.atomic.is_some()),
        nsids(&|n| n.lba > 4096),
    )
}

/// The calls that check each namespace's limits.
fn limits(version: (u32, u32)) -> String {
    let mut text = String::new();
    for (nsid, namespace) in (1_u32..).zip(&namespaces::ALL) {
        text.push_str(&format!("limits {nsid}"));
        for (key, value) in namespace.limits(version) {
            text.push_str(&format!(" {key}={value}"));
        }
        text.push('\n');
    }
    text
}
