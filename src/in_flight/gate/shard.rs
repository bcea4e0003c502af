//! One thread's part of the gate, or that of what came late.

use std::task::Waker;

use super::Gate;
use crate::in_flight::wakers::{Remembered, Slot, WakerSet};
use crate::panic;
use crate::sync::{Arc, AtomicU64, Ordering, Weak};

/// HTTP/1 responses ask their clients to leave.
pub(super) const SHEDDING: u64 = 1 << 0;
/// New entries are refused: paused, or draining.
pub(super) const CLOSED: u64 = 1 << 1;
/// Closed for good: admitted work should come to its end.
pub(super) const DRAINING: u64 = 1 << 2;
/// Admitted work is cut.
pub(super) const FORCED: u64 = 1 << 3;

/// In the late shard: late requests are admitted.
pub(super) const LATE: u64 = 1 << 4;
/// In the late shard: the drain has ended, and no request is admitted any more.
pub(super) const ENDED: u64 = 1 << 5;

const ONE_IN_FLIGHT: u64 = 1 << 6;
const IN_FLIGHT: u64 = ONE_ENTERED - ONE_IN_FLIGHT;
/// The top field.
pub(super) const ONE_ENTERED: u64 = 1 << 32;
/// Half of what the top field can hold has come: it is carried away (invariant 9).
pub(super) const CARRY: u64 = 1 << 63;
pub(super) const ENTRY: u64 = ONE_ENTERED + ONE_IN_FLIGHT;

/// What a waker in a shard can wait for.
pub(crate) mod interest {
    /// Clients are asked to leave: a shutdown has begun.
    pub(crate) const SHEDDING: u32 = super::SHEDDING as u32;
    /// The shard is closed: new entries are refused.
    pub(crate) const CLOSED: u32 = super::CLOSED as u32;
    /// The shard is closed for good: draining has begun.
    pub(crate) const DRAINING: u32 = super::DRAINING as u32;
    /// The shard is forced: admitted work is cut.
    pub(crate) const FORCED: u32 = super::FORCED as u32;
}

/// One thread's part of the count, or what came late. Two cache lines' worth of alignment, since
/// processors fetch lines in pairs; the reference counts of the `Arc` lie in the pair before.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(super) word: AtomicU64,
    pub(super) wakers: WakerSet,
    /// What makes the word's top field the number of those admitted, while the shard is open: what was
    /// carried out of the field, less the refusals in it. It wraps below zero. Changed under the gate's
    /// `turn`.
    carried: AtomicU64,
    /// As of the closing: the word of a closed shard counts refusals, too.
    admitted: AtomicU64,
    refused: AtomicU64,
    aborted: AtomicU64,
    /// How many requests came in the lame duck, the latest one.
    arrivals: AtomicU64,
    /// When the last of them came, by whatever clock the notes are of; zero if there is none.
    last_arrival: AtomicU64,
    /// Weak: a service that outlives its controller goes on serving, with nobody to tell.
    gate: Weak<Gate>,
}

// ===== impl Shard =====

impl Shard {
    /// Makes an open one.
    pub(super) fn new(gate: Weak<Gate>) -> Self {
        Self::with_word(0, gate)
    }

    /// Makes the one for what enters although the gate is closed: closed from the start, and for
    /// ever (invariant 2).
    pub(super) fn late(gate: Weak<Gate>) -> Self {
        Self::with_word(CLOSED, gate)
    }

    fn with_word(word: u64, gate: Weak<Gate>) -> Self {
        Self {
            word: AtomicU64::new(word),
            wakers: WakerSet::new(),
            carried: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            arrivals: AtomicU64::new(0),
            last_arrival: AtomicU64::new(0),
            gate,
        }
    }

    /// Adds phase bits; the gate does so, under its `turn`.
    pub(super) fn add(&self, bits: u64) {
        // Release: pairs with the Acquire of `enter` and `phase`; who sees the bit sees what led to
        // it. Acquire: pairs with the Release of `leave`, for the scan that follows.
        let before = self.word.fetch_or(bits, Ordering::AcqRel);
        if !before & bits & CLOSED != 0 {
            // Relaxed: read under `turn`, too.
            self.admitted
                .store(self.admitted_of(before), Ordering::Relaxed);
        }
    }

