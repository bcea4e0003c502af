//! The gate: what is in flight, and whether more may enter.
//!
//! The count is spread over shards, one cache line each, and a thread works on its own. A shard is
//! one word, so that counting and asking are a single operation:
//!
//! ```text
//! 63            32 31            4  3   2   1   0
//! [ entered       | in flight     | F | D | C | S ]     S shedding, C closed, D draining, F forced
//! ```
//!
//! What has entered while the shard was open was admitted; what entered while it was closed was not.
//!
//! # Invariants
//!
//! 1. *Count first, look second.* An entry adds itself and reads the gate's answer out of the same
//!    operation. A refused entry takes itself out again. So nothing is admitted to a shard after it
//!    was closed, and a closed shard only falls, but for refusals that come and go.
//! 2. *What may not be refused moves to `late`.* An entry that must be counted and meets a closed
//!    shard adds itself to `late` before it takes itself out of the shard: it is always seen in one
//!    of the two.
//! 3. *Idle* is: a pause or the closing has been published, each shard was seen closed and empty, one
//!    after another, and then `late` was seen empty. With 1 and 2 the count was zero at that last
//!    look. *Drained* is the same once the gate is closed for good.
//! 4. *Who empties, looks.* Whoever takes a closed shard or `late` to zero scans, and so does the
//!    one who publishes a pause or the closing. Between its own change and its scan each has a
//!    `SeqCst` fence, so of two who change different words at the same time at least one sees both
//!    changes: there is always a last one that finds all of it empty, and no waiter has to poll.
//! 5. *Force is published before it is announced.* The bit is set on every shard first, the wakers
//!    are taken afterwards, and a registration looks at the bit under the lock of the wakers.
//! 6. *The gate turns under one lock.* Every change of phase bits is made under `turn`. D and F are
//!    only ever added; S and C are taken back by `unshed` and `unpause`, and C never beside D.
//! 7. *A look counts as long as the gate stays closed.* What a scan has seen is published under
//!    `turn`, and only if the gate was not opened since the scan began: a slow scan of an earlier
//!    pause cannot tell of a later one. `IDLE` is taken back as the gate opens.

use std::task::Waker;

use crate::milestones::{Milestones, event};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Weak, fence, lock, thread_index};
use crate::wakers::{Slot, WakerSet};

/// HTTP/1 responses ask their clients to leave.
const SHEDDING: u64 = 1 << 0;
/// New entries are refused: paused, or draining.
const CLOSED: u64 = 1 << 1;
/// Closed for good: admitted work should come to its end.
const DRAINING: u64 = 1 << 2;
/// Admitted work is cut.
const FORCED: u64 = 1 << 3;

const ONE_IN_FLIGHT: u64 = 1 << 4;
const IN_FLIGHT: u64 = ONE_ENTERED - ONE_IN_FLIGHT;
/// The top field, so that it wraps without touching the others.
const ONE_ENTERED: u64 = 1 << 32;
const ENTRY: u64 = ONE_ENTERED + ONE_IN_FLIGHT;

/// What a waker in a shard can wait for.
pub(crate) mod interest {
    /// The shard is closed: new entries are refused.
    pub(crate) const CLOSED: u32 = super::CLOSED as u32;
    /// The shard is closed for good: draining has begun.
    pub(crate) const DRAINING: u32 = super::DRAINING as u32;
    /// The shard is forced: admitted work is cut.
    pub(crate) const FORCED: u32 = super::FORCED as u32;
}

#[derive(Debug)]
pub(crate) struct Gate {
    shards: Box<[Arc<Shard>]>,
    /// In flight, but entered after its shard was closed (invariant 2).
    late: AtomicU64,
    /// How many there ever were in `late`.
    admitted_late: AtomicU64,
    turn: Mutex<Turn>,
    /// How often the gate was opened again; changed under `turn`.
    openings: AtomicU64,
    /// How often it was found idle; changed under `turn`.
    idles: AtomicU64,
    milestones: Milestones,
}

/// How the gate stands (invariant 6).
#[derive(Debug, Default)]
struct Turn {
    closed_for_good: bool,
}

/// One thread's part of the count. Two cache lines' worth of alignment, since processors fetch
/// lines in pairs; the reference counts of the `Arc` lie in the pair before.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    word: AtomicU64,
    wakers: WakerSet,
    /// As of the closing: the word of a closed shard counts refusals, too.
    admitted: AtomicU64,
    /// How many in the word's top field are refusals, of pauses that are over.
    not_admitted: AtomicU64,
    refused: AtomicU64,
    aborted: AtomicU64,
    /// Weak: a service that outlives its controller goes on serving, with nobody to tell.
    gate: Weak<Gate>,
}

