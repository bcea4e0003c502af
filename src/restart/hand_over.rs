//! Giving the listening sockets to a new process.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{self, ExitStatus};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use tokio::sync::oneshot;

use super::hand_over_error::{HandOverError, HandOverErrorKind};
use super::program::Program;
use super::protocol::is_valid_name;
use super::signal::RestartSignal;
use super::sockets::{Sockets, Unready};
use super::successor::{POLL, Successor};
use crate::controller::ShutdownController;
use crate::error::Chain;
use crate::log::{millis, tell};
use crate::shutdown::{Shutdown, driver};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// How long the new process may take until it is ready.
const LIMIT: Duration = Duration::from_secs(30);

/// Restarts the service in place: starts a new process, gives it the listening sockets, and shuts this
/// process down when the new one says that it is ready.
///
/// The new process takes the sockets by [`Inherited`](super::Inherited), and says that it is ready by
/// its [`ready_with`](super::Inherited::ready_with). Until then this process serves as before. A
/// process that ends before, or is late, changes nothing: it is killed and waited for, and the error says
/// why. There is one hand-over at a time.
///
/// Once the new process is ready, a shutdown begins with [`ShutdownReason::HandOver`]. From its trigger on,
/// [`serve`](crate::serve) and `DrainListener` leave the sockets to the new process, without
/// `shared(true)`, and open connections are served as in any shutdown. With a
/// [`lame_duck`](crate::ShutdownConfig::lame_duck), a new process that ends during it calls the shutdown
/// [off](ShutdownController::resume). From draining on it cannot be called off: this is logged as
/// an error. If you call it off yourself, the new process gets SIGTERM.
///
/// A shutdown for another reason that begins before the new process is ready ends the new process, too.
/// After that, signals count for this process as usual: the first one does nothing, as a shutdown
/// is under way, and the second one forces it.
///
/// # The new process
///
/// By default it is the program at the path by which this one was started, with the same arguments. The path
/// is resolved by [`new`](Self::new), so the file may be replaced later, and a symbolic link may lead
/// to another version. It has the environment, the working directory, stdin, stdout and stderr
/// of this process, and none of its other descriptors, unless other code has made them inheritable.
/// `LISTEN_PID` and `WATCHDOG_PID` are removed.
///
/// # What is not promised
///
/// - PID 1 cannot hand over: in a container its end kills the new process. [`start`](Self::start) returns an
///   error.
/// - The new process is a child of this one until this one has ended, and then of init or of systemd.
///   A supervisor that waits for its own child, such as a shell, takes the end of this process for the end of the
///   service. systemd is told of the new one: see
#[cfg_attr(
    feature = "systemd",
    doc = "[`notify_systemd`](ShutdownController::notify_systemd)."
)]
#[cfg_attr(
    not(feature = "systemd"),
    doc = "`notify_systemd` (feature `systemd`)."
)]
/// - Connections that are open stay with this process. They are not handed over.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio::net::TcpListener;
/// use tower_lifecycle::ShutdownController;
/// use tower_lifecycle::restart::HandOver;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ctl = ShutdownController::new();
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let hand_over = HandOver::new(&ctl)?
///     .listener("http", &listener)?
///     .limit(Duration::from_secs(10))
/// #   .program("false").args([""; 0])
/// ;
/// // Here the new process fails.
/// let error = hand_over.start().await.unwrap_err();
/// assert_eq!(error.exit_status().and_then(|status| status.code()), Some(1));
/// assert!(ctl.is_ready());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is handed over until `start` or a signal"]
pub struct HandOver {
    ctl: ShutdownController,
    program: Program,
    limit: Duration,
    sockets: Arc<Sockets>,
    unready: Arc<Unready>,
}

/// Waits until the new process is ready, or has failed. Returns its process ID.
///
/// It is created by [`HandOver::start`]. Dropping it does not stop the hand-over.
#[must_use = "the result says whether the new process is ready"]
pub struct HandingOver(oneshot::Receiver<Result<u32, HandOverError>>);

// ===== impl HandOver =====

impl HandOver {
    /// Creates a hand-over of the service of `ctl`, without sockets.
    ///
    /// # Errors
    ///
    /// Returns a [`HandOverError`] if the system does not say which program this process runs.
    pub fn new(ctl: &ShutdownController) -> Result<Self, HandOverError> {
        ctl.core().capture_runtime();
        let program = Program::current()
            .map_err(|error| HandOverErrorKind::System("the path of this program", error))?;
        let sockets: Arc<Sockets> = Arc::default();
        let unready: Arc<Unready> = Arc::default();
        let told = (Arc::clone(&sockets), Arc::clone(&unready));
        ctl.on_state_change(move |_, state| {
            told.0.reached(state);
            told.1.reached(state);
        });
        Ok(Self {
            ctl: ctl.clone(),
            program,
            limit: LIMIT,
            sockets,
            unready,
        })
    }

