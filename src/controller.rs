//! The handle on a service's lifecycle.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::time::Duration;

use crate::config::{ConfigError, ShutdownConfig};
use crate::core::Core;
use crate::driver;
use crate::error::{BoxError, ShuttingDown};
use crate::guard::InFlightGuard;
use crate::hooks::{Hook, HookError};
use crate::milestones::event;
use crate::notice::ShutdownNotice;
use crate::report::ShutdownReport;
use crate::run::{Run, ServerOutput};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;
use crate::wait::Wait;

/// The handle on a service's lifecycle: starts its end, watches it, and tells how it went.
///
/// Clones share one lifecycle and are cheap; any of them may be used from any thread. However many
/// callers and signals ask for a shutdown, there is one, and all of them get its report.
///
/// The shutdown runs as a task of the runtime in which the controller was made or first used. If it
/// was never used inside one, a thread of its own runs it.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{LifecycleState, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// assert_eq!(ctl.state(), LifecycleState::Running);
///
/// let work = ctl.try_admit().expect("running");
/// ctl.trigger(ShutdownReason::Manual);
/// assert!(ctl.try_admit().is_err());
///
/// drop(work); // the last one in flight
/// ctl.drained().await;
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert!(report.is_graceful());
/// # }
/// ```
#[derive(Clone)]
pub struct ShutdownController {
    core: Arc<Core>,
}

// ===== impl ShutdownController =====

impl ShutdownController {
    /// Makes a running controller with the default times.
    ///
    /// Made inside a tokio runtime, it has its shutdown driven by that one, which must have its
    /// timer enabled, as that of `#[tokio::main]` has.
    pub fn new() -> Self {
        Self::running(ShutdownConfig::default())
    }

