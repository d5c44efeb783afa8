//! The clock at 70h and 71h: an MC146818's time of day, UTC, by the host's clock. It keeps no
//! memory, has no alarm, and never interrupts.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

/// Number of ports: the index and the data.
pub(crate) const PORTS: u16 = 2;

/// Bit 7 of the index masks the NMI, of which there is none.
const INDEX: u8 = 0x7f;

/// The device.
#[derive(Default)]
pub(crate) struct Cmos {
    index: AtomicU8,
}

impl DevicePio for Cmos {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::MAX);
        if let (1, [byte]) = (offset, data) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            *byte = register(self.index.load(Ordering::Relaxed), now.unwrap_or_default());
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        // Nobody sets the host's clock.
        if let (0, [index]) = (offset, data) {
            self.index.store(index & INDEX, Ordering::Relaxed);
        }
    }
}

/// What register `index` says at `time` since 1970: binary-coded decimals, 24 hours a day.
fn register(index: u8, time: Duration) -> u8 {
    /// Register A: the divider runs at 32,768 Hz, the usual rate; no update is in progress.
    const A: u8 = 0x26;
    /// Register B: 24 hours.
    const B: u8 = 0x02;
    /// Register D: the battery is fine.
    const D: u8 = 0x80;
    let seconds = time.as_secs();
    let days = seconds / 86_400;
    let date = Date::after(days);
    let value = match index {
        0x00 => seconds % 60,
        0x02 => seconds / 60 % 60,
        0x04 => seconds / 3600 % 24,
        // Sunday is 1, and 1970 began with a Thursday.
        0x06 => (days + 4) % 7 + 1,
        0x07 => date.day,
        0x08 => date.month,
        0x09 => date.year % 100,
        0x32 => date.year / 100,
        0x0a => return A,
        0x0b => return B,
        0x0d => return D,
        _ => return 0,
    };
    decimal(value)
}

/// Two decimal digits, four bits each.
fn decimal(value: u64) -> u8 {
    u8::try_from(value / 10 % 10 * 16 + value % 10).unwrap_or_default()
}

/// A day of the Gregorian calendar; months and days from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The day so many days after 1 January 1970.
    fn after(days: u64) -> Self {
        // Counted from 1 March of year 0, so that a leap day ends its year, in eras of 400 years.
        const ERA: u64 = 146_097;
        let days = days + 719_468;
        let of_era = days % ERA;
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        // March is 0: five months have 153 days, again and again.
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let next_year = u64::from(month >= 10);
        Self {
            year: days / ERA * 400 + year + next_year,
            month: if month < 10 { month + 3 } else { month - 9 },
            day,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_leap_years_and_centuries() {
        for (days, year, month, day) in [
            (0, 1970, 1, 1),
            (58, 1970, 2, 28),
            (59, 1970, 3, 1),
            (11_016, 2000, 2, 29),
            (11_017, 2000, 3, 1),
            (19_782, 2024, 2, 29),
            (20_453, 2025, 12, 31),
            (47_541, 2100, 3, 1),
        ] {
            assert_eq!(Date::after(days), Date { year, month, day });
        }
        // Every day has the next one's predecessor: months end where they should.
        let mut last = Date::after(0);
        for days in 1..200_000 {
            let date = Date::after(days);
            let next = (date.year, date.month, date.day) > (last.year, last.month, last.day);
            assert!(
                next && (date.day == last.day + 1 || date.day == 1),
                "{date:?}"
            );
            last = date;
        }
    }

    #[test]
    fn registers_are_decimals_of_the_time() {
        // Wednesday, 31 December 2025, 23:59:58.
        let time = Duration::from_secs(1_767_225_598);
        for (index, value) in [
            (0x00, 0x58),
            (0x02, 0x59),
            (0x04, 0x23),
            (0x06, 4),
            (0x07, 0x31),
            (0x08, 0x12),
            (0x09, 0x25),
            (0x32, 0x20),
            (0x0a, 0x26),
            (0x0b, 0x02),
            (0x0d, 0x80),
            (0x0c, 0),
            (0x7f, 0),
        ] {
            assert_eq!(register(index, time), value, "{index:#x}");
        }
    }

    #[test]
    fn index_has_seven_bits_and_only_bytes_are_answered() {
        let cmos = Cmos::default();
        let base = PioAddress(0x70);
        cmos.pio_write(base, 0, &[0x8d]);
        let mut byte = [0];
        cmos.pio_read(base, 1, &mut byte);
        assert_eq!(byte, [0x80]);
        let mut word = [0; 2];
        cmos.pio_read(base, 0, &mut word);
        assert_eq!(word, [0xff; 2]);
    }
}
