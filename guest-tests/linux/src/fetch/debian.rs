//! What Debian's files say: where the host gets its packages, and what a package is made of.

use std::collections::BTreeMap;

/// Codenames and aliases that begin a suite's name in Debian's main archive, which holds all suites
/// that are wanted here. Other archives (security, other distributions) have other names, or a
/// `-security` after these.
const SUITES: [&str; 8] = [
    "bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable",
];
/// What Debian signs its archive with, where sources name nothing.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An archive's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mirror {
    pub(crate) uri: String,
    /// The keys that sign it, a file.
    pub(crate) keyring: String,
}

impl Mirror {
    /// A mirror somebody names.
    pub(crate) fn at(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            keyring: KEYRING.to_owned(),
        }
    }

    /// The first archive of Debian among the host's sources, each a file's name and text.
    pub(crate) fn among(sources: &[(String, String)]) -> Option<Self> {
        sources.iter().find_map(|(name, text)| {
            if name.ends_with(".sources") {
                stanzas(text).iter().find_map(of_stanza)
            } else {
                text.lines().find_map(of_line)
            }
        })
    }
}

fn is_wanted(suite: &str) -> bool {
    let (base, pocket) = suite.split_once('-').unwrap_or((suite, ""));
    SUITES.contains(&base) && !pocket.starts_with("security")
}

fn of_stanza(stanza: &Stanza) -> Option<Mirror> {
    let field = |name: &str| stanza.get(name).map(String::as_str).unwrap_or_default();
    let enabled = field("Enabled") != "no";
    let binary = field("Types").split_whitespace().any(|kind| kind == "deb");
    let suites = field("Suites").split_whitespace().any(is_wanted);
    let uri = field("URIs").split_whitespace().next()?;
    (enabled && binary && suites).then(|| Mirror {
        uri: uri.trim_end_matches('/').to_owned(),
        keyring: keyring(field("Signed-By")),
    })
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn of_line(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?;
    let signed = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    is_wanted(words.next()?).then(|| Mirror {
        uri: uri.trim_end_matches('/').to_owned(),
        keyring: keyring(signed.unwrap_or_default()),
    })
}

/// `Signed-By` may also be a key's text or fingerprint, which serves nobody here.
fn keyring(signed_by: &str) -> String {
    match signed_by.starts_with('/') {
        true => signed_by.to_owned(),
        false => KEYRING.to_owned(),
    }
}

/// Fields of a paragraph, with continued lines joined.
pub(crate) type Stanza = BTreeMap<String, String>;

/// A control file's paragraphs.
pub(crate) fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all = vec![Stanza::new()];
    let mut last = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(Stanza::new());
            continue;
        }
        let Some(stanza) = all.last_mut() else {
            continue;
        };
        if line.starts_with([' ', '\t']) {
            if let Some(value) = stanza.get_mut(&last) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            name.clone_into(&mut last);
            stanza.insert(last.clone(), value.trim().to_owned());
        }
    }
    all.retain(|stanza| !stanza.is_empty());
    all
}

/// The names a `Depends` field has, the first of alternatives.
pub(crate) fn depends(stanza: &Stanza) -> impl Iterator<Item = &str> {
    let field = stanza
        .get("Depends")
        .map(String::as_str)
        .unwrap_or_default();
    field
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
}

/// A package in one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Package {
    /// The package a paragraph describes.
    pub(crate) fn of(stanza: &Stanza) -> Option<Self> {
        Some(Self {
            name: stanza.get("Package")?.clone(),
            version: stanza.get("Version")?.clone(),
        })
    }
}

/// A line of kernels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Line {
    /// The newest release of one line, such as 6.12.
    Release(u32, u32),
    /// The newest of all.
    Newest,
}

/// The package of the newest kernel of a line, of the paragraphs of the package that depends on it
/// in each version there is.
pub(crate) fn kernel(line: Line, metas: &[Stanza]) -> Option<Package> {
    let of_line = |meta: &&Stanza| match (line, upstream(meta).as_slice()) {
        (Line::Newest, [_, ..]) => true,
        (Line::Release(major, minor), [a, b, ..]) => (*a, *b) == (major, minor),
        _ => false,
    };
    // Of equal ones the first: apt tells the one it prefers first.
    let newest = metas.iter().filter(of_line).reduce(|best, meta| {
        match upstream(meta) > upstream(best) {
            true => meta,
            false => best,
        }
    })?;
    let name = depends(newest).find(|name| name.starts_with("linux-image-"))?;
    Some(Package {
        name: name.to_owned(),
        version: newest.get("Version")?.clone(),
    })
}

