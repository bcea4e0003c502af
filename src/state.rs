//! The lifecycle states, the legal transitions between them, and the reasons for a shutdown.

use std::fmt;

/// The state of a service in its lifecycle.
///
/// The states are ordered as they follow each other. Only the transitions in this table can happen,
/// whatever is called and when:
///
/// | from | to |
/// |---|---|
/// | `Initializing` | `Starting`, `Failed` |
/// | `Starting` | `Running`, `Failed` |
/// | `Running` | `LameDuck`, or `Draining` when the lame duck is zero |
/// | `LameDuck` | `Draining`, or back to `Running` when the shutdown is called off |
/// | `Draining` | `Stopping` |
/// | `Stopping` | `Stopped` |
///
/// A controller created by [`ShutdownController::new`](crate::ShutdownController::new) starts as
/// `Running`.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::LifecycleState;
///
/// assert!(LifecycleState::Running < LifecycleState::Draining);
/// assert_eq!(LifecycleState::LameDuck.to_string(), "lame_duck");
/// assert!(LifecycleState::Stopped.is_terminal());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum LifecycleState {
    /// Being set up; nothing has been started.
    Initializing,
    /// Services are being started.
    Starting,
    /// Serving; ready for traffic.
    Running,
    /// Readiness is red. All requests are still served, and clients are asked to close their
    /// connections.
    LameDuck,
    /// The listener is closed and admitted requests run on. Requests that still arrive are served
    /// for [`late_for`](crate::ShutdownConfig::late_for), and then refused.
    Draining,
    /// The drain has finished or was forced. Hooks and services clean up.
    Stopping,
    /// The shutdown is over and the report is available.
    Stopped,
    /// The start-up failed and was rolled back.
    Failed,
}

/// Why a shutdown began.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let report = ctl.shutdown(ShutdownReason::Signal("SIGTERM")).await;
/// assert_eq!(report.reason(), ShutdownReason::Signal("SIGTERM"));
/// assert_eq!(report.reason().to_string(), "signal SIGTERM");
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShutdownReason {
    /// The process received the signal of this name.
    Signal(&'static str),
    /// The program requested it.
    Manual,
    /// A time limit of the program, such as a maximum age.
    Timeout,
    /// Something failed, such as the server or a task.
    Error,
    /// The server ended on its own.
    ServerExited,
    /// A task or a service that was to run until the shutdown ended on its own: see
    /// [`TaskPolicy`](crate::controller::TaskPolicy).
    TaskEnded,
    /// A new process has taken over the listening sockets: see the module `restart` (feature
    /// `restart`).
    HandOver,
    /// The shutdown did not finish: the runtime that drove it ended first, or was still blocked
    /// when the final deadline had passed.
    Interrupted,
}

// ===== impl LifecycleState =====

impl LifecycleState {
    pub(crate) const ALL: [Self; 8] = [
        Self::Initializing,
        Self::Starting,
        Self::Running,
        Self::LameDuck,
        Self::Draining,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    /// Returns the name in lower snake case, such as `lame_duck`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Returns whether no other state can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    pub(crate) const fn can_become(self, next: Self) -> bool {
        use LifecycleState::*;
        matches!(
            (self, next),
            (Initializing, Starting | Failed)
                | (Starting, Running | Failed)
                | (Running, LameDuck | Draining)
                | (LameDuck, Draining | Running)
                | (Draining, Stopping)
                | (Stopping, Stopped)
        )
    }

    /// Returns the state's milestone: one bit, in the order of the states.
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Returns the milestones of this state and of all states that can come after it or instead of
    /// it.
    pub(crate) fn at_or_past(self) -> u32 {
        let reached = |next: &&Self| **next >= self || next.is_terminal();
        Self::ALL.iter().filter(reached).map(|s| s.bit()).sum()
    }

    /// Returns the latest state in a set of milestones.
    pub(crate) fn latest(bits: u32) -> Self {
        let reached = |state: &&Self| bits & state.bit() != 0;
        let latest = Self::ALL.iter().rev().find(reached);
        *latest.unwrap_or(&Self::Initializing)
    }
}

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// ===== impl ShutdownReason =====

impl ShutdownReason {
    /// Returns the reason as a word for programs, and the signal, if it was one.
    #[cfg(any(feature = "admin", feature = "serde"))]
    pub(crate) const fn word(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Signal(name) => ("signal", Some(name)),
            Self::Manual => ("manual", None),
            Self::Timeout => ("timeout", None),
            Self::Error => ("error", None),
            Self::ServerExited => ("server_exited", None),
            Self::TaskEnded => ("task_ended", None),
            Self::HandOver => ("hand_over", None),
            Self::Interrupted => ("interrupted", None),
        }
    }
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "signal {name}"),
            Self::Manual => f.write_str("manual"),
            Self::Timeout => f.write_str("timeout"),
            Self::Error => f.write_str("error"),
            Self::ServerExited => f.write_str("server exited"),
            Self::TaskEnded => f.write_str("task ended"),
            Self::HandOver => f.write_str("hand-over"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lame_duck_can_go_back_and_only_a_terminal_state_is_an_end() {
        for from in LifecycleState::ALL {
            let next: Vec<_> = LifecycleState::ALL
                .into_iter()
                .filter(|to| from.can_become(*to))
                .collect();
            let back: Vec<_> = next.iter().filter(|to| **to <= from).collect();
            match from {
                LifecycleState::LameDuck => assert_eq!(back, [&LifecycleState::Running]),
                _ => assert!(back.is_empty(), "{from} goes back"),
            }
            assert_eq!(next.is_empty(), from.is_terminal(), "{from}");
        }
    }

    #[test]
    fn the_latest_milestone_is_the_state() {
        use LifecycleState::*;
        let bits = Running.bit() | Draining.bit() | (1 << 10);
        assert_eq!(LifecycleState::latest(bits), Draining);
        assert_eq!(LifecycleState::latest(0), Initializing);
    }

    #[test]
    fn at_or_past_takes_in_every_terminal_state() {
        use LifecycleState::*;
        assert_eq!(
            Stopping.at_or_past(),
            Stopping.bit() | Stopped.bit() | Failed.bit()
        );
        assert_eq!(Failed.at_or_past(), Stopped.bit() | Failed.bit());
    }
}
