//! Starting services one after another, and stopping them again when one of them fails.
//!
//! ```text
//! Initializing ── start ── start ── … ── finish ── Running ── (shutdown: stopped in reverse order)
//!                   └ fails, times out, panics, or a signal: stopped in reverse order ── Failed
//! ```

use std::fmt;
use std::mem;

use super::error::StartupError;
use super::run;
use super::step::AnyStep;
use crate::config::{ConfigError, ShutdownConfig};
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::{Core, Either, ShutdownReport, StartupCause, StartupFailure, Wait, race};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// The start-up of several services. It is rolled back when one of them fails.
///
/// The state is `Initializing` at first, `Starting` from the first step on, and `Running` after
/// [`finish`](Self::finish). Services that were started are stopped in reverse order:
///
/// - in a shutdown, after the hooks and before its deadline;
/// - in a rollback: when a step fails, panics or takes longer than its limit, when a shutdown is
///   [triggered](ShutdownController::trigger) meanwhile, for example by a signal, or when the
///   `Startup` is dropped before it is finished. Requests and tasks that were already admitted then
///   have until the drain deadline to end, all services are stopped, and the state is `Failed`.
///   Hooks do not run.
///
/// If the `Startup` is dropped, the rollback runs in the background. If its runtime shuts down
/// meanwhile, a thread continues the rollback, and the shutdown of the runtime waits for it. Stops
/// that need resources of the runtime, such as sockets, then fail. So prefer
/// [`fail`](Self::fail), which waits for the rollback, to an early return with `?`.
///
/// Every stop runs in its own task and has its own time limit, so a stop that hangs or fails does
/// not prevent the others. A process may create another `Startup` afterwards.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{BoxError, ShutdownConfig, ShutdownReason, Startup};
///
/// #[derive(Clone)]
/// struct Database;
///
/// impl Database {
///     async fn connect(url: &str) -> Result<Self, BoxError> {
///         # let _ = url;
///         Ok(Self)
///     }
///     async fn close(self) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mut startup = Startup::new(ShutdownConfig::default())?;
/// let ctl = startup.controller(); // for layers, health and signals, from the first moment
///
/// let url = String::from("postgres://localhost");
/// let db = startup
///     .start("database", Database::connect(&url), |db| db.close())
///     .timeout(Duration::from_secs(10))
///     .await?;
/// # let _ = db;
///
/// startup.finish().await?;
/// // serve …
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert_eq!(report.services()[0].name(), "database");
/// assert!(report.is_graceful());
/// # Ok(()) }
/// ```
#[must_use = "a start-up that is dropped without `finish` is rolled back"]
pub struct Startup {
    ctl: ShutdownController,
    steps: u32,
    finished: bool,
}

// ===== impl Startup =====

impl Startup {
    /// Begins a start-up. The state is `Initializing`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a field is invalid. It names the field, its value, and what is
    /// allowed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{LifecycleState, ShutdownConfig, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::BoxError> {
    /// let startup = Startup::new(ShutdownConfig::default())?;
    /// let ctl = startup.controller();
    /// assert_eq!(ctl.state(), LifecycleState::Initializing);
    ///
    /// startup.finish().await?;
    /// assert_eq!(ctl.state(), LifecycleState::Running);
    /// # Ok(()) }
    /// ```
    pub fn new(config: ShutdownConfig) -> Result<Self, ConfigError> {
        let ctl = ShutdownController::starting(config)?;
        Ok(Self {
            ctl,
            steps: 0,
            finished: false,
        })
    }

    /// Returns the handle to the lifecycle that is being started.
    ///
    /// It can be passed to layers, health and tasks before the first step. They serve requests during
    /// the start-up, and readiness is `starting`.
    pub fn controller(&self) -> ShutdownController {
        self.ctl.clone()
    }

    /// Ends the start-up. The state is `Running`, and the service is ready.
    ///
    /// # Errors
    ///
    /// Returns a [`StartupError`] if a shutdown was triggered before. The started services have been
    /// stopped by then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before its first poll rolls the start-up back, as dropping the `Startup`
    /// does. Dropping it later stops nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::startup::StartupCause;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownReason, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::BoxError> {
    /// let startup = Startup::new(ShutdownConfig::default())?;
    /// startup.controller().trigger(ShutdownReason::Manual); // or a signal
    ///
    /// let error = startup.finish().await.unwrap_err();
    /// assert!(matches!(error.cause(), StartupCause::Triggered(ShutdownReason::Manual)));
    /// # Ok(()) }
    /// ```
    pub async fn finish(mut self) -> Result<ShutdownController, StartupError> {
        self.finished = true;
        if self.core().finish_startup() {
            Ok(self.ctl.clone())
        } else {
            Err(self.failed(None).await)
        }
    }