/// The numbers of a version before Debian's own: 6.12.107 of `6.12.107-1~bpo12+1`.
fn upstream(stanza: &Stanza) -> Vec<u32> {
    let version = stanza
        .get("Version")
        .map(String::as_str)
        .unwrap_or_default();
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let version = version.split(['-', '~', '+']).next().unwrap_or_default();
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn among(name: &str, text: &str) -> Option<Mirror> {
        Mirror::among(&[(name.into(), text.into())])
    }

    #[test]
    fn the_hosts_archive_is_found_in_either_form() {
        let found = Mirror {
            uri: "http://mirror.example/debian".into(),
            keyring: "/keys/a.gpg".into(),
        };
        let sources = "# first\nTypes: deb\nURIs: http://mirror.example/debian-security\n\
            Suites: bookworm-security\nSigned-By: /keys/a.gpg\n\n\
            Types: deb-src deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n \
            bookworm-updates\nComponents: main\nSigned-By: /keys/a.gpg\n";
        assert_eq!(among("debian.sources", sources), Some(found.clone()));
        let list = "deb-src http://mirror.example/src trixie main\n\
            deb https://other.example/apt tools main\n\
            deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.example/debian trixie main\n";
        assert_eq!(among("sources.list", list), Some(found));
        let bare = among("sources.list", "deb http://m.example/debian/ sid main");
        assert_eq!(bare, Some(Mirror::at("http://m.example/debian")));
    }

    #[test]
    fn other_distributions_are_no_archive() {
        for (name, text) in [
            ("a.list", "deb http://archive.example/ubuntu noble main"),
            ("a.list", "# deb http://mirror.example/debian trixie main"),
            (
                "a.sources",
                "Types: deb\nURIs: http://a.example\nSuites: nodistro\n",
            ),
            (
                "a.sources",
                "Types: deb\nURIs: http://a.example\nSuites: trixie\nEnabled: no\n",
            ),
            ("a.sources", ""),
        ] {
            assert_eq!(among(name, text), None, "{text}");
        }
    }

    fn metas() -> Vec<Stanza> {
        stanzas(
            "Package: linux-image-cloud-amd64\nVersion: 7.3.4-1~bpo13+1\n\
             Depends: linux-base-cloud-amd64 (= 7.3.4-1), linux-image-7.3.4+deb13-cloud-amd64 (= 7)\n\n\
             Package: linux-image-cloud-amd64\nVersion: 6.12.95-1~bpo12+1\n\
             Depends: linux-image-6.12.95+deb12-cloud-amd64\n\n\
             Package: linux-image-cloud-amd64\nVersion: 6.12.107-1\n\
             Depends: linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)\n\n\
             Package: linux-image-cloud-amd64\nVersion: 6.1.176-1\n\
             Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n",
        )
    }

    #[test]
    fn the_newest_kernel_of_a_line_is_taken() {
        for (line, name) in [
            (Line::Release(6, 1), "linux-image-6.1.0-50-cloud-amd64"),
            (
                Line::Release(6, 12),
                "linux-image-6.12.107+deb13-cloud-amd64",
            ),
            (Line::Newest, "linux-image-7.3.4+deb13-cloud-amd64"),
        ] {
            assert_eq!(kernel(line, &metas()).unwrap().name, name);
        }
        assert_eq!(kernel(Line::Release(6, 11), &metas()), None);
        assert_eq!(kernel(Line::Newest, &[]), None);
    }

    #[test]
    fn alternatives_and_versions_are_left_out_of_depends() {
        let text = "Depends: kmod, initramfs-tools (>= 0.1) | other,\n linux-binary-7 (= 7)";
        let all = stanzas(text);
        let names: Vec<_> = depends(all.first().unwrap()).collect();
        assert_eq!(names, ["kmod", "initramfs-tools", "linux-binary-7"]);
    }
}