/// Where an entry is counted, and so where it has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Book {
    Shard,
    Late,
}

// ===== impl Gate =====

impl Gate {
    /// Makes an open gate of at least `shards` shards, rounded up to a power of two.
    pub(crate) fn new(shards: usize, reached: u32) -> Arc<Self> {
        Arc::new_cyclic(|gate| Self {
            shards: (0..shards.max(1).next_power_of_two())
                .map(|_| Arc::new(Shard::new(gate.clone())))
                .collect(),
            late: AtomicU64::new(0),
            admitted_late: AtomicU64::new(0),
            turn: Mutex::new(Turn::default()),
            openings: AtomicU64::new(0),
            idles: AtomicU64::new(0),
            milestones: Milestones::new(reached),
        })
    }

    pub(crate) fn milestones(&self) -> &Milestones {
        &self.milestones
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// Returns the index of the calling thread's shard.
    #[inline]
    pub(crate) fn local_index(&self) -> usize {
        thread_index() & (self.shards.len() - 1)
    }

    /// Returns the calling thread's shard.
    #[inline]
    pub(crate) fn local(&self) -> &Arc<Shard> {
        &self.shards[self.local_index()]
    }

    /// Asks HTTP/1 clients to leave from now on.
    pub(crate) fn shed(&self) {
        let _turn = lock(&self.turn);
        self.add_to_all(SHEDDING);
    }

    /// Takes [`shed`](Self::shed) back.
    pub(crate) fn unshed(&self) {
        let turn = lock(&self.turn);
        if !turn.closed_for_good {
            self.take_from_all(SHEDDING);
        }
    }

    /// Admits nothing more until [`unpause`](Self::unpause); `false` if it is paused or closed.
    pub(crate) fn pause(&self) -> bool {
        let turn = lock(&self.turn);
        if turn.closed_for_good || self.milestones.has(event::PAUSED) {
            return false;
        }
        // Before the first refusal, for readiness looks at it.
        self.milestones.publish(event::PAUSED);
        self.add_to_all(CLOSED);
        drop(turn);
        for shard in &self.shards {
            shard.wakers.wake_all(interest::CLOSED);
        }
        self.scan();
        true
    }

    /// Admits again; `false` if it is not paused, or closed for good.
    pub(crate) fn unpause(&self) -> bool {
        let turn = lock(&self.turn);
        if turn.closed_for_good || !self.milestones.has(event::PAUSED) {
            return false;
        }
        self.take_from_all(CLOSED);
        // Release: pairs with the Acquire in `scan`. Who counts this opening finds the shards open, or
        // closed again.
        self.openings.fetch_add(1, Ordering::Release);
        self.milestones.take_back(event::PAUSED | event::IDLE);
        true
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.milestones.reached() & (event::PAUSED | event::CLOSED) == event::PAUSED
    }

    /// Admits nothing more for good, once it has returned. Whoever calls it publishes
    /// `event::CLOSED` next, and then calls [`scan`](Self::scan).
    pub(crate) fn close(&self) {
        let mut turn = lock(&self.turn);
        turn.closed_for_good = true;
        self.add_to_all(SHEDDING | CLOSED | DRAINING);
    }

    /// Marks all admitted work to be cut, after [`close`](Self::close); waking it is left to
    /// [`Shard::wake_batch`] (invariant 5).
    pub(crate) fn force(&self) {
        let _turn = lock(&self.turn);
        self.add_to_all(FORCED);
    }

    fn add_to_all(&self, bits: u64) {
        for shard in &self.shards {
            // Relaxed: CLOSED changes under `turn` only, and the rest is a figure to look at.
            let before = shard.word.load(Ordering::Relaxed);
            let closes = !before & bits & CLOSED != 0;
            if closes {
                shard.note_admitted(before);
            }
            // Release: pairs with the Acquire of `enter` and `phase`; who sees the bit sees what
            // led to it. Acquire: pairs with the Release of `leave`, for the scan that follows.
            let before = shard.word.fetch_or(bits, Ordering::AcqRel);
            if closes {
                shard.note_admitted(before);
            }
        }
    }

    fn take_from_all(&self, bits: u64) {
        for shard in &self.shards {
            // Relaxed: as in `add_to_all`.
            let before = shard.word.load(Ordering::Relaxed);
            let opens = before & bits & CLOSED != 0;
            if opens {
                shard.note_not_admitted(before);
            }
            // Release: pairs with the Acquire of `enter`; who is admitted sees what was done while
            // the gate was closed.
            let before = shard.word.fetch_and(!bits, Ordering::Release);
            if opens {
                shard.note_not_admitted(before);
            }
        }
    }

    /// Publishes `IDLE`, and `DRAINED` if the gate is closed for good, when nothing is in flight
    /// (invariants 3 and 4).
    #[cold]
    pub(crate) fn scan(&self) {
        // Pairs with this same fence in every other scan (invariant 4).
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `unpause`.
        let openings = self.openings.load(Ordering::Acquire);
        if self.untold() != 0 && self.is_empty() {
            self.tell_empty(openings);
        }
    }

    /// Tells that the gate was found empty, unless it was opened since (invariant 7).
    fn tell_empty(&self, openings: u64) {
        let turn = lock(&self.turn);
        let events = self.untold();
        // Relaxed: it is changed under `turn`.
        let is_closed = self.openings.load(Ordering::Relaxed) == openings;
        if is_closed && events != 0 {
            // Release: pairs with the Acquire in `idles`, as `publish` with `reached`.
            self.idles.fetch_add(1, Ordering::Release);
            self.milestones.publish(events);
            drop(turn);
            self.milestones.wake(events);
        }
    }

    /// Returns how often the gate was found idle.
    pub(crate) fn idles(&self) -> u64 {
        // Acquire: pairs with the Release in `tell_empty`.
        self.idles.load(Ordering::Acquire)
    }

    /// What an empty gate would have to tell.
    fn untold(&self) -> u32 {
        let reached = self.milestones.reached();
        let empty = if reached & event::CLOSED != 0 {
            event::DRAINED | event::IDLE
        } else if reached & event::PAUSED != 0 {
            event::IDLE
        } else {
            0
        };
        empty & !reached
    }

    fn is_empty(&self) -> bool {
        let empty = self.shards.iter().all(|shard| {
            // Acquire: pairs with the Release of `leave` and of the undo. What was done in flight
            // is seen by who is told that it drained; and the `late` of an entry that has moved
            // there is seen below.
            let word = shard.word.load(Ordering::Acquire);
            word & (CLOSED | IN_FLIGHT) == CLOSED
        });
        // Acquire: pairs with the Release of `leave_late`.
        empty && self.late.load(Ordering::Acquire) == 0
    }

    /// Returns how many are in flight: exact when nothing moves, else off by what is moving.
    pub(crate) fn in_flight(&self) -> u64 {
        let shards: u64 = self.shards.iter().map(|shard| shard.in_flight()).sum();
        // Relaxed: a figure to look at; nothing is concluded from it.
        shards + self.late.load(Ordering::Relaxed)
    }

    /// Returns how many were admitted since the start; each shard's part wraps at 2^32.
    pub(crate) fn admitted(&self) -> u64 {
        // Relaxed: a figure to look at; nothing is concluded from it.
        let of = |shard: &Arc<Shard>| match shard.word.load(Ordering::Relaxed) {
            word if word & CLOSED == 0 => shard.admitted_of(word),
            _ => shard.admitted.load(Ordering::Relaxed),
        };
        let shards: u64 = self.shards.iter().map(of).sum();
        shards + self.admitted_late.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        // Relaxed: as `admitted`.
        let of = |shard: &Arc<Shard>| shard.refused.load(Ordering::Relaxed);
        self.shards.iter().map(of).sum()
    }

    /// Returns how many entries were cut. Exact after `IDLE`: each is noted before it leaves.
    pub(crate) fn aborted(&self) -> u64 {
        // Relaxed: ordered by the Release of the `leave` that follows the note.
        let of = |shard: &Arc<Shard>| shard.aborted.load(Ordering::Relaxed);
        self.shards.iter().map(of).sum()
    }
}

// ===== impl Shard =====

impl Shard {
    fn new(gate: Weak<Gate>) -> Self {
        Self {
            word: AtomicU64::new(0),
            wakers: WakerSet::new(),
            admitted: AtomicU64::new(0),
            not_admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            gate,
        }
    }

