//! Guest memory: one memfd, mapped here and given to KVM.

use std::fs::File;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{
    FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion,
};

use super::error::MachineError;
use super::layout::{HIGH_MEMORY_START, LOW_MEMORY_END};

/// Guest memory as devices hold it: a snapshot is taken by [`GuestAddressSpace::memory`].
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Least memory in bytes: what the loader's tables and a small kernel need.
pub(crate) const LEAST: u64 = 4 << 20;

/// Most bytes of one slot: KVM's KVM_MEM_MAX_NR_PAGES of 4 KiB (include/linux/kvm_host.h).
const SLOT: u64 = ((1 << 31) - 1) * 4096;

/// How much more than the host's memory a guest may have. Memory is only reserved until it is
/// written, and KVM allots several bytes a page for its own tables at once: 8 TiB took it 52 s.
const OVERCOMMIT: u64 = 4;

/// Most memory on this host, in bytes, and why. A host that does not tell has no bound of its own.
fn most(meminfo: &str) -> (u64, &'static str) {
    let kib = meminfo.lines().find_map(|line| {
        let words = line.strip_prefix("MemTotal:")?.split_whitespace().next()?;
        words.parse::<u64>().ok()
    });
    let host = kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024 * OVERCOMMIT));
    match SLOT < host {
        true => (SLOT, "what KVM takes in one piece"),
        false => (host, "four times this host's memory"),
    }
}

/// Start and length of the stretches that `bytes` of memory are made of: from 0 to at most 3 GiB,
/// what is left from 4 GiB.
#[must_use]
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(LOW_MEMORY_END);
    match bytes - low {
        0 => vec![(0, low)],
        high => vec![(0, low), (HIGH_MEMORY_START, high)],
    }
}

/// Whether a guest may have so many bytes of memory on this host.
///
/// # Errors
/// What would do.
pub fn check(bytes: u64) -> Result<(), MachineError> {
    let fail = |reason: String| MachineError::Memory { bytes, reason };
    if bytes < LEAST || !bytes.is_multiple_of(4096) {
        return Err(fail(format!("a multiple of 4096 from {LEAST} on would do")));
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (most, why) = most(&meminfo);
    if bytes > most {
        let most = most & !0xfff;
        return Err(fail(format!("at most {most} would do here, {why}")));
    }
    Ok(())
}

/// Makes `bytes` (a multiple of the page size) of zeroed memory, shared so that other processes
/// may map it by its descriptor.
pub(crate) fn create(bytes: u64) -> Result<GuestMemory, MachineError> {
    check(bytes)?;
    let fail = |reason: String| MachineError::Memory { bytes, reason };
    let file = memfd_create("ferrite-memory", MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|error| fail(format!("memfd_create: {error}")))?;
    file.set_len(bytes)
        .map_err(|error| fail(format!("ftruncate: {error}")))?;
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, length) in ranges(bytes) {
        let file = file
            .try_clone()
            .map_err(|error| fail(format!("dup: {error}")))?;
        let size = usize::try_from(length).map_err(|error| fail(error.to_string()))?;
        regions.push((
            GuestAddress(start),
            size,
            Some(FileOffset::new(file, offset)),
        ));
        offset += length;
    }
    let memory = GuestMemoryMmap::from_ranges_with_files(regions)
        .map_err(|error| fail(format!("mmap: {error}")))?;
    Ok(GuestMemoryAtomic::new(memory))
}

/// Gives the memory to KVM, one slot a region.
///
/// The mapping must outlive every run of a CPU: each [`super::vcpu::Vcpu`] holds the memory.
#[expect(unsafe_code, reason = "KVM is given raw addresses of this process")]
pub(crate) fn give_to_kvm(vm: &VmFd, memory: &GuestMemory) -> Result<(), MachineError> {
    for (slot, region) in (0..).zip(memory.memory().iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for its whole length and stays so while the VM lives; Rust
        // accesses it by volatile copies alone, as vm-memory does.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_above_3_gib_goes_above_4_gib() {
        assert_eq!(ranges(GIB), [(0, GIB)]);
        assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
    }

    #[test]
    fn both_stretches_are_mapped_and_nothing_between() {
        let memory = create(3 * GIB + 8192)
            .expect("memory is only reserved")
            .memory();
        assert!(memory.address_in_range(GuestAddress(3 * GIB - 1)));
        assert!(!memory.address_in_range(GuestAddress(3 * GIB)));
        assert!(memory.address_in_range(GuestAddress(4 * GIB + 8191)));
        assert!(!memory.address_in_range(GuestAddress(4 * GIB + 8192)));
    }

    #[test]
    fn odd_and_tiny_sizes_are_refused() {
        assert!(create(0).is_err());
        assert!(create(LEAST + 1).is_err());
        assert!(create(LEAST - 4096).is_err());
    }

    #[test]
    fn sizes_beyond_the_host_or_kvm_are_refused_with_what_would_do() {
        let start = std::time::Instant::now();
        let text = create(8 << 40).expect_err("too much").to_string();
        assert!(text.contains("8796093022208 bytes: at most "), "{text}");
        assert!(create(!0xfff).is_err());
        assert!(start.elapsed().as_secs() < 1);
        let host = "MemFree:  7 kB\nMemTotal:       1048576 kB\n";
        assert_eq!(most(host), (4 * GIB, "four times this host's memory"));
        assert_eq!(most("MemTotal: 18446744073709551615 kB").0, SLOT);
        assert_eq!(most("").0, SLOT);
    }
}
