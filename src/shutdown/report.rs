//! What happened, as a value.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use super::outcome::{HookReport, Outcome, SaveReport, ServiceReport, TaskReport};
use super::startup_failure::StartupFailure;
use crate::error::Chain;
use crate::in_flight::Arrivals;
use crate::log::tell;
use crate::panic;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// What happened in a shutdown.
///
/// Everybody who waits for the end of one shutdown gets the same report; a clone is cheap.
/// `println!("{report}")` shows it to a person.
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
    pub(crate) late_arrivals: Arrivals,
    pub(crate) late_requests: u64,
    pub(crate) in_flight_at_force: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) aborted: u64,
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

    /// Returns whether everything went as it should.
    ///
    /// That is when it was not forced, so that nothing was cut or abandoned, every hook completed,
    /// every service stopped, all state was saved, no server failed, no [task](Self::tasks) ended badly
    /// at any time, and the shutdown itself ran to its end. The rollback of a start-up is graceful only if
    /// it was asked for, by a signal or a [trigger](crate::ShutdownController::trigger), and not if a step
    /// has failed.
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

    /// Returns whether admitted work, or the clean-up, was forced.
    ///
    /// That is by the drain deadline, by `force` in whatever state, or by an interruption.
    pub fn is_forced(&self) -> bool {
        self.facts.forced
    }

    /// Returns why the shutdown began, or `Interrupted` if it did not come to its end.
    pub fn reason(&self) -> ShutdownReason {
        self.facts.reason
    }

    /// Returns how many requests were cut, in their handler or in their body.
    ///
    /// That is each whose future or body had not ended when it was dropped after the force: by a layer, by
    /// the server that closed its connection, or because its client had gone. A body that had ended was not
    /// cut, though a server may not have sent all of it: see [`connections_cut`](Self::connections_cut).
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

    /// Returns how much was still alive when we stopped waiting.
    ///
    /// That is requests and guards that did not let go and tasks that could not be cut (a blocked
    /// thread), servers that did not end (a stalled socket), and starts of services that blocked. In an
    /// [interrupted](ShutdownReason::Interrupted) shutdown it is also what the end of the runtime has dropped
    /// since the trigger.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let ctl = ShutdownController::new();
    /// let _stuck = ctl.track(); // takes no notice of the force
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

    /// Returns how many requests and guards were admitted in all.
    pub fn admitted(&self) -> u64 {
        self.facts.admitted
    }

    /// Returns how many requests and guards were refused in all.
    pub fn refused(&self) -> u64 {
        self.facts.refused
    }

    /// Returns how many requests and guards were in flight when the shutdown began.
    pub fn in_flight_at_trigger(&self) -> u64 {
        self.facts.in_flight_at_trigger
    }

    /// Returns how many requests came in the lame duck, when they should have gone elsewhere.
    ///
    /// These are those that a [`DrainLayer`](crate::DrainLayer), a
    /// [`RequestTrackingLayer`](crate::RequestTrackingLayer) or
    /// [`try_admit`](crate::ShutdownController::try_admit) has admitted between the trigger and the
    /// beginning of draining. Some are to be expected, until the load balancer has taken notice.
    /// What is [tracked](crate::ShutdownController::track) is not among them, and neither are
    /// requests to [exempt paths](crate::DrainLayer::exempt_paths), to which probes go on coming; put
    /// probes that pass through a layer there. A shutdown that was [called
    /// off](crate::ShutdownController::resume) leaves no trace.
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

    /// Returns how long after the trigger the last of the [late arrivals](Self::late_arrivals) came.
    ///
    /// It is `None` if there were none, and never longer than the lame duck. It goes by the clock of
    /// the runtime, or else the thread, on which the request came. So one that came by a foreign
    /// thread knows nothing of a paused clock.
    pub fn last_arrival(&self) -> Option<Duration> {
        self.facts.late_arrivals.last
    }

    /// Returns whether requests came until the end of the lame duck, as if nobody had noticed it.
    ///
    /// That is when the last one came in its last fifth, and nothing ended it early. There is a
    /// warning in the log then, too. Set a longer [`lame_duck`](crate::ShutdownConfig::lame_duck), so
    /// that the load balancer notices in time; or have clients leave that keep their connections and
    /// take no notice of `Connection: close`. The shutdown is not less
    /// [graceful](Self::is_graceful) for it.
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

    /// Returns how many late requests were served: those that arrived while draining.
    ///
    /// They came on connections that were open when draining began, or from the listener's backlog,
    /// to a [`DrainLayer`](crate::DrainLayer) within [`late_for`](crate::ShutdownConfig::late_for), or
    /// to a [`RequestTrackingLayer`](crate::RequestTrackingLayer). Some are to be expected.
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
    /// drop(response); // it is in flight to the end of its body
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
    /// It is zero if there was none.
    pub fn in_flight_at_force(&self) -> u64 {
        self.facts.in_flight_at_force
    }

    /// Returns how many connections of our own [servers](crate::serve) were closed by force.
    ///
    /// These are the ones that were still open when those whose requests had been cut had had the time to
    /// be told: of clients that do not read, and tunnels. What was in flight on them is counted by
    /// [`aborted`](Self::aborted), too. An answer whose body had ended, but of which the client had not
    /// taken all, is lost with its connection, and counted here only.
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
    /// Of an [interrupted](ShutdownReason::Interrupted) one there is only the state that it had
    /// come to, with all of the time. See [`PhaseReport`] for an example.
    pub fn phases(&self) -> &[PhaseReport] {
        &self.facts.phases
    }

    /// Returns how each hook fared.
    ///
    /// They are in the order of their phases and, within one, of their registration. Those that were
    /// registered after the trigger come last, as not started. See [`HookReport`] for an example.
    pub fn hooks(&self) -> &[HookReport] {
        &self.facts.hooks
    }

    /// Returns how the stop of each service fared that [`Startup`](crate::Startup) had started.
    ///
    /// They are in the order of the stops, the latest started first. One whose start had not
    /// ended is among them, as abandoned. See [`ServiceReport`] for an example.
    pub fn services(&self) -> &[ServiceReport] {
        &self.facts.services
    }

    /// Returns how the save of each piece of state fared, in the order of their registration.
    ///
    /// These are those of `ShutdownController::persist` (feature `persist`). See [`SaveReport`] for
    /// an example.
    pub fn saves(&self) -> &[SaveReport] {
        &self.facts.saves
    }

    /// Returns how those tasks ended that ended badly, at any time.
    ///
    /// These are the tasks of [`spawn`](crate::ShutdownController::spawn), workers, admin servers, and
    /// what is [watched](crate::startup::StartStep::watch) of services, where they failed, panicked, or ended too
    /// early by their [policy](crate::controller::TaskPolicy); and tasks and workers that were cut or abandoned.
    /// The first 64 are there, and all that are still alive; see [`TaskReport`] for an example.
    pub fn tasks(&self) -> &[TaskReport] {
        &self.facts.tasks
    }

    pub(crate) fn startup_failure(&self) -> Option<&StartupFailure> {
        self.facts.startup_failure.as_ref()
    }

    /// Returns the errors that servers ended with.
    ///
    /// These are the servers given to [`run`](crate::ShutdownController::run).
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

    /// Returns 0 if the shutdown was [graceful](Self::is_graceful), else 1.
    ///
    /// It is to be returned from `main`. The process ends when `main` has, which is not at once: the
    /// drop of a tokio runtime waits for what runs in
    /// [`spawn_blocking`](tokio::task::spawn_blocking), and so for a read of stdin, for ever if need
    /// be. [`ShutdownConfig::exit_after`](crate::ShutdownConfig::exit_after) sets an end to that. With a
    /// runtime of your own, end it by
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
    /// A runtime of your own, which is given a second:
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

    /// Ends the process now, with [`exit_code`](Self::exit_code).
    ///
    /// For programs in which a blocked thread would hold the runtime's drop. Destructors do not run.
    /// So what a log writer keeps in memory is lost, as that of `tracing_appender::non_blocking`, which
    /// writes the rest when its guard is dropped: hand it to [`exit_dropping`](Self::exit_dropping).
    ///
    /// To end the process only if it does not end by itself, see
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

    /// Drops `last`, and then ends the process as [`exit`](Self::exit) does.
    ///
    /// For the guard of a log writer, or whatever else has to be dropped before the end. Several are
    /// handed over as a tuple. A panic in the drop does not keep the process from ending; a drop that
    /// blocks does.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # struct WriterGuard;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let guard = WriterGuard; // of `tracing_appender::non_blocking`, for one
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// report.exit_dropping(guard);
    /// # }
    /// ```
    pub fn exit_dropping<T>(&self, last: T) -> ! {
        panic::dropped(last);
        self.exit()
    }

    /// Logs how it went, in a line.
    pub(crate) fn log(&self) {
        let (reason, took) = (self.reason(), self.duration());
        let (aborted, abandoned) = (self.aborted(), self.abandoned());
        if self.startup_failure().is_some() && self.is_graceful() {
            tell!(info, %reason, ?took, "start-up rolled back, as asked");
        } else if self.startup_failure().is_some() {
            tell!(warn, %reason, ?took, aborted, abandoned, "start-up rolled back");
        } else if self.is_graceful() {
            tell!(info, %reason, ?took, "shutdown complete");
        } else {
            let forced = self.is_forced();
            tell!(warn, %reason, ?took, forced, aborted, abandoned, "shutdown not graceful");
        }
    }

    pub(crate) fn status(&self) -> u8 {
        u8::from(!self.is_graceful())
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

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.facts;
        let manner = match (facts.interrupted, facts.forced, self.is_graceful()) {
            (true, ..) => "interrupted",
            _ if facts.startup_failure.is_some() => "start-up rolled back",
            (_, true, _) => "forced",
            (.., true) => "graceful",
            (.., false) => "drained, with errors",
        };
        write!(
            f,
            "shutdown: {manner} in {:.3?} (reason: {})",
            self.duration(),
            facts.reason
        )?;
        if let Some(failure) = &facts.startup_failure {
            write!(f, "\n  start-up      {failure}")?;
        }
        for PhaseReport { state, duration } in &facts.phases {
            write!(f, "\n  {state:<13} {duration:.3?}")?;
        }
        write!(
            f,
            "\n  requests      {} admitted, {} refused, {} in flight at the trigger",
            facts.admitted, facts.refused, facts.in_flight_at_trigger
        )?;
        let late = facts.late_arrivals;
        if let Some(last) = late.last {
            let count = late.count;
            write!(
                f,
                "\n  late requests {count} in the lame duck, the last {last:.3?} into it"
            )?;
            if late.lame_duck_was_too_short {
                f.write_str(": the lame duck was too short")?;
            }
        }
        if facts.late_requests > 0 {
            write!(
                f,
                "\n  late requests {} while draining",
                facts.late_requests
            )?;
        }
        if facts.forced {
            let gone = facts.aborted + facts.abandoned_requests;
            write!(
                f,
                "\n  forced        {} in flight: {} cut, {} ended by themselves, {} abandoned",
                facts.in_flight_at_force,
                facts.aborted,
                facts.in_flight_at_force.saturating_sub(gone),
                facts.abandoned_requests,
            )?;
        }
        if facts.connections_cut > 0 {
            let closed = facts.connections_cut;
            write!(f, "\n  connections   {closed} closed by force")?;
        }
        if facts.abandoned_starts > 0 {
            let starts = facts.abandoned_starts;
            write!(f, "\n  services      {starts} still being started")?;
        }
        if facts.abandoned_servers > 0 {
            write!(
                f,
                "\n  servers       {} had not ended",
                facts.abandoned_servers
            )?;
        }
        if facts.abandoned_connections > 0 {
            let open = facts.abandoned_connections;
            write!(f, "\n  connections   {open} had not been closed")?;
        }
        for error in &facts.server_errors {
            write!(f, "\n  server error  {}", Chain(&**error))?;
        }
        for task in &facts.tasks {
            write!(f, "\n  task          {task}")?;
        }
        if facts.tasks_forgotten > 0 {
            let more = facts.tasks_forgotten;
            write!(f, "\n  tasks         {more} more did not end well")?;
        }
        for hook in &facts.hooks {
            write!(f, "\n  hook          {hook}")?;
        }
        for service in &facts.services {
            write!(f, "\n  service       {service}")?;
        }
        for save in &facts.saves {
            write!(f, "\n  save          {save}")?;
        }
        Ok(())
    }
}

// ===== impl Facts =====

impl Facts {
    /// Whether the hooks and saves are done, which do not run when a start-up is rolled back.
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

    /// Returns how long the service was in it.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
