//! The report of a shutdown.

#[cfg(feature = "serde")]
mod data;
mod display;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use super::lame_duck::LameDuckEnd;
use super::outcome::{HookReport, Outcome, SaveReport, ServiceReport, TaskReport};
use super::startup_failure::StartupFailure;
use crate::in_flight::{Arrivals, InFlightItem};
use crate::log::{millis, tell};
use crate::panic;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// The report of a shutdown.
///
/// All waiters of one shutdown receive the same report. Cloning it is cheap.
/// `println!("{report}")` prints it in readable form.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let job = ctl.track();
/// tokio::spawn(async move { drop(job) });
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert!(report.is_graceful());
/// assert_eq!(report.reason(), ShutdownReason::Manual);
/// assert_eq!(report.in_flight_at_trigger(), 1);
/// assert_eq!(report.aborted() + report.abandoned(), 0);
/// println!("{report}");
/// # }
/// ```
#[derive(Clone)]
pub struct ShutdownReport {
    facts: Arc<Facts>,
}

/// The time spent in one state of the shutdown.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::report::PhaseReport;
/// use tower_lifecycle::{LifecycleState, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
///
/// let states: Vec<_> = report.phases().iter().map(PhaseReport::state).collect();
/// assert_eq!(states, [LifecycleState::Draining, LifecycleState::Stopping]);
/// assert!(report.phases()[0].duration() <= report.duration());
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseReport {
    pub(crate) state: LifecycleState,
    pub(crate) duration: Duration,
}

pub(crate) struct Facts {
    pub(crate) reason: ShutdownReason,
    pub(crate) interrupted: bool,
    pub(crate) forced: bool,
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) in_flight_at_trigger: u64,
    pub(crate) lame_duck_end: Option<LameDuckEnd>,
    pub(crate) late_arrivals: Arrivals,
    pub(crate) late_requests: u64,
    pub(crate) in_flight_at_force: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) aborted: u64,
    pub(crate) aborted_work: Vec<InFlightItem>,
    pub(crate) abandoned_work: Vec<InFlightItem>,
    pub(crate) abandoned_requests: u64,
    pub(crate) abandoned_servers: u64,
    pub(crate) abandoned_starts: u64,
    pub(crate) abandoned_connections: u64,
    pub(crate) connections_cut: u64,
    pub(crate) startup_failure: Option<StartupFailure>,
    pub(crate) server_errors: Vec<Arc<dyn std::error::Error + Send + Sync>>,
    pub(crate) tasks: Vec<TaskReport>,
    pub(crate) tasks_forgotten: u64,
    pub(crate) hooks: Vec<HookReport>,
    pub(crate) services: Vec<ServiceReport>,
    pub(crate) saves: Vec<SaveReport>,
}

// ===== impl ShutdownReport =====