    /// Adds a listening socket, under the name by which the new process takes it.
    ///
    /// Any listener will do: TCP or Unix, of tokio, std or `socket2`. Its descriptor is duplicated, and the
    /// duplicate is closed when draining begins. A Unix socket must not remove its file at the end, as
    /// `UnixSocket` does, because clients reach the new process through the same file.
    ///
    /// With `SO_REUSEPORT`, do not give a socket: the new process binds its own, and this one serves its own
    /// backlog first. Do so for all sockets or for none.
    ///
    /// # Errors
    ///
    /// Returns a [`HandOverError`] if systemd would not accept the name, or the system refuses to
    /// duplicate the descriptor.
    pub fn listener<L: AsFd>(
        self,
        name: impl Into<String>,
        listener: &L,
    ) -> Result<Self, HandOverError> {
        let name = name.into();
        if !is_valid_name(&name) {
            return Err(HandOverErrorKind::BadName(name).into());
        }
        let socket = listener.as_fd().try_clone_to_owned();
        let socket =
            socket.map_err(|error| HandOverErrorKind::System("another descriptor", error))?;
        self.sockets.add(name, socket);
        // Draining may have begun before.
        self.sockets.reached(self.ctl.state());
        Ok(self)
    }

    /// Sets how long the new process may take until it is ready. Default: 30 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the program to start. A name without a slash is looked for in the `PATH`.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program.path = program.into();
        self
    }

    /// Sets the arguments of the program, without its name.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the new process's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let value = Some(value.into());
        self.program.variables.push((name.into(), value));
        self
    }

    /// Removes a variable from the new process's environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.program.variables.push((name.into(), None));
        self
    }

    /// Hands over at each of these signals, until draining begins.
    ///
    /// A hand-over that fails is logged, and the next signal begins another one. Signals are received in a
    /// thread, so this also works when the runtime is blocked. It keeps the controller alive.
    ///
    /// Call it early: a signal that comes before kills the process. After
    /// `listen_for_signals`, it counts as code that may handle SIGHUP, so SIGHUP does not kill the
    /// process any more.
    ///
    /// # Errors
    ///
    /// Returns a [`HandOverError`] if the system refuses.
    pub fn on_signal(&self, signal: RestartSignal) -> Result<(), HandOverError> {
        let hand_over = self.clone();
        let listening = signal.listen(&self.ctl, move || drop(hand_over.start()));
        listening
            .map_err(|error| HandOverErrorKind::System("to listen for the signal", error).into())
    }

    /// Starts the new process. The future resolves when it is ready, to its process ID, and the
    /// shutdown of this process has begun then.
    ///
    /// It begins with this call, not with the first poll, on a thread of its own.
    ///
    /// # Errors
    ///
    /// Returns a [`HandOverError`] if this process is PID 1, if another hand-over is under way, if the state
    /// is not `Running`, if the program cannot be started, if it ends before it is ready, if it is
    /// late, or if a shutdown begins before it is ready. In all cases this process goes on as before, and
    /// the error is logged.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the hand-over.
    pub fn start(&self) -> HandingOver {
        let (result, handing_over) = oneshot::channel();
        let hand_over = self.clone();
        let thread = thread::Builder::new().name("tower-lifecycle-restart".to_owned());
        let spawned = thread.spawn(move || hand_over.run(result));
        if let Err(error) = spawned {
            let error = HandOverErrorKind::System("a thread", error).into();
            return HandingOver::failed(error);
        }
        HandingOver(handing_over)
    }

    /// Hands over, and then waits for the end of the new process.
    fn run(self, result: oneshot::Sender<Result<u32, HandOverError>>) {
        // Nobody may wait for the result.
        match self.hand_over() {
            Err(error) => {
                log_failure(&error);
                let _ = result.send(Err(error));
            }
            Ok((successor, shutdown)) => {
                let _ = result.send(Ok(successor.pid()));
                self.watch(successor, &shutdown);
            }
        }
    }

    fn hand_over(&self) -> Result<(Successor, Arc<Shutdown>), HandOverError> {
        let core = self.ctl.core();
        check_pid(process::id())?;
        if core.is_triggered() || core.state() != LifecycleState::Running {
            return Err(HandOverErrorKind::NotRunning(core.state()).into());
        }
        if !core.hand_over.begin(monotonic_micros()) {
            return Err(HandOverErrorKind::UnderWay.into());
        }
        core.readiness.notify();
        let handed_over = self.try_hand_over();
        if handed_over.is_err() {
            core.hand_over.end();
        }
        core.readiness.notify();
        handed_over
    }

    fn try_hand_over(&self) -> Result<(Successor, Arc<Shutdown>), HandOverError> {
        let core = self.ctl.core();
        let began = Instant::now();
        // Those of an earlier shutdown that was called off.
        core.forget_signal();
        let sockets = self.sockets.duplicate();
        let sockets =
            sockets.map_err(|error| HandOverErrorKind::System("more descriptors", error))?;
        let shares_sockets = !sockets.is_empty();
        let mut successor = Successor::start(&self.program, sockets)?;
        let (pid, program) = (successor.pid(), self.program.path.clone());
        tell!(info, pid, ?program, "handing over: new process started");
        successor.wait_until_ready(self.limit, &self.unready, || !core.is_triggered())?;

        // Before the trigger, so that systemd is told first.
        core.hand_over.done(pid, shares_sockets);
        let shutdown = core.announce(ShutdownReason::HandOver);
        let shutdown = shutdown.ok_or(HandOverErrorKind::ShuttingDown)?;
        successor.keep();
        driver::drive(core, &shutdown);
        let took_ms = millis(began.elapsed());
        tell!(info, pid, took_ms, "handed over: the new process is ready");
        core.tell_beginning(&shutdown);
        Ok((successor, shutdown))
    }

    /// Waits for the end of the new process, which has to be noticed during the lame duck.
    fn watch(self, mut successor: Successor, shutdown: &Shutdown) {
        let core = Arc::clone(self.ctl.core());
        let pid = successor.pid();
        while core.state() == LifecycleState::LameDuck && !shutdown.is_called_off() {
            if let Some(status) = successor.ended() {
                return self.go_on_without(pid, status);
            }
            thread::sleep(POLL);
        }
        if shutdown.is_called_off() {
            core.hand_over.end();
            core.readiness.notify();
            tell!(
                info,
                pid,
                "hand-over called off: the new process is asked to shut down"
            );
            successor.terminate();
            successor.wait();
            return;
        }
        // This thread may outlive the lifecycle.
        let weak = Arc::downgrade(&core);
        drop((self, core));
        successor.let_go();
        let status = successor.wait();
        if weak
            .upgrade()
            .is_some_and(|core| !core.state().is_terminal())
        {
            log_loss(pid, status);
        }
    }

    /// Calls the shutdown off, because the new process has ended.
    fn go_on_without(&self, pid: u32, status: Option<ExitStatus>) {
        let core = self.ctl.core();
        // A signal that ended both processes was meant for the service.
        if core.signal().is_some() || self.ctl.resume().is_err() {
            return log_loss(pid, status);
        }
        core.hand_over.end();
        core.readiness.notify();
        let status = status_text(status);
        tell!(
            error,
            pid,
            status,
            "hand-over called off: the new process has ended"
        );
    }
}

