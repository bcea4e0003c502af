//! A snapshot of the figures.

use std::time::Duration;

use super::controller::ShutdownController;
use crate::shutdown::Role;
use crate::state::LifecycleState;

/// The figures of one moment, to be shown or exported.
///
/// It is made by [`ShutdownController::metrics`]. With the feature `serde` it can be serialised: the
/// state and the signal by their names, times in seconds.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{LifecycleState, ShutdownController};
///
/// let ctl = ShutdownController::new();
/// let _request = ctl.try_admit().unwrap();
///
/// let metrics = ctl.metrics();
/// assert_eq!(metrics.state, LifecycleState::Running);
/// assert_eq!(metrics.in_flight, 1);
/// assert_eq!(metrics.admitted, 1);
/// assert_eq!(metrics.signal_received, None);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Metrics {
    /// The state.
    #[cfg_attr(feature = "serde", serde(serialize_with = "name"))]
    pub state: LifecycleState,
    /// New work is refused by a [pause](ShutdownController::pause).
    pub paused: bool,
    /// How many requests and guards are in flight.
    pub in_flight: u64,
    /// How many requests and guards were admitted in all. It has 64 bits, and never falls.
    pub admitted: u64,
    /// How many requests and guards were refused in all. It never falls.
    pub refused: u64,
    /// How many requests came in the lame duck of the latest shutdown. See
    /// [`ShutdownReport::late_arrivals`](crate::ShutdownReport::late_arrivals).
    pub late_arrivals: u64,
    /// How many requests arrived while draining, and were served. See
    /// [`ShutdownReport::late_requests`](crate::ShutdownReport::late_requests).
    pub late_requests: u64,
    /// How many requests were cut in all. It never falls.
    pub aborted: u64,
    /// How many requests, tasks and servers were still alive when the shutdown was over; zero before.
    pub abandoned: u64,
    /// How many tasks, workers and admin servers are running: see
    /// [`spawn`](ShutdownController::spawn).
    pub tasks: u64,
    /// How many hooks are registered and have not been run.
    pub hooks: usize,
    /// How many services that a [`Startup`](crate::Startup) has started are running.
    pub startup_services_tracked: usize,
    /// The latest signal that was heard, such as `SIGTERM`.
    pub signal_received: Option<&'static str>,
    /// The time for a whole shutdown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub shutdown_timeout: Duration,
    /// How long ago the controller was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub uptime: Duration,
}

impl ShutdownController {
    /// Returns the figures of this moment.
    ///
    /// They are read one after another, so those that move may not fit together exactly. Counting
    /// costs a request nothing beyond its admission, which is the count.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(ctl.try_admit().is_err());
    /// assert_eq!(ctl.metrics().refused, 1);
    /// # }
    /// ```
    pub fn metrics(&self) -> Metrics {
        let core = self.core();
        Metrics {
            state: self.state(),
            paused: self.is_paused(),
            in_flight: core.gate.in_flight(),
            admitted: core.gate.admitted(),
            refused: core.gate.refused(),
            late_arrivals: core.gate.arrivals().0,
            late_requests: core.gate.late_requests(),
            aborted: core.aborted(),
            abandoned: core.report().map_or(0, |report| report.abandoned()),
            tasks: core.tasks.running(&[Role::Task, Role::Worker, Role::Admin]),
            hooks: core.hooks.len(),
            startup_services_tracked: core.services.len(),
            signal_received: core.signal(),
            shutdown_timeout: core.config.shutdown_timeout,
            uptime: self.uptime(),
        }
    }
}

#[cfg(feature = "serde")]
fn name<S: serde::Serializer>(state: &LifecycleState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.name())
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}
