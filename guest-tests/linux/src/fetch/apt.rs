//! apt with a root of its own: its own sources, lists and downloads. Nothing of the host's is
//! changed, and nobody need be root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::debian::{Mirror, Stanza, stanzas};

/// What of the host's configuration is taken over: how to reach a mirror and what to believe it.
const KEPT: [&str; 6] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
    "Acquire::Proxy",
];

/// An apt root.
pub(crate) struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Makes a root in a folder for some suites of a mirror.
    pub(crate) fn new(root: &Path, mirror: &Mirror, suites: &[&str]) -> Result<Self> {
        for folder in ["lists/partial", "archives/partial", "sources", "empty"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let sources = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
            mirror.uri,
            suites.join(" "),
            mirror.keyring
        );
        fs::write(root.join("sources/debian.sources"), sources)?;
        // As if nothing were installed, so that a download is whole.
        fs::write(root.join("status"), "")?;
        let host = output(Command::new("apt-config").arg("dump"))?;
        fs::write(root.join("apt.conf"), configuration(root, &host))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Where a mirror is among the host's sources.
    pub(crate) fn host_mirror() -> Result<Mirror> {
        let etc = Path::new("/etc/apt");
        let mut files = vec![etc.join("sources.list")];
        if let Ok(folder) = fs::read_dir(etc.join("sources.list.d")) {
            files.extend(folder.flatten().map(|entry| entry.path()));
        }
        files.sort();
        let sources: Vec<_> = files
            .iter()
            .filter_map(|path| Some((path.to_str()?.to_owned(), fs::read_to_string(path).ok()?)))
            .collect();
        Mirror::among(&sources)
            .context("the host's apt sources name no archive of Debian: name one with --mirror URL")
    }

    /// Gets the lists of what there is.
    pub(crate) fn update(&self) -> Result<()> {
        output(self.command("apt-get").arg("update")).map(drop)
    }

    /// The paragraphs of packages, in every version there is.
    pub(crate) fn show(&self, name: &str) -> Result<Vec<Stanza>> {
        let mut command = self.command("apt-cache");
        Ok(stanzas(&output(command.args(["show", name]))?))
    }

    /// Downloads a package in one version, without what it depends on. Returns its file.
    pub(crate) fn download(&self, name: &str, version: &str, into: &Path) -> Result<PathBuf> {
        fs::create_dir_all(into)?;
        let mut command = self.command("apt-get");
        command.current_dir(into);
        output(command.args(["download", &format!("{name}={version}")]))?;
        let prefix = format!("{name}_");
        let mut files = fs::read_dir(into)?.flatten().map(|entry| entry.path());
        files
            .find(|path| file_name(path).starts_with(&prefix))
            .with_context(|| format!("apt-get downloaded no file of {name}"))
    }

    /// Downloads packages of a suite with all they depend on.
    pub(crate) fn download_with_dependencies(
        &self,
        suite: &str,
        names: &[&str],
    ) -> Result<Vec<PathBuf>> {
        // Of an earlier run other versions may be there.
        let archives = self.root.join("archives");
        for old in debs(&archives)? {
            fs::remove_file(old)?;
        }
        let mut command = self.command("apt-get");
        command.args(["--yes", "--download-only", "-t", suite, "install"]);
        output(command.args(names))?;
        debs(&archives)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.root.join("apt.conf"));
        command.env("LC_ALL", "C");
        command
    }
}

/// Unpacks a package's files into a folder.
pub(crate) fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    output(Command::new("dpkg").arg("-x").arg(deb).arg(into)).map(drop)
}

/// A root's configuration. It is read before the host's files, which it keeps from being read.
fn configuration(root: &Path, host: &str) -> String {
    let at = |name: &str| root.join(name).display().to_string();
    let settings = [
        ("Dir::Etc::main", at("empty/none")),
        ("Dir::Etc::parts", at("empty")),
        ("Dir::Etc::sourcelist", at("empty/none")),
        ("Dir::Etc::sourceparts", at("sources")),
        ("Dir::Etc::preferences", at("empty/none")),
        ("Dir::Etc::preferencesparts", at("empty")),
        ("Dir::State", at("")),
        ("Dir::State::lists", at("lists")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("")),
        ("Dir::Cache::archives", at("archives")),
        ("Dir::Log", at("log")),
        ("APT::Architecture", "amd64".into()),
        ("APT::Install-Recommends", "false".into()),
        // A folder of whoever builds is no other user's to write.
        ("APT::Sandbox::User", "root".into()),
        ("Acquire::Languages", "none".into()),
    ];
    let mut text = String::new();
    let kept = host
        .lines()
        .filter(|line| KEPT.iter().any(|key| line.starts_with(key)));
    for line in kept {
        text.push_str(line);
        text.push('\n');
    }
    for (key, value) in settings {
        text.push_str(&format!("{key} \"{value}\";\n"));
    }
    text.push_str("APT::Architectures { \"amd64\"; };\n");
    text
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut debs: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    debs.sort();
    Ok(debs)
}

pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// What a command prints; fails with what it complains of.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = match command.output() {
        Ok(done) => done,
        Err(error) => bail!("{program} cannot be run: {error}"),
    };
    ensure!(
        done.status.success(),
        "{program} failed ({}): {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_kept_and_hooks_are_not() {
        let host = "Acquire::http::Proxy \"http://proxy.example\";\n\
            Acquire::Check-Valid-Until \"false\";\n\
            APT::Update::Post-Invoke:: \"rm -f /var/cache/apt/*.bin\";\n\
            Dir::Cache \"var/cache/apt\";\n";
        let text = configuration(Path::new("/x"), host);
        assert!(text.contains("Acquire::http::Proxy \"http://proxy.example\";"));
        assert!(text.contains("Acquire::Check-Valid-Until \"false\";"));
        assert!(!text.contains("Post-Invoke") && !text.contains("var/cache"));
        assert!(text.contains("Dir::Etc::parts \"/x/empty\";"));
    }
}
