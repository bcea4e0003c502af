//! What happened, as a value.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::BoxError;
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

/// How one shutdown hook fared.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// ctl.on_shutdown("close pool", |_notice| async { Ok(()) }).unwrap();
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// let hook = &report.hooks()[0];
/// assert_eq!(hook.name(), "close pool");
/// assert_eq!(hook.phase(), 0);
/// assert!(hook.is_completed());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HookReport {
    pub(crate) name: Arc<str>,
    pub(crate) phase: i32,
    pub(crate) outcome: HookOutcome,
    pub(crate) duration: Duration,
}

/// How one shutdown hook ended.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{HookOutcome, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// ctl.on_shutdown("close pool", |_notice| async { Err("still in use".into()) }).unwrap();
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// match report.hooks()[0].outcome() {
///     HookOutcome::Failed(error) => assert_eq!(error.to_string(), "still in use"),
///     other => panic!("{other}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HookOutcome {
    /// It returned `Ok`.
    Completed,
    /// It returned this error.
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// It panicked, with this message.
    Panicked(String),
    /// It had not ended by its limit, and was dropped, or left behind if it blocks its thread.
    TimedOut,
    /// Force came or the shutdown was interrupted while it ran, and it was dropped, or left behind
    /// if it blocks its thread.
    Cut,
    /// Force came or the shutdown was interrupted before its phase began; it was never started.
    NotStarted,
}

/// The time spent in one state of the shutdown.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{LifecycleState, PhaseReport, ShutdownController, ShutdownReason};
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

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) reason: ShutdownReason,
    pub(crate) interrupted: bool,
    pub(crate) forced: bool,
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) in_flight_at_trigger: u64,
    pub(crate) in_flight_at_force: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) aborted: u64,
    pub(crate) abandoned_requests: u64,
    pub(crate) abandoned_servers: u64,
    pub(crate) server_errors: Vec<Arc<dyn std::error::Error + Send + Sync>>,
    pub(crate) hooks: Vec<HookReport>,
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
    /// no server failed, and the shutdown itself ran to its end.
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
            && facts.server_errors.is_empty()
            && facts.hooks.iter().all(HookReport::is_completed)
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

    /// Returns how many requests we cut, in their handler or in their body.
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
    /// That is requests and guards that did not let go (a blocked thread), and servers that did not
    /// end (a stalled socket).
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
        self.facts.abandoned_requests + self.facts.abandoned_servers
    }

    /// Returns how many requests and guards were admitted in all.
    ///
    /// It is a figure to look at: each processor's part of it wraps at 2^32.
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

    /// Returns how many requests and guards were in flight at the force.
    ///
    /// It is zero if there was none.
    pub fn in_flight_at_force(&self) -> u64 {
        self.facts.in_flight_at_force
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
    /// They are in the order of their phases and, within one, of their registration. See
    /// [`HookReport`] for an example.
    pub fn hooks(&self) -> &[HookReport] {
        &self.facts.hooks
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
    /// It is to be returned from `main`.
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
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// Ends the process now, with [`exit_code`](Self::exit_code).
    ///
    /// For programs in which something abandoned, such as a blocked thread, would hold the
    /// runtime's drop for ever. Destructors do not run.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// if report.abandoned() > 0 {
    ///     report.exit();
    /// }
    /// # }
    /// ```
    pub fn exit(&self) -> ! {
        std::process::exit(self.status().into())
    }

    fn status(&self) -> u8 {
        u8::from(!self.is_graceful())
    }
}

impl fmt::Debug for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.fmt(f)
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.facts;
        let manner = match (facts.interrupted, facts.forced, self.is_graceful()) {
            (true, ..) => "interrupted",
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
        for PhaseReport { state, duration } in &facts.phases {
            write!(f, "\n  {state:<13} {duration:.3?}")?;
        }
        write!(
            f,
            "\n  requests      {} admitted, {} refused, {} in flight at the trigger",
            facts.admitted, facts.refused, facts.in_flight_at_trigger
        )?;
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
        if facts.abandoned_servers > 0 {
            write!(
                f,
                "\n  servers       {} had not ended",
                facts.abandoned_servers
            )?;
        }
        for error in &facts.server_errors {
            write!(f, "\n  server error  {error}")?;
        }
        for hook in &facts.hooks {
            write!(f, "\n  hook          {hook}")?;
        }
        Ok(())
    }
}

// ===== impl HookReport =====

impl HookReport {
    /// Returns the name that the hook was registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the phase that the hook ran in.
    pub fn phase(&self) -> i32 {
        self.phase
    }

    /// Returns how the hook ended.
    pub fn outcome(&self) -> &HookOutcome {
        &self.outcome
    }

    /// Returns how long the hook ran.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the hook returned `Ok`.
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, HookOutcome::Completed)
    }
}

impl fmt::Display for HookReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            phase,
            outcome,
            duration,
        } = self;
        write!(
            f,
            "`{name}` (phase {phase}): {outcome} after {duration:.3?}"
        )
    }
}

impl fmt::Display for HookOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Cut => f.write_str("cut by force"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

impl HookOutcome {
    /// To be called in the hook's own task, so that an error that cannot be shown harms only it.
    pub(crate) fn of(result: Result<(), BoxError>) -> Self {
        match result {
            Ok(()) => Self::Completed,
            Err(error) => {
                let _ = error.to_string();
                Self::Failed(error.into())
            }
        }
    }
}

// ===== impl PhaseReport =====

impl PhaseReport {
    /// Returns the state: `LameDuck`, `Draining` or `Stopping`.
    pub fn state(&self) -> LifecycleState {
        self.state
    }

    /// Returns how long the service was in it.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
