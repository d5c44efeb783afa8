//! Where a function's MSI-X table and PBA lie.

use crate::bar::Bars;
use crate::builder::ConfigError;
use crate::capability::msix;

/// Vectors, and where their table and pending bits lie (PCI 3.0, 6.8.2).
///
/// The specification advises to give the two pages of their own (6.8.2), which also lets a
/// client map the rest of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Vectors, 1 to 2,048 (not zero-based).
    pub vectors: u16,
    /// The BAR that holds the table.
    pub table_bar: u8,
    /// Byte offset of the table in its BAR, a multiple of 8.
    pub table_offset: u32,
    /// The BAR that holds the PBA.
    pub pba_bar: u8,
    /// Byte offset of the PBA in its BAR, a multiple of 8.
    pub pba_offset: u32,
}

impl MsixLayout {
    /// Bytes of the table: 16 a vector.
    #[must_use]
    pub fn table_size(&self) -> u64 {
        u64::from(self.vectors) * msix::ENTRY_SIZE
    }

    /// Bytes of the PBA: 8 for each 64 vectors or part of them (PCI 3.0, 6.8.2.10).
    #[must_use]
    pub fn pba_size(&self) -> u64 {
        u64::from(self.vectors).div_ceil(msix::PBA_UNIT_BITS) * (msix::PBA_UNIT_BITS / 8)
    }

    pub(crate) fn check(&self, bars: &Bars) -> Result<(), ConfigError> {
        if !(1..=msix::MAX_VECTORS).contains(&self.vectors) {
            return Err(ConfigError::MsixVectors(self.vectors));
        }
        check_part(
            bars,
            "table",
            self.table_bar,
            self.table_offset,
            self.table_size(),
        )?;
        check_part(bars, "PBA", self.pba_bar, self.pba_offset, self.pba_size())?;
        let (table, pba) = (u64::from(self.table_offset), u64::from(self.pba_offset));
        let apart = table + self.table_size() <= pba || pba + self.pba_size() <= table;
        if self.table_bar == self.pba_bar && !apart {
            return Err(ConfigError::MsixOverlap(self.table_bar));
        }
        Ok(())
    }
}

fn check_part(
    bars: &Bars,
    part: &'static str,
    bar: u8,
    offset: u32,
    size: u64,
) -> Result<(), ConfigError> {
    let bar_size = bars
        .get(usize::from(bar))
        .and_then(Option::as_ref)
        .map_or(0, |bar| bar.size);
    if offset.is_multiple_of(msix::OFFSET_ALIGNMENT) && u64::from(offset) + size <= bar_size {
        Ok(())
    } else {
        Err(ConfigError::MsixPlace {
            part,
            bar,
            offset,
            size,
        })
    }
}
