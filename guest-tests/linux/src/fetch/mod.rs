//! Kernels and tools of Debian, fetched into a folder under `target/` and kept there for a day.

pub(crate) mod apt;
mod debian;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::compressed;
use crate::say;
use apt::Apt;
use debian::{Line, Mirror, Stanza};

/// The suites that hold what is wanted: bookworm has 6.1, trixie 6.12 and the tools (fio 3.39 for
/// `--atomic`, nvme-cli 2.13, xfsprogs 6.13 for block sizes above a page), its backports the newest.
const SUITES: [&str; 3] = ["bookworm", "trixie", "trixie-backports"];
/// The package that depends on the newest kernel of a suite for virtual machines: nvme, ext4 and
/// virtio are built in there, so that a guest needs no modules to begin with.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The kernels to fetch, by the names the command line has for them.
const LINES: [(&str, Line); 3] = [
    ("6.1", Line::Release(6, 1)),
    ("6.12", Line::Release(6, 12)),
    ("newest", Line::Newest),
];
/// The tools to fetch, with what they depend on, and the suite that has them.
const TOOLS: (&str, &[&str]) = (
    "trixie",
    &[
        "busybox-static",
        "e2fsprogs",
        "fio",
        "nvme-cli",
        "util-linux",
        "xfsprogs",
    ],
);
/// The debugger: of trixie on it is linked to a Python, and comes with one.
const DEBUGGER: (&str, &[&str]) = ("bookworm", &["gdb-minimal"]);
/// How long what was fetched counts as the newest.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// What was fetched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// What was asked for; another wish is another fetch.
    wish: Vec<String>,
    /// A root with the tools.
    pub(crate) tools: PathBuf,
    /// A root with `gdb`.
    pub(crate) debugger: PathBuf,
    pub(crate) kernels: Vec<Kernel>,
}

