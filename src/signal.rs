//! The operating system's signals: the first begins the shutdown, a second forces it, and a third does
//! what it would do to a program that does not listen.

#[cfg(unix)]
mod attention;
mod choice;
#[cfg(unix)]
mod killing;
#[cfg(unix)]
#[path = "signal/unix.rs"]
mod platform;
#[cfg(windows)]
#[path = "signal/windows.rs"]
mod platform;
#[cfg(unix)]
mod registrations;

pub use self::choice::Signals;

use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::time::Instant;

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
    /// These are SIGTERM and SIGINT or, on Windows, Ctrl-C, Ctrl-Break, Close and Shutdown. It is the
    /// same as [`listen_for`](Self::listen_for) of the default [`Signals`].
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
        self.listen_for(Signals::default())
    }

    /// Listens for these signals.
    ///
    /// The first one [triggers](Self::trigger) the shutdown. A second one, at least
    /// [`force_after`](crate::ShutdownConfig::force_after) later, [forces](Self::force) it: one stop that
    /// is delivered twice, to the process and to its group, is not meant as a force. After that, and
    /// after the end of the shutdown or of the runtime, a signal takes the system's default action
    /// again, which ends the process; on Unix even if its threads are blocked. While several
    /// controllers of one process listen, that waits for the last of them. As PID 1, which no default
    /// action ends, the process exits with 128 and the number of the signal.
    ///
    /// During the shutdown no other signal kills on Unix. SIGHUP, SIGQUIT, SIGUSR1, real-time signals and
    /// the like do nothing. The exceptions are SIGKILL, and those by which the program itself fails, such
    /// as SIGSEGV and SIGABRT. Signals that the program ignores, or has a handler for when the shutdown
    /// begins, are left alone. After the end, or when the shutdown is called off, the others do what they
    /// did before; outside Linux they do nothing, since it cannot be told what they did. A handler that
    /// is installed after the shutdown has begun is called, but the signal kills once it is over.
    ///
    /// systemd sends SIGHUP together with SIGTERM if it is configured with `SendSIGHUP=yes`, and SIGHUP
    /// may be delivered first. So on Linux a SIGHUP that was not chosen and that nobody handles kills
    /// 100 ms later, unless a shutdown has begun by then. It does not kill at all once somebody else has
    /// registered a handler for any signal after this call, by tokio or signal-hook: it may be for SIGHUP.
    ///
    /// On Unix the chosen signals are heard even if the parent process had blocked them.
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
    /// use tower_lifecycle::{ShutdownController, Signals};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::SignalError> {
    /// let ctl = ShutdownController::new();
    /// let signals = Signals::default();
    /// # #[cfg(unix)]
    /// let signals = signals.hangup(); // when the terminal is closed, too
    /// ctl.listen_for(signals)?;
    /// # Ok(()) }
    /// ```
    pub fn listen_for(&self, signals: Signals) -> Result<(), SignalError> {
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
        listening.started(start, platform::listen(listener, &signals, &runtime))?;
        if self.core().is_triggered() {
            listening.absorb();
            if self.state().is_terminal() {
                listening.release();
            }
        }
        Ok(())
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

/// The first signal of a shutdown.
struct First {
    shutdown: Arc<Shutdown>,
    heard_at: Instant,
}

impl Listener {
    /// The first signal of a shutdown triggers it, a later one forces it; `true` after that. When
    /// the shutdown is called off in between, the next signal is a first one again.
    fn heard(&self, name: &'static str, first: &mut Option<First>) -> bool {
        let core = self.ctl.core();
        if let Some(first) = first.as_ref().filter(|f| !f.shutdown.is_called_off()) {
            let since_first = first.heard_at.elapsed();
            if since_first < core.config.force_after {
                tell!(
                    debug,
                    signal = name,
                    ?since_first,
                    "signal received again, and not counted"
                );
                return false;
            }
            core.note_signal(name);
            // Gives signals back before it forces, so that a third one is not swallowed meanwhile.
            core.listening.stop_if(self.start);
            self.ctl.force();
            tell!(warn, signal = name, "second signal received: forcing");
            return true;
        }
        let heard_at = Instant::now();
        // First, so that whoever learns of the shutdown finds it.
        core.note_signal(name);
        self.ctl.trigger(ShutdownReason::Signal(name));
        *first = core.shutdown().map(|shutdown| First { shutdown, heard_at });
        tell!(info, signal = name, "signal received: shutting down");
        false
    }

    /// One that is not to begin a shutdown came during one.
    #[cfg(unix)]
    fn ignored(&self, name: &'static str) {
        tell!(info, signal = name, "signal ignored during the shutdown");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ctl.core().listening.stop_if(self.start);
    }
}

/// Whether a controller listens, and how that is ended.
#[derive(Default)]
pub(crate) struct Listening {
    starts: Mutex<Starts>,
    /// During a shutdown: what keeps other signals from ending the process.
    absorbing: Mutex<Option<Absorbing>>,
}

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
    Started(Start),
}

/// A start of listening that has succeeded.
struct Start {
    /// Gives signals back to whoever else wants them.
    stop: Box<dyn FnOnce() + Send>,
    /// Keeps other signals from ending the process.
    absorb: Arc<dyn Fn() -> Option<Absorbing> + Send + Sync>,
}

/// Ends by being dropped.
type Absorbing = Box<dyn Send>;

impl Listening {
    /// Gives the number of a new start, unless somebody listens already.
    fn claim(&self) -> Option<u64> {
        let mut starts = lock(&self.starts);
        if !matches!(starts.state, StartState::Stopped) {
            return None;
        }
        starts.state = StartState::Starting;
        starts.count += 1;
        Some(starts.count)
    }

    /// Notes how a start went. If it was stopped meanwhile, it ends here.
    fn started(&self, number: u64, start: io::Result<Start>) -> io::Result<()> {
        let mut starts = lock(&self.starts);
        let is_current = starts.count == number && matches!(starts.state, StartState::Starting);
        match start {
            Ok(start) if is_current => starts.state = StartState::Started(start),
            Ok(start) => {
                drop(starts);
                (start.stop)();
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
        let state = mem::take(&mut lock(&self.starts).state);
        if let StartState::Started(start) = state {
            (start.stop)();
        }
        self.release();
    }

    /// Keeps signals that nobody listens for from ending the process, if any are listened for, until
    /// [`release`](Self::release).
    pub(crate) fn absorb(&self) {
        let absorb = match &lock(&self.starts).state {
            StartState::Started(start) => Arc::clone(&start.absorb),
            _ => return,
        };
        let absorbing = absorb();
        let former = mem::replace(&mut *lock(&self.absorbing), absorbing);
        drop(former);
    }

    pub(crate) fn release(&self) {
        let absorbing = lock(&self.absorbing).take();
        drop(absorbing);
    }

    /// As `stop`, unless there was another start since.
    fn stop_if(&self, start: u64) {
        let mut starts = lock(&self.starts);
        if starts.count == start {
            let state = mem::take(&mut starts.state);
            drop(starts);
            if let StartState::Started(start) = state {
                (start.stop)();
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