    /// Counts one more and asks whether it may; a refused entry has taken itself out again.
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        // Acquire: pairs with the Release in `add_to_all`. Invariant 1.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        if before & CLOSED == 0 {
            return true;
        }
        self.undo_entry();
        false
    }

    /// Counts one more, whatever the gate says.
    #[inline]
    pub(crate) fn enter_always(&self) -> Book {
        // Acquire: as in `enter`.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        if before & CLOSED == 0 {
            return Book::Shard;
        }
        self.enter_late()
    }

    #[cold]
    fn enter_late(&self) -> Book {
        let book = match self.gate.upgrade() {
            Some(gate) => {
                // Relaxed: published by the Release of the undo below, which a scan that finds the
                // shard empty has acquired (invariant 2).
                gate.late.fetch_add(1, Ordering::Relaxed);
                gate.admitted_late.fetch_add(1, Ordering::Relaxed);
                Book::Late
            }
            // Nobody is left who could wait for it.
            None => return Book::Shard,
        };
        self.undo_entry();
        book
    }

    #[cold]
    fn undo_entry(&self) {
        // Release: pairs with the Acquire in `scan`.
        // It stays in the top field: how many of those are refusals is known by when they came.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        // While it was there, a scan may have found the shard not empty (invariant 4).
        if before & IN_FLIGHT == ONE_IN_FLIGHT {
            self.scan_gate();
        }
    }

    /// Takes one out of where it was counted.
    #[inline]
    pub(crate) fn leave(&self, book: Book) {
        if book == Book::Late {
            return self.leave_late();
        }
        // Release: pairs with the Acquire in `scan`.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        if before & (CLOSED | IN_FLIGHT) == CLOSED | ONE_IN_FLIGHT {
            self.scan_gate();
        }
    }

    #[cold]
    fn leave_late(&self) {
        let Some(gate) = self.gate.upgrade() else {
            return;
        };
        // Release: pairs with the Acquire in `scan`.
        if gate.late.fetch_sub(1, Ordering::Release) == 1 {
            gate.scan();
        }
    }

    #[cold]
    fn scan_gate(&self) {
        if let Some(gate) = self.gate.upgrade() {
            gate.scan();
        }
    }

    #[inline]
    fn phase(&self) -> u64 {
        // Acquire: pairs with the Release in `add_to_all`.
        self.word.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn is_shedding(&self) -> bool {
        self.phase() & SHEDDING != 0
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.phase() & CLOSED != 0
    }

    /// Whether what has just been refused was so by a pause, which may be over by now.
    pub(crate) fn is_paused(&self) -> bool {
        !self.is_draining()
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.phase() & DRAINING != 0
    }

    #[inline]
    pub(crate) fn is_forced(&self) -> bool {
        self.phase() & FORCED != 0
    }

    /// Registers `waker` for any of `interests`; `false` if one has come already.
    pub(crate) fn register(&self, slot: &mut Slot, waker: &Waker, interests: u32) -> bool {
        let happened = || self.phase() & u64::from(interests) != 0;
        self.wakers.register(slot, waker, interests, happened)
    }

    pub(crate) fn deregister(&self, slot: &mut Slot) {
        self.wakers.remove(slot);
    }

    /// Wakes the next batch of those registered for `interests`; `false` when there are no more.
    pub(crate) fn wake_batch(&self, interests: u32, cursor: &mut usize) -> bool {
        self.wakers.wake_batch(interests, cursor)
    }

    /// Notes that an entry was refused for good: not one that is exempt, and served uncounted.
    #[cold]
    pub(crate) fn note_refused(&self) {
        // Relaxed: a figure to look at.
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes all of those registered for `interests`.
    pub(crate) fn wake_all(&self, interests: u32) {
        self.wakers.wake_all(interests);
    }

    /// Notes that an entry of this shard is being cut.
    pub(crate) fn note_aborted(&self) {
        // Relaxed: published by the Release of the `leave` that follows.
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many were admitted by the time of `word`, of a shard that is being closed.
    fn note_admitted(&self, word: u64) {
        // Relaxed, here and below: a figure to look at; nothing is concluded from it.
        self.admitted
            .store(self.admitted_of(word), Ordering::Relaxed);
    }

    /// Notes how many were not admitted by the time of `word`, of a shard that is being opened.
    fn note_not_admitted(&self, word: u64) {
        let admitted = self.admitted.load(Ordering::Relaxed);
        let refused = (word / ONE_ENTERED).wrapping_sub(admitted);
        self.not_admitted.store(refused, Ordering::Relaxed);
    }

    /// How many were admitted by the time of `word`, of an open shard; wraps at 2^32.
    fn admitted_of(&self, word: u64) -> u64 {
        let refused = self.not_admitted.load(Ordering::Relaxed);
        (word / ONE_ENTERED).wrapping_sub(refused) & u64::from(u32::MAX)
    }

    fn in_flight(&self) -> u64 {
        // Relaxed: a figure to look at; nothing is concluded from it.
        (self.word.load(Ordering::Relaxed) & IN_FLIGHT) / ONE_IN_FLIGHT
    }
}

#[cfg(test)]
mod tests;