    /// Takes phase bits back; the gate does so, under its `turn`.
    pub(super) fn take(&self, bits: u64) {
        // Release: pairs with the Acquire of `enter`; who is admitted sees what was done while the
        // gate was closed.
        let before = self.word.fetch_and(!bits, Ordering::Release);
        if before & bits & CLOSED != 0 {
            // Relaxed: changed and read under `turn`, too.
            let admitted = self.admitted.load(Ordering::Relaxed);
            let carried = admitted.wrapping_sub(before / ONE_ENTERED);
            self.carried.store(carried, Ordering::Relaxed);
        }
    }

    /// Counts one more and asks whether it may; a refused entry has taken itself out again. If it is
    /// admitted in a lame duck, `arrived` is called.
    #[inline]
    pub(crate) fn enter(&self, arrived: impl FnOnce()) -> bool {
        // Acquire: pairs with the Release in `add`. Invariant 1.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        // One test for all, so that the lame duck costs nothing outside it.
        if before & (CLOSED | SHEDDING | CARRY) == 0 {
            return true;
        }
        self.enter_turned(before, arrived)
    }

    #[cold]
    fn enter_turned(&self, before: u64, arrived: impl FnOnce()) -> bool {
        self.carry_if_due(before);
        let is_open = before & CLOSED == 0;
        if !is_open {
            self.undo_entry();
        } else if before & SHEDDING != 0 {
            arrived();
        }
        is_open
    }

    /// Counts one more, whatever the gate says, and gives the shard that it is counted in. If that is
    /// in a shutdown, `arrived` is called with the shard that notes it.
    #[inline]
    pub(crate) fn enter_always(self: &Arc<Self>, arrived: impl FnOnce(&Self)) -> Arc<Self> {
        // Acquire, and one test: as in `enter`.
        let before = self.word.fetch_add(ENTRY, Ordering::Acquire);
        if before & (CLOSED | SHEDDING | CARRY) == 0 {
            return Arc::clone(self);
        }
        self.enter_always_turned(before, arrived)
    }

    #[cold]
    fn enter_always_turned(
        self: &Arc<Self>,
        before: u64,
        arrived: impl FnOnce(&Self),
    ) -> Arc<Self> {
        self.carry_if_due(before);
        // A lame duck may be paused at the same time.
        let in_lame_duck = before & (SHEDDING | DRAINING) == SHEDDING;
        if before & CLOSED == 0 {
            if in_lame_duck {
                arrived(self);
            }
            return Arc::clone(self);
        }
        // Without a gate nobody is left who could wait for it.
        let Some(gate) = self.gate.upgrade() else {
            return Arc::clone(self);
        };
        // Relaxed: published by the Release of the undo, which a scan that finds the shard empty has
        // acquired.
        let late_before = gate.late.word.fetch_add(ENTRY, Ordering::Relaxed);
        gate.late.carry_if_due(late_before);
        if in_lame_duck {
            arrived(self);
        } else if before & DRAINING != 0 {
            arrived(&gate.late);
        }
        self.undo_entry();
        Arc::clone(&gate.late)
    }

    /// Counts one more that its own shard has refused, in the late shard, if late requests are served.
    #[cold]
    pub(crate) fn enter_late(&self) -> Option<Arc<Self>> {
        self.enter_late_shard(|word| word & LATE != 0)
    }

    /// The same for a request that waited for the readiness of an inner service.
    #[cold]
    pub(crate) fn enter_awaited(&self) -> Option<Arc<Self>> {
        self.enter_late_shard(|word| word & ENDED == 0)
    }

    fn enter_late_shard(&self, admits: impl FnOnce(u64) -> bool) -> Option<Arc<Self>> {
        let late = Arc::clone(&self.gate.upgrade()?.late);
        // Acquire: pairs with the Release in `add`. Invariant 7.
        let before = late.word.fetch_add(ONE_IN_FLIGHT, Ordering::Acquire);
        if !admits(before) {
            late.leave();
            return None;
        }
        // Not before: the count of the admitted never falls. Relaxed: a figure to look at.
        let before = late.word.fetch_add(ONE_ENTERED, Ordering::Relaxed);
        late.carry_if_due(before);
        Some(late)
    }

