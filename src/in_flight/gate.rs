//! The gate counts the work in flight and decides whether more may enter.
//!
//! The count is spread over shards. Each shard has its own cache lines, and each thread uses its
//! own shard. A shard is one word, so counting an entry and checking the gate are a single
//! operation:
//!
//! ```text
//! 63            32 31        7  6   5   4   3   2   1   0
//! [ entered       | in flight | O | E | L | F | D | C | S ]     S shedding, C closed, D draining, F forced
//! ```
//!
//! When the `entered` field is about to overflow, half of it is carried to a second word (invariant
//! 9).
//!
//! Only the late shard uses L and E. L: late requests are admitted. E: the drain has ended and no
//! request is admitted. O, orphaned: nobody can enter any more (invariant 11).
//!
//! An entry counts as admitted if the shard was open when it entered, and as refused if it was
//! closed.
//!
//! # Invariants
//!
//! 1. *Count first, check second.* An entry adds itself and reads the state of the gate in the same
//!    operation. A refused entry takes itself out again. So nothing is admitted to a shard after it
//!    was closed. The count of a closed shard only falls, apart from refusals that come and go.
//! 2. *Entries that must not be refused move to `late`*, a shard that is always closed. An entry
//!    that must be counted and finds its shard closed adds itself to `late` before it takes itself
//!    out of its own shard. It is always visible in one of the two.
//! 3. *Idle* means: a pause or the closing was published, then each shard was seen closed and
//!    empty, one after another, and then `late` was seen empty. With 1 and 2, the count was zero
//!    when `late` was read. *Drained* means the same once the gate is closed for good.
//! 4. *A thread that empties a shard scans.* A thread that takes a closed shard or `late` to zero
//!    scans the gate, and so does a thread that publishes a pause or the closing. Each has a
//!    `SeqCst` fence between its own change and its scan. So if two threads change different words
//!    at the same time, at least one of them sees both changes. Some scan always finds the gate
//!    empty, and no waiter has to poll.
//! 5. *Force is published before wakers are woken.* The bit is set on every shard first, and the
//!    wakers are taken afterwards. A registration checks the bit under the lock of the wakers.
//! 6. *Phase bits change under one lock.* Every change is made under `state`. D and F are never
//!    cleared. `unshed` clears S and `unpause` clears C, but neither does once D is set.
//! 7. *The late shard admits late requests.* While L is set, a request that its own shard refused
//!    adds itself to `late` and reads the answer in the same operation, as in 1. Late requests can
//!    come after *drained*, so the thread that sets E checks once more whether the gate is idle. A
//!    request that waited for the readiness of an inner service enters in the same way, until E is
//!    set.
//! 8. *A scan is valid only while the gate stays closed.* The result of a scan is published under
//!    `state`, and only if the gate was not opened since the scan began. A slow scan of an earlier
//!    pause cannot publish in a later one. Opening the gate clears `IDLE`.
//! 9. *The count of admitted entries never falls.* An entry that finds the top bit of the word set
//!    clears it and adds its value to `carried`. Both happen under `state`, and the count is read
//!    under `state` too. An entry is counted only once its admission is certain, and that count is
//!    never taken back.
//! 10. *An entry dropped by its runtime is either in flight or killed, never both.* It leaves under
//!     `state`. An interrupted shutdown counts both under `state` before it sets F.
//! 11. *A gate is given back once nobody can reach it.* Everyone who may enter holds a [`Lease`]. The
//!     end of the last lease sets O, and C with it, on each shard. Then the counts only fall. Each
//!     shard is given up by exactly one thread: the one that set O if it saw no entry, and otherwise
//!     the one whose entry left last. The thread that gives up the last shard resets the gate.
//! 12. *A scan may outlast its entry, and even the life of the gate.* An entry that has left may
//!     still scan. The count of openings grows with each life too, so invariant 8 covers this.

mod lease;
mod shard;

pub(crate) use self::lease::Lease;
pub(crate) use self::shard::{Shard, interest};

use std::any::Any;

use self::shard::{CLOSED, DRAINING, ENDED, FORCED, LATE, SHEDDING};
use super::gauge::Gauge;
use super::milestones::{Milestones, event};
use super::thread_index::thread_index;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, fence, lock};

/// The gate of one controller after another: it is never freed, so that an entry can refer to its
/// shard without a reference count. See [`Lease`].
#[derive(Debug)]
pub(crate) struct Gate {
    shards: &'static [Shard],
    /// Entries that are in flight and entered after their shard was closed (invariant 2).
    late: &'static Shard,
    /// How many shards, with the late one, are not given up (invariant 11).
    kept: AtomicU32,
    state: Mutex<State>,
    /// How often the gate was reopened, or used anew; changed under `state`.
    openings: AtomicU64,
    /// How often the gate was found idle; changed under `state`.
    idles: AtomicU64,
    milestones: Milestones,
    /// Connections that were upgraded, and have not ended.
    pub(crate) upgrades: Gauge,
    /// Responses of a class that is ended when draining begins.
    pub(crate) streams: Gauge,
}

