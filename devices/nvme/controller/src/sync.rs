//! Locking, for what is not on a command's path; and what shards share, by names under which loom
//! has its own.

use std::sync::{MutexGuard, PoisonError};

pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize},
};

/// Locks; a thread that panicked while it held the lock left the data whole, as no operation
/// under these locks can panic half way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two `SeqCst` operations of a thread: they are in one order for all threads. Nothing is to
/// be done for that; loom, which takes such operations for less, has a fence here.
pub(crate) const fn in_one_order() {}
