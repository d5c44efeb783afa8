//! What QEMU's nvme device is told: as much of `--nvme` as it can be.

use ::nvme::{CacheMode, config::MAX_VECTORS};
use nvme_spec::registers::Vs;

use super::QemuVersion;
use crate::options::{NamespaceOptions, NvmeOptions, OptionError, Size};

/// The most namespaces of a controller (`NVME_MAX_NAMESPACES` in its hw/nvme/nvme.h).
const MAX_NAMESPACES: usize = 256;
/// Entries of its queues: CAP.MQES is fixed.
const QUEUE_ENTRIES: u32 = 2048;
/// MDTS counts in pages of this many bytes.
const PAGE: u64 = 4096;

/// A `-device nvme-ns`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QemuNamespace {
    /// Its identifier.
    pub nsid: usize,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub lba: u64,
}

/// A `-device nvme` and its namespaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QemuNvme {
    /// Properties of the controller, `name=value` each.
    pub controller: Vec<String>,
    /// The namespaces.
    pub namespaces: Vec<QemuNamespace>,
    /// What was asked for and is otherwise, for people.
    pub notes: Vec<String>,
}

impl QemuNvme {
    /// The largest transfer that this version's device takes, in bytes: each page is a mapping of
    /// its own, of which there may be 1,024 (IOV_MAX). Since 10.0 it is refused to offer more
    /// than it can take at any alignment.
    #[must_use]
    pub const fn largest_transfer(version: QemuVersion) -> u64 {
        match version.major {
            ..10 => 4 << 20,
            _ => 2 << 20,
        }
    }

    /// What comes nearest to these options.
    ///
    /// # Errors
    /// The option that its device cannot have.
    pub fn from_options(options: &NvmeOptions, version: QemuVersion) -> Result<Self, OptionError> {
        let each = options.each_namespace()?;
        // Each option is named, so that a new one is decided on here.
        let NvmeOptions {
            namespace: _,
            namespaces,
            overrides: _,
            queues,
            depth,
            vectors,
            mdts,
            // How we serve the controller is no property of the controller.
            workers: _,
            poll_us: _,
            doorbells: _,
            recorder: _,
            stats: _,
            cache,
            atomics,
            // Nothing there is torn, and nothing by chance.
            tear: _,
            seed: _,
            version: asked,
            serial,
            model,
            lint,
            given: _,
        } = options;
        let refuse =
            |key: &str, value: String, reason: String| Err(options.error(key, value, reason));
        if *namespaces > MAX_NAMESPACES {
            return refuse(
                "namespaces",
                namespaces.to_string(),
                format!("QEMU's controller has {MAX_NAMESPACES} at most"),
            );
        }
        let most = Self::largest_transfer(version);
        if !mdts.is_power_of_two() || !(PAGE..=most).contains(mdts) {
            return refuse(
                "mdts",
                Size(*mdts).to_string(),
                format!(
                    "QEMU {version} takes transfers of up to {}, in powers of two",
                    Size(most)
                ),
            );
        }
        let defaults = NvmeOptions::default();
        let mut notes = Vec::new();
        if *depth != QUEUE_ENTRIES {
            notes.push(format!(
                "depth: QEMU's queues have up to {QUEUE_ENTRIES} entries, here there are {depth}"
            ));
        }
        if cache.unwrap_or_default() != CacheMode::Volatile {
            notes.push("cache: QEMU always reports a volatile write cache".to_string());
        }
        if *asked != Vs::V1_4 {
            notes.push("version: QEMU always reports 1.4".to_string());
        }
        if *lint {
            notes.push("lint: QEMU does not check its driver".to_string());
        }
        let own = |ns: &NamespaceOptions| ns.atomics != defaults.namespace.atomics;
        if *atomics != defaults.atomics || each.iter().any(own) {
            notes.push("awun and the like: QEMU promises single blocks".to_string());
        }
        let recommends = |ns: &NamespaceOptions| (ns.iu, ns.nows, ns.noiob) != (None, None, None);
        if each.iter().any(recommends) {
            notes.push("iu, nows, noiob: QEMU has no indirection unit".to_string());
        }
        if each.iter().any(|ns| ns.backend.path().is_some()) {
            notes.push("backend: QEMU's namespaces are in memory".to_string());
        }
        if each.iter().any(|ns| ns.formats.is_some()) {
            notes.push(
                "formats: QEMU's are 512 and 4K, with and without metadata, and lba".to_string(),
            );
        }
        if *model != defaults.model {
            notes.push("model: QEMU has its own".to_string());
        }
        let vectors = vectors.unwrap_or_else(|| queues.saturating_add(1).min(MAX_VECTORS));
        Ok(Self {
            controller: vec![
                format!("serial={}", escaped(serial)),
                format!("max_ioqpairs={queues}"),
                format!("msix_qsize={vectors}"),
                format!("mdts={}", (mdts / PAGE).trailing_zeros()),
            ],
            namespaces: (1..)
                .zip(each)
                .map(|(nsid, ns)| {
                    // Here too a new option is decided on; backend=null is refused before.
                    let lba = ns.block_bytes();
                    let NamespaceOptions {
                        size,
                        lba: _,
                        backend: _,
                        create: _,
                        // Said in the notes.
                        formats: _,
                        atomics: _,
                        iu: _,
                        nows: _,
                        noiob: _,
                    } = ns;
                    QemuNamespace { nsid, size, lba }
                })
                .collect(),
            notes,
        })
    }
}

