//! The operating system's signals: the first begins the shutdown, the second forces it, and a third
//! does what it would do to a program that does not listen.

#[cfg(unix)]
#[path = "signal/unix.rs"]
mod platform;
#[cfg(windows)]
#[path = "signal/windows.rs"]
mod platform;

use std::error::Error;
use std::fmt;
use std::io;
use std::mem;

use tokio::runtime::Handle;

use crate::controller::ShutdownController;
use crate::log::tell;
use crate::shutdown::Shutdown;
use crate::state::ShutdownReason;
use crate::sync::{Arc, Mutex, lock};

/// Says why signals cannot be listened for.
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
///     "signals can be listened for inside a tokio runtime only"
/// );
/// ```
#[derive(Debug)]
pub struct SignalError {
    kind: SignalErrorKind,
}

#[derive(Debug)]
enum SignalErrorKind {
    OutsideRuntime,
    Register(io::Error),
}

impl ShutdownController {
    /// Listens for the signals that ask a process to end.
    ///
    /// These are SIGTERM and SIGINT or, on Windows, Ctrl-C, Ctrl-Break, Close and Shutdown. The
    /// first one [triggers](Self::trigger) the shutdown and the second [forces](Self::force) it.
    /// After that, and after the end of the shutdown or of the runtime, a signal takes the system's
    /// default action again, which ends the process; on Unix even if its threads are blocked. While several
    /// controllers of one process listen, that waits for the last of them.
    ///
    /// Calling it again does nothing, nor does calling it after the end.
    ///
    /// # Errors
    ///
    /// A [`SignalError`] outside a tokio runtime, or if the system refuses.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.listen_for_signals().unwrap();
    /// # #[cfg(unix)]
    /// # nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    /// # #[cfg(not(unix))]
    /// # ctl.trigger(ShutdownReason::Signal("SIGTERM"));
    ///
    /// // At the prompt: kill -TERM <pid>
    /// ctl.stopped().await;
    /// let notice = ctl.notice().expect("triggered");
    /// assert_eq!(notice.reason(), ShutdownReason::Signal("SIGTERM"));
    /// # }
    /// ```
    pub fn listen_for_signals(&self) -> Result<(), SignalError> {
        let runtime = Handle::try_current().map_err(|_| SignalErrorKind::OutsideRuntime)?;
        self.core().capture_runtime();
        let listening = &self.core().listening;
        if self.state().is_terminal() {
            return Ok(());
        }
        let Some(start) = listening.claim() else {
            return Ok(());
        };
        let listener = Listener {
            ctl: self.clone(),
            start,
        };
        Ok(listening.started(start, platform::listen(listener, &runtime))?)
    }
}

/// One listening of a controller. It ends as soon as a clone is dropped, with the runtime that it
/// was begun in or on a panic, so that the controller can listen again in another runtime.
#[derive(Clone)]
struct Listener {
    /// Strongly: signals count also when every other handle is gone.
    ctl: ShutdownController,
    start: u64,
}

impl Listener {
    /// The first signal of a shutdown triggers it, the second forces it; `true` after that. When
    /// the shutdown is called off in between, the next signal is a first one again.
    fn heard(&self, name: &'static str, first: &mut Option<Arc<Shutdown>>) -> bool {
        let core = self.ctl.core();
        // First, so that whoever learns of the shutdown finds it.
        core.note_signal(name);
        if first.as_ref().is_some_and(|first| !first.is_called_off()) {
            // Gives signals back before it forces, so that a third one is not swallowed meanwhile.
            core.listening.stop_if(self.start);
            self.ctl.force();
            tell!(warn, signal = name, "second signal received: forcing");
            return true;
        }
        self.ctl.trigger(ShutdownReason::Signal(name));
        *first = core.shutdown();
        tell!(info, signal = name, "signal received: shutting down");
        false
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ctl.core().listening.stop_if(self.start);
    }
}

/// Whether a controller listens, and how that is ended.
#[derive(Default)]
pub(crate) struct Listening(Mutex<Starts>);

#[derive(Default)]
struct Starts {
    /// How many there were; the number of the latest.
    count: u64,
    state: StartState,
}

#[derive(Default)]
enum StartState {
    #[default]
    Stopped,
    Starting,
    Started(Stop),
}

type Stop = Box<dyn FnOnce() + Send>;

impl Listening {
    /// Gives the number of a new start, unless somebody listens already.
    fn claim(&self) -> Option<u64> {
        let mut starts = lock(&self.0);
        if !matches!(starts.state, StartState::Stopped) {
            return None;
        }
        starts.state = StartState::Starting;
        starts.count += 1;
        Some(starts.count)
    }

    /// Notes how a start went. If it was stopped meanwhile, it ends here.
    fn started(&self, start: u64, stop: io::Result<Stop>) -> io::Result<()> {
        let mut starts = lock(&self.0);
        let is_current = starts.count == start && matches!(starts.state, StartState::Starting);
        match stop {
            Ok(stop) if is_current => starts.state = StartState::Started(stop),
            Ok(stop) => {
                drop(starts);
                stop();
            }
            Err(error) => {
                if is_current {
                    starts.state = StartState::Stopped;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives signals back to whoever else wants them; once, however often it is called.
    pub(crate) fn stop(&self) {
        let state = mem::take(&mut lock(&self.0).state);
        if let StartState::Started(stop) = state {
            stop();
        }
    }

    /// As `stop`, unless there was another start since.
    fn stop_if(&self, start: u64) {
        let mut starts = lock(&self.0);
        if starts.count == start {
            let state = mem::take(&mut starts.state);
            drop(starts);
            if let StartState::Started(stop) = state {
                stop();
            }
        }
    }
}

// ===== impl SignalError =====

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            SignalErrorKind::OutsideRuntime => {
                "signals can be listened for inside a tokio runtime only"
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