    /// Whether a drain has ended, or never was: what waits is refused.
    pub(crate) fn has_ended(&self) -> bool {
        let gate = self.gate.upgrade();
        gate.is_none_or(|gate| gate.late.phase() & ENDED != 0)
    }

    /// Whether late requests are served.
    pub(crate) fn serves_late(&self) -> bool {
        let gate = self.gate.upgrade();
        gate.is_some_and(|gate| gate.late.phase() & LATE != 0)
    }

    /// Counts a request, in the late shard, that waits for the readiness of an inner service; `false`,
    /// and does not, if the drain has ended. It is none of the admitted yet.
    #[cold]
    pub(crate) fn begin_waiting(&self) -> bool {
        let Some(gate) = self.gate.upgrade() else {
            return false;
        };
        // Acquire: as in `enter_late_shard`.
        let before = gate.late.word.fetch_add(ONE_IN_FLIGHT, Ordering::Acquire);
        let waits = before & ENDED == 0;
        if !waits {
            gate.late.leave();
        }
        waits
    }

    /// Takes it out again. Force cuts it.
    #[cold]
    pub(crate) fn end_waiting(&self) {
        // If the gate is gone, nobody waits for the count.
        if let Some(gate) = self.gate.upgrade() {
            if self.is_forced() {
                gate.late.note_aborted();
            }
            gate.late.leave();
        }
    }

