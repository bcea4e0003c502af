//! The error of notifying systemd.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io;

/// The error that is returned when systemd cannot be notified.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
///
/// // Not inside a runtime.
/// let error = ShutdownController::new().notify_systemd().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "systemd can only be notified from inside a tokio runtime"
/// );
/// ```
#[derive(Debug)]
pub struct SystemdError {
    kind: SystemdErrorKind,
}

#[derive(Debug)]
pub(super) enum SystemdErrorKind {
    OutsideRuntime,
    WithoutTimer,
    /// An environment variable has a value that it must not have.
    BadValue {
        variable: &'static str,
        value: OsString,
        allowed: &'static str,
        source: Option<io::Error>,
    },
    Socket(io::Error),
}

// ===== impl SystemdError =====

impl SystemdError {
    pub(super) fn bad_value(
        variable: &'static str,
        value: OsString,
        allowed: &'static str,
        source: Option<io::Error>,
    ) -> Self {
        SystemdErrorKind::BadValue {
            variable,
            value,
            allowed,
            source,
        }
        .into()
    }
}

impl fmt::Display for SystemdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SystemdErrorKind::OutsideRuntime => {
                f.write_str("systemd can only be notified from inside a tokio runtime")
            }
            SystemdErrorKind::WithoutTimer => f.write_str(
                "systemd can only be notified from a tokio runtime with a timer: build it with `enable_time`",
            ),
            SystemdErrorKind::BadValue {
                variable,
                value,
                allowed,
                ..
            } => write!(f, "{variable} is {value:?}, but must be {allowed}"),
            SystemdErrorKind::Socket(_) => {
                f.write_str("the system refused a socket for the messages to systemd")
            }
        }
    }
}

impl Error for SystemdError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            SystemdErrorKind::Socket(source) => Some(source),
            SystemdErrorKind::BadValue { source, .. } => source
                .as_ref()
                .map(|source| source as &(dyn Error + 'static)),
            SystemdErrorKind::OutsideRuntime | SystemdErrorKind::WithoutTimer => None,
        }
    }
}

impl From<SystemdErrorKind> for SystemdError {
    fn from(kind: SystemdErrorKind) -> Self {
        Self { kind }
    }
}
