//! A shard of the gate: the entries of one thread, or the late entries.

use std::task::Waker;

use super::Gate;
use crate::in_flight::wakers::{Remembered, Slot, WakerSet};
use crate::panic;
use crate::sync::{AtomicU64, OnceLock, Ordering, fence};

/// HTTP/1 responses ask clients to close the connection.
pub(super) const SHEDDING: u64 = 1 << 0;
/// New entries are refused: paused, or draining.
pub(super) const CLOSED: u64 = 1 << 1;
/// Closed for good: admitted work should finish.
pub(super) const DRAINING: u64 = 1 << 2;
/// Admitted work is cut.
pub(super) const FORCED: u64 = 1 << 3;

/// In the late shard: late requests are admitted.
pub(super) const LATE: u64 = 1 << 4;
/// In the late shard: the drain has ended and no request is admitted.
pub(super) const ENDED: u64 = 1 << 5;

/// Nobody can enter any more (invariant 11). Only together with `CLOSED`, so that `leave` has one test.
const ORPHANED: u64 = 1 << 6;

const ONE_IN_FLIGHT: u64 = 1 << 7;
const IN_FLIGHT: u64 = ONE_ENTERED - ONE_IN_FLIGHT;
/// One entry in the top field.
pub(super) const ONE_ENTERED: u64 = 1 << 32;
/// The top field is half full and is carried to `carried` (invariant 9).
pub(super) const CARRY: u64 = 1 << 63;
pub(super) const ENTRY: u64 = ONE_ENTERED + ONE_IN_FLIGHT;

/// The events that a waker in a shard can wait for.
pub(crate) mod interest {
    /// Clients are asked to close their connections: a shutdown has begun.
    pub(crate) const SHEDDING: u32 = super::SHEDDING as u32;
    /// The shard is closed: new entries are refused.
    pub(crate) const CLOSED: u32 = super::CLOSED as u32;
    /// The shard is closed for good: draining has begun.
    pub(crate) const DRAINING: u32 = super::DRAINING as u32;
    /// The shard is forced: admitted work is cut.
    pub(crate) const FORCED: u32 = super::FORCED as u32;
}

/// A shard of the gate. Aligned to two cache lines, because processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(super) word: AtomicU64,
    pub(super) wakers: WakerSet,
    /// Added to the word's top field, this is the number of admitted entries while the shard is
    /// open: what was carried out of the field, less the refusals in it. It wraps below zero.
    /// Changed under the gate's `state`.
    carried: AtomicU64,
    /// The number of admitted entries when the shard was closed. The word of a closed shard counts
    /// refusals too.
    admitted: AtomicU64,
    refused: AtomicU64,
    aborted: AtomicU64,
    /// How many requests arrived in the lame duck.
    arrivals: AtomicU64,
    /// When the last of them arrived, by the clock of the notes; zero if there is none.
    last_arrival: AtomicU64,
    /// Set once, when the gate is allocated.
    gate: OnceLock<&'static Gate>,
}

// ===== impl Shard =====

impl Shard {
    /// Creates an open shard.
    pub(super) fn open() -> Self {
        Self::with_word(0)
    }

    /// Creates the late shard, which is always closed (invariant 2).
    pub(super) fn late() -> Self {
        Self::with_word(CLOSED)
    }

    fn with_word(word: u64) -> Self {
        Self {
            word: AtomicU64::new(word),
            wakers: WakerSet::new(),
            carried: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            arrivals: AtomicU64::new(0),
            last_arrival: AtomicU64::new(0),
            gate: OnceLock::new(),
        }
    }

    pub(super) fn set_gate(&self, gate: &'static Gate) {
        // It is new, so it is not set yet.
        let _ = self.gate.set(gate);
    }

