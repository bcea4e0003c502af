//! Broadcasts the state of the shutdown to all connections of a server.
//!
//! A connection compares one version number at every poll, and reads the plan only when the number has
//! changed. It does not register at every poll: all connections share the list of waiters, and that would
//! slow down every request.

use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::in_flight::{Slot, WakerSet};
use crate::shutdown::let_others_run;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};

/// What all connections have to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Serve as usual.
    Serve,
    /// Serve, and ask each client to leave at its own moment of the window.
    Leave { since: Instant, window: Duration },
    /// Answer the requests that arrive, and close.
    Drain(Drain),
    /// Close at once, even with requests in flight.
    Close,
}

/// The times of a drain. `None` means without limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub(super) since: Instant,
    /// Until then an idle connection may still receive a request.
    pub(super) idle_until: Option<Instant>,
    /// Requests that arrive while draining are served until `late_until`, rather than refused at once.
    pub(super) serves_late: bool,
    pub(super) late_until: Option<Instant>,
    /// Until then all connections without a request in flight must be closed.
    pub(super) quiet_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct PlanChannel {
    plan: Mutex<Plan>,
    version: AtomicU32,
    readers: WakerSet,
}

/// Receives the plans for one connection.
#[derive(Debug)]
pub(super) struct PlanReceiver {
    slot: Slot,
    waker: Option<Waker>,
    version: u32,
    /// How often it has been registered. Changes with the waker.
    registrations: u32,
}

/// Returns the event that receivers register for to wait for `version`.
///
/// Two events alternate. A receiver that has already read a version and waits for the next one is
/// therefore not woken for the former: it would find nothing new, and would no longer be registered.
fn waiting_for(version: u32) -> u32 {
    1 << (version & 1)
}

// ===== impl PlanChannel =====

impl PlanChannel {
    pub(super) fn new() -> Self {
        Self {
            plan: Mutex::new(Plan::Serve),
            version: AtomicU32::new(0),
            readers: WakerSet::new(),
        }
    }

    /// Publishes a plan, and wakes the receivers in batches.
    pub(super) async fn send(&self, plan: Plan) {
        *lock(&self.plan) = plan;
        // Release: pairs with the Acquire in `version`. A receiver that sees the number reads this plan
        // or a later one.
        let version = self.version.fetch_add(1, Ordering::Release).wrapping_add(1);
        let mut cursor = 0;
        while self.readers.wake_batch(waiting_for(version), &mut cursor) {
            let_others_run().await;
        }
    }

    fn version(&self) -> u32 {
        // Acquire: pairs with the Release in `send`.
        self.version.load(Ordering::Acquire)
    }
}

// ===== impl PlanReceiver =====

impl PlanReceiver {
    pub(super) fn new() -> Self {
        Self {
            slot: Slot::NONE,
            waker: None,
            version: 0,
            registrations: 0,
        }
    }

    /// Returns the plan if it has changed. Otherwise registers the task to be woken when it does.
    #[inline]
    pub(super) fn changed(&mut self, plans: &PlanChannel, cx: &Context<'_>) -> Option<Plan> {
        let registered = self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        if registered && self.version == plans.version() {
            return None;
        }
        self.read(plans, cx)
    }

    #[cold]
    fn read(&mut self, plans: &PlanChannel, cx: &Context<'_>) -> Option<Plan> {
        let before = self.waker.as_ref().map(|_| self.version);
        // A wakeup takes the waker out of its slot, so the task registers again each time.
        loop {
            self.version = plans.version();
            let stale = || plans.version() != self.version;
            let next = waiting_for(self.version.wrapping_add(1));
            let readers = &plans.readers;
            let registered = readers.register(&mut self.slot, cx.waker(), next, &stale);
            if registered.is_some() {
                break;
            }
        }
        self.waker = Some(cx.waker().clone());
        self.registrations = self.registrations.wrapping_add(1);
        (before != Some(self.version)).then(|| *lock(&plans.plan))
    }

    pub(super) fn registrations(&self) -> u32 {
        self.registrations
    }

    /// Stops receiving.
    pub(super) fn leave(&mut self, plans: &PlanChannel) {
        plans.readers.remove(self.slot.take());
    }
}
