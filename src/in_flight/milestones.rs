//! What has happened so far, one bit each, and those who wait for it.

use std::task::Waker;

use super::wakers::{Slot, WakerSet};
use crate::sync::{AtomicU32, Ordering};

/// The events that can be waited for. The low eight bits are the states, in their order.
pub(crate) mod event {
    pub(crate) const STOPPED: u32 = 1 << 6;
    pub(crate) const FAILED: u32 = 1 << 7;
    pub(crate) const STATES: u32 = 0xff;
    /// Once, after the gate was closed for good, nothing was in flight.
    pub(crate) const DRAINED: u32 = 1 << 8;
    /// As `DRAINED`, while paused too; taken back to ask again.
    pub(crate) const IDLE: u32 = 1 << 9;
    /// Admitted work is cut.
    pub(crate) const FORCED: u32 = 1 << 10;
    /// The clean-up has begun: hooks, or the stops of services.
    pub(crate) const CLEANUP: u32 = 1 << 11;
    /// `force` was called since then: what is left of the clean-up is cut.
    pub(crate) const CUT_CLEANUP: u32 = 1 << 12;
    /// The state is being saved, after the rest of the clean-up.
    pub(crate) const SAVING: u32 = 1 << 19;
    /// `force` was called since then: what is left of the saves is cut.
    pub(crate) const CUT_SAVES: u32 = 1 << 20;
    /// The server may close its listener.
    pub(crate) const STOP_ACCEPTING: u32 = 1 << 13;
    /// A server, a task or a step of the start-up has ended; taken back by the sequence before it
    /// looks.
    pub(crate) const WORK_ENDED: u32 = 1 << 14;
    /// A shutdown was triggered, or the rollback of a start-up; taken back when it is called off.
    pub(crate) const TRIGGERED: u32 = 1 << 15;
    /// The gate is closed for good.
    pub(crate) const CLOSED: u32 = 1 << 16;
    /// The gate is closed until it is opened again.
    pub(crate) const PAUSED: u32 = 1 << 17;
    /// What was cut has had its time to be answered: every connection is to be closed.
    pub(crate) const DISCONNECT: u32 = 1 << 18;
    /// The drain is over: servers that have not ended are to be dropped.
    pub(crate) const DROP_SERVERS: u32 = 1 << 24;
    /// Nothing can feed the workers any more.
    pub(crate) const STOP_WORKERS: u32 = 1 << 21;
    /// `force` was called since then: the workers are cut.
    pub(crate) const CUT_WORKERS: u32 = 1 << 22;
    /// The end is next: admin servers are to close.
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

    pub(crate) fn reached(&self) -> u32 {
        // Acquire: pairs with the Release in `publish`; who sees a milestone sees what led to it.
        self.reached.load(Ordering::Acquire)
    }

    pub(crate) fn has(&self, events: u32) -> bool {
        self.reached() & events != 0
    }

    /// Publishes `events` without waking; returns whether any of them is new.
    pub(crate) fn publish(&self, events: u32) -> bool {
        // Release: pairs with the Acquire in `reached`. Acquire: two publishers are ordered.
        let before = self.reached.fetch_or(events, Ordering::AcqRel);
        before & events != events
    }

    /// Publishes `events` unless one of `over` is reached, without waking; returns what was reached
    /// before, or `None` if it is over.
    pub(crate) fn publish_unless(&self, over: u32, events: u32) -> Option<u32> {
        // As in `publish`; one operation, so that whoever publishes `over` comes before or after.
        let add = |reached: u32| (reached & over == 0).then_some(reached | events);
        self.reached
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()
    }

    /// Wakes those who wait for any of `events`, which have been published.
    pub(crate) fn wake(&self, events: u32) {
        self.waiting.wake_all(events);
    }

    /// Publishes and wakes; returns whether any of `events` is new.
    pub(crate) fn reach(&self, events: u32) -> bool {
        let new = self.publish(events);
        if new {
            self.wake(events);
        }
        new
    }

    /// Takes `events` back, so that they can be reached again.
    pub(crate) fn take_back(&self, events: u32) {
        // AcqRel: ordered with `publish`, of which it undoes one.
        self.reached.fetch_and(!events, Ordering::AcqRel);
    }

    /// Registers `waker` for any of `events`; `false` if one is reached already.
    pub(crate) fn register(&self, slot: &mut Slot, waker: &Waker, events: u32) -> bool {
        let happened = || self.has(events);
        let registered = self.waiting.register(slot, waker, events, happened);
        registered.is_some()
    }

    pub(crate) fn deregister(&self, slot: Slot) {
        self.waiting.remove(slot);
    }
}
