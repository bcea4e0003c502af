//! Listening for signals.

use tokio::runtime::Handle;

use super::choice::Signals;
use super::error::{SignalError, SignalErrorKind};
use super::listener::Listener;
use super::platform;
use crate::config::ShutdownConfig;
use crate::controller::ShutdownController;
use crate::log::tell;

impl ShutdownController {
    /// Listens for the signals that ask a process to end.
    ///
    /// These are SIGTERM and SIGINT or, on Windows, Ctrl-C, Ctrl-Break, Close and Shutdown. This is the
    /// same as [`listen_for`](Self::listen_for) with the default [`Signals`].
    ///
    /// # Errors
    ///
    /// Returns a [`SignalError`] outside a tokio runtime, or if the system refuses or has no signals.
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
    /// The first signal [triggers](Self::trigger) the shutdown. A second signal, at least
    /// [`force_after`](crate::ShutdownConfig::force_after) later, [forces](Self::force) it. An earlier one
    /// does not, because one stop may be delivered twice: to the process and to its group. After the
    /// force, and after the end of the shutdown or of the runtime, a signal takes the system's default
    /// action again, which ends the process. On Unix it does so even if all threads are blocked. If
    /// several controllers of one process listen, this holds once the last of them has stopped listening.
    /// As PID 1, which no default action ends, the process exits with 128 plus the number of the signal.
    ///
    /// On Unix, no other signal kills the process during the shutdown. SIGHUP, SIGQUIT, SIGUSR1, real-time
    /// signals and similar ones do nothing. The exceptions are SIGKILL, and signals that report a fault of
    /// the program itself, such as SIGSEGV and SIGABRT. Signals that the program ignores or handles when
    /// the shutdown begins are left alone. After the end, or when the shutdown is called off, the other
    /// signals do what they did before. Outside Linux they do nothing, because what they did before is
    /// unknown. A handler that is installed after the shutdown has begun is called, but the signal kills
    /// the process once the shutdown is over.
    ///
    /// systemd sends SIGHUP together with SIGTERM if it is configured with `SendSIGHUP=yes`, and SIGHUP
    /// may be delivered first. So on Linux, a SIGHUP that was not chosen and is not handled kills the
    /// process only after 100 ms, and only if no shutdown has begun by then. It does not kill the process
    /// at all once other code has registered a handler for any signal after this call, with tokio or
    /// signal-hook, because that handler may be for SIGHUP.
    ///
    /// On Unix, the chosen signals are received even if the parent process had blocked them.
    ///
    /// The first call also checks how long the platform waits before it kills the process. If a shutdown
    /// that uses all of its time does not [fit](crate::ShutdownConfig::fits), it logs a warning with the
    /// numbers. The platform is the one that the configuration was made [within](crate::ShutdownConfig::within).
    /// Otherwise it is looked for, and its default grace is assumed: Kubernetes has set
    /// `KUBERNETES_SERVICE_HOST`, Docker and Podman have made `/.dockerenv` or `/run/.containerenv`, and
    /// systemd has set `INVOCATION_ID` or `NOTIFY_SOCKET`. The configuration itself is not changed.
    ///
    /// Calling this method again, or after the end, does nothing.
    ///
    /// # Errors
    ///
    /// Returns a [`SignalError`] outside a tokio runtime, or if the system refuses or has no signals.
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
    /// let signals = signals.hangup(); // also when the terminal is closed
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
        if start == 1 {
            warn_of_kill(self.config());
        }
        if self.core().is_triggered() {
            listening.absorb();
            if self.state().is_terminal() {
                listening.release();
            }
        }
        Ok(())
    }
}

/// Warns if the platform kills the process before a shutdown that uses all of its time has ended.
fn warn_of_kill(config: &ShutdownConfig) {
    if let Err(cause) = config.fits_surroundings() {
        tell!(
            warn,
            %cause,
            "a long shutdown will be killed, and hooks may not run: set a shorter total, or, if the \
             platform waits longer, say so by `ShutdownConfig::within`"
        );
    }
}
