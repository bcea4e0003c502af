//! The events that have happened, one bit each, and the tasks that wait for them.

use std::task::Waker;

use super::wakers::{Slot, WakerSet};
use crate::sync::{AtomicU32, Ordering};

/// The events. The low eight bits are the states, in their order.
pub(crate) mod event {
    pub(crate) const STOPPED: u32 = 1 << 6;
    pub(crate) const FAILED: u32 = 1 << 7;
    pub(crate) const STATES: u32 = 0xff;
    /// Nothing was in flight at some time after the gate was closed for good.
    pub(crate) const DRAINED: u32 = 1 << 8;
    /// Like `DRAINED`, but also while paused. Cleared to check again.
    pub(crate) const IDLE: u32 = 1 << 9;
    /// Admitted work is cut.
    pub(crate) const FORCED: u32 = 1 << 10;
    /// The clean-up has begun: hooks, or the stops of services.
    pub(crate) const CLEANUP: u32 = 1 << 11;
    /// `force` was called since then: the rest of the clean-up is cut.
    pub(crate) const CUT_CLEANUP: u32 = 1 << 12;
    /// The state is being saved, after the rest of the clean-up.
    pub(crate) const SAVING: u32 = 1 << 19;
    /// `force` was called since then: the rest of the saves is cut.
    pub(crate) const CUT_SAVES: u32 = 1 << 20;
    /// The server may close its listener.
    pub(crate) const STOP_ACCEPTING: u32 = 1 << 13;
    /// A server, a task or a step of the start-up has ended. The sequence clears it before it
    /// checks.
    pub(crate) const WORK_ENDED: u32 = 1 << 14;
    /// A shutdown, or the rollback of a start-up, was triggered. Cleared when the shutdown is
    /// called off.
    pub(crate) const TRIGGERED: u32 = 1 << 15;
    /// The gate is closed for good.
    pub(crate) const CLOSED: u32 = 1 << 16;
    /// The gate is closed until it is opened again.
    pub(crate) const PAUSED: u32 = 1 << 17;
    /// Cut requests have had time to be answered: all connections are to be closed.
    pub(crate) const DISCONNECT: u32 = 1 << 18;
    /// The drain is over: servers that have not ended are to be dropped.
    pub(crate) const DROP_SERVERS: u32 = 1 << 24;
    /// The workers can get no more work.
    pub(crate) const STOP_WORKERS: u32 = 1 << 21;
    /// `force` was called since then: the workers are cut.
    pub(crate) const CUT_WORKERS: u32 = 1 << 22;
    /// The shutdown is about to end: admin servers are to close.
    pub(crate) const CLOSE_ADMIN: u32 = 1 << 23;
}

#[derive(Debug)]
pub(crate) struct Milestones {
    reached: AtomicU32,
    waiting: WakerSet,
}

impl Milestones {
    pub(crate) fn new(reached: u32) -> Self {
        Self {
            reached: AtomicU32::new(reached),
            waiting: WakerSet::new(),
        }
    }

    /// Clears all events, before the first of another gate's life.
    pub(crate) fn reset(&self) {
        // Relaxed: the gate changes hands under a lock.
        self.reached.store(0, Ordering::Relaxed);
    }

    /// Drops the wakers of waiters that were forgotten.
    pub(crate) fn drop_wakers(&self) {
        self.waiting.reset();
    }

    pub(crate) fn reached(&self) -> u32 {
        // Acquire: pairs with the Release in `publish`; a thread that sees a milestone sees what
        // came before it.
        self.reached.load(Ordering::Acquire)
    }

    pub(crate) fn has(&self, events: u32) -> bool {
        self.reached() & events != 0
    }

    /// Publishes `events` without waking. Returns whether any of them is new.
    pub(crate) fn publish(&self, events: u32) -> bool {
        // Release: pairs with the Acquire in `reached`. Acquire: two publishers are ordered.
        let before = self.reached.fetch_or(events, Ordering::AcqRel);
        before & events != events
    }

    /// Publishes `events` without waking, unless one of `over` is reached. Returns what was reached
    /// before, or `None` if one of `over` is reached.
    pub(crate) fn publish_unless(&self, over: u32, events: u32) -> Option<u32> {
        // As in `publish`. It is one operation, so `over` is published either before or after it.
        let add = |reached: u32| (reached & over == 0).then_some(reached | events);
        self.reached
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()
    }

    /// Wakes all that wait for any of `events`, which must have been published.
    pub(crate) fn wake(&self, events: u32) {
        self.waiting.wake_all(events);
    }

    /// Publishes `events` and wakes. Returns whether any of them is new.
    pub(crate) fn reach(&self, events: u32) -> bool {
        let new = self.publish(events);
        if new {
            self.wake(events);
        }
        new
    }

    /// Clears `events`, so that they can be reached again.
    pub(crate) fn take_back(&self, events: u32) {
        // AcqRel: ordered with `publish`, which it undoes.
        self.reached.fetch_and(!events, Ordering::AcqRel);
    }

    /// Registers `waker` for any of `events`. Returns `false` if one of them is already reached.
    pub(crate) fn register(&self, slot: &mut Slot, waker: &Waker, events: u32) -> bool {
        let happened = || self.has(events);
        let registered = self.waiting.register(slot, waker, events, &happened);
        registered.is_some()
    }

    pub(crate) fn deregister(&self, slot: Slot) {
        self.waiting.remove(slot);
    }
}
