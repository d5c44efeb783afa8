//! Typed admin commands.

use alloc::vec::Vec;

use nvme_spec::feature::{NumberOfQueues, Select};
use nvme_spec::identify::{IdentifyController, IdentifyNamespace};
use nvme_spec::log::SmartLog;
use nvme_spec::queue::{ABORT_NOT_ABORTED, Cqe, FormatCdw10, Sqe};
use nvme_spec::{Cns, FeatureId, IDENTIFY_BYTES, LogId, NSID_BROADCAST};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{Driver, Error, Token, Transport, command};

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Issues an admin command without data and waits for it, whatever its status.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub fn admin(&mut self, sqe: Sqe) -> Result<Cqe, Error> {
        self.exec(0, sqe)
    }

    /// As [`admin`](Self::admin); a status other than success is an error.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn admin_ok(&mut self, sqe: Sqe) -> Result<Cqe, Error> {
        let cqe = self.exec(0, sqe)?;
        ok(0, sqe, cqe)
    }

    /// Issues an admin command that returns data and copies the data out, whatever the status.
    ///
    /// # Errors
    /// As [`exec_data`](Self::exec_data).
    pub fn admin_data(&mut self, sqe: Sqe, data: &mut [u8]) -> Result<Cqe, Error> {
        let buffer = self.alloc(data.len() as u64)?;
        let cqe = self.exec_data(0, sqe, buffer);
        // A command that did not complete may still write there: the memory is not given back.
        let cqe = cqe?;
        self.copy_from(buffer, data);
        self.free(buffer);
        Ok(cqe)
    }

    /// As [`admin_data`](Self::admin_data); a status other than success is an error.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn admin_data_ok(&mut self, sqe: Sqe, data: &mut [u8]) -> Result<Cqe, Error> {
        let cqe = self.admin_data(sqe, data)?;
        ok(0, sqe, cqe)
    }

    /// Identify, its 4,096 bytes as they are.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn identify(&mut self, cns: Cns, nsid: u32) -> Result<Vec<u8>, Error> {
        let mut data = alloc::vec![0; IDENTIFY_BYTES];
        self.admin_data_ok(command::identify(cns, nsid), &mut data)?;
        Ok(data)
    }

    /// Identify Controller (CNS 01h).
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn identify_controller(&mut self) -> Result<IdentifyController, Error> {
        self.identify_as(Cns::CONTROLLER, 0)
    }

    /// Identify Namespace (CNS 00h); all zeroes for an inactive namespace.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace, Error> {
        self.identify_as(Cns::NAMESPACE, nsid)
    }

    fn identify_as<D: FromBytes + IntoBytes>(&mut self, cns: Cns, nsid: u32) -> Result<D, Error> {
        let mut data = D::new_zeroed();
        self.admin_data_ok(command::identify(cns, nsid), data.as_mut_bytes())?;
        Ok(data)
    }

    /// The active namespaces with an identifier greater than `after`, at most 1,024 (CNS 02h).
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn active_namespaces(&mut self, after: u32) -> Result<Vec<u32>, Error> {
        let data = self.identify(Cns::ACTIVE_NAMESPACES, after)?;
        let (ids, _) = data.as_chunks::<4>();
        Ok(ids
            .iter()
            .map(|id| u32::from_le_bytes(*id))
            .take_while(|id| *id != 0)
            .collect())
    }

    /// Get Features: dword 0 of its completion. `cdw11` selects within some features.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn get_feature(&mut self, fid: FeatureId, sel: Select, cdw11: u32) -> Result<u32, Error> {
        let sqe = Sqe {
            cdw11,
            ..command::get_features(fid, sel)
        };
        Ok(self.admin_ok(sqe)?.dw0)
    }

    /// Set Features, not saved: dword 0 of its completion.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn set_feature(&mut self, fid: FeatureId, value: u32) -> Result<u32, Error> {
        Ok(self.admin_ok(command::set_features(fid, value))?.dw0)
    }

    /// Get Features of a feature whose value is data.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn get_feature_data(
        &mut self,
        fid: FeatureId,
        sel: Select,
        data: &mut [u8],
    ) -> Result<(), Error> {
        self.admin_data_ok(command::get_features(fid, sel), data)
            .map(drop)
    }

    /// Set Features of a feature whose value is data, not saved, whatever the status.
    ///
    /// # Errors
    /// As [`exec_data`](Self::exec_data).
    pub fn set_feature_data(&mut self, fid: FeatureId, data: &[u8]) -> Result<Cqe, Error> {
        let buffer = self.alloc(data.len() as u64)?;
        self.copy_to(buffer, data);
        let cqe = self.exec_data(0, command::set_features(fid, 0), buffer)?;
        self.free(buffer);
        Ok(cqe)
    }

    /// Asks for I/O queues, counted from one (1 to 65,535); returns how many submission and
    /// completion queues were allocated (Base 5.1.25.1.5).
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn request_queues(&mut self, count: u16) -> Result<(u32, u32), Error> {
        let count_z = count.saturating_sub(1);
        let asked = NumberOfQueues::new()
            .with_nsq_z(count_z)
            .with_ncq_z(count_z);
        let granted = self.set_feature(FeatureId::NUMBER_OF_QUEUES, asked.into())?;
        let granted = NumberOfQueues::from(granted);
        Ok((
            u32::from(granted.nsq_z()) + 1,
            u32::from(granted.ncq_z()) + 1,
        ))
    }

    /// Get Log Page from its start; the length is that of `data`, whole dwords.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn log_page(&mut self, lid: LogId, nsid: u32, data: &mut [u8]) -> Result<(), Error> {
        let dwords = u32::try_from(data.len() / 4).unwrap_or(u32::MAX);
        self.admin_data_ok(command::get_log_page(lid, nsid, dwords), data)
            .map(drop)
    }

    /// The SMART / Health Information log of the controller.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn smart_log(&mut self) -> Result<SmartLog, Error> {
        let mut log = SmartLog::new_zeroed();
        self.log_page(LogId::SMART, NSID_BROADCAST, log.as_mut_bytes())?;
        Ok(log)
    }

    /// Format NVM: gives a namespace the LBA format of an index, without metadata or protection
    /// information, and takes its data.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn format(&mut self, nsid: u32, index: u8) -> Result<(), Error> {
        let how = FormatCdw10::new().with_index(index);
        self.admin_ok(command::format_nvm(nsid, how)).map(drop)
    }

    /// Abort: whether the controller says that it aborted the command.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn abort(&mut self, command: Token) -> Result<bool, Error> {
        let cqe = self.admin_ok(command::abort(command.sqid, command.cid))?;
        Ok(cqe.dw0 & ABORT_NOT_ABORTED == 0)
    }

    /// Issues an Asynchronous Event Request; its token may wait for ever.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn request_event(&mut self) -> Result<Token, Error> {
        self.submit(0, command::async_event_request())
    }
}

/// A completion whose status has to be success.
pub(crate) fn ok(sqid: u16, sqe: Sqe, cqe: Cqe) -> Result<Cqe, Error> {
    let status = cqe.status();
    if status.is_success() {
        Ok(cqe)
    } else {
        Err(Error::Status {
            sqid,
            opcode: sqe.opcode,
            status,
        })
    }
}
