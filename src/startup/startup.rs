//! StartFuture services, one after another, and stopping them again when one of them fails.
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

/// The start of a service's parts, which is rolled back when one of them fails.
///
/// It begins as `Initializing`, is `Starting` from the first step on, and ends by
/// [`finish`](Self::finish) as `Running`. What was started is stopped in reverse order:
///
/// - in a shutdown, after the hooks and inside its deadline;
/// - when a step fails, panics or takes longer than its limit, when a shutdown is
///   [triggered](ShutdownController::trigger) meanwhile, by a signal for one, or when it is dropped
///   without having been finished. Then requests and tasks that were let in already have until the
///   drain deadline to end, all is stopped, and the state is `Failed`. Hooks do not run.
///
/// When it is dropped, the rollback runs in the background. If its runtime ends meanwhile, a thread
/// goes on with it, and the end of the runtime waits for that; stops that need what the runtime
/// owned, such as its sockets, then fail. So leave a start-up by [`fail`](Self::fail), which waits,
/// rather than by `?` alone.
///
/// Every stop runs in a task of its own and has a limit of its own, so that one that hangs or fails
/// keeps no other from being stopped. A process may make another `Startup` afterwards.
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
    /// Begins a start-up; the state is `Initializing`.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the field that cannot be, its value, and what is allowed.
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

    /// Returns the handle on the lifecycle that is being started.
    ///
    /// It can be given to layers, health and tasks from the first moment: what they are asked
    /// meanwhile is served, and readiness says `starting`.
    pub fn controller(&self) -> ShutdownController {
        self.ctl.clone()
    }

    /// Ends the start-up; the state is `Running`, and readiness turns green.
    ///
    /// # Errors
    ///
    /// A [`StartupError`], if a shutdown was triggered before. What was started has been stopped
    /// then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before its first poll rolls the start-up back, as dropping the `Startup`
    /// does; later, it stops nothing.
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

    /// Rolls the start-up back, because of `error`, and waits until that is done.
    ///
    /// For whatever fails between the steps. If it has failed before, that failure is what is given.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the rollback, once it was polled.
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

    /// Runs the starts of one step, at the same time. The error is `None` if a shutdown was triggered.
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
        core.services
            .begin_step(self.steps, &names)
            .map_err(|name| StartupFailure {
                step: Some(name),
                cause: StartupCause::Duplicate,
            })?;
        let _running = RunningStep(core);
        tell!(debug, services = ?names, "starting");
        let triggered: Wait = Wait::new(core, event::TRIGGERED);
        // Asked first: what is triggered starts nothing more.
        match race(triggered, run::run_all(&self.ctl, steps)).await {
            Either::Right(Err(failure)) => Err(Some(failure)),
            Either::Right(Ok(())) if !core.is_triggered() => Ok(()),
            // Triggered in the very poll that started it, which is stopped again.
            Either::Right(Ok(())) | Either::Left(()) => Err(None),
        }
    }

    /// Has everything stopped again, and waits until that is done.
    pub(super) async fn failed(&self, failure: Option<StartupFailure>) -> StartupError {
        StartupError::new(self.roll_back(failure).await)
    }

    /// Begins the rollback, unless it is under way. It is driven as a shutdown is, so dropping what
    /// waits for it does not stop it.
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

/// Tells, on whatever path, that a step has ended: the rollback waits for that.
struct RunningStep<'a>(&'a Arc<Core>);

impl Drop for RunningStep<'_> {
    fn drop(&mut self) {
        self.0.services.end_step();
        self.0.milestones().reach(event::WORK_ENDED);
    }
}
