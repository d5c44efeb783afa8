//! Memory: the Rust heap, and a pool that devices may reach.
//!
//! The largest free stretch between 1 MiB and 3 GiB is split once: a sixteenth, between 1 and
//! 32 MiB, for the heap, the rest for DMA. Rust never makes a reference into the DMA pool: it is
//! only copied in and out, so that a device that writes where it should not breaks a test but not
//! this program's soundness.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use linked_list_allocator::LockedHeap;

use crate::start_info::StartInfo;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

const MIB: u64 = 1 << 20;
/// Above are devices, mapped uncached (ring0.s).
const RAM_LIMIT: u64 = 3 << 30;
/// Where they end.
const DEVICES_END: u64 = 4 << 30;

unsafe extern "C" {
    #[link_name = "image_start"]
    static IMAGE_START: u8;
    #[link_name = "image_end"]
    static IMAGE_END: u8;
}

/// What the memory map says.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes of RAM in all.
    pub ram: u64,
    /// First address above all that the map names (what is reserved may be memory too) and above
    /// devices and firmware, which are below 4 GiB.
    pub end: u64,
    /// Bytes given to the Rust heap.
    pub heap: u64,
}

/// Physically contiguous memory for devices, handed out from one end and freed all at once.
/// Addresses are physical.
#[derive(Debug)]
pub struct DmaPool {
    start: u64,
    end: u64,
    next: u64,
}

/// Splits the memory and starts the heap. `None` when the map shows no room for it.
///
/// # Safety
/// Called once, before the first allocation, with what the loader passed.
pub(crate) unsafe fn init(info: &StartInfo, info_address: u64) -> Option<(Memory, DmaPool)> {
    let ram = || info.memory_map().filter(|entry| entry.is_ram());
    let (start, end) = largest_free(info, info_address)?;
    let heap = ((end - start) / 16).clamp(MIB, 32 * MIB);
    let pool = (start + heap).next_multiple_of(64 * 1024);
    if pool >= end {
        return None;
    }
    // SAFETY: free memory by the map and by `largest_free`, used for nothing else.
    unsafe { HEAP.lock().init(start as *mut u8, heap as usize) };
    let memory = Memory {
        ram: ram().map(|entry| entry.bytes).sum(),
        end: info
            .memory_map()
            .map(|entry| entry.address.saturating_add(entry.bytes))
            .fold(DEVICES_END, u64::max),
        heap,
    };
    Some((
        memory,
        DmaPool {
            start: pool,
            end,
            next: pool,
        },
    ))
}

/// The largest stretch of RAM that holds neither this image, modules, nor the loader's tables.
fn largest_free(info: &StartInfo, info_address: u64) -> Option<(u64, u64)> {
    let image = (&raw const IMAGE_START as u64, &raw const IMAGE_END as u64);
    let page = (info_address, info_address + 4096);
    let used = || {
        [image, page]
            .into_iter()
            .chain(info.own_ranges())
            .chain(info.module_ranges())
    };
    let mut best: Option<(u64, u64)> = None;
    for entry in info.memory_map().filter(|entry| entry.is_ram()) {
        let top = entry.address.saturating_add(entry.bytes).min(RAM_LIMIT) & !0xfff;
        let mut at = entry.address.max(MIB).next_multiple_of(4096);
        while at < top {
            // Skip whatever covers `at`; else the stretch ends where the next used range begins.
            if let Some((_, end)) = used().find(|(start, end)| *start <= at && at < *end) {
                at = end.next_multiple_of(4096);
                continue;
            }
            let stop = used()
                .map(|(start, _)| start)
                .filter(|start| *start > at)
                .min();
            let stop = stop.unwrap_or(top).min(top) & !0xfff;
            if stop <= at {
                at += 4096;
                continue;
            }
            if best.is_none_or(|(start, end)| end - start < stop - at) {
                best = Some((at, stop));
            }
            at = stop;
        }
    }
    best
}

impl DmaPool {
    /// `bytes` of zeroed memory at a multiple of `align` (a power of two); `None` when the pool
    /// has no more.
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let address = self.next.checked_next_multiple_of(align)?;
        let next = address.checked_add(bytes)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        // SAFETY: within the pool, which no Rust object lives in; assembly, as in `read`.
        unsafe {
            asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") address => _, in("al") 0_u8,
                 options(nostack, preserves_flags));
        }
        Some(address)
    }

    /// Frees everything. Devices must have been stopped; addresses from before are stale.
    pub fn reset(&mut self) {
        self.next = self.start;
    }

    /// Bytes not handed out.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.end - self.next
    }

    /// Whether all of a range lies in the pool.
    #[must_use]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.start
            && address
                .checked_add(bytes)
                .is_some_and(|end| end <= self.end)
    }

    /// Copies out of the pool; all ones from outside it.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        if !self.contains(address, data.len() as u64) {
            data.fill(0xff);
            return;
        }
        // SAFETY: within the pool. Assembly, because a device may write meanwhile, which a Rust
        // copy must not race with.
        unsafe {
            asm!("rep movsb", inout("rcx") data.len() => _, inout("rdi") data.as_mut_ptr() => _,
                 inout("rsi") address => _, options(nostack, preserves_flags));
        }
    }

    /// Copies into the pool; dropped outside it.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        if !self.contains(address, data.len() as u64) {
            return;
        }
        // SAFETY: as in `read`.
        unsafe {
            asm!("rep movsb", inout("rcx") data.len() => _, inout("rdi") address => _,
                 inout("rsi") data.as_ptr() => _, options(nostack, preserves_flags));
        }
        fence(Ordering::Release);
    }

    /// Loads an aligned dword with acquire ordering; all ones outside the pool.
    #[must_use]
    pub fn load32(&self, address: u64) -> u32 {
        if !self.contains(address, 4) || !address.is_multiple_of(4) {
            return u32::MAX;
        }
        // SAFETY: within the pool, aligned; devices store dwords whole.
        unsafe { AtomicU32::from_ptr(address as *mut u32) }.load(Ordering::Acquire)
    }

    /// Stores an aligned dword with release ordering; dropped outside the pool.
    pub fn store32(&mut self, address: u64, value: u32) {
        if self.contains(address, 4) && address.is_multiple_of(4) {
            // SAFETY: as in `load32`.
            unsafe { AtomicU32::from_ptr(address as *mut u32) }.store(value, Ordering::Release);
        }
    }
}
