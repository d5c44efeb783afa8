//! Get Log Page (Base 5.1.12).

use nvme_spec::{
    Csi, LogId, NSID_BROADCAST, Sqe, Status,
    log::{FirmwareSlotLog, OcpSmartLog, SMART_DATA_UNIT_BYTES, SmartLog},
    queue::{GetLogCdw10, GetLogCdw11, GetLogCdw14},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Admin, AdminContext, Handled, Outcome, features::TEMPERATURE_K};
use crate::{
    effects,
    stats::Stats,
    sync::lock,
    table::{self, LogKind},
};

/// Available Spare, in percent: nothing wears yet.
const SPARE_PERCENT: u8 = 100;
/// Available Spare Threshold, in percent.
const SPARE_THRESHOLD_PERCENT: u8 = 10;
const NS_PER_HOUR: u64 = 3_600_000_000_000;

impl Admin {
    /// Get Log Page: the dwords asked for, from the offset asked for.
    pub(super) fn get_log_page(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = GetLogCdw10::from(sqe.cdw10);
        let kind = table::log_kind(cdw10.lid(), &cx.shared.config)
            .ok_or(Status::INVALID_LOG_PAGE.dnr())?;
        let numdu = GetLogCdw11::from(sqe.cdw11).numdu();
        let dwords = (u64::from(numdu) << 16 | u64::from(cdw10.numdl_z())) + 1;
        let offset = u64::from(sqe.cdw13) << 32 | u64::from(sqe.cdw12);
        // Offsets are bytes: no page here has an index (Base 5.1.12).
        let cdw14 = GetLogCdw14::from(sqe.cdw14);
        if offset % 4 != 0 || cdw14.ot() {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let page = match kind {
            LogKind::SupportedPages => effects::log_pages(&cx.shared.config).as_bytes().to_vec(),
            LogKind::Error => error_information(cx),
            LogKind::Smart => {
                // The log is the controller's: LPA says that namespaces have none.
                if !matches!(sqe.nsid, 0 | NSID_BROADCAST) {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                self.smart(cx).as_bytes().to_vec()
            }
            LogKind::FirmwareSlot => firmware_slot(cx).as_bytes().to_vec(),
            LogKind::ChangedNamespaces => self.changed.page().as_bytes().to_vec(),
            LogKind::CommandsEffects => {
                // The page is of a command set, and there is one.
                if cdw14.csi() != Csi::NVM {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                effects::commands(&cx.shared.config).as_bytes().to_vec()
            }
            LogKind::FeaturesEffects => effects::features(&cx.shared.config).as_bytes().to_vec(),
            LogKind::MiCommandsEffects => effects::mi_commands().as_bytes().to_vec(),
            LogKind::OcpSmart => ocp_smart(cx).as_bytes().to_vec(),
        };
        let start = usize::try_from(offset)
            .ok()
            .filter(|&start| start <= page.len());
        let part = start
            .and_then(|start| page.get(start..))
            .ok_or(Status::INVALID_FIELD.dnr())?;
        self.send(cx, sqe, part, dwords * 4)?;
        if !cdw10.rae() {
            self.events.log_read(cdw10.lid());
            if cdw10.lid() == LogId::CHANGED_NAMESPACES {
                self.changed.clear();
            }
        }
        Ok(Outcome::SUCCESS)
    }

    /// SMART / Health Information (Base 5.1.12.1.3).
    fn smart(&self, cx: &AdminContext<'_>) -> SmartLog {
        let stats = Stats::sum(&cx.shared.stats);
        let on_ns = cx
            .now_ns
            .saturating_sub(self.first_command_ns.unwrap_or(cx.now_ns));
        let mut log = SmartLog::new_zeroed();
        log.critical_warning = self.features.critical_warning().bits();
        log.composite_temperature = TEMPERATURE_K.to_le_bytes();
        log.available_spare = SPARE_PERCENT;
        log.available_spare_threshold = SPARE_THRESHOLD_PERCENT;
        log.data_units_read = data_units(stats.bytes_read);
        log.data_units_written = data_units(stats.bytes_written);
        log.host_reads = stats.reads.into();
        log.host_writes = stats.writes.into();
        log.power_cycles = 1;
        log.power_on_hours = (on_ns / NS_PER_HOUR).into();
        log.media_errors = stats.media_errors.into();
        log.error_log_entries = lock(&cx.shared.error_log).count().into();
        log
    }
}

/// SMART / Health Information Extended: what the media was asked to do, over all namespaces
/// (OCP Datacenter NVMe SSD 4.8.5). What there is no model of reads 0.
fn ocp_smart(cx: &AdminContext<'_>) -> OcpSmartLog {
    let mut log = OcpSmartLog::new_zeroed();
    for media in cx.shared.namespaces.iter().filter_map(|n| n.device.media()) {
        log.physical_media_units_written += u128::from(media.bytes_written);
        log.physical_media_units_read += u128::from(media.bytes_read);
        log.unaligned_io = log.unaligned_io.wrapping_add(media.unaligned_writes);
    }
    log.log_page_version = OcpSmartLog::VERSION;
    log.log_page_guid = OcpSmartLog::GUID;
    log
}

/// Thousands of 512 bytes, rounded up.
fn data_units(bytes: u64) -> u128 {
    bytes.div_ceil(SMART_DATA_UNIT_BYTES).into()
}

/// Error Information, newest first (Base 5.1.12.1.2); empty entries are zero.
fn error_information(cx: &AdminContext<'_>) -> Vec<u8> {
    let log = lock(&cx.shared.error_log);
    let mut page: Vec<u8> = log
        .newest_first()
        .flat_map(|e| e.as_bytes().to_vec())
        .collect();
    page.resize(
        usize::from(crate::error_log::ENTRIES) * nvme_spec::log::ErrorLogEntry::BYTES,
        0,
    );
    page
}

/// Firmware Slot Information: one slot, active (Base 5.1.12.1.4).
fn firmware_slot(cx: &AdminContext<'_>) -> FirmwareSlotLog {
    let mut log = FirmwareSlotLog::new_zeroed();
    log.afi = 1;
    if let Some(slot) = log.frs.first_mut() {
        let padded = cx
            .shared
            .config
            .firmware
            .bytes()
            .chain(std::iter::repeat(b' '));
        for (place, byte) in slot.iter_mut().zip(padded) {
            *place = byte;
        }
    }
    log
}
