//! A snapshot of the metrics.

use std::time::Duration;

use super::controller::ShutdownController;
use crate::shutdown::{LameDuckEnd, Role};
use crate::state::LifecycleState;

/// A snapshot of the metrics, to be shown or exported.
///
/// It is created by [`ShutdownController::metrics`]. With the feature `serde` it can be serialised: the
/// state and the signal as their names, durations in seconds.
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
    /// The current state.
    #[cfg_attr(feature = "serde", serde(serialize_with = "name"))]
    pub state: LifecycleState,
    /// `true` if new work is refused by a [pause](ShutdownController::pause).
    pub paused: bool,
    /// The number of requests and guards in flight.
    #[cfg_attr(feature = "serde", serde(rename = "in_flight_requests"))]
    pub in_flight: u64,
    /// The total number of admitted requests and guards. It has 64 bits, and never decreases.
    pub admitted: u64,
    /// The total number of refused requests and guards. It never decreases.
    pub refused: u64,
    /// Why the lame duck of the latest shutdown ended: `None` until it has ended.
    pub lame_duck_end: Option<LameDuckEnd>,
    /// How long that lame duck lasted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "optional_seconds"))]
    pub lame_duck_lasted: Option<Duration>,
    /// The number of requests that arrived during the lame duck of the latest shutdown. See
    /// [`ShutdownReport::late_arrivals`](crate::ShutdownReport::late_arrivals).
    pub late_arrivals: u64,
    /// The number of requests that arrived while draining and were served. See
    /// [`ShutdownReport::late_requests`](crate::ShutdownReport::late_requests).
    pub late_requests: u64,
    /// The total number of requests that were cut. It never decreases.
    pub aborted: u64,
    /// The number of requests, tasks and servers that were still alive when the shutdown was over. It is
    /// zero before.
    pub abandoned: u64,
    /// The number of connections that were upgraded, such as WebSockets, and have not ended.
    pub upgrades: u64,
    /// The number of responses that draining ends, such as event streams. See
    /// [`LongLived`](crate::LongLived).
    pub streams: u64,
    /// The number of running tasks, workers and admin servers. See
    /// [`spawn`](ShutdownController::spawn).
    pub tasks: u64,
    /// The number of registered hooks that have not been run.
    pub hooks: usize,
    /// The number of running services that were started by a [`Startup`](crate::Startup).
    pub startup_services_tracked: usize,
    /// The latest signal that was received, such as `SIGTERM`.
    pub signal_received: Option<&'static str>,
    /// The time limit for the whole shutdown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::config::seconds"))]
    pub shutdown_timeout: Duration,
    /// The time since the controller was created.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::config::seconds"))]
    pub uptime: Duration,
}

impl ShutdownController {
    /// Returns a snapshot of the metrics.
    ///
    /// The values are read one after another, so values that change meanwhile may not be consistent with
    /// each other. Counting adds no cost to a request, because its admission is the count.
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
        let lame_duck = core.shutdown().and_then(|shutdown| shutdown.lame_duck());
        Metrics {
            state: self.state(),
            paused: self.is_paused(),
            in_flight: core.gate.in_flight(),
            admitted: core.gate.admitted(),
            refused: core.gate.refused(),
            lame_duck_end: lame_duck.map(|(end, _)| end),
            lame_duck_lasted: lame_duck.map(|(_, lasted)| lasted),
            late_arrivals: core.gate.arrivals().0,
            late_requests: core.gate.late_requests(),
            aborted: core.aborted(),
            abandoned: core.report().map_or(0, |report| report.abandoned()),
            upgrades: core.gate.upgrades.now(),
            streams: core.gate.streams.now(),
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
#[allow(clippy::ref_option, reason = "serde passes the field by reference")]
fn optional_seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.serialize_some(&time.as_secs_f64()),
        None => to.serialize_none(),
    }
}
