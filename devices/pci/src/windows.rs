//! Which BARs answer where, and where to put them to begin with.

use crate::address::Bdf;
use crate::bar::{Aperture, Bar, BarWidth, BarWindow};
use crate::bus::BusError;

/// A BAR and where it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) window: BarWindow,
    pub(crate) bar: Bar,
}

impl Placement {
    /// A BAR without an address yet.
    pub(crate) const fn wanted(function: Bdf, index: u8, bar: Bar) -> Self {
        Self {
            window: BarWindow {
                function,
                bar: index,
                base: 0,
                size: bar.size,
            },
            bar,
        }
    }
}

/// What answers when all of `candidates` decode: those wholly inside an aperture, the
/// earlier of two that overlap. Sorted by address.
pub(crate) fn resolve(
    candidates: impl Iterator<Item = BarWindow>,
    apertures: &[Aperture],
) -> Vec<BarWindow> {
    let mut windows: Vec<BarWindow> = Vec::new();
    for candidate in candidates {
        let inside = apertures
            .iter()
            .any(|a| a.contains(candidate.base, candidate.size));
        if inside && !windows.iter().any(|window| window.overlaps(&candidate)) {
            windows.push(candidate);
        }
    }
    windows.sort_by_key(|window| window.base);
    windows
}

/// Places BARs in `range`, largest first, so that natural alignment leaves no gaps but
/// perhaps the first. Sorted by address.
pub(crate) fn place(
    wanted: impl Iterator<Item = Placement>,
    range: Aperture,
) -> Result<Vec<Placement>, BusError> {
    let mut placements: Vec<Placement> = wanted.collect();
    placements.sort_by_key(|placement| std::cmp::Reverse(placement.window.size));
    let mut next = Some(range.base);
    for Placement { window, bar } in &mut placements {
        let limit = match bar.width {
            BarWidth::Bits32 => u32::MAX.into(),
            BarWidth::Bits64 => u64::MAX,
        };
        let base = next
            .and_then(|next| next.checked_next_multiple_of(window.size))
            .filter(|base| range.contains(*base, window.size))
            .filter(|base| window.size - 1 <= limit && *base <= limit - (window.size - 1));
        let Some(base) = base else {
            let BarWindow {
                function,
                bar,
                size,
                ..
            } = *window;
            return Err(BusError::NoRoom {
                function,
                bar,
                size,
            });
        };
        window.base = base;
        next = base.checked_add(window.size);
    }
    Ok(placements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(sizes: &[u64]) -> Vec<Placement> {
        let function = Bdf::on_bus_0(1);
        (0..)
            .zip(sizes)
            .map(|(i, s)| Placement::wanted(function, i, Bar::memory64(*s)))
            .collect()
    }

    fn bases(sizes: &[u64], range: Aperture) -> Result<Vec<(u64, u64)>, BusError> {
        let placed = place(wanted(sizes).into_iter(), range)?;
        Ok(placed
            .iter()
            .map(|p| (p.window.base, p.window.size))
            .collect())
    }

    #[test]
    fn placing_is_naturally_aligned_and_leaves_no_gaps() {
        let range = Aperture {
            base: 0xE000_0000,
            size: 0x1000_0000,
        };
        assert_eq!(
            bases(&[0x1000, 0x4000, 0x10, 0x2000], range),
            Ok(vec![
                (0xE000_0000, 0x4000),
                (0xE000_4000, 0x2000),
                (0xE000_6000, 0x1000),
                (0xE000_7000, 0x10)
            ])
        );
    }

    #[test]
    fn placing_fills_the_range_to_its_last_byte_and_no_further() {
        let range = Aperture {
            base: 0xE000_0000,
            size: 0x8000,
        };
        assert!(bases(&[0x4000, 0x4000], range).is_ok());
        let error = bases(&[0x4000, 0x4000, 0x10], range).unwrap_err();
        assert_eq!(
            error,
            BusError::NoRoom {
                function: Bdf::on_bus_0(1),
                bar: 2,
                size: 0x10
            }
        );
    }

    #[test]
    fn placing_a_32_bit_bar_stays_below_4_gib() {
        let range = Aperture {
            base: 0xFFFF_C000,
            size: 0x1_0000,
        };
        let bar = |size| Placement::wanted(Bdf::on_bus_0(1), 0, Bar::memory32(size));
        assert!(place([bar(0x4000)].into_iter(), range).is_ok());
        assert!(place([bar(0x4000), bar(0x4000)].into_iter(), range).is_err());
    }

    #[test]
    fn placing_at_the_end_of_the_address_space_is_refused_not_wrapped() {
        let range = Aperture {
            base: u64::MAX - 0xFFF,
            size: 0x1000,
        };
        assert!(bases(&[0x10], range).is_ok());
        assert!(bases(&[0x2000], range).is_err());
    }
}
