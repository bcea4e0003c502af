//! The notice of a shutdown: its reason and its deadlines.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::ShutdownConfig;
use crate::state::ShutdownReason;

/// The reason and the deadlines of a shutdown.
///
/// Every hook receives a notice, and [`ShutdownController::notice`](crate::ShutdownController::notice)
/// returns it. The deadlines are absolute, by the clock of the runtime that drives the shutdown;
/// `None` means that there is no limit. After a force, hooks receive a notice that ends with the
/// [reserve](crate::ShutdownConfig::reserve), counted from the force.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # tokio::time::pause();
/// let ctl = ShutdownController::new();
/// ctl.trigger(ShutdownReason::Manual);
/// let notice = ctl.notice().expect("triggered");
///
/// assert_eq!(notice.reason(), ShutdownReason::Manual);
/// assert_eq!(notice.drain_remaining(), Some(Duration::from_secs(25)));
/// assert_eq!(notice.time_remaining(), Some(Duration::from_secs(30)));
/// # }
/// ```
#[derive(Clone)]
pub struct ShutdownNotice {
    reason: ShutdownReason,
    triggered_at: Instant,
    lame_duck_deadline: Option<Instant>,
    drain_deadline: Option<Instant>,
    worker_deadline: Option<Instant>,
    final_deadline: Option<Instant>,
    /// The runtime whose clock is used, so that a thread outside the runtime reads the same clock.
    clock: Option<Handle>,
}

impl ShutdownNotice {
    /// Computes the deadlines, by the clock of the runtime that drives the shutdown. Requests leave
    /// `for_workers` of the time to the workers.
    pub(crate) fn new(
        reason: ShutdownReason,
        config: &ShutdownConfig,
        for_workers: Duration,
        clock: Option<Handle>,
    ) -> Self {
        let triggered_at = now(clock.as_ref());
        let total = config.shutdown_timeout;
        let work = total.saturating_sub(config.reserve());
        Self {
            reason,
            triggered_at,
            lame_duck_deadline: triggered_at.checked_add(config.lame_duck),
            drain_deadline: triggered_at.checked_add(work.saturating_sub(for_workers)),
            worker_deadline: triggered_at.checked_add(work),
            final_deadline: triggered_at.checked_add(total),
            clock,
        }
    }

    /// Returns why the shutdown began.
    pub fn reason(&self) -> ShutdownReason {
        self.reason
    }

    /// Returns when the shutdown began.
    pub fn triggered_at(&self) -> Instant {
        self.triggered_at
    }

    /// Returns when admitted work is cut, unless a force cuts it earlier.
    ///
    /// [Workers](crate::ShutdownController::spawn_worker) have their own share of the time after it.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_deadline
    }

    /// Returns when the shutdown ends at the latest, including the clean-up.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::time::timeout_at;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.trigger(ShutdownReason::Manual);
    /// let notice = ctl.notice().expect("triggered");
    /// let deadline = notice.final_deadline().expect("limited");
    ///
    /// let flushed = timeout_at(deadline, async { /* write to the disk */ }).await;
    /// assert!(flushed.is_ok());
    /// # }
    /// ```
    pub fn final_deadline(&self) -> Option<Instant> {
        self.final_deadline
    }

    /// Returns how much time is left for admitted work; zero after the drain deadline.
    pub fn drain_remaining(&self) -> Option<Duration> {
        self.remaining(self.drain_deadline)
    }

    /// Returns how much time is left in total, including the clean-up; zero after the final deadline.
    pub fn time_remaining(&self) -> Option<Duration> {
        self.remaining(self.final_deadline)
    }

    fn remaining(&self, deadline: Option<Instant>) -> Option<Duration> {
        deadline.map(|deadline| deadline.saturating_duration_since(self.now()))
    }

    pub(crate) fn now(&self) -> Instant {
        now(self.clock.as_ref())
    }

    #[cfg(all(unix, feature = "systemd"))]
    pub(crate) fn lame_duck_remaining(&self) -> Option<Duration> {
        self.remaining(self.lame_duck_deadline)
    }

    pub(crate) fn lame_duck_deadline(&self) -> Option<Instant> {
        self.lame_duck_deadline
    }

    /// Returns the notice with a final deadline that is later by `time`, in which nothing could run.
    pub(crate) fn later_by(mut self, time: Duration) -> Self {
        self.final_deadline = self.final_deadline.and_then(|end| end.checked_add(time));
        self
    }

    /// Returns the notice with a final deadline that is earlier by `time`, which is kept for others.
    pub(crate) fn earlier_by(mut self, time: Duration) -> Self {
        self.final_deadline = self
            .final_deadline
            .map(|end| end.checked_sub(time).unwrap_or(end));
        self
    }

    /// Returns when workers are cut.
    pub(crate) fn worker_deadline(&self) -> Option<Instant> {
        self.worker_deadline
    }

    /// Returns the notice with a final deadline of at most `deadline`, for the clean-up after a force.
    pub(crate) fn ending_by(mut self, deadline: Option<Instant>) -> Self {
        self.final_deadline = earlier(self.final_deadline, deadline);
        self
    }
}

/// Returns the earlier of two deadlines, where `None` means never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads the clock of `runtime`, which may be paused. A thread outside a runtime has no paused clock.
fn now(runtime: Option<&Handle>) -> Instant {
    let _entered = runtime.map(Handle::enter);
    Instant::now()
}

impl fmt::Debug for ShutdownNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownNotice")
            .field("reason", &self.reason)
            .field("drain_remaining", &self.drain_remaining())
            .field("time_remaining", &self.time_remaining())
            .finish_non_exhaustive()
    }
}
