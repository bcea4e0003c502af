//! Why a start-up failed, and how its rollback went.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{BoxError, Chain};
use crate::outcome::{Outcome, ServiceReport};
use crate::report::ShutdownReport;
use crate::state::ShutdownReason;
use crate::sync::Arc;

/// Says why a start-up failed, and how the rollback of each service went.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mut startup = Startup::new(ShutdownConfig::default())?;
/// startup
///     .start("database", async { Ok::<_, BoxError>("pool") }, |_pool| async {})
///     .await?;
/// let error = startup
///     .start("cache", async { Err::<(), _>("connection refused") }, |()| async {})
///     .await
///     .unwrap_err();
///
/// assert_eq!(error.to_string(), "start-up failed at `cache`: connection refused");
/// assert!(error.rollback()[0].is_completed());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct StartupError {
    report: ShutdownReport,
}

/// Why a start-up failed.
///
/// # Examples
///
/// ```
/// use std::{future::pending, time::Duration};
/// use tower_lifecycle::{BoxError, ShutdownConfig, Startup, StartupCause};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # tokio::time::pause();
/// let mut startup = Startup::new(ShutdownConfig::default())?;
/// let error = startup
///     .start("database", pending::<Result<(), BoxError>>(), |()| async {})
///     .timeout(Duration::from_secs(5))
///     .await
///     .unwrap_err();
/// assert!(matches!(error.cause(), StartupCause::TimedOut(_)));
/// assert_eq!(error.to_string(), "start-up failed at `database`: not started within 5s");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StartupCause {
    /// The start returned this error.
    Failed(Arc<dyn Error + Send + Sync>),
    /// The start panicked, with this message.
    Panicked(String),
    /// The start took longer than its limit, which is this.
    TimedOut(Duration),
    /// Another service has this name.
    Duplicate,
    /// A shutdown was triggered, for this reason.
    Triggered(ShutdownReason),
    /// The [`Startup`](crate::Startup) was dropped before it was finished.
    Dropped,
}

/// Which step failed, and why.
#[derive(Debug, Clone)]
pub(crate) struct StartupFailure {
    pub(crate) step: Option<Arc<str>>,
    pub(crate) cause: StartupCause,
}

// ===== impl StartupFailure =====

impl StartupFailure {
    /// Nothing has failed: a signal or the user has ended it.
    pub(crate) fn was_asked_for(&self) -> bool {
        use ShutdownReason::{Manual, Signal, Timeout};
        matches!(
            self.cause,
            StartupCause::Triggered(Signal(_) | Manual | Timeout)
        )
    }

    /// Whether it has failed, and at which step.
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.was_asked_for() {
            true => "ended",
            false => "failed",
        })?;
        match &self.step {
            Some(step) => write!(f, " at `{step}`"),
            None => Ok(()),
        }
    }

    pub(crate) fn caused_by(error: BoxError) -> Self {
        let cause = match Outcome::of(Err(error)) {
            Outcome::Failed(error) => StartupCause::Failed(error),
            _ => StartupCause::Dropped,
        };
        Self { step: None, cause }
    }
}

// ===== impl StartupError =====

impl StartupError {
    pub(crate) fn new(report: ShutdownReport) -> Self {
        Self { report }
    }

    /// Returns the name of the service that was not started.
    ///
    /// There is none if it was not a service that failed.
    pub fn step(&self) -> Option<&str> {
        self.report.startup_failure()?.step.as_deref()
    }

    /// Returns why the start-up failed.
    pub fn cause(&self) -> &StartupCause {
        match self.report.startup_failure() {
            Some(failure) => &failure.cause,
            None => &StartupCause::Dropped,
        }
    }

    /// Returns how the stop of each service that had been started went, in the order of the stops.
    pub fn rollback(&self) -> &[ServiceReport] {
        self.report.services()
    }

    /// Returns 0 if the start-up was ended by a signal or a trigger and all was rolled back, else 1.
    ///
    /// It is the [report's](ShutdownReport::exit_code), and to be returned from `main`: a process that is
    /// told to stop while it starts has not failed. If the stop of a service failed or took too long, or
    /// a second signal forced the rollback, it is 1 all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::ExitCode;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownReason, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::BoxError> {
    /// let startup = Startup::new(ShutdownConfig::default())?;
    /// startup.controller().trigger(ShutdownReason::Signal("SIGTERM"));
    /// let error = startup.finish().await.unwrap_err();
    /// assert_eq!(error.exit_code(), ExitCode::SUCCESS);
    /// # Ok(()) }
    /// ```
    pub fn exit_code(&self) -> ExitCode {
        self.report.exit_code()
    }

    /// Returns the report that everybody gets who waits for the end of this lifecycle.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::ExitCode;
    /// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut startup = Startup::new(ShutdownConfig::default())?;
    /// let error = startup
    ///     .start("cache", async { Err::<(), _>("connection refused") }, |()| async {})
    ///     .await
    ///     .unwrap_err();
    /// println!("{}", error.report());
    /// assert_eq!(error.report().exit_code(), ExitCode::FAILURE);
    /// # Ok(()) }
    /// ```
    pub fn report(&self) -> &ShutdownReport {
        &self.report
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("start-up ")?;
        match self.report.startup_failure() {
            Some(failure) => {
                failure.write_head(f)?;
                write!(f, ": {}", failure.cause)
            }
            None => write!(f, "failed: {}", self.cause()),
        }
    }
}

impl Error for StartupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.cause() {
            // Its own text is in ours.
            StartupCause::Failed(error) => error.source(),
            _ => None,
        }
    }
}

// ===== impl StartupCause =====

impl fmt::Display for StartupCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut(limit) => write!(f, "not started within {limit:?}"),
            Self::Duplicate => f.write_str("another service has this name"),
            Self::Triggered(reason) => write!(f, "a shutdown was triggered (reason: {reason})"),
            Self::Dropped => f.write_str("the `Startup` was dropped before `finish`"),
        }
    }
}

impl StartupCause {
    /// The text of it, with all that caused it.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Failed(error) => Chain(&**error).to_string(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for StartupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        write!(f, ": {}", self.cause.chain())
    }
}
