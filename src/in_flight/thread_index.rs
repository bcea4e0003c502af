//! A small number for each living thread, by which it finds its shard.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

    // `extern "C"`, since a function of that kind does not unwind: whoever clones a handle is not ready
    // for that. Nothing in it panics.
    #[cold]
    extern "C" fn take() -> usize {
        thread_local! {
            static TAKEN: Taken = Taken::new();
        }
        // A thread that is ending cannot give one back any more: it shares the first, shortly.
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

/// The numbers that no thread has.
struct Free {
    given_back: BinaryHeap<Reverse<usize>>,
    /// From here on none was ever taken.
    next: usize,
}

/// std's, also under loom: threads come and go outside its models.
static FREE: Mutex<Free> = Mutex::new(Free {
    given_back: BinaryHeap::new(),
    next: 0,
});

// ===== impl Taken =====

impl Taken {
    fn new() -> Self {
        let mut free = free();
        if let Some(Reverse(index)) = free.given_back.pop() {
            return Self(index);
        }
        free.next += 1;
        Self(free.next - 1)
    }
}

impl Drop for Taken {
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
        // Other tests have threads of their own meanwhile, but not a thousand.
        assert!(seen.iter().all(|there| *there < 500), "never given back");
    }
}
