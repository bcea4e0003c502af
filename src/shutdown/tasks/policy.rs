//! Policies for the end of a task.

use super::Role;
use crate::shutdown::outcome::Outcome;

/// What happens when a task ends, fails or panics.
///
/// | | in the report | exit code | in health, until it is replaced | shutdown |
/// |---|---|---|---|---|
/// | `Shutdown` | named | 1 | `failed` or `stopped` | begins |
/// | `Note` | named | 1 | `failed` or `stopped`; readiness 200 `degraded` | – |
/// | `Ignore` | – | – | – | – |
///
/// A task is replaced when another task of the same name is spawned. An end without an error after the
/// trigger is expected, whatever the policy.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::controller::TaskPolicy;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, Task};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let warm_up = Task::new("warm up", async { Err::<(), _>("cache is full") });
/// let _ = ctl.spawn_task(warm_up.on_error(TaskPolicy::Ignore)).await;
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert!(report.is_graceful());
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskPolicy {
    /// Begins the shutdown, because the service cannot run without the task.
    ///
    /// The reason is [`Error`](crate::ShutdownReason::Error) for an error or a panic, and
    /// [`TaskEnded`](crate::ShutdownReason::TaskEnded) for an end without one.
    Shutdown,
    /// Continues. Health shows the end, and the report is not graceful.
    Note,
    /// Continues, and does not report the end.
    Ignore,
}

/// The policies of one task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policies {
    pub(crate) end: TaskPolicy,
    pub(crate) error: TaskPolicy,
    pub(crate) panic: TaskPolicy,
}

impl Policies {
    /// Returns the same policy for every end.
    pub(crate) fn all(policy: TaskPolicy) -> Self {
        Self {
            end: policy,
            error: policy,
            panic: policy,
        }
    }

    /// Returns the default policies of `role`. A plain task may end when its work is done. All others
    /// should run until they are told to end.
    pub(crate) fn default_of(role: Role) -> Self {
        let end = match role {
            Role::Task => TaskPolicy::Ignore,
            Role::Worker | Role::Admin | Role::Watch => TaskPolicy::Shutdown,
        };
        Self {
            end,
            ..Self::all(TaskPolicy::Shutdown)
        }
    }

    /// Returns the policy for a task that ended by itself; `None` if that end is expected.
    pub(crate) fn of(&self, outcome: &Outcome, in_shutdown: bool) -> Option<TaskPolicy> {
        match outcome {
            Outcome::Completed if in_shutdown => None,
            Outcome::Completed => Some(self.end).filter(|end| *end != TaskPolicy::Ignore),
            Outcome::Panicked(_) => Some(self.panic),
            _ => Some(self.error),
        }
    }
}
