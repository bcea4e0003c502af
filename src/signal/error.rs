//! The error of listening for signals.

use std::error::Error;
use std::fmt;
use std::io;

/// The error that is returned when a controller cannot listen for signals.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
///
/// // Not inside a runtime.
/// let error = ShutdownController::new().listen_for_signals().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "signals can only be listened for inside a tokio runtime"
/// );
/// ```
#[derive(Debug)]
pub struct SignalError {
    kind: SignalErrorKind,
}

#[derive(Debug)]
pub(super) enum SignalErrorKind {
    OutsideRuntime,
    Register(io::Error),
}

// ===== impl SignalError =====

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            SignalErrorKind::OutsideRuntime => {
                "signals can only be listened for inside a tokio runtime"
            }
            SignalErrorKind::Register(_) => "the system refused to register a signal handler",
        })
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            SignalErrorKind::Register(source) => Some(source),
            SignalErrorKind::OutsideRuntime => None,
        }
    }
}

impl From<SignalErrorKind> for SignalError {
    fn from(kind: SignalErrorKind) -> Self {
        Self { kind }
    }
}

impl From<io::Error> for SignalError {
    fn from(source: io::Error) -> Self {
        SignalErrorKind::Register(source).into()
    }
}
