//! The error of a start-up, with the outcome of its rollback.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::shutdown::{ServiceReport, ShutdownReport, StartupCause};

/// The error of a start-up that failed, with the outcome of its rollback.
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

// ===== impl StartupError =====

impl StartupError {
    pub(crate) fn new(report: ShutdownReport) -> Self {
        Self { report }
    }

    /// Returns the name of the service that was not started.
    ///
    /// Returns `None` if the start-up did not fail at a service.
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

    /// Returns the outcome of the stop of each started service, in the order of the stops.
    pub fn rollback(&self) -> &[ServiceReport] {
        self.report.services()
    }

    /// Returns 0 if a signal or a trigger ended the start-up and everything was rolled back, otherwise 1.
    ///
    /// This is the exit code of the [report](ShutdownReport::exit_code). Return it from `main`: a process
    /// that is told to stop while it starts has not failed. If the stop of a service failed or took too
    /// long, or a second signal forced the rollback, it is 1 as well.
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

    /// Returns the report of this lifecycle, which all waits for its end return.
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
            // The `Display` text already includes the text of `error`.
            StartupCause::Failed(error) => error.source(),
            _ => None,
        }
    }
}