    /// Returns the gate, which is another controller's once the shard is given up.
    pub(crate) fn gate(&self) -> &'static Gate {
        self.gate.get().expect("set before the shard is used")
    }

    /// Orphans the shard. Returns whether it is empty, and so is given up.
    pub(super) fn orphan(&self) -> bool {
        // Acquire: pairs with the Release of `leave`; the thread that gives the shard up sees what the
        // entries did. Release: pairs with the Acquire in `leave_last`.
        let before = self.word.fetch_or(ORPHANED | CLOSED, Ordering::AcqRel);
        before & IN_FLIGHT == 0
    }

    /// Makes an orphaned and empty shard as good as new.
    pub(super) fn reset(&self) {
        self.wakers.reset();
        let is_late = std::ptr::eq(self, self.gate().late);
        // Relaxed: nobody else uses the shard, and the gate changes hands under a lock.
        for count in [
            &self.carried,
            &self.admitted,
            &self.refused,
            &self.aborted,
            &self.arrivals,
            &self.last_arrival,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        let word = if is_late { CLOSED } else { 0 };
        self.word.store(word, Ordering::Relaxed);
    }

    /// Sets phase bits. The gate calls it under its `state`.
    pub(super) fn set_phase(&self, bits: u64) {
        // Release: pairs with the Acquire of `enter` and `phase`; a thread that sees the bit sees
        // what came before it. Acquire: pairs with the Release of `leave`, for the scan that
        // follows.
        let before = self.word.fetch_or(bits, Ordering::AcqRel);
        if !before & bits & CLOSED != 0 {
            // Relaxed: it is read under `state`, too.
            self.admitted
                .store(self.admitted_of(before), Ordering::Relaxed);
        }
    }

    /// Clears phase bits. The gate calls it under its `state`.
    pub(super) fn clear_phase(&self, bits: u64) {
        // Release: pairs with the Acquire of `enter`; an admitted entry sees what was done while
        // the gate was closed.
        let before = self.word.fetch_and(!bits, Ordering::Release);
        if before & bits & CLOSED != 0 {
            // Relaxed: it is changed and read under `state`, too.
            let admitted = self.admitted.load(Ordering::Relaxed);
            let carried = admitted.wrapping_sub(before / ONE_ENTERED);
            self.carried.store(carried, Ordering::Relaxed);
        }
    }

    /// Enters and returns `true` if the shard is open. Otherwise counts nothing and returns
    /// `false`. Calls `arrived` if the entry is admitted in a lame duck.
    #[inline]
    pub(crate) fn enter(&self, arrived: impl FnOnce()) -> bool {
        // Acquire: pairs with the Release in `set_phase`. Invariant 1.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        // A single test covers all cases, so that the lame duck costs nothing outside it.
        if before & (CLOSED | SHEDDING | CARRY) == 0 {
            return true;
        }
        self.enter_slow(before, arrived)
    }

    #[cold]
    fn enter_slow(&self, before: u64, arrived: impl FnOnce()) -> bool {
        self.carry_if_due(before);
        let is_open = before & CLOSED == 0;
        if !is_open {
            self.undo_entry();
        } else if before & SHEDDING != 0 {
            arrived();
        }
        is_open
    }

    /// Enters even if the gate is closed, and returns the shard that counts the entry. Calls
    /// `arrived` with the shard that notes the arrival if a shutdown has begun.
    #[inline]
    pub(crate) fn enter_always(&'static self, arrived: impl FnOnce(&Self)) -> &'static Self {
        // Acquire and a single test, as in `enter`.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        if before & (CLOSED | SHEDDING | CARRY) == 0 {
            return self;
        }
        self.enter_always_slow(before, arrived)
    }

    #[cold]
    fn enter_always_slow(&'static self, before: u64, arrived: impl FnOnce(&Self)) -> &'static Self {
        self.carry_if_due(before);
        // A lame duck may be paused at the same time.
        let in_lame_duck = before & (SHEDDING | DRAINING) == SHEDDING;
        if before & CLOSED == 0 {
            if in_lame_duck {
                arrived(self);
            }
            return self;
        }
        let late = self.gate().late;
        // Relaxed: published by the Release of the undo, which a scan that finds the shard empty
        // has acquired.
        let late_before = late.word.fetch_add(ENTRY, Ordering::Relaxed);
        late.carry_if_due(late_before);
        if in_lame_duck {
            arrived(self);
        } else if before & DRAINING != 0 {
            arrived(late);
        }
        self.undo_entry();
        late
    }

    /// Enters the late shard, for a request that its own shard refused. Returns `None` if late
    /// requests are not served.
    #[cold]
    pub(crate) fn enter_late(&self) -> Option<&'static Self> {
        self.enter_late_shard(|word| word & LATE != 0)
    }

    /// Enters the late shard, for a request that waited for the readiness of an inner service.
    #[cold]
    pub(crate) fn enter_awaited(&self) -> Option<&'static Self> {
        self.enter_late_shard(|word| word & ENDED == 0)
    }

    fn enter_late_shard(&self, admits: impl FnOnce(u64) -> bool) -> Option<&'static Self> {
        let late = self.gate().late;
        // Acquire: pairs with the Release in `set_phase`. Invariant 7.
        let before = late.word.fetch_add(ONE_IN_FLIGHT, Ordering::Acquire);
        if !admits(before) {
            late.leave();
            return None;
        }
        // Not earlier, because the count of admitted entries never falls. Relaxed: for display
        // only.
        let before = late.word.fetch_add(ONE_ENTERED, Ordering::Relaxed);
        late.carry_if_due(before);
        Some(late)
    }

    /// Returns whether the drain has ended: waiting requests are refused.
    pub(crate) fn has_ended(&self) -> bool {
        self.gate().late.phase() & ENDED != 0
    }

    /// Returns whether late requests are served.
    pub(crate) fn serves_late(&self) -> bool {
        self.gate().late.phase() & LATE != 0
    }

    /// Counts a request that waits for the readiness of an inner service in the late shard. Returns
    /// `false`, and counts nothing, if the drain has ended. The request is not counted as admitted
    /// yet.
    #[cold]
    pub(crate) fn begin_waiting(&self) -> bool {
        let late = self.gate().late;
        // Acquire: as in `enter_late_shard`.
        let before = late.word.fetch_add(ONE_IN_FLIGHT, Ordering::Acquire);
        let waits = before & ENDED == 0;
        if !waits {
            late.leave();
        }
        waits
    }

    /// Removes the waiting request from the count. Notes it as cut if the shard is forced.
    #[cold]
    pub(crate) fn end_waiting(&self) {
        let late = self.gate().late;
        if self.is_forced() {
            late.note_aborted();
        }
        late.leave();
    }

    /// Removes the waiting request from the count, as one that its runtime dropped as it ended.
    pub(crate) fn end_waiting_killed(&self) {
        self.gate().late.leave_killed();
    }

    #[cold]
    pub(super) fn undo_entry(&self) {
        // Release: pairs with the Acquire in `is_closed_and_empty`.
        // It stays in the top field: entries that came while the shard was closed are refusals.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        // A scan may have seen this entry and found the shard not empty (invariant 4).
        if before & IN_FLIGHT == ONE_IN_FLIGHT {
            self.leave_last(before);
        }
    }

    /// Removes an entry.
    #[inline]
    pub(crate) fn leave(&self) {
        // Release: pairs with the Acquire in `is_closed_and_empty`.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        if before & (CLOSED | IN_FLIGHT) == CLOSED | ONE_IN_FLIGHT {
            self.leave_last(before);
        }
    }

    /// Removes an entry that its runtime dropped as it ended (invariant 10).
    pub(crate) fn leave_killed(&self) {
        let gate = self.gate();
        let mut state = gate.state();
        state.killed += 1;
        // Release: as in `leave`.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        drop(state);
        if before & (CLOSED | IN_FLIGHT) == CLOSED | ONE_IN_FLIGHT {
            self.leave_last(before);
        }
    }

    /// The shard was closed, had this word, and is empty now: scans the gate, or gives the shard up.
    ///
    /// `extern "C"` functions do not unwind, so the drop of a guard needs no landing pads for this
    /// call. Panics in it are contained.
    #[cold]
    extern "C" fn leave_last(&self, before: u64) {
        let gate = self.gate();
        panic::contained(|| {
            if before & ORPHANED == 0 {
                gate.scan();
            } else {
                // Acquire: pairs with the Release of the entries that left before, and of `orphan`.
                fence(Ordering::Acquire);
                gate.give_up_shard();
            }
        });
    }

    #[inline]
    pub(super) fn phase(&self) -> u64 {
        // Acquire: pairs with the Release in `set_phase`.
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

    /// Returns whether the last refusal came from a pause, which may be over by now.
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

    /// Registers `waker` for any of `interests`. Returns `false` if one of them has already
    /// happened.
    pub(crate) fn register(&self, slot: &mut Slot, waker: &Waker, interests: u32) -> bool {
        let happened = || self.phase() & u64::from(interests) != 0;
        let registered = self.wakers.register(slot, waker, interests, &happened);
        registered.is_some()
    }

    /// Registers `waker` for the force. Returns `false` if the force has already happened.
    ///
    /// The caller remembers which waker it has registered, so the same waker again does not take
    /// the lock. Either it is still in the set, or it was woken and the caller sees the force at
    /// its next check. This works only because a force is never taken back, which is not true of
    /// other interests.
    #[inline]
    pub(crate) fn register_for_force(
        &self,
        slot: &mut Slot,
        remembered: &mut Remembered,
        waker: &Waker,
    ) -> bool {
        if !slot.is_registered() {
            let happened = || self.is_forced();
            (*slot, *remembered) = (self.wakers).register_first(waker, interest::FORCED, happened);
            return slot.is_registered();
        }
        if self.wakers.is_remembered(*remembered, waker) {
            return true;
        }
        // Before the former waker is dropped, which may panic.
        *remembered = Remembered::NONE;
        let registered = self.register_other(slot, waker);
        *remembered = registered.unwrap_or(Remembered::NONE);
        registered.is_some()
    }

    #[cold]
    #[inline(never)]
    fn register_other(&self, slot: &mut Slot, waker: &Waker) -> Option<Remembered> {
        (self.wakers).register(slot, waker, interest::FORCED, &|| self.is_forced())
    }

    /// Out of line and `extern "C"` (see `leave_last`). It takes the slot by value, because a
    /// reference into a guard would keep the compiler from holding the guard in registers.
    #[cold]
    #[inline(never)]
    pub(crate) extern "C" fn deregister(&self, slot: Slot) {
        if let Some(waker) = self.wakers.vacate(slot) {
            panic::contained(|| drop(waker));
        }
    }

    /// Wakes the next batch of wakers that are registered for `interests`. Returns `false` when
    /// there are no more.
    pub(crate) fn wake_batch(&self, interests: u32, cursor: &mut usize) -> bool {
        self.wakers.wake_batch(interests, cursor)
    }

    /// Notes that an entry was refused for good. Exempt requests, which are served uncounted, are
    /// not noted.
    #[cold]
    pub(crate) fn note_refused(&self) {
        // Relaxed: for display only.
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a request arrived in the lame duck, and when.
    pub(crate) fn note_arrival(&self, at: u64) {
        // Relaxed: published by the Release below.
        self.last_arrival.fetch_max(at, Ordering::Relaxed);
        // Release: pairs with the Acquire in `arrivals`; a thread that sees the count sees the
        // time.
        self.arrivals.fetch_add(1, Ordering::Release);
    }

    /// Forgets the arrivals of an earlier lame duck, before the next one begins.
    pub(super) fn forget_arrivals(&self) {
        // Relaxed: published by the Release in `set_phase`. An entry that entered in the earlier
        // lame duck and has been delayed since may still be counted in the next one.
        self.arrivals.store(0, Ordering::Relaxed);
        self.last_arrival.store(0, Ordering::Relaxed);
    }

    /// Wakes all wakers that are registered for `interests`.
    pub(crate) fn wake_all(&self, interests: u32) {
        self.wakers.wake_all(interests);
    }

    /// Notes that an entry of this shard was cut.
    pub(crate) fn note_aborted(&self) {
        // Relaxed: published by the Release of the `leave` that follows.
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }

    /// Carries half of the word's top field before it overflows (invariant 9), if `before` shows
    /// that it is due.
    pub(super) fn carry_if_due(&self, before: u64) {
        if before & CARRY != 0 {
            self.carry();
        }
    }

    #[cold]
    #[inline(never)]
    fn carry(&self) {
        let _state = self.gate().state();
        // Relaxed: the count is read and carried under `state`.
        let carried = self.word.fetch_and(!CARRY, Ordering::Relaxed) & CARRY;
        // Zero if another thread has carried it.
        self.carried
            .fetch_add(carried / ONE_ENTERED, Ordering::Relaxed);
    }

    /// Returns how many entries were admitted when an open shard had this `word`. Called under the
    /// gate's `state`.
    fn admitted_of(&self, word: u64) -> u64 {
        // Relaxed: it is changed under `state`.
        let carried = self.carried.load(Ordering::Relaxed);
        carried.wrapping_add(word / ONE_ENTERED)
    }

    pub(super) fn is_closed_and_empty(&self) -> bool {
        // Acquire: pairs with the Release of `leave` and of the undo. A waiter for the drain sees
        // what was done in flight. An entry that has moved to `late` is visible there to a scan
        // that reads `late` next.
        let word = self.word.load(Ordering::Acquire);
        word & (CLOSED | IN_FLIGHT) == CLOSED
    }

    /// Returns how many entries were admitted. Called under the gate's `state`.
    pub(super) fn admitted(&self) -> u64 {
        // Relaxed: the other values are changed under `state`.
        match self.word.load(Ordering::Relaxed) {
            word if word & CLOSED == 0 => self.admitted_of(word),
            _ => self.admitted.load(Ordering::Relaxed),
        }
    }

    /// Returns how many entries the late shard admitted; its word counts no refusals. Called under
    /// the gate's `state`.
    pub(super) fn admitted_late(&self) -> u64 {
        // Relaxed: as in `admitted`.
        self.admitted_of(self.word.load(Ordering::Relaxed))
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn aborted(&self) -> u64 {
        // Relaxed: ordered by the Release of the `leave` that follows the note.
        self.aborted.load(Ordering::Relaxed)
    }

    /// Returns how many requests arrived in the lame duck, and when the last one did.
    pub(super) fn arrivals(&self) -> (u64, u64) {
        // Acquire: pairs with the Release in `note_arrival`.
        let count = self.arrivals.load(Ordering::Acquire);
        // Relaxed: ordered by the Acquire above.
        (count, self.last_arrival.load(Ordering::Relaxed))
    }

    pub(super) fn in_flight(&self) -> u64 {
        // Relaxed: for display only.
        (self.word.load(Ordering::Relaxed) & IN_FLIGHT) / ONE_IN_FLIGHT
    }
}
