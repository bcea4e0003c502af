//! The gate: what is in flight, and whether more may enter.
//!
//! The count is spread over shards, one cache line each, and a thread works on its own. A shard is
//! one word, so that counting and asking are a single operation:
//!
//! ```text
//! 63            32 31        6  5   4   3   2   1   0
//! [ entered       | in flight | E | L | F | D | C | S ]     S shedding, C closed, D draining, F forced
//! ```
//!
//! What does not fit into the field of those who have entered is carried to a word beside it.
//!
//! L and E are bits of the late shard alone: late requests are admitted; the drain has ended, and no
//! request is admitted.
//!
//! What has entered while the shard was open was admitted; what entered while it was closed was not.
//!
//! # Invariants
//!
//! 1. *Count first, look second.* An entry adds itself and reads the gate's answer out of the same
//!    operation. A refused entry takes itself out again. So nothing is admitted to a shard after it
//!    was closed, and a closed shard only falls, but for refusals that come and go.
//! 2. *What may not be refused moves to `late`*, a shard that is always closed. An entry that must be
//!    counted and meets a closed shard adds itself to `late` before it takes itself out of its own:
//!    it is always seen in one of the two.
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
//! 7. *Late requests are admitted by the late shard.* While L is set there, a request that was refused
//!    by its own shard adds itself to `late`, and reads the answer out of that operation as in 1. They
//!    come after *drained*, so whoever sets E looks once more whether all is idle. A request that waited
//!    for the readiness of an inner service enters in the same way, until E is set.
//! 8. *A look counts as long as the gate stays closed.* What a scan has seen is published under
//!    `turn`, and only if the gate was not opened since the scan began: a slow scan of an earlier
//!    pause cannot tell of a later one. `IDLE` is taken back as the gate opens.
//! 9. *The count of the admitted never falls.* Who enters and finds the top bit of the word set takes
//!    it out, and adds what it stood for to `carried`; both under `turn`, where the count is read, too.
//!    Whoever is admitted is counted once it is certain, and not taken back.
//! 10. *What its runtime kills is in flight or killed, and never both.* It leaves under `turn`, where an
//!     interrupted shutdown counts the two before it sets F.

mod shard;

pub(crate) use self::shard::{Shard, interest};

use self::shard::{CLOSED, DRAINING, ENDED, FORCED, LATE, SHEDDING};
use super::milestones::{Milestones, event};
use super::thread_index::thread_index;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, fence, lock};

#[derive(Debug)]
pub(crate) struct Gate {
    shards: Box<[Arc<Shard>]>,
    /// Of what is in flight, but entered after its shard was closed (invariant 2).
    late: Arc<Shard>,
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
    /// How many entries were dropped by the end of their runtime, since a shutdown began.
    killed: u64,
}

// ===== impl Gate =====

impl Gate {
    /// Makes an open gate of at least `shards` shards, rounded up to a power of two.
    pub(crate) fn new(shards: usize, reached: u32) -> Arc<Self> {
        Arc::new_cyclic(|gate| Self {
            shards: (0..shards.max(1).next_power_of_two())
                .map(|_| Arc::new(Shard::new(gate.clone())))
                .collect(),
            late: Arc::new(Shard::late(gate.clone())),
            turn: Mutex::new(Turn::default()),
            openings: AtomicU64::new(0),
            idles: AtomicU64::new(0),
            milestones: Milestones::new(reached),
        })
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        lock(&self.turn)
    }

    pub(crate) fn milestones(&self) -> &Milestones {
        &self.milestones
    }

    /// Returns the shards that may be entered, by their indices.
    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// Returns all of them, the late one too: for what is said to everything in flight.
    pub(crate) fn all_shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.iter().chain([&self.late])
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

    /// Forgets who came in an earlier lame duck: a shutdown begins.
    pub(crate) fn forget_arrivals(&self) {
        self.shards.iter().for_each(|shard| shard.forget_arrivals());
    }

    /// Asks HTTP/1 clients to leave from now on.
    pub(crate) fn shed(&self) {
        let _turn = self.turn();
        self.add_to_all(SHEDDING);
    }

    /// Takes [`shed`](Self::shed) back.
    pub(crate) fn unshed(&self) {
        let turn = self.turn();
        if !turn.closed_for_good {
            self.take_from_all(SHEDDING);
        }
    }

    /// Admits nothing more until [`unpause`](Self::unpause); `false` if it is paused or closed.
    pub(crate) fn pause(&self) -> bool {
        let turn = self.turn();
        if turn.closed_for_good || self.milestones.has(event::PAUSED) {
            return false;
        }
        // Before the first refusal, for readiness looks at it.
        self.milestones.publish(event::PAUSED);
        self.add_to_all(CLOSED);
        drop(turn);
        for shard in &self.shards {
            shard.wake_all(interest::CLOSED);
        }
        self.scan();
        true
    }

