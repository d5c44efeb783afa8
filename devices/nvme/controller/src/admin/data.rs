//! The data of admin commands, to and from the host's memory.

use std::sync::atomic::Ordering;

use nvme_spec::{Sqe, Status};
use vm_memory::{Bytes, GuestAddress};

use super::{Admin, AdminContext};
use crate::prp;

impl Admin {
    /// Copies `bytes` into a command's data buffer, which is `len` bytes; what the buffer has
    /// beyond `bytes` is left as it is.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a buffer above MDTS, and as [`prp::walk`].
    pub(super) fn send(
        &mut self,
        cx: &AdminContext<'_>,
        sqe: &Sqe,
        bytes: &[u8],
        len: u64,
    ) -> Result<(), Status> {
        self.walk(cx, sqe, len, len.min(bytes.len() as u64))?;
        let mut rest = bytes;
        for segment in &self.data.segments {
            let count = rest.len().min(segment.len as usize);
            let (now, later) = rest.split_at(count);
            cx.memory
                .write_slice(now, GuestAddress(segment.addr))
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies a command's data buffer, which is as long as `bytes`, out of the host's memory: once,
    /// before it is looked at.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) fn receive(
        &mut self,
        cx: &AdminContext<'_>,
        sqe: &Sqe,
        bytes: &mut [u8],
    ) -> Result<(), Status> {
        let len = bytes.len() as u64;
        self.walk(cx, sqe, len, len)?;
        let mut rest = bytes;
        for segment in &self.data.segments {
            let count = rest.len().min(segment.len as usize);
            let (now, later) = rest.split_at_mut(count);
            cx.memory
                .read_slice(now, GuestAddress(segment.addr))
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            rest = later;
        }
        Ok(())
    }

    /// Finds the memory of the first `most` bytes of a command's data buffer of `len` bytes.
    fn walk(
        &mut self,
        cx: &AdminContext<'_>,
        sqe: &Sqe,
        len: u64,
        most: u64,
    ) -> Result<(), Status> {
        if len > u64::from(cx.shared.config.mdts_bytes) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let page_bytes = cx.shared.settings.page_bytes.load(Ordering::Relaxed);
        self.data.segments.clear();
        let buffer = prp::Buffer {
            prp1: sqe.prp1,
            prp2: sqe.prp2,
            len,
        };
        prp::walk(&mut self.data, cx.memory, page_bytes, buffer, most)
    }
}
