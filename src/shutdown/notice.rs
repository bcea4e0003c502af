//! What everybody is told when a shutdown begins.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::ShutdownConfig;
use crate::state::ShutdownReason;

/// What everybody is told when a shutdown begins: why, and until when.
///
/// Every hook is handed one; [`ShutdownController::notice`](crate::ShutdownController::notice)
/// gives it to anybody. The deadlines are absolute, by the clock of the runtime that drives the
/// shutdown; `None` means that there is no limit. After a force, hooks are handed one that ends
/// with the [reserve](crate::ShutdownConfig::reserve), counted from the force.
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
    /// Whose clock the instants are of, so that a thread outside the runtime reads the same one.
    clock: Option<Handle>,
}

impl ShutdownNotice {
    /// Takes the instants, by the clock of the runtime that drives the shutdown. `for_workers` of
    /// the time is not the requests'.
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

    /// Returns when admitted work is cut, unless it is forced before.
    ///
    /// [Workers](crate::ShutdownController::spawn_worker) have their own share after it.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_deadline
    }

    /// Returns when all is over at the latest, clean-up included.
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

    /// Returns how long admitted work still has; zero when that is over.
    pub fn drain_remaining(&self) -> Option<Duration> {
        self.remaining(self.drain_deadline)
    }

    /// Returns how long all still has, clean-up included; zero when that is over.
    pub fn time_remaining(&self) -> Option<Duration> {
        self.remaining(self.final_deadline)
    }

    fn remaining(&self, deadline: Option<Instant>) -> Option<Duration> {
        deadline.map(|deadline| deadline.saturating_duration_since(self.now()))
    }

    pub(crate) fn now(&self) -> Instant {
        now(self.clock.as_ref())
    }

    pub(crate) fn lame_duck_deadline(&self) -> Option<Instant> {
        self.lame_duck_deadline
    }

    /// The same notice with an end that is later by `time`, in which nothing could run.
    pub(crate) fn later_by(mut self, time: Duration) -> Self {
        self.final_deadline = self.final_deadline.and_then(|end| end.checked_add(time));
        self
    }

    /// The same notice with an end that is earlier by `time`, which others have after it.
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

    /// The same notice with an earlier end, for the clean-up after a force.
    pub(crate) fn ending_by(mut self, deadline: Option<Instant>) -> Self {
        self.final_deadline = earlier(self.final_deadline, deadline);
        self
    }
}

/// The earlier of two deadlines, of which `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads the clock of `runtime`, which may be paused; a foreign thread's own never is.
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
