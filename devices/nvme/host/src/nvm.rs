//! Typed I/O commands.

use nvme_spec::queue::{Cqe, Sqe};

use crate::admin::ok;
use crate::driver::check;
use crate::{Buffer, Driver, Error, Transport, command};

/// The most blocks one Read or Write names (NLB is zero-based and 16 bits wide).
const MAX_BLOCKS: u64 = 65_536;

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Issues an I/O command without data; a status other than success is an error.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn io_ok(&mut self, sqid: u16, sqe: Sqe) -> Result<Cqe, Error> {
        let cqe = self.exec(sqid, sqe)?;
        ok(sqid, sqe, cqe)
    }

    /// Issues an I/O command with data; a status other than success is an error.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec_data`](Self::exec_data).
    pub fn io_data_ok(&mut self, sqid: u16, sqe: Sqe, data: Buffer) -> Result<Cqe, Error> {
        let cqe = self.exec_data(sqid, sqe, data)?;
        ok(sqid, sqe, cqe)
    }

    /// Reads `blocks` logical blocks (1 to 65,536) from `slba` into `data`, which must be as long
    /// as they are.
    ///
    /// # Errors
    /// [`Error::Status`], [`Error::OutOfRange`], and as [`exec_data`](Self::exec_data).
    pub fn read(
        &mut self,
        sqid: u16,
        nsid: u32,
        slba: u64,
        blocks: u64,
        data: Buffer,
    ) -> Result<(), Error> {
        let sqe = command::read(nsid, slba, nlb_z(blocks)?);
        self.io_data_ok(sqid, sqe, data).map(drop)
    }

    /// Writes `blocks` logical blocks (1 to 65,536) at `slba` from `data`, which must be as long
    /// as they are.
    ///
    /// # Errors
    /// [`Error::Status`], [`Error::OutOfRange`], and as [`exec_data`](Self::exec_data).
    pub fn write(
        &mut self,
        sqid: u16,
        nsid: u32,
        slba: u64,
        blocks: u64,
        data: Buffer,
    ) -> Result<(), Error> {
        let sqe = command::write(nsid, slba, nlb_z(blocks)?);
        self.io_data_ok(sqid, sqe, data).map(drop)
    }

    /// Flush of a namespace.
    ///
    /// # Errors
    /// [`Error::Status`], and as [`exec`](Self::exec).
    pub fn flush(&mut self, sqid: u16, nsid: u32) -> Result<(), Error> {
        self.io_ok(sqid, command::flush(nsid)).map(drop)
    }
}

fn nlb_z(blocks: u64) -> Result<u16, Error> {
    check("number of logical blocks", blocks, 1, MAX_BLOCKS)?;
    Ok(u16::try_from(blocks - 1).unwrap_or(u16::MAX))
}
