//! Which atomic writes a target takes.

use serde::Serialize;

use crate::error::Error;
use crate::size::show;

/// What statx says of atomic writes. All 0: the kernel, the file system or the device takes none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct AtomicLimits {
    /// Least bytes of a write.
    pub unit_min: u32,
    /// Most bytes of a write.
    pub unit_max: u32,
    /// Most segments of memory of a write.
    pub segments_max: u32,
}

impl AtomicLimits {
    /// Whether pages of these sizes, at multiples of `shift` or else of themselves, may be
    /// written atomically.
    ///
    /// # Errors
    /// The size that may not be, the rule, and what would do.
    pub fn allow(&self, sizes: &[u64], shift: Option<u64>, kernel: &str) -> Result<(), Error> {
        let (min, max) = (u64::from(self.unit_min), u64::from(self.unit_max));
        let refused = |why: String| Err(Error::Atomic(why));
        if max == 0 {
            return refused(format!(
                "statx tells of no atomic writes here (atomic_write_unit_max is 0, kernel \
                 {kernel}). Block devices have them from Linux 6.11, ext4 and XFS from 6.13, \
                 where the drive says NAWUPF or AWUPF of more than one block (NAWUPF alone on \
                 newer kernels); leave --atomic out to see what the drive does without a promise"
            ));
        }
        for &size in sizes {
            let shown = show(size);
            if !size.is_power_of_two() {
                return refused(format!(
                    "--page {shown}: Linux writes powers of two atomically; {} would do",
                    show(size.next_power_of_two().clamp(min, max))
                ));
            }
            if !(min..=max).contains(&size) {
                return refused(format!(
                    "--page {shown}: the target takes {} to {} (atomic_write_unit_min and _max); \
                     {} would do",
                    show(min),
                    show(max),
                    show(size.clamp(min, max))
                ));
            }
            if shift.is_some_and(|shift| shift % size != 0) {
                return refused(format!(
                    "--shift {}: Linux takes atomic writes at multiples of their size alone; \
                     {shown} would do, and pages of several sizes overlap (--page {},{shown})",
                    show(shift.unwrap_or_default()),
                    show(min),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::AtomicLimits;

    const LIMITS: AtomicLimits = AtomicLimits {
        unit_min: 4096,
        unit_max: 16_384,
        segments_max: 1,
    };

    fn refusal(limits: AtomicLimits, sizes: &[u64], shift: Option<u64>) -> String {
        let refused = limits.allow(sizes, shift, "6.12.0");
        refused.expect_err("it is refused").to_string()
    }

    #[test]
    fn sizes_between_the_units_at_multiples_of_themselves_are_allowed() {
        assert!(LIMITS.allow(&[4096, 8192, 16_384], None, "").is_ok());
        assert!(LIMITS.allow(&[4096, 8192], Some(8192), "").is_ok());
    }

    #[test]
    fn a_refusal_names_the_value_the_rule_and_what_would_do() {
        let none = refusal(AtomicLimits::default(), &[4096], None);
        assert!(none.contains("kernel 6.12.0"), "{none}");
        let odd = refusal(LIMITS, &[12_288], None);
        assert!(odd.contains("12K") && odd.contains("16K would do"), "{odd}");
        let large = refusal(LIMITS, &[65_536], None);
        assert!(
            large.contains("4K to 16K; ") || large.contains("takes 4K to 16K"),
            "{large}"
        );
        let small = refusal(LIMITS, &[512], None);
        assert!(small.contains("4K would do"), "{small}");
        let shifted = refusal(LIMITS, &[16_384], Some(4096));
        assert!(shifted.contains("--shift 4K"), "{shifted}");
    }
}