    /// Admits again; `false` if it is not paused, or closed for good.
    pub(crate) fn unpause(&self) -> bool {
        let turn = self.turn();
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
        self.close_with(ENDED);
    }

    /// Closes the gate for good, but for the requests that waited for the readiness of an inner service
    /// and, if it `serves_late` and was not paused, late ones; see [`refuse_late`](Self::refuse_late)
    /// and [`end_drain`](Self::end_drain). Whoever calls it goes on as after [`close`](Self::close).
    pub(crate) fn begin_drain(&self, serves_late: bool) {
        let serves_late = serves_late && !self.milestones.has(event::PAUSED);
        self.close_with(if serves_late { LATE } else { 0 });
    }

    fn close_with(&self, late: u64) {
        let mut turn = self.turn();
        if !turn.closed_for_good {
            turn.closed_for_good = true;
            // First: none is refused between its own shard and the late one (invariant 7).
            self.late.add(late);
        }
        self.add_to_all(SHEDDING | CLOSED | DRAINING);
    }

    /// Refuses late requests from now on.
    pub(crate) fn refuse_late(&self) {
        let _turn = self.turn();
        self.late.take(LATE);
    }

    /// Admits no request at all any more. Those that came before are in flight (invariant 7).
    pub(crate) fn end_drain(&self) {
        let _turn = self.turn();
        self.end_late();
    }

    fn end_late(&self) {
        self.late.add(ENDED);
        self.late.take(LATE);
    }

    /// Marks all admitted work to be cut, after [`close`](Self::close); waking it is left to
    /// [`Shard::wake_batch`] (invariant 5).
    pub(crate) fn force(&self) {
        let _turn = self.turn();
        self.end_late();
        self.add_to_all(FORCED);
    }

    /// As [`force`](Self::force), when the shutdown is interrupted. Gives how many were in flight then, or had
    /// been dropped by the end of their runtime.
    pub(crate) fn interrupt(&self) -> u64 {
        let turn = self.turn();
        self.end_late();
        // Counted before it is forced (invariant 10): what finds itself forced leaves without the lock.
        let in_flight = self.in_flight() + turn.killed;
        self.add_to_all(FORCED);
        in_flight
    }

    fn add_to_all(&self, bits: u64) {
        self.all_shards().for_each(|shard| shard.add(bits));
    }

    fn take_from_all(&self, bits: u64) {
        self.shards.iter().for_each(|shard| shard.take(bits));
        // It stays closed (invariant 2).
        self.late.take(bits & !CLOSED);
    }

    /// Publishes `IDLE`, and `DRAINED` if the gate is closed for good, when nothing is in flight
    /// (invariants 3 and 4).
    #[cold]
    pub(crate) fn scan(&self) {
        // Pairs with this same fence in every other scan (invariant 4).
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `unpause`.
        let openings = self.openings.load(Ordering::Acquire);
        if self.pending_events() != 0 && self.is_empty() {
            self.tell_empty(openings);
        }
    }

    /// Tells that the gate was found empty, unless it was opened since (invariant 8).
    fn tell_empty(&self, openings: u64) {
        let turn = self.turn();
        let events = self.pending_events();
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

    /// The late one last (invariant 3).
    fn is_empty(&self) -> bool {
        self.all_shards().all(|shard| shard.is_closed_and_empty())
    }

    /// Returns how many are in flight: exact when nothing moves, else off by what is moving.
    pub(crate) fn in_flight(&self) -> u64 {
        self.all_shards().map(|shard| shard.in_flight()).sum()
    }

    /// Returns how many were admitted since the start. It never falls (invariant 9).
    pub(crate) fn admitted(&self) -> u64 {
        let _turn = self.turn();
        let shards: u64 = self.shards.iter().map(|shard| shard.admitted()).sum();
        shards + self.late.admitted_late()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.shards.iter().map(|shard| shard.refused()).sum()
    }

    /// Returns how many entries were cut. Exact after `IDLE`: each is noted before it leaves.
    pub(crate) fn aborted(&self) -> u64 {
        self.all_shards().map(|shard| shard.aborted()).sum()
    }

    /// Returns how many late requests were served, or are. Exact when nothing moves.
    pub(crate) fn late_requests(&self) -> u64 {
        self.late.arrivals().0
    }

    /// Returns how many requests were noted in the lame duck, and the latest time of the notes. Exact
    /// after `DRAINED`: each is noted before it leaves.
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
