//! The operating system's signals: the first begins the shutdown, the second forces it, and a third
//! does what it would do to a program that does not listen.

use std::error::Error;
use std::fmt;
use std::io;
use std::mem;

use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::controller::ShutdownController;
use crate::state::ShutdownReason;
use crate::sync::{Mutex, lock};

/// Says why signals cannot be listened for.
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
    /// A [`SignalError`] outside a tokio runtime, or if the system refuses.
    pub fn listen_for_signals(&self) -> Result<(), SignalError> {
        let runtime = Handle::try_current().map_err(|_| SignalErrorKind::OutsideRuntime)?;
        self.core().capture_runtime();
        let listening = &self.core().listening;
        if !self.state().is_terminal() && listening.is_to_start() {
            listening.started(platform::listen(self, &runtime))?;
        }
        Ok(())
    }

    fn first_signal(&self, name: &'static str) {
        info!(signal = name, "signal received: shutting down");
        self.trigger(ShutdownReason::Signal(name));
    }

    /// Gives signals back before it forces, so that a third one is not swallowed meanwhile.
    fn second_signal(&self, name: &'static str) {
        warn!(signal = name, "second signal received: forcing");
        self.core().listening.stop();
        self.force();
    }
}

/// Ends with its runtime, so that the controller can listen in another; also on a panic.
struct StopOnDrop(ShutdownController);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.core().listening.stop();
    }
}

/// Whether a controller listens, and how that is ended.
#[derive(Default)]
pub(crate) struct Listening(Mutex<ListeningState>);

#[derive(Default)]
enum ListeningState {
    #[default]
    No,
    Starting,
    Yes(Stop),
}

type Stop = Box<dyn FnOnce() + Send>;

impl Listening {
    /// Claims the start; `false` if somebody has.
    fn is_to_start(&self) -> bool {
        let mut state = lock(&self.0);
        let is_free = matches!(*state, ListeningState::No);
        if is_free {
            *state = ListeningState::Starting;
        }
        is_free
    }

    /// Notes how the start went. If it was stopped meanwhile, it ends here.
    fn started(&self, stop: io::Result<Stop>) -> io::Result<()> {
        let mut state = lock(&self.0);
        match (stop, &*state) {
            (Ok(stop), ListeningState::Starting) => *state = ListeningState::Yes(stop),
            (Ok(stop), _) => {
                drop(state);
                stop();
            }
            (Err(error), _) => {
                *state = ListeningState::No;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives signals back to whoever else wants them; once, however often it is called.
    pub(crate) fn stop(&self) {
        let state = mem::take(&mut *lock(&self.0));
        if let ListeningState::Yes(stop) = state {
            stop();
        }
    }
}

#[cfg(unix)]
mod platform {
    use std::io;
    use std::thread;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag::register_conditional_default;
    use signal_hook::iterator::Signals;
    use tokio::runtime::Handle;

    use super::{Stop, StopOnDrop};
    use crate::controller::ShutdownController;
    use crate::sync::{Arc, AtomicBool, Ordering, PoisonError};

    /// Listens in a thread of its own, so that signals are heard also when the runtime is blocked.
    ///
    /// Not with tokio's signals: its handler may run before the one that asks for the default
    /// action, and a second signal that is answered at once then kills the process by itself.
    pub(super) fn listen(ctl: &ShutdownController, runtime: &Handle) -> io::Result<Stop> {
        // Before `Signals`: handlers run in the order of their registration, so for each signal
        // the default action has been decided on when the thread hears of it.
        let attention = Attention::pay()?;
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        // Strongly: signals count also when every other handle is gone.
        let stop = StopOnDrop(ctl.clone());
        thread::Builder::new()
            .name("tower-lifecycle-signals".to_owned())
            .spawn(move || {
                let mut names = signals.forever().map(name);
                if let Some(first) = names.next() {
                    stop.0.first_signal(first);
                }
                if let Some(second) = names.next() {
                    stop.0.second_signal(second);
                }
            })?;
        let (stop, stopped) = (StopOnDrop(ctl.clone()), ctl.stopped());
        runtime.spawn(async move {
            let _stop = stop;
            stopped.await;
        });
        Ok(Box::new(move || {
            drop(attention);
            handle.close();
        }))
    }

    fn name(signal: i32) -> &'static str {
        match signal {
            SIGTERM => "SIGTERM",
            _ => "SIGINT",
        }
    }

    /// Somebody in this process still has a use for signals. When nobody has, they take their
    /// default action, in the signal handler itself: that works also when every thread is blocked.
    struct Attention;

    /// How many pay attention, and what the signal handler looks at.
    struct Attentive {
        count: usize,
        nobody: Option<Arc<AtomicBool>>,
    }

    static ATTENTIVE: std::sync::Mutex<Attentive> = std::sync::Mutex::new(Attentive {
        count: 0,
        nobody: None,
    });

    impl Attention {
        fn pay() -> io::Result<Self> {
            let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
            if attentive.nobody.is_none() {
                let nobody = Arc::new(AtomicBool::new(false));
                for signal in [SIGTERM, SIGINT] {
                    register_conditional_default(signal, Arc::clone(&nobody))?;
                }
                attentive.nobody = Some(nobody);
            }
            attentive.count += 1;
            attentive.tell();
            Ok(Self)
        }
    }

    impl Drop for Attention {
        fn drop(&mut self) {
            let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
            attentive.count -= 1;
            attentive.tell();
        }
    }

    impl Attentive {
        fn tell(&self) {
            if let Some(nobody) = &self.nobody {
                // SeqCst: pairs with the load of the same strength in the signal handler.
                nobody.store(self.count == 0, Ordering::SeqCst);
            }
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

    use tokio::runtime::Handle;

    use super::{Stop, StopOnDrop};
    use crate::controller::ShutdownController;
    use crate::race::{Either, race};

    /// Listens in a task. When it ends, its listeners are dropped; tokio's handler passes on what
    /// nobody listens for, so the next event takes the system's default action.
    pub(super) fn listen(ctl: &ShutdownController, runtime: &Handle) -> io::Result<Stop> {
        let mut signals = {
            let _entered = runtime.enter();
            Signals::new()?
        };
        let stop = StopOnDrop(ctl.clone());
        let task = runtime.spawn(async move {
            let ctl = &stop.0;
            let mut stopped = ctl.stopped();
            if let Either::Left(first) = race(signals.recv(), &mut stopped).await {
                ctl.first_signal(first);
            }
            if let Either::Left(second) = race(signals.recv(), &mut stopped).await {
                ctl.second_signal(second);
            }
        });
        let task = task.abort_handle();
        Ok(Box::new(move || task.abort()))
    }

    struct Signals {
        ctrl_c: CtrlC,
        ctrl_break: CtrlBreak,
        ctrl_close: CtrlClose,
        ctrl_shutdown: CtrlShutdown,
    }

    impl Signals {
        fn new() -> io::Result<Self> {
            Ok(Self {
                ctrl_c: ctrl_c()?,
                ctrl_break: ctrl_break()?,
                ctrl_close: ctrl_close()?,
                ctrl_shutdown: ctrl_shutdown()?,
            })
        }

        async fn recv(&mut self) -> &'static str {
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
