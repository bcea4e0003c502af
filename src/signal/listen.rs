//! Listening for signals.

use tokio::runtime::Handle;

use super::choice::Signals;
use super::error::{SignalError, SignalErrorKind};
use super::listener::Listener;
use super::platform;
use crate::controller::ShutdownController;

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
    /// use tower_lifecycle::signal::Signals;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::signal::SignalError> {
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