impl QemuNamespace {
    /// Its properties, with the drive that stores it. Its UUID is its NSID: without one it would
    /// have no identifier, which every namespace must have.
    pub(super) fn properties(&self, drive: &str) -> String {
        let Self { nsid, lba, size: _ } = self;
        format!(
            "nvme-ns,drive={drive},nsid={nsid},logical_block_size={lba},physical_block_size={lba},\
             uuid=00000000-0000-4000-8000-{nsid:012x}"
        )
    }
}

/// A value in a list of properties, where a comma is doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: QemuVersion = QemuVersion {
        major: 7,
        minor: 2,
        micro: 22,
    };
    const NEW: QemuVersion = QemuVersion {
        major: 10,
        minor: 0,
        micro: 2,
    };

    fn asked(text: &str) -> NvmeOptions {
        let mut options = NvmeOptions::default();
        options.apply(text).expect("valid");
        options
    }

    #[test]
    fn options_become_properties() {
        let options = asked(
            "namespaces=2,size=8M,lba=4K,ns2.lba=64K,queues=8,mdts=1M,depth=2048,cache=volatile",
        );
        let nvme = QemuNvme::from_options(&options, OLD).expect("it can have these");
        assert_eq!(
            nvme.controller,
            [
                "serial=FERRITE0001",
                "max_ioqpairs=8",
                "msix_qsize=9",
                "mdts=8"
            ]
        );
        let sizes = nvme.namespaces.iter().map(|ns| (ns.nsid, ns.size, ns.lba));
        assert!(sizes.eq([(1, 8 << 20, 4096), (2, 8 << 20, 65536)]));
        assert_eq!(nvme.notes, [""; 0]);
        let ns = nvme.namespaces.first().expect("two").properties("d0");
        assert!(
            ns.contains("drive=d0") && ns.contains("logical_block_size=4096"),
            "{ns}"
        );
        let odd = QemuNvme::from_options(&asked("vectors=3"), OLD).expect("fine");
        assert!(odd.controller.contains(&"msix_qsize=3".to_string()));
        assert_eq!(escaped("a,b"), "a,,b");
    }

    #[test]
    fn what_it_cannot_be_is_an_error_or_a_note() {
        for (text, version, key) in [
            ("mdts=8M", OLD, "mdts"),
            ("mdts=4M", NEW, "mdts"),
            ("namespaces=257", OLD, "namespaces"),
        ] {
            let error = QemuNvme::from_options(&asked(text), version).expect_err(text);
            assert_eq!(error.key, key);
            assert!(error.to_string().contains("QEMU"), "{error}");
        }
        assert!(QemuNvme::from_options(&asked("mdts=4M"), OLD).is_ok());
        let nvme = QemuNvme::from_options(&asked("model=M,mdts=2M"), NEW).expect("fine");
        let keys = nvme.notes.iter().map(|note| note.split(':').next());
        assert!(keys.eq([Some("depth"), Some("cache"), Some("model")]));
    }
}