    /// Makes a running controller with these times.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the field that cannot be, its value, and what is allowed.
    pub fn with_config(config: ShutdownConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::running(config))
    }

    fn running(config: ShutdownConfig) -> Self {
        Self {
            core: Core::new(config, LifecycleState::Running),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    // ----- what is -----

    /// Returns the times.
    pub fn config(&self) -> &ShutdownConfig {
        &self.core.config
    }

    /// Returns the state.
    pub fn state(&self) -> LifecycleState {
        self.core.state()
    }

    /// Returns whether the state is `Draining`.
    pub fn is_draining(&self) -> bool {
        self.state() == LifecycleState::Draining
    }

    /// Returns how many are in flight: exact when nothing moves, else off by what is moving.
    pub fn in_flight(&self) -> u64 {
        self.core.gate.in_flight()
    }

    /// Returns how long ago the controller was made.
    pub fn uptime(&self) -> Duration {
        self.core.started_at.elapsed()
    }

    /// Returns what everybody was told at the trigger, once there was one.
    pub fn notice(&self) -> Option<ShutdownNotice> {
        self.core.notice().cloned()
    }

    // ----- what is to be done at the end -----

    /// Registers clean-up, to run while stopping; the same as [`add_hook`](Self::add_hook) of a
    /// [`Hook`] without further settings.
    ///
    /// A hook must not await [`shutdown`](Self::shutdown), which waits for the hook.
    ///
    /// # Errors
    ///
    /// A [`HookError`] if the shutdown has been triggered, or another hook has this name.
    #[track_caller]
    pub fn on_shutdown<F, Fut>(&self, name: impl Into<String>, hook: F) -> Result<(), HookError>
    where
        F: FnOnce(ShutdownNotice) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.add_hook(Hook::new(name, hook))
    }

    /// Registers a hook, to run while stopping, also after a forced drain.
    ///
    /// # Errors
    ///
    /// A [`HookError`] if the shutdown has been triggered, or another hook has this name.
    pub fn add_hook(&self, hook: Hook) -> Result<(), HookError> {
        self.core.hooks.add(hook, || self.core.notice().is_some())
    }

    /// Has `observer` called with the old and the new state at every move from now on.
    ///
    /// Each move is told once and in order, by the thread that makes it or by one that is telling
    /// already, outside our locks: any call on the controller is legal inside. A panic in it is
    /// contained. It must not block, for it holds up whoever makes the move. Observers are dropped
    /// after the last move, so one may hold the controller.
    ///
    /// # Examples
    ///
    /// ```
    /// let ctl = tower_lifecycle::ShutdownController::new();
    /// ctl.on_state_change(|old, new| println!("{old} -> {new}"));
    /// ```
    pub fn on_state_change<F>(&self, observer: F)
    where
        F: Fn(LifecycleState, LifecycleState) + Send + Sync + 'static,
    {
        self.core.observe(Arc::new(observer));
    }

    // ----- work that is no tower call -----

    /// Counts a unit of work, whatever the state. For work that must not be refused.
    #[inline]
    pub fn track(&self) -> InFlightGuard {
        InFlightGuard::track(self.core.gate.local())
    }

    /// Counts a unit of work unless draining has begun.
    ///
    /// # Errors
    ///
    /// [`ShuttingDown`] from `Draining` on.
    #[inline]
    pub fn try_admit(&self) -> Result<InFlightGuard, ShuttingDown> {
        let shard = self.core.gate.local();
        InFlightGuard::admit(shard).ok_or_else(|| {
            shard.note_refused();
            ShuttingDown
        })
    }

    // ----- ending it -----

    /// Begins the shutdown; `false` if one is under way or over.
    ///
    /// It returns at once and may be called by any thread, in hooks and handlers too. With no lame
    /// duck nothing is admitted any more when it returns.
    pub fn trigger(&self, reason: ShutdownReason) -> bool {
        if !self.core.announce(reason) {
            return false;
        }
        // First, so that no observer of the first move can hold it up.
        driver::drive(Arc::clone(&self.core));
        self.core.begin();
        true
    }

    /// Begins the shutdown, by this call and not by the first poll, and waits for its report.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the shutdown, and a later call gives the same report.
    pub fn shutdown(&self, reason: ShutdownReason) -> Wait<ShutdownReport> {
        self.trigger(reason);
        self.wait(event::STOPPED)
    }

    /// Cuts admitted work now, as the drain deadline would; begins the shutdown if need be.
    ///
    /// Handlers are dropped and answered, bodies end with an error, and the clean-up gets its
    /// reserve. While stopping it cuts what is left of the clean-up instead.
    pub fn force(&self) {
        self.trigger(ShutdownReason::Manual);
        self.core.cut();
    }

    /// Runs `server` to its end, with the shutdown and the hooks, and gives the report.
    ///
    /// The server is polled inline, so it need not be `Send`. After the trigger it should end by
    /// itself, when [`stop_accepting`](Self::stop_accepting) tells it to; the drain is over only
    /// when it has, because a count of zero does not mean that the last bytes have been written.
    /// After a force it is waited for shortly, then dropped. This future never outlives the
    /// deadline of the shutdown, as long as its thread is not blocked.
    ///
    /// A server that ends without having been asked begins the shutdown, with the reason
    /// [`ServerExited`](ShutdownReason::ServerExited), or [`Error`](ShutdownReason::Error) and its
    /// error in the report. Several servers can be run at once: all are waited for.
    ///
    /// What is not promised: dropping a foreign server may leave tasks that it has spawned. With
    /// `axum::serve` a connection whose client does not read lives on until the runtime ends; it
    /// is reported as [abandoned](ShutdownReport::abandoned).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server and begins the shutdown, which goes on without it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let stop = ctl.stop_accepting();
    /// let server = async move {
    ///     // accept and serve, and then:
    ///     stop.await;
    ///     std::io::Result::Ok(())
    /// };
    /// # ctl.trigger(ShutdownReason::Manual);
    /// let report = ctl.run(server).await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn run<S>(&self, server: S) -> Run<S::IntoFuture>
    where
        S: IntoFuture<Output: ServerOutput>,
    {
        self.core.capture_runtime();
        Run::new(self, server.into_future())
    }

    // ----- waiting -----

    /// Waits until `state` is reached or passed, or cannot come any more, and gives the state then.
    pub fn wait_for(&self, state: LifecycleState) -> Wait<LifecycleState> {
        Wait::new(&self.core, state.at_or_past())
    }

    /// Waits until the shutdown has been triggered: `LameDuck`, or `Draining` if that is zero.
    pub fn lame_duck(&self) -> Wait {
        self.wait(LifecycleState::LameDuck.at_or_past())
    }

    /// Waits until new requests are refused.
    pub fn draining(&self) -> Wait {
        self.wait(LifecycleState::Draining.at_or_past())
    }

    /// Waits until, after draining began, nothing is in flight.
    ///
    /// It is about the count alone, and resolves when the last guard is dropped, not at some next
    /// tick. It does not mean that the last response has been written to its socket.
    pub fn drained(&self) -> Wait {
        self.wait(event::DRAINED)
    }

    /// Waits until admitted work is cut; for ever, if the shutdown ends without.
    pub fn forced(&self) -> Wait {
        self.wait(event::FORCED)
    }

    /// Waits until the shutdown is over.
    pub fn stopped(&self) -> Wait {
        self.wait(LifecycleState::Stopped.at_or_past())
    }

    /// Waits until the server should close its listener, to be given to the server's own graceful
    /// shutdown.
    ///
    /// That is when draining has begun, nothing is in flight, and the listener has been open and
    /// refusing for at least [`refuse_for`](ShutdownConfig::refuse_for); or at the drain deadline.
    /// A force shortens that, to 125 ms at most. Closing the listener as soon as draining begins
    /// would reset the connections that wait in the kernel's backlog, and probes and late clients
    /// would find nobody.
    pub fn stop_accepting(&self) -> Wait {
        self.core.note_listener();
        let over = LifecycleState::Stopping.at_or_past();
        self.wait(event::STOP_ACCEPTING | over)
    }

    fn wait<T>(&self, events: u32) -> Wait<T> {
        Wait::new(&self.core, events)
    }
}

impl Default for ShutdownController {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ShutdownController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownController")
            .field("state", &self.state())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