    /// Rolls the start-up back because of `error`, and waits until the rollback is over.
    ///
    /// This is for failures between the steps. If the start-up has already failed, that earlier failure
    /// is returned.
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the rollback.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::net::TcpListener;
    /// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
    ///
    /// async fn start(startup: &mut Startup) -> Result<TcpListener, BoxError> {
    ///     startup
    ///         .start("database", async { Ok::<_, BoxError>("pool") }, |_pool| async {})
    ///         .await?;
    ///     Ok(TcpListener::bind("256.0.0.1:80").await?) // fails
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut startup = Startup::new(ShutdownConfig::default())?;
    /// let error = match start(&mut startup).await {
    ///     Ok(_listener) => unreachable!(),
    ///     Err(error) => startup.fail(error).await,
    /// };
    /// assert_eq!(error.rollback()[0].name(), "database");
    /// # Ok(()) }
    /// ```
    pub async fn fail(mut self, error: impl Into<BoxError>) -> StartupError {
        let failure = StartupFailure::caused_by(error.into());
        self.finished = true;
        self.failed(Some(failure)).await
    }

    fn core(&self) -> &Arc<Core> {
        self.ctl.core()
    }

    /// Runs all starts of one step at the same time. The error is `None` if a shutdown was triggered.
    pub(super) async fn run(
        &mut self,
        steps: Vec<AnyStep<'_>>,
    ) -> Result<(), Option<StartupFailure>> {
        let core = self.ctl.core();
        core.advance(LifecycleState::Starting);
        if core.is_triggered() {
            return Err(None);
        }
        self.steps += 1;
        let names: Vec<_> = steps.iter().map(|step| Arc::clone(&step.name)).collect();
        // The longest of them, unless one has none.
        let limits = steps.iter().map(|step| step.timeout);
        let limit = limits.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)));
        core.services
            .begin_step(self.steps, &names, limit.flatten())
            .map_err(|name| StartupFailure {
                step: Some(name),
                cause: StartupCause::Duplicate,
            })?;
        let _running = RunningStep(core);
        tell!(debug, services = ?names, "starting");
        let triggered: Wait = Wait::new(core, event::TRIGGERED);
        // `triggered` is polled first: nothing more is started after a trigger.
        match race(triggered, run::run_all(&self.ctl, steps)).await {
            Either::Right(Err(failure)) => Err(Some(failure)),
            Either::Right(Ok(())) if !core.is_triggered() => Ok(()),
            // If it was triggered during the last poll, the services of this step are stopped again.
            Either::Right(Ok(())) | Either::Left(()) => Err(None),
        }
    }

    /// Rolls the start-up back, and waits until the rollback is over.
    pub(super) async fn failed(&self, failure: Option<StartupFailure>) -> StartupError {
        StartupError::new(self.roll_back(failure).await)
    }

    /// Begins the rollback, unless it has already begun. It is driven like a shutdown, so dropping the
    /// returned future does not stop it.
    fn roll_back(&self, failure: Option<StartupFailure>) -> Wait<ShutdownReport> {
        let failure = failure.filter(|_| !self.core().is_triggered());
        if let Some(failure) = &failure {
            self.core().note_startup_failure(failure.clone());
        }
        let rolled_back = self.ctl.shutdown(ShutdownReason::Error);
        if let Some(StartupFailure { step, cause }) = failure {
            tell!(error, step = step.as_deref(), cause = %cause.chain(), "start-up failed");
        }
        rolled_back
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        if mem::replace(&mut self.finished, true) || self.core().is_triggered() {
            return;
        }
        let failure = StartupFailure {
            step: None,
            cause: StartupCause::Dropped,
        };
        drop(self.roll_back(Some(failure)));
    }
}

impl fmt::Debug for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Startup")
            .field("ctl", &self.ctl)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// Reports the end of a step when dropped. The rollback waits for it.
struct RunningStep<'a>(&'a Arc<Core>);

impl Drop for RunningStep<'_> {
    fn drop(&mut self) {
        self.0.services.end_step();
        self.0.milestones().reach(event::WORK_ENDED);
    }
}