/// The part of the gate that is behind the lock (invariant 6).
#[derive(Debug, Default)]
struct State {
    closed_for_good: bool,
    /// How many entries their runtime dropped as it ended, since a shutdown began.
    killed: u64,
    /// What the layers keep for all of them together.
    common: Option<Common>,
}

type Common = Arc<dyn Any + Send + Sync>;

// ===== impl Gate =====

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn milestones(&self) -> &Milestones {
        &self.milestones
    }

    /// Returns the shards by index, without the late shard.
    pub(crate) fn shards(&self) -> &'static [Shard] {
        self.shards
    }

    /// Returns all shards, including the late shard.
    pub(crate) fn all_shards(&self) -> impl Iterator<Item = &'static Shard> + use<> {
        self.shards.iter().chain([self.late])
    }

    /// Returns the index of the calling thread's shard.
    #[inline]
    pub(crate) fn local_index(&self) -> usize {
        thread_index() & (self.shards.len() - 1)
    }

    /// Returns the calling thread's shard.
    #[inline]
    pub(crate) fn local(&self) -> &'static Shard {
        &self.shards[self.local_index()]
    }

    /// Returns what the layers keep for all of them together.
    pub(crate) fn common<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.state().common.clone()?.downcast().ok()
    }

    /// Keeps `common` for all layers together, unless they have something already.
    pub(crate) fn keep_common<T: Any + Send + Sync>(&self, common: T) {
        let common: Common = Arc::new(common);
        self.state().common.get_or_insert(common);
    }

    /// Forgets the arrivals of an earlier lame duck, because a new shutdown begins.
    pub(crate) fn forget_arrivals(&self) {
        self.shards.iter().for_each(|shard| shard.forget_arrivals());
    }

    /// Makes HTTP/1 responses ask clients to close the connection from now on.
    pub(crate) fn shed(&self) {
        let _state = self.state();
        self.set_on_all(SHEDDING);
    }

    /// Reverts [`shed`](Self::shed).
    pub(crate) fn unshed(&self) {
        let state = self.state();
        if !state.closed_for_good {
            self.clear_on_all(SHEDDING);
        }
    }

    /// Refuses new entries until [`unpause`](Self::unpause). Returns `false` if the gate is already
    /// paused or closed.
    pub(crate) fn pause(&self) -> bool {
        let state = self.state();
        if state.closed_for_good || self.milestones.has(event::PAUSED) {
            return false;
        }
        // Before the first refusal, because readiness checks it.
        self.milestones.publish(event::PAUSED);
        self.set_on_all(CLOSED);
        drop(state);
        for shard in self.shards {
            shard.wake_all(interest::CLOSED);
        }
        self.scan();
        true
    }

    /// Admits entries again. Returns `false` if the gate is not paused, or is closed for good.
    pub(crate) fn unpause(&self) -> bool {
        let state = self.state();
        if state.closed_for_good || !self.milestones.has(event::PAUSED) {
            return false;
        }
        self.clear_on_all(CLOSED);
        // Release: pairs with the Acquire in `scan`. A scan that sees this opening also sees the
        // shards open, or closed again.
        self.openings.fetch_add(1, Ordering::Release);
        self.milestones.take_back(event::PAUSED | event::IDLE);
        true
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.milestones.reached() & (event::PAUSED | event::CLOSED) == event::PAUSED
    }

    /// Closes the gate for good. The caller then publishes `event::CLOSED` and calls
    /// [`scan`](Self::scan).
    pub(crate) fn close(&self) {
        self.close_with(ENDED);
    }

    /// Closes the gate for good, except for requests that waited for the readiness of an inner
    /// service and, if `serves_late` is set and the gate was not paused, for late requests. See
    /// [`refuse_late`](Self::refuse_late) and [`end_drain`](Self::end_drain). The caller continues
    /// as after [`close`](Self::close).
    pub(crate) fn begin_drain(&self, serves_late: bool) {
        let serves_late = serves_late && !self.milestones.has(event::PAUSED);
        self.close_with(if serves_late { LATE } else { 0 });
    }

    fn close_with(&self, late: u64) {
        let mut state = self.state();
        if !state.closed_for_good {
            state.closed_for_good = true;
            // Before the shards are closed, so that no request is refused between its own shard and
            // `late` (invariant 7).
            self.late.set_phase(late);
        }
        self.set_on_all(SHEDDING | CLOSED | DRAINING);
    }

    /// Refuses late requests from now on.
    pub(crate) fn refuse_late(&self) {
        let _state = self.state();
        self.late.clear_phase(LATE);
    }

    /// Admits no more requests. Earlier ones are in flight (invariant 7).
    pub(crate) fn end_drain(&self) {
        let _state = self.state();
        self.end_late();
    }

    fn end_late(&self) {
        self.late.set_phase(ENDED);
        self.late.clear_phase(LATE);
    }

    /// Forces all admitted work, after [`close`](Self::close). The caller wakes it with
    /// [`Shard::wake_batch`] (invariant 5).
    pub(crate) fn force(&self) {
        let _state = self.state();
        self.end_late();
        self.set_on_all(FORCED);
    }

    /// Does the same as [`force`](Self::force), for an interrupted shutdown. Returns how many
    /// entries were in flight or had been dropped by the end of their runtime.
    pub(crate) fn interrupt(&self) -> u64 {
        let state = self.state();
        self.end_late();
        // Counted before the force (invariant 10): an entry that sees the force leaves without the
        // lock.
        let in_flight = self.in_flight() + state.killed;
        self.set_on_all(FORCED);
        in_flight
    }

    fn set_on_all(&self, bits: u64) {
        self.all_shards().for_each(|shard| shard.set_phase(bits));
    }

    fn clear_on_all(&self, bits: u64) {
        self.shards.iter().for_each(|shard| shard.clear_phase(bits));
        // The late shard stays closed (invariant 2).
        self.late.clear_phase(bits & !CLOSED);
    }

    /// Publishes `IDLE` if nothing is in flight, and `DRAINED` too if the gate is closed for good
    /// (invariants 3 and 4).
    #[cold]
    pub(crate) fn scan(&self) {
        // Pairs with the same fence in every other scan (invariant 4).
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `unpause`.
        let openings = self.openings.load(Ordering::Acquire);
        if self.pending_events() != 0 && self.is_empty() {
            self.publish_empty(openings);
        }
    }

    /// Publishes that the gate was found empty, unless it was opened since (invariant 8).
    fn publish_empty(&self, openings: u64) {
        let state = self.state();
        let events = self.pending_events();
        // Relaxed: it is changed under `state`.
        let is_closed = self.openings.load(Ordering::Relaxed) == openings;
        if is_closed && events != 0 {
            // Release: pairs with the Acquire in `idles`, as `publish` does with `reached`.
            self.idles.fetch_add(1, Ordering::Release);
            self.milestones.publish(events);
            drop(state);
            self.milestones.wake(events);
        }
    }

    /// Returns how often the gate was found idle.
    pub(crate) fn idles(&self) -> u64 {
        // Acquire: pairs with the Release in `publish_empty`.
        self.idles.load(Ordering::Acquire)
    }

    /// Returns the events that an empty gate has not published yet.
    fn pending_events(&self) -> u32 {
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

    /// Checks the late shard last (invariant 3).
    fn is_empty(&self) -> bool {
        self.all_shards().all(|shard| shard.is_closed_and_empty())
    }

    /// Returns how many entries are in flight. Concurrent entries and leaves may or may not be
    /// counted.
    pub(crate) fn in_flight(&self) -> u64 {
        self.all_shards().map(|shard| shard.in_flight()).sum()
    }

    /// Returns how many entries were admitted since the start. Never falls (invariant 9).
    pub(crate) fn admitted(&self) -> u64 {
        let _state = self.state();
        let shards: u64 = self.shards.iter().map(|shard| shard.admitted()).sum();
        shards + self.late.admitted_late()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.shards.iter().map(|shard| shard.refused()).sum()
    }

    /// Returns how many entries were cut. Exact after `IDLE`, because each is noted before it
    /// leaves.
    pub(crate) fn aborted(&self) -> u64 {
        self.all_shards().map(|shard| shard.aborted()).sum()
    }

    /// Returns how many late requests were admitted. Exact when nothing enters concurrently.
    pub(crate) fn late_requests(&self) -> u64 {
        self.late.arrivals().0
    }

    /// Returns how many requests arrived in the lame duck, and when the last one did. Exact after
    /// `DRAINED`, because each is noted before it leaves.
    pub(crate) fn arrivals(&self) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.arrivals());
        shards.fold((0, 0), |(count, last), (more, at)| {
            (count + more, last.max(at))
        })
    }
}

#[cfg(all(test, tower_lifecycle_loom))]
mod models;
#[cfg(test)]
mod tests;
