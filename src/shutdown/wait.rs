//! The future that the waiting methods return.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::core::Core;
use super::notice::ShutdownNotice;
use super::report::ShutdownReport;
use crate::in_flight::{Slot, event};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// A future that resolves when a shutdown has reached a certain point.
///
/// Methods of [`ShutdownController`](crate::ShutdownController) return it. It borrows nothing, is
/// `Unpin`, and can be sent and stored. It resolves to `()`, the [`LifecycleState`] reached, the
/// [`ShutdownNotice`], or the [`ShutdownReport`].
///
/// # Cancel safety
///
/// Dropping it loses nothing and stops nothing. A later `Wait` resolves at once if the point has
/// already been reached.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::future::Wait;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, ShutdownReport};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// struct Supervisor {
///     draining: Wait,
///     ended: Wait<ShutdownReport>,
/// }
///
/// let ctl = ShutdownController::new();
/// let supervisor = Supervisor {
///     draining: ctl.draining(),
///     ended: ctl.shutdown(ShutdownReason::Manual),
/// };
/// supervisor.draining.await;
/// assert!(supervisor.ended.await.is_graceful());
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Wait<T = ()> {
    core: Arc<Core>,
    /// The milestones to wait for; any of them resolves the future.
    events: u32,
    /// The count of `IDLE` events at the start, since `IDLE` can be taken back before the next poll.
    idles: u64,
    slot: Slot,
    outcome: PhantomData<fn() -> T>,
}

/// The output of a wait, read when it resolves; `None` if the event was taken back meanwhile.
trait Outcome {
    /// `events` are the ones that were waited for.
    fn of(core: &Core, events: u32) -> Option<Self>
    where
        Self: Sized;
}

impl Outcome for () {
    fn of(_: &Core, _: u32) -> Option<()> {
        Some(())
    }
}

impl Outcome for LifecycleState {
    fn of(core: &Core, events: u32) -> Option<Self> {
        Some(core.state()).filter(|state| state.bit() & events != 0)
    }
}

impl Outcome for ShutdownNotice {
    fn of(core: &Core, _: u32) -> Option<Self> {
        core.notice()
    }
}

impl Outcome for ShutdownReport {
    fn of(core: &Core, _: u32) -> Option<Self> {
        core.report().cloned()
    }
}

// ===== impl Wait =====

impl<T> Wait<T> {
    pub(crate) fn new(core: &Arc<Core>, events: u32) -> Self {
        Self {
            core: Arc::clone(core),
            events,
            idles: core.gate.idles(),
            slot: Slot::NONE,
            outcome: PhantomData,
        }
    }

    /// Returns whether an awaited event has been reached. Only for events that are not taken back.
    #[cfg(feature = "server")]
    pub(crate) fn is_over(&self) -> bool {
        self.core.milestones().has(self.events)
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let milestones = self.core.milestones();
        let was_idle = self.events & event::IDLE != 0 && self.core.gate.idles() != self.idles;
        if !was_idle && !milestones.has(self.events) {
            self.core.capture_runtime();
            if milestones.register(&mut self.slot, cx.waker(), self.events) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

macro_rules! wait_for {
    ($($outcome:ty),*) => {$(
        impl Future for Wait<$outcome> {
            type Output = $outcome;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<$outcome> {
                let this = self.get_mut();
                loop {
                    ready!(this.poll_events(cx));
                    if let Some(outcome) = <$outcome>::of(&this.core, this.events) {
                        return Poll::Ready(outcome);
                    }
                }
            }
        }
    )*};
}

wait_for!((), LifecycleState, ShutdownNotice, ShutdownReport);

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        self.core.milestones().deregister(self.slot.take());
    }
}

impl<T> fmt::Debug for Wait<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}
