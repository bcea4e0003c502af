//! A small number for each living thread, which selects its shard.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Returns the calling thread's number, the smallest that no other living thread had when it was
/// assigned.
///
/// So the workers of a runtime have different, adjacent numbers, whatever threads existed before.
#[inline]
pub(crate) fn thread_index() -> usize {
    thread_local! {
        // Const-initialised and without a destructor: a plain read, allowed at any time.
        static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    // `extern "C"` functions do not unwind, so the clone of a handle needs no landing pads for this
    // call. Nothing in it panics.
    #[cold]
    extern "C" fn assign() -> usize {
        thread_local! {
            static OWNED: OwnedIndex = OwnedIndex::new();
        }
        // A thread that is ending cannot give a number back, so it shares the first one for a short
        // time.
        let index = OWNED.try_with(|owned| owned.0).unwrap_or(0);
        INDEX.with(|cell| cell.set(index));
        index
    }

    match INDEX.with(Cell::get) {
        usize::MAX => assign(),
        index => index,
    }
}

/// The number of a thread. Free again when the thread ends.
struct OwnedIndex(usize);

/// The numbers that no living thread has.
struct Free {
    given_back: BinaryHeap<Reverse<usize>>,
    /// Numbers from here on were never assigned.
    next: usize,
}

/// The mutex is std's under loom too, because threads start and end outside the models.
static FREE: Mutex<Free> = Mutex::new(Free {
    given_back: BinaryHeap::new(),
    next: 0,
});

// ===== impl OwnedIndex =====

impl OwnedIndex {
    fn new() -> Self {
        let mut free = free();
        if let Some(Reverse(index)) = free.given_back.pop() {
            return Self(index);
        }
        free.next += 1;
        Self(free.next - 1)
    }
}

impl Drop for OwnedIndex {
    fn drop(&mut self) {
        free().given_back.push(Reverse(self.0));
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Other tests run threads at the same time, but not a thousand.
        assert!(seen.iter().all(|there| *there < 500), "never given back");
    }
}