fn check_pid(pid: u32) -> Result<(), HandOverError> {
    if pid == 1 {
        Err(HandOverErrorKind::Pid1.into())
    } else {
        Ok(())
    }
}

/// Returns the time by the clock that systemd uses.
fn monotonic_micros() -> u64 {
    let now = ClockId::CLOCK_MONOTONIC.now().map(Duration::from);
    let micros = now.unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX)
}

fn status_text(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "unknown".to_owned(), |status| status.to_string())
}

fn log_failure(error: &HandOverError) {
    let error = Chain(error).to_string();
    tell!(error, error, "not handed over; going on as before");
}

fn log_loss(pid: u32, status: Option<ExitStatus>) {
    let status = status_text(status);
    tell!(
        error,
        pid,
        status,
        "the new process has ended, and the shutdown of this one cannot be called off"
    );
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver")
            .field("program", &self.program.path)
            .field("sockets", &self.sockets)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

// ===== impl HandingOver =====

impl HandingOver {
    fn failed(error: HandOverError) -> Self {
        log_failure(&error);
        let (result, handing_over) = oneshot::channel();
        let _ = result.send(Err(error));
        Self(handing_over)
    }
}

impl Future for HandingOver {
    type Output = Result<u32, HandOverError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.0).poll(cx));
        // The thread always sends one.
        Poll::Ready(result.unwrap_or_else(|_| Err(HandOverErrorKind::NeverReady.into())))
    }
}

impl fmt::Debug for HandingOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandingOver").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_given_after_the_drain_has_begun_is_not_kept() {
        let ctl = ShutdownController::new();
        let hand_over = HandOver::new(&ctl).expect("a program");
        ctl.shutdown(ShutdownReason::Manual).await;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let hand_over = hand_over.listener("http", &listener).expect("given");
        drop(listener);
        assert!(TcpStream::connect(address).is_err(), "nobody listens");
        drop(hand_over);
    }

    #[test]
    fn pid_1_is_refused_with_a_reason() {
        assert!(check_pid(2).is_ok());
        let error = check_pid(1).expect_err("refused").to_string();
        assert!(error.starts_with("PID 1 cannot hand over"), "{error}");
    }
}
