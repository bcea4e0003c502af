//! What a server has to say to all its connections.
//!
//! A connection looks at one number whenever it is polled, and reads the rest only when that has
//! changed. Nothing is registered anew at each poll: a list of waiters that all connections share
//! and touch each time would cost every request.

use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::in_flight::{Slot, WakerSet};
use crate::shutdown::let_others_run;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};

/// What is asked of the connections.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Serve.
    Serve,
    /// Serve, and ask the client to leave, each at its own moment of the window.
    Leave { since: Instant, window: Duration },
    /// Answer what comes, and leave.
    Drain(Drain),
    /// Close at once, whatever is in flight.
    Close,
}

/// The times of a drain, of which `None` is without limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub(super) since: Instant,
    /// Until then an idle connection may still bring a request.
    pub(super) idle_until: Option<Instant>,
    /// Requests that arrive are served until then, and not refused at once.
    pub(super) serves_late: bool,
    pub(super) late_until: Option<Instant>,
    /// Until then everybody who has no request in flight must have gone.
    pub(super) quiet_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct PlanChannel {
    plan: Mutex<Plan>,
    version: AtomicU32,
    readers: WakerSet,
}

/// One who reads the plans.
#[derive(Debug)]
pub(super) struct PlanReceiver {
    slot: Slot,
    waker: Option<Waker>,
    version: u32,
    /// How often it has been registered: changes with the waker.
    registrations: u32,
}

/// Returns what those are registered for who wait for this version. Two in turn, so that one who has
/// read a version already, and waits for the next, is not woken for this one: it would find nothing
/// new, and not be registered any more.
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

    /// Tells everybody, a batch at a time.
    pub(super) async fn send(&self, plan: Plan) {
        *lock(&self.plan) = plan;
        // Release: pairs with the Acquire in `version`; who sees the number reads this plan or a
        // later one.
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

    /// Returns what is new, if anything is; else sees to it that the task is woken when there is.
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
        // A wake-up has taken the waker out of its slot, so it is put there again each time.
        loop {
            self.version = plans.version();
            let stale = || plans.version() != self.version;
            let next = waiting_for(self.version.wrapping_add(1));
            let readers = &plans.readers;
            let registered = readers.register(&mut self.slot, cx.waker(), next, stale);
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
