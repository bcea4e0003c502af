//! The outcomes of tasks, hooks, stops and saves.

use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, Chain};
use crate::panic;
use crate::sync::Arc;

/// The report of one shutdown hook.
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
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

/// The report of the stop of one service.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{BoxError, ShutdownConfig, ShutdownReason, Startup};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mut startup = Startup::new(ShutdownConfig::default())?;
/// startup
///     .start("cache", async { Ok::<_, BoxError>(1) }, |_| async { Err::<(), _>("not empty") })
///     .await?;
/// let ctl = startup.finish().await?;
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// let service = &report.services()[0];
/// assert_eq!(service.name(), "cache");
/// assert_eq!(service.outcome().to_string(), "failed: not empty");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ServiceReport {
    pub(crate) name: Arc<str>,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

/// The report of the save of one piece of state.
///
/// # Examples
///
#[cfg_attr(feature = "persist", doc = "```")]
#[cfg_attr(not(feature = "persist"), doc = "```ignore")]
/// use tower_lifecycle::store::MemoryStore;
/// use tower_lifecycle::{BoxError, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let ctl = ShutdownController::new();
/// ctl.persist("queue", MemoryStore::new(), || async { Ok("job 1, job 2") })?;
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// let save = &report.saves()[0];
/// assert_eq!(save.key(), "queue");
/// assert!(save.is_completed());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct SaveReport {
    pub(crate) key: Arc<str>,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

/// The report of one task that ended badly.
///
/// # Examples
///
/// ```
/// use std::future::pending;
/// use tower_lifecycle::report::Outcome;
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// ctl.spawn("outbox", pending::<()>()); // ignores the shutdown
///
/// ctl.force();
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// let task = &report.tasks()[0];
/// assert_eq!(task.name(), "outbox");
/// assert!(matches!(task.outcome(), Outcome::Cut));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TaskReport {
    pub(crate) name: Arc<str>,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
    /// `true` if the task ended after the trigger.
    pub(crate) in_shutdown: bool,
}

/// How a hook, the stop of a service, a save, or a task ended.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::report::Outcome;
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// ctl.on_shutdown("close pool", |_notice| async { Err("still in use".into()) }).unwrap();
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// match report.hooks()[0].outcome() {
///     Outcome::Failed(error) => assert_eq!(error.to_string(), "still in use"),
///     other => panic!("{other}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// It returned `Ok`.
    Completed,
    /// It returned this error.
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// It panicked, with this message.
    Panicked(String),
    /// It had not ended by its limit. It was dropped, or left running if it blocks its thread.
    TimedOut,
    /// The shutdown was forced or interrupted while it ran. It was dropped, or left running if it
    /// blocks its thread.
    Cut,
    /// It was never started: the shutdown was forced or interrupted before its turn, the start-up
    /// failed, or it was registered after the trigger.
    NotStarted,
    /// It was cut, but was still alive when the shutdown stopped waiting for it, since it blocks its
    /// thread. For a service, this is its start.
    Abandoned,
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
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the hook ran.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the hook returned `Ok`.
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, Outcome::Completed)
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
        let after = After(outcome, *duration);
        write!(f, "`{name}` (phase {phase}): {outcome}{after}")
    }
}

/// Displays how long something took, if it was started.
struct After<'a>(&'a Outcome, Duration);

impl fmt::Display for After<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::NotStarted => Ok(()),
            _ => write!(f, " after {:.3?}", self.1),
        }
    }
}

// ===== impl ServiceReport =====

impl ServiceReport {
    /// Returns the name that the service was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how the stop ended; `Abandoned` if the start had not ended, since it blocks its thread or is
    /// not polled.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the stop took.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the service was stopped without an error.
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, Outcome::Completed)
    }
}

impl fmt::Display for ServiceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            outcome,
            duration,
        } = self;
        match outcome {
            // The start has not ended.
            Outcome::Abandoned => write!(f, "`{name}`: start {outcome}"),
            _ => write!(f, "`{name}`: stop {outcome}{}", After(outcome, *duration)),
        }
    }
}

// ===== impl SaveReport =====

impl SaveReport {
    pub(crate) fn of(save: HookReport) -> Self {
        Self {
            key: save.name,
            outcome: save.outcome,
            duration: save.duration,
        }
    }

    /// Returns the key that the state is saved under.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns how the save ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the save took.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the state was saved.
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, Outcome::Completed)
    }
}

impl fmt::Display for SaveReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            outcome,
            duration,
        } = self;
        write!(f, "`{key}`: {outcome}{}", After(outcome, *duration))
    }
}

// ===== impl TaskReport =====

impl TaskReport {
    /// Returns the name that the task was spawned under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how the task ended; `Completed` if it ended without an error, but too early.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the task ran.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the task ended during the shutdown, not before it.
    pub fn is_in_shutdown(&self) -> bool {
        self.in_shutdown
    }
}

impl fmt::Display for TaskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            outcome,
            duration,
            ..
        } = self;
        match outcome {
            Outcome::Completed => write!(f, "`{name}`: ended by itself after {duration:.3?}"),
            _ => write!(f, "`{name}`: {outcome} after {duration:.3?}"),
        }
    }
}

// ===== impl Outcome =====

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed(error) => write!(f, "failed: {}", Chain(&**error)),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Cut => f.write_str("cut"),
            Self::NotStarted => f.write_str("not started"),
            Self::Abandoned => f.write_str("abandoned"),
        }
    }
}

impl Outcome {
    /// Returns the name in lower snake case, such as `timed_out`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut => "timed_out",
            Self::Cut => "cut",
            Self::NotStarted => "not_started",
            Self::Abandoned => "abandoned",
        }
    }

    pub(crate) fn panicked(payload: panic::Payload) -> Self {
        Self::Panicked(panic::into_message(payload))
    }

    /// Must be called in the job's own task: if formatting the error panics or blocks, only that job is
    /// affected.
    pub(crate) fn of(result: Result<(), BoxError>) -> Self {
        match result {
            Ok(()) => Self::Completed,
            Err(error) => {
                let _ = Chain(&*error).to_string();
                Self::Failed(error.into())
            }
        }
    }
}
