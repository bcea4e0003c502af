//! The operating system's signals: the first begins the shutdown, the second forces it, and a third
//! does what it would do to a program that does not listen.

use std::error::Error;
use std::fmt;
use std::io;

use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::controller::ShutdownController;
use crate::race::{Either, race};
use crate::state::ShutdownReason;

/// Says why signals cannot be listened for.
#[derive(Debug)]
pub struct SignalError {
    kind: SignalErrorKind,
}

#[derive(Debug)]
enum SignalErrorKind {
    OutsideRuntime,
    NoDriver,
    Register(io::Error),
}

impl ShutdownController {
    /// Listens for the signals that ask a process to end: SIGTERM and SIGINT, or, on Windows,
    /// Ctrl-C, Ctrl-Break, Close and Shutdown.
    ///
    /// The first one [triggers](Self::trigger) the shutdown and the second [forces](Self::force)
    /// it. After that, and after the end of the shutdown or of the runtime, a signal takes the
    /// system's default action again, which ends the process, even if its threads are blocked.
    /// While several controllers of one process listen, that waits for the last of them.
    ///
    /// Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// A [`SignalError`] outside a tokio runtime, in one without its I/O driver, or if the system
    /// refuses.
    pub fn listen_for_signals(&self) -> Result<(), SignalError> {
        let runtime = Handle::try_current().map_err(|_| SignalErrorKind::OutsideRuntime)?;
        self.core().capture_runtime();
        if self.core().listens_to_signals() {
            return Ok(());
        }
        let signals = platform::Signals::new()?;
        let attention = platform::Attention::new()?;
        if self.core().note_signals() {
            runtime.spawn(listen(self.clone(), signals, attention));
        }
        Ok(())
    }
}

/// Holds the controller strongly, so that signals count also when every other handle is gone.
async fn listen(
    ctl: ShutdownController,
    mut signals: platform::Signals,
    _attention: platform::Attention,
) {
    let mut stopped = ctl.stopped();
    let Either::Left(first) = race(signals.recv(), &mut stopped).await else {
        return;
    };
    info!(signal = first, "signal received: shutting down");
    ctl.trigger(ShutdownReason::Signal(first));
    let Either::Left(second) = race(signals.recv(), &mut stopped).await else {
        return;
    };
    warn!(signal = second, "second signal received: forcing");
    ctl.force();
}

#[cfg(unix)]
mod platform {
    use std::future::poll_fn;
    use std::io;
    use std::panic::catch_unwind;
    use std::task::Poll;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag::register_conditional_default;
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::SignalErrorKind;
    use crate::sync::{Arc, AtomicBool, OnceLock, Ordering, PoisonError};

    pub(super) struct Signals([(&'static str, Signal); 2]);

    impl Signals {
        pub(super) fn new() -> Result<Self, SignalErrorKind> {
            // A runtime without its I/O driver makes tokio panic; that is the caller's mistake to
            // hear of, not ours to pass on.
            let open = |kind| catch_unwind(|| signal(kind)).map_err(|_| SignalErrorKind::NoDriver);
            Ok(Self([
                ("SIGTERM", open(SignalKind::terminate())??),
                ("SIGINT", open(SignalKind::interrupt())??),
            ]))
        }

        pub(super) async fn recv(&mut self) -> &'static str {
            poll_fn(|cx| {
                for (name, signal) in &mut self.0 {
                    if signal.poll_recv(cx).is_ready() {
                        return Poll::Ready(*name);
                    }
                }
                Poll::Pending
            })
            .await
        }
    }

    /// Somebody in this process still has a use for signals. When nobody has, they take their
    /// default action, in the signal handler itself: that works also when every thread is blocked.
    #[derive(Debug)]
    pub(super) struct Attention;

    static ATTENTIVE: std::sync::Mutex<usize> = std::sync::Mutex::new(0);
    static NOBODY: OnceLock<Arc<AtomicBool>> = OnceLock::new();

    impl Attention {
        pub(super) fn new() -> io::Result<Self> {
            let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
            if NOBODY.get().is_none() {
                let nobody = Arc::new(AtomicBool::new(false));
                for signal in [SIGTERM, SIGINT] {
                    register_conditional_default(signal, Arc::clone(&nobody))?;
                }
                // Under the lock, so it was not set meanwhile.
                let _ = NOBODY.set(nobody);
            }
            *attentive += 1;
            Self::tell(*attentive);
            Ok(Self)
        }

        fn tell(attentive: usize) {
            if let Some(nobody) = NOBODY.get() {
                // SeqCst: pairs with the load of the same strength in the signal handler.
                nobody.store(attentive == 0, Ordering::SeqCst);
            }
        }
    }

    impl Drop for Attention {
        fn drop(&mut self) {
            let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
            *attentive -= 1;
            Self::tell(*attentive);
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::future::poll_fn;
    use std::io;
    use std::task::Poll;

    use tokio::signal::windows::{
        CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
    };

    use super::SignalErrorKind;

    pub(super) struct Signals {
        ctrl_c: CtrlC,
        ctrl_break: CtrlBreak,
        ctrl_close: CtrlClose,
        ctrl_shutdown: CtrlShutdown,
    }

    impl Signals {
        pub(super) fn new() -> Result<Self, SignalErrorKind> {
            Ok(Self {
                ctrl_c: ctrl_c()?,
                ctrl_break: ctrl_break()?,
                ctrl_close: ctrl_close()?,
                ctrl_shutdown: ctrl_shutdown()?,
            })
        }

        pub(super) async fn recv(&mut self) -> &'static str {
            poll_fn(|cx| {
                if self.ctrl_c.poll_recv(cx).is_ready() {
                    return Poll::Ready("CTRL_C");
                }
                if self.ctrl_break.poll_recv(cx).is_ready() {
                    return Poll::Ready("CTRL_BREAK");
                }
                if self.ctrl_close.poll_recv(cx).is_ready() {
                    return Poll::Ready("CTRL_CLOSE");
                }
                if self.ctrl_shutdown.poll_recv(cx).is_ready() {
                    return Poll::Ready("CTRL_SHUTDOWN");
                }
                Poll::Pending
            })
            .await
        }
    }

    /// On Windows a listener that is dropped gives the event back to the system's default action
    /// by itself: tokio's handler passes on what nobody listens for.
    #[derive(Debug)]
    pub(super) struct Attention;

    impl Attention {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
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
            SignalErrorKind::NoDriver => {
                "signals need the runtime's I/O driver: build it with `enable_io` or `enable_all`"
            }
            SignalErrorKind::Register(_) => "the system refused to register a signal handler",
        })
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            SignalErrorKind::Register(source) => Some(source),
            SignalErrorKind::OutsideRuntime | SignalErrorKind::NoDriver => None,
        }
    }
}

impl From<SignalErrorKind> for SignalError {
    fn from(kind: SignalErrorKind) -> Self {
        Self { kind }
    }
}

impl From<io::Error> for SignalErrorKind {
    fn from(source: io::Error) -> Self {
        Self::Register(source)
    }
}

impl From<io::Error> for SignalError {
    fn from(source: io::Error) -> Self {
        SignalErrorKind::from(source).into()
    }
}