/// A kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kernel {
    /// Its name on the command line.
    pub(crate) name: String,
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The same uncompressed, an ELF file.
    pub(crate) elf: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Major and minor version.
    pub(crate) fn version(&self) -> (u32, u32) {
        let mut numbers = self
            .release
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

impl Fetched {
    /// The kernel of a name.
    pub(crate) fn kernel(&self, name: &str) -> Result<&Kernel> {
        let kernel = self.kernels.iter().find(|kernel| kernel.name == name);
        kernel.with_context(|| format!("no kernel {name} was fetched"))
    }
}

/// What was fetched into a folder less than a day ago, else what is newest now. Without a network
/// what is there is taken, however old.
pub(crate) fn fetch(folder: &Path, mirror: Option<&str>, again: bool) -> Result<Fetched> {
    let list = folder.join("fetched.json");
    let kept = kept(&list);
    if let Some((fetched, age)) = &kept
        && *age < FRESH
        && !again
    {
        return Ok(fetched.clone());
    }
    match fetch_newest(folder, mirror) {
        Ok(fetched) => {
            fs::write(&list, serde_json::to_string_pretty(&fetched)?)?;
            Ok(fetched)
        }
        Err(error) => match kept {
            Some((fetched, _)) if !again => {
                say!("nothing newer could be fetched ({error:#}); what is there is used");
                Ok(fetched)
            }
            _ => Err(error),
        },
    }
}

/// What an earlier run fetched, if it is whole and what is wanted, and its age.
fn kept(list: &Path) -> Option<(Fetched, Duration)> {
    let fetched: Fetched = serde_json::from_str(&fs::read_to_string(list).ok()?).ok()?;
    let made = fs::metadata(list).ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(made).unwrap_or_default();
    let whole = fetched.tools.is_dir()
        && fetched.debugger.is_dir()
        && fetched
            .kernels
            .iter()
            .all(|kernel| kernel.elf.is_file() && kernel.image.is_file());
    (whole && fetched.wish == wish()).then_some((fetched, age))
}

fn wish() -> Vec<String> {
    let lines = LINES.iter().map(|(name, _)| (*name).to_owned());
    let tools = TOOLS.1.iter().chain(DEBUGGER.1);
    lines.chain(tools.map(ToString::to_string)).collect()
}

fn fetch_newest(folder: &Path, mirror: Option<&str>) -> Result<Fetched> {
    let mirror = match mirror {
        Some(uri) => Mirror::at(uri),
        None => Apt::host_mirror()?,
    };
    let apt = Apt::new(&folder.join("apt"), &mirror, &SUITES)?;
    apt.update()?;
    let metas = apt.show(KERNEL)?;
    let mut kernels = Vec::new();
    for (name, line) in LINES {
        kernels.push(fetch_kernel(&apt, folder, name, line, &metas)?);
    }
    Ok(Fetched {
        wish: wish(),
        tools: fetch_tools(&apt, &folder.join("tools"), TOOLS)?,
        debugger: fetch_tools(&apt, &folder.join("debugger"), DEBUGGER)?,
        kernels,
    })
}

fn fetch_kernel(
    apt: &Apt,
    folder: &Path,
    name: &str,
    line: Line,
    metas: &[Stanza],
) -> Result<Kernel> {
    let first = debian::kernel(line, metas)
        .with_context(|| format!("the mirror has no {KERNEL} of line {name}"))?;
    let release = first.name.trim_start_matches("linux-image-").to_owned();
    let root = folder.join(format!("kernel-{}", first.version.replace(['~', '+'], "-")));
    let elf = root.join("vmlinux");
    // Made last: if it is there, so is the rest.
    if !elf.is_file() {
        say!("fetching kernel {release}");
        let mut open = vec![first];
        while let Some(package) = open.pop() {
            let downloads = folder.join("packages");
            let deb = apt.download(&package.name, &package.version, &downloads)?;
            apt::unpack(&deb, &root)?;
            fs::remove_file(deb)?;
            // From 7.x on the package is empty and depends on these two.
            let paragraphs = apt.show(&package.name)?;
            for name in paragraphs.first().into_iter().flat_map(debian::depends) {
                if name.starts_with("linux-binary-") || name.starts_with("linux-modules-") {
                    let stanzas = apt.show(name)?;
                    open.extend(stanzas.first().and_then(debian::Package::of));
                }
            }
        }
        let kernel = compressed::vmlinux(&fs::read(image(&root, &release)?)?)?;
        fs::write(root.join("vmlinux.part"), kernel)?;
        fs::rename(root.join("vmlinux.part"), &elf)?;
    }
    Ok(Kernel {
        name: name.to_owned(),
        image: image(&root, &release)?,
        modules: first_there(
            &root,
            &[
                format!("usr/lib/modules/{release}"),
                format!("lib/modules/{release}"),
            ],
        )?,
        elf,
        release,
    })
}

fn image(root: &Path, release: &str) -> Result<PathBuf> {
    first_there(
        root,
        &[
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ],
    )
}

fn first_there(root: &Path, names: &[String]) -> Result<PathBuf> {
    let mut paths = names.iter().map(|name| root.join(name));
    let found = paths.find(|path| path.exists());
    found.with_context(|| format!("{} has none of {names:?}", root.display()))
}

fn fetch_tools(apt: &Apt, root: &Path, (suite, names): (&str, &[&str])) -> Result<PathBuf> {
    say!("fetching {}", names.join(", "));
    let debs = apt.download_with_dependencies(suite, names)?;
    ensure!(!debs.is_empty(), "apt-get downloaded no tools");
    let names: Vec<_> = debs.iter().map(|deb| apt::file_name(deb)).collect();
    let list = root.join("packages.list");
    let wanted = names.join("\n");
    if !fs::read_to_string(&list).is_ok_and(|text| text == wanted) {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        for deb in &debs {
            apt::unpack(deb, root)?;
        }
        fs::write(list, wanted)?;
    }
    Ok(root.to_owned())
}
