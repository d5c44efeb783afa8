//! The jobs there are.

use anyhow::Result;

use crate::fetch::{Fetched, Kernel};
use crate::jobs::Job;
use crate::namespaces::{self, Namespace};

/// What every job's archive has.
const LIBRARY: &str = include_str!("../guest/lib.sh");
/// The steps there are.
const STEPS: [(&str, &str); 12] = [
    ("driver", include_str!("../guest/steps/driver.sh")),
    ("limits", include_str!("../guest/steps/limits.sh")),
    ("nvme-cli", include_str!("../guest/steps/nvme-cli.sh")),
    ("fio", include_str!("../guest/steps/fio.sh")),
    ("atomic", include_str!("../guest/steps/atomic.sh")),
    ("dbpage", include_str!("../guest/steps/dbpage.sh")),
    ("discard", include_str!("../guest/steps/discard.sh")),
    ("ext4", include_str!("../guest/steps/ext4.sh")),
    ("xfs", include_str!("../guest/steps/xfs.sh")),
    ("reset", include_str!("../guest/steps/reset.sh")),
    ("root", include_str!("../guest/steps/root.sh")),
    ("quiet", include_str!("../guest/steps/quiet.sh")),
];
/// Scripts of jobs with guests of their own.
const GUEST_JOB: &str = include_str!("../guest/guest.job");
const ROOT_JOB: &str = include_str!("../guest/root.job");
const ENDINGS_JOB: &str = include_str!("../guest/endings.job");
const ENDINGS: &str = include_str!("../guest/endings.sh");
const GDB_JOB: &str = include_str!("../guest/gdb.job");
const GDB: &str = include_str!("../guest/gdb.sh");
/// What the guest with its root on the drive leaves there.
const MARK: &str = "kept on the drive";
/// The test controller's serial number.
const SERIAL: &str = "LINUX0001";
/// What `ferrite run` ends with.
const POWER_OFF: i32 = 0;

/// Every job, in the order in which they run.
pub(crate) fn all(fetched: &Fetched) -> Result<Vec<Job>> {
    let (old, middle) = (fetched.kernel("6.1")?, fetched.kernel("6.12")?);
    let newest = fetched.kernel("newest")?;
    // XFS has blocks above a page on logical blocks above a page on the newest line alone.
    let all: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
    let all: Vec<_> = all.into_iter().filter(|name| *name != "root").collect();
    let without_xfs: Vec<_> = all.iter().copied().filter(|name| *name != "xfs").collect();
    Ok(vec![
        selftest(),
        // The oldest line is booted only, and as it comes.
        guest(old, 1, &["driver", "limits", "quiet"]),
        guest(middle, 1, &without_xfs),
        guest(newest, 1, &all),
        guest(middle, 2, &["driver", "fio", "quiet"]),
        root(),
        endings(),
        gdb(),
    ])
}

/// A guest whose root file system is on the drive.
fn root() -> Job {
    Job {
        name: "root-on-the-drive".into(),
        script: ROOT_JOB.into(),
        files: Vec::new(),
        seconds: 420,
        tries: 1,
        status: POWER_OFF,
        reports: true,
        forgiven: &[],
    }
}

/// The files of that root beside the tools: an archive's, and an image's as well.
pub(crate) fn root_files() -> Vec<(String, String)> {
    let main = ". /job/lib.sh\n. /job/expect.sh\n. /job/root.sh\nend\n";
    let step = STEPS.iter().find(|(name, _)| *name == "root");
    let step = step.map_or("", |(_, text)| *text);
    [
        ("job/lib.sh", LIBRARY),
        ("job/expect.sh", &format!("MARK='{MARK}'\n")),
        ("job/root.sh", step),
        ("job/main.sh", main),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into()
}

/// Guests that end in each way there is.
fn endings() -> Job {
    Job {
        name: "endings".into(),
        script: ENDINGS_JOB.into(),
        files: vec![("job/main.sh".to_owned(), ENDINGS.to_owned())],
        seconds: 700,
        tries: 1,
        status: 0,
        reports: true,
        forgiven: &[],
    }
}

/// A guest under GDB.
fn gdb() -> Job {
    Job {
        name: "gdb".into(),
        script: GDB_JOB.into(),
        files: vec![("job/main.sh".to_owned(), GDB.to_owned())],
        seconds: 300,
        tries: 1,
        status: POWER_OFF,
        reports: true,
        forgiven: &[],
    }
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

/// A guest with the test controller that runs steps and powers off.
fn guest(kernel: &Kernel, cpus: u32, steps: &[&str]) -> Job {
    let name = match cpus {
        1 => format!("guest-{}", kernel.name),
        _ => format!("guest-{}-{cpus}-cpus", kernel.name),
    };
    // Both ways of starting: as it comes, and uncompressed, which saves two seconds here.
    let image = match kernel.version() < (6, 12) {
        true => format!("bzImage-{}", kernel.name),
        false => format!("vmlinux-{}", kernel.name),
    };
    let option = namespaces::option(SERIAL, &namespaces::ALL);
    // Nine in ten of which are reserve, for hosts that do other things as well.
    let seconds = 400;
    let script = format!(
        "NAME={} JOB={name} IMAGE={image} CPUS={cpus} SECONDS_LEFT={seconds}\nNVME='{option}'\n{GUEST_JOB}",
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
        let names: Vec<_> = wanted.map(|(nsid, _)| nsid.to_string()).collect();
        names.join(" ")
    };
    let visible = nsids(&|_| true);
    let [_, _, third, ..] = namespaces::ALL;
    // One queue a CPU, and the admin queue; a vector each.
    format!(
        "SERIAL={SERIAL} CONTROLLERS=1 QUEUES={} NAMESPACES={} NPWG3={} NAWUPF3={}\n\
         NSIDS='{visible}'\nATOMIC_NSIDS='{}'\nXFS_NSID='{}'\n",
        cpus + 1,
        namespaces::ALL.len(),
        third.npwg(),
        third.nawupf(),
        nsids(&|n| n.atomic.is_some()),
        nsids(&|n| n.lba == 16 << 10),
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
