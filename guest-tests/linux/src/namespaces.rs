//! The test controller's namespaces, and what a kernel is to show of each.
//!
//! The figures follow from the configuration by the rules of the kernel's driver and block layer;
//! nothing is read back from the controller:
//!
//! - The atomic unit is NAWUPF's size; without one, one logical block.
//! - `physical_block_size` is the smaller of the indirection unit (NPWG) and the atomic unit: a file
//!   system takes a physical block to be written whole.
//! - `minimum_io_size` is NPWG, `optimal_io_size` NOWS, which is the indirection unit here.
//! - `atomic_write_unit_max_bytes` is the atomic unit rounded down to a power of two.
//! - Logical blocks above a page are block devices from 6.15 on; before, they show size 0.

/// A namespace of the test controller. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Namespace {
    pub(crate) lba: u64,
    /// The indirection unit.
    pub(crate) iu: Option<u64>,
    /// NAWUN and NAWUPF.
    pub(crate) atomic: Option<u64>,
    /// NABSN and NABSPF.
    pub(crate) boundary: Option<u64>,
    pub(crate) size: u64,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Every combination that something else depends on.
pub(crate) const ALL: [Namespace; 7] = [
    namespace(512, None, None, None, 64 * MIB),
    // An atomic unit that is no power of two.
    namespace(512, Some(4 * KIB), Some(12 * KIB), None, 64 * MIB),
    namespace(4 * KIB, Some(16 * KIB), Some(16 * KIB), None, 64 * MIB),
    namespace(
        4 * KIB,
        Some(64 * KIB),
        Some(32 * KIB),
        Some(64 * KIB),
        64 * MIB,
    ),
    // An indirection unit that no atomic write covers. Were the atomic unit no power of two here, so
    // would be the physical block's size, and the block layer would split atomic writes and fail them.
    namespace(4 * KIB, Some(16 * KIB), Some(8 * KIB), None, 64 * MIB),
    // XFS wants 300 MiB or more.
    namespace(16 * KIB, Some(16 * KIB), Some(64 * KIB), None, 512 * MIB),
    namespace(64 * KIB, Some(64 * KIB), None, None, 512 * MIB),
];

const fn namespace(
    lba: u64,
    iu: Option<u64>,
    atomic: Option<u64>,
    boundary: Option<u64>,
    size: u64,
) -> Namespace {
    Namespace {
        lba,
        iu,
        atomic,
        boundary,
        size,
    }
}

impl Namespace {
    /// Whether a kernel makes a block device of it.
    pub(crate) fn is_visible(&self, version: (u32, u32)) -> bool {
        self.lba <= 4 * KIB || version >= (6, 15)
    }

    /// NPWG in bytes.
    fn granularity(&self) -> u64 {
        self.iu.unwrap_or(self.lba)
    }

    /// The most that the kernel takes to be written whole.
    fn atomic_unit(&self) -> u64 {
        self.atomic.unwrap_or(self.lba)
    }

    /// What a kernel is to show below `/sys/block/DEVICE`: a file's name, its number.
    pub(crate) fn limits(&self, version: (u32, u32)) -> Vec<(&'static str, u64)> {
        if !self.is_visible(version) {
            return vec![("size", 0)];
        }
        let unit = self.atomic_unit();
        let mut limits = vec![
            // In sectors of 512 bytes, whatever the logical block.
            ("size", self.size / 512),
            ("logical_block_size", self.lba),
            ("physical_block_size", self.granularity().min(unit)),
            ("minimum_io_size", self.granularity()),
            // One block is 0 as NOWS tells it, which Linux takes to mean that nothing is told.
            (
                "optimal_io_size",
                self.iu.filter(|iu| *iu > self.lba).unwrap_or(0),
            ),
        ];
        if version >= (6, 11) {
            limits.extend([
                ("atomic_write_unit_min_bytes", self.lba),
                ("atomic_write_unit_max_bytes", power_of_two_below(unit)),
                ("atomic_write_max_bytes", unit),
                ("atomic_write_boundary_bytes", self.boundary.unwrap_or(0)),
            ]);
        }
        limits
    }

    /// NPWG as the namespace tells it: in logical blocks, 0's based.
    pub(crate) fn npwg(&self) -> u64 {
        self.granularity() / self.lba - 1
    }

    /// NAWUPF as the namespace tells it: in logical blocks, 0's based.
    pub(crate) fn nawupf(&self) -> u64 {
        self.atomic_unit() / self.lba - 1
    }
}

/// The largest power of two that is not above a number.
fn power_of_two_below(number: u64) -> u64 {
    number.checked_ilog2().map_or(0, |log| 1 << log)
}

/// The value of `--nvme` for a controller with these namespaces.
pub(crate) fn option(serial: &str, namespaces: &[Namespace]) -> String {
    let mut keys = vec![
        format!("serial={serial}"),
        format!("namespaces={}", namespaces.len()),
    ];
    for (nsid, namespace) in (1_u32..).zip(namespaces) {
        let mut key = |key: &str, value: u64| keys.push(format!("ns{nsid}.{key}={value}"));
        key("size", namespace.size);
        key("lba", namespace.lba);
        if let Some(iu) = namespace.iu {
            key("iu", iu);
        }
        if let Some(atomic) = namespace.atomic {
            key("nawun", atomic);
            key("nawupf", atomic);
        }
        if let Some(boundary) = namespace.boundary {
            key("nabsn", boundary);
            key("nabspf", boundary);
        }
    }
    keys.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(namespace: &Namespace, version: (u32, u32), name: &str) -> Option<u64> {
        let limits = namespace.limits(version);
        limits
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| *value)
    }

    #[test]
    fn what_a_kernel_shows_follows_from_the_configuration() {
        let [plain, odd, unit, boundary, uncovered, large, _] = ALL;
        let new = (7, 3);
        assert_eq!(limit(&plain, new, "physical_block_size"), Some(512));
        assert_eq!(limit(&plain, new, "optimal_io_size"), Some(0));
        assert_eq!(limit(&unit, new, "physical_block_size"), Some(16384));
        assert_eq!(limit(&boundary, new, "physical_block_size"), Some(32768));
        assert_eq!(limit(&boundary, new, "minimum_io_size"), Some(65536));
        assert_eq!(limit(&uncovered, new, "physical_block_size"), Some(8192));
        assert_eq!(limit(&uncovered, new, "minimum_io_size"), Some(16384));
        assert_eq!(limit(&odd, new, "physical_block_size"), Some(4096));
        assert_eq!(limit(&odd, new, "atomic_write_unit_max_bytes"), Some(8192));
        assert_eq!(limit(&odd, new, "atomic_write_max_bytes"), Some(12288));
        assert_eq!(limit(&large, (6, 12), "size"), Some(0));
        assert_eq!(limit(&large, new, "size"), Some(1 << 20));
        assert_eq!(limit(&unit, (6, 1), "atomic_write_max_bytes"), None);
        assert_eq!((unit.npwg(), unit.nawupf(), odd.nawupf()), (3, 3, 23));
    }
}