impl ShutdownReport {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts: Arc::new(facts),
        }
    }

    /// Returns whether the shutdown went as intended.
    ///
    /// That means: it was not forced, so nothing was cut or abandoned; every hook completed, every service
    /// stopped, and all state was saved; no server failed, and no [task](Self::tasks) ended badly at any
    /// time; and the shutdown itself ran to its end. The rollback of a start-up is graceful only if it was
    /// requested by a signal or a [trigger](crate::ShutdownController::trigger), not if a step failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.on_shutdown("flush", |_notice| async { Err("disk full".into()) }).unwrap();
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(!report.is_graceful()); // drained, but not cleaned up
    /// assert!(!report.is_forced());
    /// # }
    /// ```
    pub fn is_graceful(&self) -> bool {
        let facts = &*self.facts;
        !facts.forced
            && !facts.interrupted
            && (facts.startup_failure.as_ref()).is_none_or(StartupFailure::was_asked_for)
            && facts.server_errors.is_empty()
            && facts.tasks.is_empty()
            && facts.tasks_forgotten == 0
            && facts.services.iter().all(ServiceReport::is_completed)
            && (facts.startup_failure.is_some() || facts.is_cleaned_up())
    }

    /// Returns whether admitted work or the clean-up was forced.
    ///
    /// The cause is the drain deadline, `force` in any state, or an interruption.
    pub fn is_forced(&self) -> bool {
        self.facts.forced
    }

    /// Returns why the shutdown began, or `Interrupted` if it did not run to its end.
    pub fn reason(&self) -> ShutdownReason {
        self.facts.reason
    }

    /// Returns how many requests were cut, in their handler or in their body.
    ///
    /// A request counts if its future or body had not ended when it was dropped after the force: by a
    /// layer, by the server that closed its connection, or because its client had disconnected. A body that
    /// had ended was not cut, although the server may not have sent all of it: see
    /// [`connections_cut`](Self::connections_cut).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::pending;
    /// use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let mut jobs = ServiceBuilder::new()
    ///     .layer(DrainLayer::new(ctl.clone()).reject_with_error())
    ///     .service(service_fn(|_job: u32| pending::<Result<(), BoxError>>()));
    /// let job = jobs.ready().await.unwrap().call(1);
    ///
    /// ctl.force();
    /// assert!(job.await.is_err());
    /// assert_eq!(ctl.shutdown(ShutdownReason::Manual).await.aborted(), 1);
    /// # }
    /// ```
    pub fn aborted(&self) -> u64 {
        self.facts.aborted
    }

    /// Returns the requests that were cut and have a name, the first hundred.
    ///
    /// A [`RequestNamesLayer`](crate::layers::RequestNamesLayer) names them. Their age is that at the cut.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// for request in report.aborted_work() {
    ///     println!("cut: {request}"); // cut: GET /export (body, 31.5s)
    /// }
    /// # }
    /// ```
    pub fn aborted_work(&self) -> &[InFlightItem] {
        &self.facts.aborted_work
    }

    /// Returns the work that was still alive when the wait ended and has a name: the oldest hundred of
    /// requests, guards, tasks and workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(5));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    /// let _import = ctl.track_named("import");
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(&*report.abandoned_work()[0].name, "import");
    /// # }
    /// ```
    pub fn abandoned_work(&self) -> &[InFlightItem] {
        &self.facts.abandoned_work
    }

    /// Returns how much work was still alive when the shutdown stopped waiting for it.
    ///
    /// It counts requests and guards that were not released, tasks that could not be cut (a blocked
    /// thread), servers that did not end and connections that did not close (a stalled socket), and starts
    /// of services that blocked. In an [interrupted](ShutdownReason::Interrupted) shutdown it also counts
    /// what the end of the runtime has dropped since the trigger.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let ctl = ShutdownController::new();
    /// let _stuck = ctl.track(); // ignores the force
    /// ctl.force();
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.abandoned(), 1);
    /// # }
    /// ```
    pub fn abandoned(&self) -> u64 {
        let facts = &*self.facts;
        facts.abandoned_requests
            + facts.abandoned_servers
            + facts.abandoned_starts
            + facts.abandoned_connections
            + facts.abandoned_tasks()
    }

    /// Returns how many requests and guards were admitted in total.
    pub fn admitted(&self) -> u64 {
        self.facts.admitted
    }

    /// Returns how many requests and guards were refused in total.
    pub fn refused(&self) -> u64 {
        self.facts.refused
    }

    /// Returns how many requests and guards were in flight when the shutdown began.
    pub fn in_flight_at_trigger(&self) -> u64 {
        self.facts.in_flight_at_trigger
    }

    /// Returns how many requests arrived in the lame duck, although they should have gone elsewhere.
    ///
    /// It counts requests that a [`DrainLayer`](crate::DrainLayer), a
    /// [`RequestTrackingLayer`](crate::RequestTrackingLayer) or
    /// [`try_admit`](crate::ShutdownController::try_admit) admitted between the trigger and the
    /// beginning of draining. Some are expected, until the load balancer has noticed the shutdown.
    ///
    /// It does not count [tracked](crate::ShutdownController::track) work, or requests to [exempt
    /// paths](crate::DrainLayer::exempt_paths). If probes pass through a layer, exempt their paths, since
    /// probes keep arriving. A shutdown that was [called off](crate::ShutdownController::resume) does not
    /// count.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio::time::advance;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    /// ctl.trigger(ShutdownReason::Manual);
    /// advance(Duration::from_secs(2)).await;
    /// drop(ctl.try_admit()); // served, but late
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.late_arrivals(), 1);
    /// assert_eq!(report.last_arrival(), Some(Duration::from_secs(2)));
    /// assert!(!report.lame_duck_was_too_short()); // three quiet seconds followed
    /// # }
    /// ```
    pub fn late_arrivals(&self) -> u64 {
        self.facts.late_arrivals.count
    }

    /// Returns how long after the trigger the last of the [late arrivals](Self::late_arrivals) arrived.
    ///
    /// It is `None` if there were none, and never longer than the lame duck. The time is by the clock of
    /// the runtime on which the request arrived. Outside a runtime it is by the clock of the thread, so a
    /// paused clock has no effect there.
    pub fn last_arrival(&self) -> Option<Duration> {
        self.facts.late_arrivals.last
    }

    /// Returns whether requests arrived until the end of the lame duck.
    ///
    /// That means: the last one arrived in the last fifth of the lame duck, and nothing ended it early. A
    /// warning is then logged, too. Set a longer [`lame_duck`](crate::ShutdownConfig::lame_duck), so that
    /// the load balancer notices in time, or fix clients that keep their connections and ignore
    /// `Connection: close`. This does not make the shutdown less [graceful](Self::is_graceful).
    ///
    /// It is `false` for an [interrupted](ShutdownReason::Interrupted) shutdown.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio::time::advance;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    /// ctl.trigger(ShutdownReason::Manual);
    /// for _ in 0..49 {
    ///     advance(Duration::from_millis(100)).await;
    ///     drop(ctl.try_admit()); // the load balancer has not noticed
    /// }
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.lame_duck_was_too_short());
    /// assert!(report.is_graceful());
    /// let text = report.to_string();
    /// assert!(text.contains("late requests 49 in the lame duck, the last 4.900s into it"));
    /// # }
    /// ```
    pub fn lame_duck_was_too_short(&self) -> bool {
        self.facts.late_arrivals.lame_duck_was_too_short
    }

    /// Returns why the lame duck ended. It is `None` if there was none, or if the shutdown was
    /// [interrupted](ShutdownReason::Interrupted) in it.
    ///
    /// How long it lasted is in [`phases`](Self::phases).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::report::LameDuckEnd;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.lame_duck_end(), Some(LameDuckEnd::InFull));
    /// assert!(report.to_string().contains(", in full\n"));
    /// # }
    /// ```
    pub fn lame_duck_end(&self) -> Option<LameDuckEnd> {
        self.facts.lame_duck_end
    }

    /// Returns how many late requests were served: those that arrived while draining.
    ///
    /// They arrived on connections that were open when draining began, or from the listener's backlog,
    /// at a [`DrainLayer`](crate::DrainLayer) within [`late_for`](crate::ShutdownConfig::late_for), or
    /// at a [`RequestTrackingLayer`](crate::RequestTrackingLayer). Some are expected.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(DrainLayer::new(ctl.clone()));
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    /// assert_eq!(response.status(), 200);
    /// drop(response); // the request is in flight until the end of its body
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.late_requests(), 1);
    /// # }
    /// ```
    pub fn late_requests(&self) -> u64 {
        self.facts.late_requests
    }

    /// Returns how many requests and guards were in flight at the force.
    ///
    /// It is zero without a force.
    pub fn in_flight_at_force(&self) -> u64 {
        self.facts.in_flight_at_force
    }

    /// Returns how many connections of this crate's [servers](crate::serve) were closed by force.
    ///
    /// They were still open when the time to send the responses to cut requests was over: those of clients
    /// that do not read, and tunnels. [`aborted`](Self::aborted) also counts the requests in flight on them.
    /// A response whose body had ended, but that the client had not fully read, is lost with its connection,
    /// and is counted only here.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.connections_cut(), 0);
    /// # }
    /// ```
    pub fn connections_cut(&self) -> u64 {
        self.facts.connections_cut
    }

    /// Returns the states that the shutdown went through, and the time spent in each.
    ///
    /// For an [interrupted](ShutdownReason::Interrupted) shutdown, there is only the state that it had
    /// reached, with all of the time. See [`PhaseReport`] for an example.
    pub fn phases(&self) -> &[PhaseReport] {
        &self.facts.phases
    }

    /// Returns the reports of the hooks.
    ///
    /// They are ordered by phase, and within a phase by registration. Hooks that were registered after the
    /// trigger come last, as not started. See [`HookReport`] for an example.
    pub fn hooks(&self) -> &[HookReport] {
        &self.facts.hooks
    }

    /// Returns the reports of the stops of services that [`Startup`](crate::Startup) started.
    ///
    /// They are in the order of the stops: the service that was started last comes first. A service whose
    /// start had not ended is included, as abandoned. See [`ServiceReport`] for an example.
    pub fn services(&self) -> &[ServiceReport] {
        &self.facts.services
    }

    /// Returns the reports of the saves, in the order of their registration.
    ///
    /// `ShutdownController::persist` (feature `persist`) registers them. See [`SaveReport`] for an
    /// example.
    pub fn saves(&self) -> &[SaveReport] {
        &self.facts.saves
    }

    /// Returns the reports of tasks that ended badly, at any time.
    ///
    /// They include tasks of [`spawn`](crate::ShutdownController::spawn), workers, admin servers, and the
    /// futures that [watch](crate::startup::StartStep::watch) services, if they failed, panicked, or ended
    /// too early by their [policy](crate::controller::TaskPolicy). They also include tasks and workers that
    /// were cut or abandoned. Only the first 64 are kept, and all that are still alive. See [`TaskReport`]
    /// for an example.
    pub fn tasks(&self) -> &[TaskReport] {
        &self.facts.tasks
    }

    pub(crate) fn startup_failure(&self) -> Option<&StartupFailure> {
        self.facts.startup_failure.as_ref()
    }

    /// Returns the errors that servers ended with.
    ///
    /// The servers are those passed to [`run`](crate::ShutdownController::run).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let server = async { Err::<(), _>(io::Error::other("address in use")) };
    ///
    /// let report = ctl.run(server).await;
    /// let errors: Vec<_> = report.server_errors().map(|error| error.to_string()).collect();
    /// assert_eq!(errors, ["address in use"]);
    /// # }
    /// ```
    pub fn server_errors(
        &self,
    ) -> impl ExactSizeIterator<Item = &(dyn std::error::Error + 'static)> {
        let errors = self.facts.server_errors.iter();
        errors.map(|error| &**error as &(dyn std::error::Error + 'static))
    }

    /// Returns how long the shutdown took.
    pub fn duration(&self) -> Duration {
        self.facts.phases.iter().map(|phase| phase.duration).sum()
    }

    /// Returns 0 if the shutdown was [graceful](Self::is_graceful), otherwise 1.
    ///
    /// Return it from `main`. The process may not exit at once: dropping a tokio runtime waits for all
    /// [`spawn_blocking`](tokio::task::spawn_blocking) tasks, forever if one of them reads from stdin.
    /// [`ShutdownConfig::exit_after`](crate::ShutdownConfig::exit_after) limits that wait. If you create
    /// the runtime yourself, shut it down with
    /// [`shutdown_timeout`](tokio::runtime::Runtime::shutdown_timeout) or
    /// [`shutdown_background`](tokio::runtime::Runtime::shutdown_background).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::ExitCode;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// #[tokio::main]
    /// async fn main() -> ExitCode {
    ///     let ctl = ShutdownController::new();
    ///     let report = ctl.shutdown(ShutdownReason::Manual).await;
    ///     assert_eq!(report.exit_code(), ExitCode::SUCCESS);
    ///     report.exit_code()
    /// }
    /// ```
    ///
    /// With your own runtime, which gets one second to shut down:
    ///
    /// ```
    /// use std::process::ExitCode;
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// fn main() -> ExitCode {
    ///     let runtime = tokio::runtime::Runtime::new().expect("threads");
    ///     let report = runtime.block_on(async {
    ///         let ctl = ShutdownController::new();
    ///         ctl.shutdown(ShutdownReason::Manual).await
    ///     });
    ///     runtime.shutdown_timeout(Duration::from_secs(1));
    ///     report.exit_code()
    /// }
    /// ```
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// Exits the process now, with [`exit_code`](Self::exit_code).
    ///
    /// Use it in programs in which a blocked thread would delay the drop of the runtime. Destructors do not
    /// run, so what a log writer keeps in memory is lost. For example, `tracing_appender::non_blocking`
    /// writes the rest when its guard is dropped: pass the guard to [`exit_dropping`](Self::exit_dropping).
    ///
    /// To exit the process only if it does not exit by itself, see
    /// [`ShutdownConfig::exit_after`](crate::ShutdownConfig::exit_after).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// println!("{report}");
    /// report.exit();
    /// # }
    /// ```
    pub fn exit(&self) -> ! {
        std::process::exit(self.status().into())
    }

    /// Drops `last`, and then exits the process like [`exit`](Self::exit).
    ///
    /// Use it for the guard of a log writer, or for other values that must be dropped before the exit. Pass
    /// several values as a tuple. A panic in the drop does not prevent the exit; a drop that blocks does.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # struct WriterGuard;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let guard = WriterGuard; // for example, of `tracing_appender::non_blocking`
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// report.exit_dropping(guard);
    /// # }
    /// ```
    pub fn exit_dropping<T>(&self, last: T) -> ! {
        panic::dropped(last);
        self.exit()
    }

    /// Logs the result in one line.
    pub(crate) fn log(&self) {
        let (reason, took) = (self.reason(), self.duration());
        let (admitted, refused) = (self.admitted(), self.refused());
        let (aborted, abandoned) = (self.aborted(), self.abandoned());
        if self.startup_failure().is_some() && self.is_graceful() {
            tell!(info, %reason, took_ms = millis(took), "start-up rolled back as requested");
        } else if self.startup_failure().is_some() {
            tell!(warn, %reason, took_ms = millis(took), aborted, abandoned, "start-up rolled back");
        } else if self.is_graceful() {
            tell!(info, %reason, took_ms = millis(took), admitted, refused, "shutdown complete");
        } else {
            let forced = self.is_forced();
            tell!(warn, %reason, took_ms = millis(took), admitted, refused, forced, aborted, abandoned, "shutdown not graceful");
        }
    }

    pub(crate) fn status(&self) -> u8 {
        u8::from(!self.is_graceful())
    }
}

impl ShutdownReport {
    /// Returns how the shutdown ended, as a text and as a word for programs.
    pub(crate) fn result(&self) -> (&'static str, &'static str) {
        let facts = &*self.facts;
        match (facts.interrupted, facts.forced, self.is_graceful()) {
            (true, ..) => ("interrupted", "interrupted"),
            _ if facts.startup_failure.is_some() => ("start-up rolled back", "rolled_back"),
            (_, true, _) => ("forced", "forced"),
            (.., true) => ("graceful", "graceful"),
            (.., false) => ("drained, with errors", "with_errors"),
        }
    }
}

impl fmt::Debug for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.facts;
        f.debug_struct("ShutdownReport")
            .field("reason", &facts.reason)
            .field("graceful", &self.is_graceful())
            .field("forced", &facts.forced)
            .field("phases", &facts.phases)
            .field("admitted", &facts.admitted)
            .field("refused", &facts.refused)
            .field("aborted", &facts.aborted)
            .field("abandoned", &self.abandoned())
            .field("connections_cut", &facts.connections_cut)
            .field("tasks", &facts.tasks)
            .field("hooks", &facts.hooks)
            .field("services", &facts.services)
            .field("saves", &facts.saves)
            .finish_non_exhaustive()
    }
}

// ===== impl Facts =====

impl Facts {
    /// Returns whether all hooks and saves completed. They do not run in the rollback of a start-up.
    fn is_cleaned_up(&self) -> bool {
        self.hooks.iter().all(HookReport::is_completed)
            && self.saves.iter().all(SaveReport::is_completed)
    }

    fn abandoned_tasks(&self) -> u64 {
        let abandoned = |task: &&TaskReport| matches!(task.outcome(), Outcome::Abandoned);
        self.tasks.iter().filter(abandoned).count() as u64
    }
}

// ===== impl PhaseReport =====

impl PhaseReport {
    /// Returns the state: `LameDuck`, `Draining` or `Stopping`, or that of a start-up.
    pub fn state(&self) -> LifecycleState {
        self.state
    }

    /// Returns how long the service was in this state.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
