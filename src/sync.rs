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

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Locks `mutex`, ignoring poison: no code of ours can panic between two halves of a change, and
/// no code of others runs under a lock, but that of a socket under its own.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the calling thread's number, the smallest that no other living thread has.
///
/// So the workers of a runtime have numbers of their own, and next to each other, whatever threads
/// came and went before them.
#[inline]
pub(crate) fn thread_index() -> usize {
    thread_local! {
        // Const-initialised and without a destructor: a plain read, legal at any time.
        static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    #[cold]
    fn take() -> usize {
        thread_local! {
            static TAKEN: Taken = Taken::new();
        }
        // A thread that is ending already has nothing to give it back, and is on its way out.
        let index = TAKEN.try_with(|taken| taken.0).unwrap_or(0);
        INDEX.with(|cell| cell.set(index));
        index
    }

    match INDEX.with(Cell::get) {
        usize::MAX => take(),
        index => index,
    }
}

/// A thread's number, until the thread ends.
struct Taken(usize);

/// Those that were given back, and how many there ever were.
static FREE: std::sync::Mutex<(BinaryHeap<Reverse<usize>>, usize)> =
    std::sync::Mutex::new((BinaryHeap::new(), 0));

impl Taken {
    fn new() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let (given_back, count) = &mut *free;
        let index = given_back.pop().map_or(*count, |Reverse(index)| index);
        *count = (*count).max(index + 1);
        Self(index)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.0.push(Reverse(self.0));
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_number_is_of_one_living_thread_and_free_when_it_has_ended() {
        let here = thread_index();
        assert_eq!(thread_index(), here);
        let mut seen = Vec::new();
        for _ in 0..1_000 {
            let there = thread::spawn(thread_index).join().expect("no panic");
            assert_ne!(there, here);
            seen.push(there);
        }
        // Other tests have threads of their own meanwhile, but not a thousand.
        assert!(seen.iter().all(|there| *there < 500), "never given back");
    }
}
