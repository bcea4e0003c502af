//! The one place that names synchronisation primitives.
//!
//! Under the crate's own `tower_lifecycle_loom` cfg they are loom's, so that the models in
//! `gate/models.rs` see every operation. Not `--cfg loom`: that one removes `tokio::net` and
//! `tokio::signal` from the whole dependency graph. `Arc` and `Weak` stay std's, because loom has
//! no `Weak`; the models do not depend on reference counts.

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

/// Locks `mutex`, ignoring poison: no code of ours can panic between two halves of a change, and
/// no code of others runs under a lock, but that of a socket under its own.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
