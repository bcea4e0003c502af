//! The error of a hand-over.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::log::millis;
use crate::state::LifecycleState;

/// Says why the listening sockets were not handed over. The process goes on as before.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
/// use tower_lifecycle::restart::HandOver;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let hand_over = HandOver::new(&ctl).unwrap().program("/no/such/program");
/// let error = hand_over.start().await.unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "cannot start the new process: /no/such/program"
/// );
/// # }
/// ```
#[derive(Debug)]
pub struct HandOverError {
    kind: HandOverErrorKind,
}

#[derive(Debug)]
pub(super) enum HandOverErrorKind {
    /// This process is PID 1.
    Pid1,
    UnderWay,
    NotRunning(LifecycleState),
    /// A shutdown began before the new process was ready.
    ShuttingDown,
    BadName(String),
    /// What was asked of the system.
    System(&'static str, io::Error),
    Spawn(PathBuf, io::Error),
    /// The new process ended before it was ready. `None` if its status is unknown.
    Ended(Option<ExitStatus>),
    /// It dropped its `Inherited` without a word.
    NeverReady,
    TimedOut(Duration),
}

// ===== impl HandOverError =====

impl HandOverError {
    /// Returns whether another hand-over is under way or done.
    pub fn is_under_way(&self) -> bool {
        matches!(self.kind, HandOverErrorKind::UnderWay)
    }

    /// Returns whether the new process was not ready in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, HandOverErrorKind::TimedOut(_))
    }

    /// Returns how the new process ended, if it did so before it was ready.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.kind {
            HandOverErrorKind::Ended(status) => status,
            _ => None,
        }
    }
}

impl fmt::Display for HandOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            HandOverErrorKind::Pid1 => f.write_str(
                "PID 1 cannot hand over, because its end kills all processes of its container: \
                 run it under an init, such as `docker run --init`, or start a new container",
            ),
            HandOverErrorKind::UnderWay => {
                f.write_str("there is one hand-over at a time, and one is under way or done")
            }
            HandOverErrorKind::NotRunning(state) => write!(
                f,
                "only a running service can be handed over: the state is `{state}`"
            ),
            HandOverErrorKind::ShuttingDown => f.write_str(
                "a shutdown began before the new process was ready, so it was ended, too",
            ),
            HandOverErrorKind::BadName(name) => write!(
                f,
                "{name:?} cannot be the name of a socket: it must be 1 to 255 characters of ASCII \
                 without colons and control characters"
            ),
            HandOverErrorKind::System(what, _) => write!(f, "the system refused {what}"),
            HandOverErrorKind::Spawn(program, _) => {
                write!(f, "cannot start the new process: {}", program.display())
            }
            HandOverErrorKind::Ended(Some(status)) => {
                write!(f, "the new process ended before it was ready: {status}")
            }
            HandOverErrorKind::Ended(None) => {
                f.write_str("the new process ended before it was ready")
            }
            HandOverErrorKind::NeverReady => f.write_str(
                "the new process dropped its `Inherited` without saying that it is ready, and was \
                 killed: call `ready_with` or `ready`",
            ),
            HandOverErrorKind::TimedOut(limit) => write!(
                f,
                "the new process was not ready after {} ms, and was killed",
                millis(*limit)
            ),
        }
    }
}

impl Error for HandOverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            HandOverErrorKind::System(_, source) | HandOverErrorKind::Spawn(_, source) => {
                Some(source)
            }
            _ => None,
        }
    }
}

impl From<HandOverErrorKind> for HandOverError {
    fn from(kind: HandOverErrorKind) -> Self {
        Self { kind }
    }
}
