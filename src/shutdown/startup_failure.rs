//! Why a start-up failed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::outcome::Outcome;
use crate::error::{BoxError, Chain};
use crate::state::ShutdownReason;
use crate::sync::Arc;

/// Why a start-up failed.
///
/// # Examples
///
/// ```
/// use std::{future::pending, time::Duration};
/// use tower_lifecycle::startup::StartupCause;
/// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
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
    /// The start took longer than this limit.
    TimedOut(Duration),
    /// Another service has this name.
    Duplicate,
    /// A shutdown was triggered, for this reason.
    Triggered(ShutdownReason),
    /// The [`Startup`](crate::Startup) was dropped before it was finished.
    Dropped,
}

/// The step that failed, and the cause.
#[derive(Debug, Clone)]
pub(crate) struct StartupFailure {
    pub(crate) step: Option<Arc<str>>,
    pub(crate) cause: StartupCause,
}

// ===== impl StartupFailure =====

impl StartupFailure {
    /// Returns whether a signal or the user ended the start-up, so that nothing has failed.
    pub(crate) fn was_asked_for(&self) -> bool {
        use ShutdownReason::{Manual, Signal, Timeout};
        matches!(
            self.cause,
            StartupCause::Triggered(Signal(_) | Manual | Timeout)
        )
    }

    /// Writes whether the start-up has failed, and at which step.
    pub(crate) fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.was_asked_for() {
            "ended"
        } else {
            "failed"
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

impl fmt::Display for StartupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        write!(f, ": {}", self.cause.chain())
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
    /// Returns the error text, including the sources of the error.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Failed(error) => Chain(&**error).to_string(),
            other => other.to_string(),
        }
    }
}