    #[cold]
    pub(super) fn undo_entry(&self) {
        // Release: pairs with the Acquire in `is_closed_and_empty`.
        // It stays in the top field: how many of those are refusals is known by when they came.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        // While it was there, a scan may have found the shard not empty (invariant 4).
        if before & IN_FLIGHT == ONE_IN_FLIGHT {
            self.scan_gate();
        }
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn leave(&self) {
        // Release: pairs with the Acquire in `is_closed_and_empty`.
        let before = self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        if before & (CLOSED | IN_FLIGHT) == CLOSED | ONE_IN_FLIGHT {
            self.scan_gate();
        }
    }

    /// Takes one out that is dropped by the end of its runtime (invariant 10).
    pub(crate) fn leave_killed(&self) {
        let Some(gate) = self.gate.upgrade() else {
            return self.leave();
        };
        let mut turn = gate.turn();
        turn.killed += 1;
        // Release: as in `leave`.
        self.word.fetch_sub(ONE_IN_FLIGHT, Ordering::Release);
        drop(turn);
        gate.scan();
    }

    /// `extern "C"`, since a function of that kind does not unwind: the drop of a guard then needs no
    /// landing pads for it. What could panic in it is contained.
    #[cold]
    extern "C" fn scan_gate(&self) {
        panic::contained(|| {
            if let Some(gate) = self.gate.upgrade() {
                gate.scan();
            }
        });
    }

    #[inline]
    pub(super) fn phase(&self) -> u64 {
        // Acquire: pairs with the Release in `add`.
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
        let registered = self.wakers.register(slot, waker, interests, happened);
        registered.is_some()
    }

    /// Registers `waker` for the force; `false` if that has come already. By one who remembers which
    /// waker it has registered: the same one again need not take the lock, for either it is in the set
    /// still, or it was woken, and finds at its next look that force has come. That is so because force
    /// is never taken back; no other interest is like that.
    #[inline]
    pub(crate) fn register_for_force(
        &self,
        slot: &mut Slot,
        remembered: &mut Remembered,
        waker: &Waker,
    ) -> bool {
        if self.wakers.is_remembered(*remembered, waker) {
            return true;
        }
        // Before foreign code runs, which may panic: the drop of the former waker.
        *remembered = Remembered::NONE;
        let registered = match slot.is_registered() {
            false => {
                (self.wakers).register_anew(slot, waker, interest::FORCED, || self.is_forced())
            }
            true => self.register_other(slot, waker),
        };
        *remembered = registered.unwrap_or(Remembered::NONE);
        registered.is_some()
    }

    #[cold]
    #[inline(never)]
    fn register_other(&self, slot: &mut Slot, waker: &Waker) -> Option<Remembered> {
        (self.wakers).register(slot, waker, interest::FORCED, || self.is_forced())
    }

    /// Out of line and `extern "C"` (see `scan_gate`). It takes the slot by value: a reference into a
    /// guard would keep the compiler from holding that in registers.
    #[cold]
    #[inline(never)]
    pub(crate) extern "C" fn deregister(&self, slot: Slot) {
        panic::contained(|| self.wakers.remove(slot));
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

    /// Notes that a request came in the lame duck, and when.
    pub(crate) fn note_arrival(&self, at: u64) {
        // Relaxed: published by the Release below.
        self.last_arrival.fetch_max(at, Ordering::Relaxed);
        // Release: pairs with the Acquire in `arrivals`; who counts it sees when it came.
        self.arrivals.fetch_add(1, Ordering::Release);
    }

    /// Forgets those of an earlier lame duck, before the next one begins.
    pub(super) fn forget_arrivals(&self) {
        // Relaxed: published by the Release in `add`. Only one who entered in the earlier lame duck
        // and has been held up since then may still be counted in the next.
        self.arrivals.store(0, Ordering::Relaxed);
        self.last_arrival.store(0, Ordering::Relaxed);
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

    /// Carries half of the word's top field away before it would wrap (invariant 9), if that is due as
    /// of the word `before`.
    pub(super) fn carry_if_due(&self, before: u64) {
        if before & CARRY != 0 {
            self.carry();
        }
    }

    #[cold]
    #[inline(never)]
    fn carry(&self) {
        let gate = self.gate.upgrade();
        // Without a gate there is nobody who could read it.
        let _turn = gate.as_ref().map(|gate| gate.turn());
        // Relaxed: the count is read and carried under `turn`.
        let carried = self.word.fetch_and(!CARRY, Ordering::Relaxed) & CARRY;
        // Zero if another one has carried it since.
        self.carried
            .fetch_add(carried / ONE_ENTERED, Ordering::Relaxed);
    }

    /// How many were admitted by the time of `word`, of an open shard; called under the gate's `turn`.
    fn admitted_of(&self, word: u64) -> u64 {
        // Relaxed: it is changed under `turn`.
        let carried = self.carried.load(Ordering::Relaxed);
        carried.wrapping_add(word / ONE_ENTERED)
    }

    pub(super) fn is_closed_and_empty(&self) -> bool {
        // Acquire: pairs with the Release of `leave` and of the undo. What was done in flight is seen
        // by who is told that it drained; and an entry that has moved to `late` is seen there by who
        // looks at that next.
        let word = self.word.load(Ordering::Acquire);
        word & (CLOSED | IN_FLIGHT) == CLOSED
    }

    /// How many were admitted; called under the gate's `turn`.
    pub(super) fn admitted(&self) -> u64 {
        // Relaxed: what else it is made of is changed under `turn`.
        match self.word.load(Ordering::Relaxed) {
            word if word & CLOSED == 0 => self.admitted_of(word),
            _ => self.admitted.load(Ordering::Relaxed),
        }
    }

    /// How many were admitted to the late shard, whose word counts no refusals; called under the gate's
    /// `turn`.
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

    /// Returns how many requests came in the lame duck, and when the last one did.
    pub(super) fn arrivals(&self) -> (u64, u64) {
        // Acquire: pairs with the Release in `note_arrival`.
        let count = self.arrivals.load(Ordering::Acquire);
        // Relaxed: ordered by the Acquire above.
        (count, self.last_arrival.load(Ordering::Relaxed))
    }

    pub(super) fn in_flight(&self) -> u64 {
        // Relaxed: a figure to look at; nothing is concluded from it.
        (self.word.load(Ordering::Relaxed) & IN_FLIGHT) / ONE_IN_FLIGHT
    }
}
