//! The only place that imports synchronisation primitives.
//!
//! With the crate's own cfg `tower_lifecycle_loom` they are loom's, so that the models in
//! `in_flight/gate/models.rs` see every operation. Not with `--cfg loom`, which removes `tokio::net` and
//! `tokio::signal` from the whole dependency graph. `Arc` and `Weak` are always std's, because loom
//! has no `Weak`. The models do not depend on reference counts.

#[cfg(not(tower_lifecycle_loom))]
mod primitives {
    #[cfg(not(target_has_atomic = "64"))]
    pub(crate) use portable_atomic::AtomicU64;
    #[cfg(target_has_atomic = "64")]
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::atomic::{AtomicU32, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

#[cfg(tower_lifecycle_loom)]
mod primitives {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

pub(crate) use primitives::*;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, OnceLock, PoisonError, Weak};

/// Locks `mutex` and ignores poison. The crate's own code cannot panic halfway through a change,
/// and foreign code does not run under a lock, except for that of a socket under the socket's own
/// lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
