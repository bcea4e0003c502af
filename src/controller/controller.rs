//! The handle to a service's lifecycle.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::config::{ConfigError, ShutdownConfig};
use crate::error::{BoxError, ShuttingDown};
use crate::in_flight::{InFlightGuard, event};
use crate::shutdown::{Core, ENDED, Hook, HookError, ShutdownNotice, ShutdownReport, Wait, driver};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// The handle to a service's lifecycle.
///
/// It begins the shutdown, waits for its phases, and returns its report. Clones are cheap and share
/// one lifecycle. They may be used from any thread. Several callers and signals may ask for a
/// shutdown, but there is only one, and all of them get its report.
///
/// The shutdown runs as a task on the runtime in which the controller was created or first used. If
/// there is no such runtime, or it has ended, a separate thread runs the shutdown.
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
    /// Creates a running controller with the default configuration.
    ///
    /// If it is created inside a tokio runtime, that runtime drives its shutdown. The runtime must
    /// have its timer enabled, as that of `#[tokio::main]` has.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::thread;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// let ctl = ShutdownController::new();
    ///
    /// let clone = ctl.clone(); // another handle to the same lifecycle
    /// thread::spawn(move || clone.trigger(ShutdownReason::Manual)).join().unwrap();
    /// assert!(ctl.try_admit().is_err());
    /// ```
    pub fn new() -> Self {
        Self::running(ShutdownConfig::default())
    }

    /// Creates a running controller with this configuration.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a field is invalid. It names the field, its value, and what is
    /// allowed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(25));
    /// let ctl = ShutdownController::with_config(config)?;
    ///
    /// let too_long = ShutdownConfig::default().lame_duck(Duration::from_secs(60));
    /// assert!(ShutdownController::with_config(too_long).is_err());
    /// # Ok(()) }
    /// ```
    pub fn with_config(config: ShutdownConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::running(config))
    }

    /// Creates a controller whose services are not started yet.
    pub(crate) fn starting(config: ShutdownConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            core: Core::new(config, LifecycleState::Initializing),
        })
    }

    fn running(config: ShutdownConfig) -> Self {
        Self {
            core: Core::new(config, LifecycleState::Running),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Returns the configuration that the controller was created with.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let ctl = ShutdownController::new();
    /// assert_eq!(ctl.config().shutdown_timeout, Duration::from_secs(30));
    /// ```
    pub fn config(&self) -> &ShutdownConfig {
        &self.core.config
    }

    /// Returns the current state.
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
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(ctl.state(), LifecycleState::Stopped);
    /// # }
    /// ```
    pub fn state(&self) -> LifecycleState {
        self.core.state()
    }

    /// Returns whether the state is `Draining`.
    ///
    /// This is `false` during the lame duck, and while stopping. To check whether work may begin, call
    /// [`try_admit`](Self::try_admit).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let work = ctl.track();
    /// assert!(!ctl.is_draining());
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// assert!(ctl.is_draining());
    ///
    /// drop(work);
    /// ctl.stopped().await;
    /// assert!(!ctl.is_draining());
    /// # }
    /// ```
    pub fn is_draining(&self) -> bool {
        self.state() == LifecycleState::Draining
    }

    /// Returns the number of requests and guards in flight.
    ///
    /// The number is exact while it does not change. Otherwise it may miss changes that happen during
    /// the call. To wait for zero, await [`drained`](Self::drained).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let ctl = ShutdownController::new();
    /// let one = ctl.track();
    /// let two = ctl.track();
    /// assert_eq!(ctl.in_flight(), 2);
    ///
    /// drop(one);
    /// assert_eq!(ctl.in_flight(), 1);
    /// ```
    pub fn in_flight(&self) -> u64 {
        self.core.gate.in_flight()
    }

    /// Returns the time since the controller was created.
    ///
    /// It is measured by the system's clock, even while tokio's clock is paused.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Instant;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let before = Instant::now();
    /// let ctl = ShutdownController::new();
    /// assert!(ctl.uptime() <= before.elapsed());
    /// ```
    pub fn uptime(&self) -> Duration {
        self.core.started_at.elapsed()
    }

    /// Returns the notice of the shutdown, or `None` if there is no shutdown.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// assert!(ctl.notice().is_none());
    ///
    /// ctl.trigger(ShutdownReason::Timeout);
    /// let notice = ctl.notice().expect("triggered");
    /// assert_eq!(notice.reason(), ShutdownReason::Timeout);
    /// # }
    /// ```
    pub fn notice(&self) -> Option<ShutdownNotice> {
        self.core.notice()
    }

    /// Registers a clean-up function that runs while stopping, even after a forced drain.
    ///
    /// This is the same as [`add_hook`](Self::add_hook) with a [`Hook`] without further settings. A
    /// hook must not await [`shutdown`](Self::shutdown), which waits for the hook. Hooks do not run
    /// when a start-up is rolled back. They are kept until the shutdown, so a hook that holds the
    /// controller keeps it alive until then.
    ///
    /// The future of a hook ends with `Ok(())` or with any error that `?` converts into a
    /// [`BoxError`]. A function that returns nothing is followed by `Ok(())`:
    ///
    /// ```
    /// # use tower_lifecycle::ShutdownController;
    /// # async fn close() {}
    /// # let ctl = ShutdownController::new();
    /// ctl.on_shutdown("close pool", |_notice| async {
    ///     close().await;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), tower_lifecycle::controller::HookError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`HookError`] if the shutdown has been triggered, or another hook has this name.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::controller::HookError> {
    /// let ctl = ShutdownController::new();
    /// let (log, events) = mpsc::channel();
    /// ctl.on_shutdown("flush metrics", move |notice| async move {
    ///     log.send(format!("flushed at the end by {}", notice.reason()))?;
    ///     Ok(())
    /// })?;
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(events.recv().unwrap(), "flushed at the end by manual");
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn on_shutdown<F, Fut>(&self, name: impl Into<String>, hook: F) -> Result<(), HookError>
    where
        F: FnOnce(ShutdownNotice) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.add_hook(Hook::new(name, hook))
    }

    /// Registers a hook that runs while stopping, even after a forced drain.
    ///
    /// A hook must not await [`shutdown`](Self::shutdown), which waits for the hook.
    ///
    /// # Errors
    ///
    /// Returns a [`HookError`] if the shutdown has been triggered, or another hook has this name.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Hook, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::controller::HookError> {
    /// let ctl = ShutdownController::new();
    /// let close_pool = Hook::new("close pool", |_notice| async { Ok(()) });
    /// ctl.add_hook(close_pool.timeout(Duration::from_secs(2)))?;
    ///
    /// ctl.force();
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.hooks()[0].is_completed());
    /// # Ok(()) }
    /// ```
    pub fn add_hook(&self, hook: Hook) -> Result<(), HookError> {
        self.core.add_hook(hook)
    }

    /// Calls `observer` with the old and the new state at every state change from now on.
    ///
    /// Changes are reported once each, and in order. The thread that makes the change calls the
    /// observer, or a thread that is already reporting an earlier one. No lock is held during the call,
    /// so the observer may call any method of the controller. A panic in it is caught. It must not
    /// block, because it delays the thread that makes the change. Observers are dropped after the last
    /// change, so an observer may hold the controller.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let (log, moves) = mpsc::channel();
    /// ctl.on_state_change(move |old, new| log.send(format!("{old} -> {new}")).unwrap());
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// let moves: Vec<_> = moves.try_iter().collect();
    /// assert_eq!(
    ///     moves,
    ///     ["running -> draining", "draining -> stopping", "stopping -> stopped"]
    /// );
    /// # }
    /// ```
    pub fn on_state_change<F>(&self, observer: F)
    where
        F: Fn(LifecycleState, LifecycleState) + Send + Sync + 'static,
    {
        self.core.observe(Arc::new(observer));
    }

    /// Counts a unit of work, in any state.
    ///
    /// This is for work that must not be refused. The shutdown also waits for work that begins while
    /// draining, but [`drained`](Self::drained) may have resolved before.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let request = ctl.track();
    /// ctl.trigger(ShutdownReason::Manual);
    ///
    /// let audit = ctl.track(); // also counted while draining
    /// drop(request);
    /// assert_eq!(ctl.in_flight(), 1);
    /// # }
    /// ```
    #[inline]
    pub fn track(&self) -> InFlightGuard {
        InFlightGuard::track(self.core.gate.local())
    }

    /// Counts a unit of work unless draining has begun.
    ///
    /// # Errors
    ///
    /// Returns [`ShuttingDown`] from `Draining` on, and while [paused](Self::pause).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let job = ctl.try_admit().expect("running");
    /// assert_eq!(ctl.in_flight(), 1);
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// assert!(ctl.try_admit().is_err());
    /// # }
    /// ```
    #[inline]
    pub fn try_admit(&self) -> Result<InFlightGuard, ShuttingDown> {
        let shard = self.core.gate.local();
        InFlightGuard::admit(shard).ok_or_else(|| {
            shard.note_refused();
            ShuttingDown::new(shard.is_paused())
        })
    }

    /// Begins the shutdown. Returns `false` if a shutdown has already begun.
    ///
    /// It returns at once and may be called from any thread, including from hooks and handlers. If
    /// there is no lame duck, nothing is admitted any more once it has returned `true`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// assert!(ctl.trigger(ShutdownReason::Timeout));
    /// assert!(!ctl.trigger(ShutdownReason::Manual)); // already begun
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.reason(), ShutdownReason::Timeout);
    /// # }
    /// ```
    pub fn trigger(&self, reason: ShutdownReason) -> bool {
        let Some(shutdown) = self.core.announce(reason) else {
            return false;
        };
        driver::drive(&self.core, &shutdown);
        self.core.tell_beginning(&shutdown);
        true
    }

    /// Begins the shutdown and waits for its report.
    ///
    /// The shutdown begins with this call, not with the first poll. If a shutdown has already begun,
    /// the future waits for the report of that one. Hooks must not await it, and neither must handlers
    /// that should finish by themselves, because the shutdown waits for them. They can call
    /// [`trigger`](Self::trigger) instead.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the shutdown. A later call returns the same report.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let ended = ctl.shutdown(ShutdownReason::Manual);
    /// assert!(ctl.try_admit().is_err()); // begun, but not awaited yet
    ///
    /// let report = ended.await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn shutdown(&self, reason: ShutdownReason) -> Wait<ShutdownReport> {
        self.trigger(reason);
        self.wait(ENDED)
    }

    /// Cuts admitted work now, as the drain deadline would.
    ///
    /// It begins the shutdown if there is none yet. Requests that a [`DrainLayer`](crate::DrainLayer)
    /// admitted are dropped and answered, or their response body ends with an error.
    /// [Guards](InFlightGuard::forced) are notified. The clean-up still gets its reserve. While
    /// stopping, this cuts the rest of the clean-up instead. After the end it does nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let job = ctl.track();
    /// ctl.force();
    /// job.forced().await;
    /// drop(job);
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.is_forced());
    /// assert_eq!(report.abandoned(), 0);
    /// # }
    /// ```
    pub fn force(&self) {
        let core = &self.core;
        // Repeated if the shutdown is called off in between.
        loop {
            let announced = core.announce(ShutdownReason::Manual);
            let Some(shutdown) = announced.clone().or_else(|| core.shutdown()) else {
                continue;
            };
            let is_current = core.close(&shutdown);
            if is_current {
                core.cut();
            }
            // Driven after the cut, so that this force does not cut the clean-up.
            if announced.is_some() {
                driver::drive(core, &shutdown);
                core.tell_beginning(&shutdown);
            } else {
                core.tell_draining();
            }
            if is_current {
                return;
            }
        }
    }

    /// Waits until `state` is reached or passed, or can no longer be reached.
    ///
    /// The future returns the state at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{LifecycleState, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.trigger(ShutdownReason::Manual);
    ///
    /// // By default the lame duck is skipped, so this is past it.
    /// let state = ctl.wait_for(LifecycleState::LameDuck).await;
    /// assert_eq!(state, LifecycleState::Draining);
    /// # }
    /// ```
    pub fn wait_for(&self, state: LifecycleState) -> Wait<LifecycleState> {
        Wait::new(&self.core, state.at_or_past())
    }

    /// Waits until a shutdown is triggered, and returns its notice.
    ///
    /// The rollback of a start-up is announced in the same way. A shutdown may be [called
    /// off](Self::resume) during the lame duck. The next shutdown then has its own notice.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let ctl = ShutdownController::new();
    /// let triggered = ctl.triggered();
    /// let consumer = tokio::spawn(async move {
    ///     let notice = triggered.await;
    ///     notice.drain_remaining() // to finish the batch
    /// });
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// assert_eq!(consumer.await.unwrap(), Some(Duration::from_secs(25)));
    /// # }
    /// ```
    pub fn triggered(&self) -> Wait<ShutdownNotice> {
        self.wait(event::TRIGGERED)
    }

    /// Waits until the shutdown has begun.
    ///
    /// It has begun from `LameDuck` on, or from `Draining` on if there is no lame duck.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    /// ctl.trigger(ShutdownReason::Manual);
    ///
    /// ctl.lame_duck_begun().await;
    /// assert!(ctl.try_admit().is_ok()); // everything is still served
    /// # }
    /// ```
    pub fn lame_duck_begun(&self) -> Wait {
        self.wait(event::CLOSED | LifecycleState::LameDuck.at_or_past())
    }

    /// Waits until draining begins: the listener closes, and no new work should begin.
    ///
    /// Requests that still arrive on open connections are served for
    /// [`late_for`](ShutdownConfig::late_for).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let draining = ctl.draining();
    /// let consumer = tokio::spawn(async move {
    ///     draining.await;
    ///     "takes no more messages"
    /// });
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// assert_eq!(consumer.await.unwrap(), "takes no more messages");
    /// # }
    /// ```
    pub fn draining(&self) -> Wait {
        self.wait(event::CLOSED | LifecycleState::Draining.at_or_past())
    }

    /// Waits until draining has begun and nothing is in flight.
    ///
    /// This depends on the count alone. It resolves when the last guard is dropped, not at a later
    /// tick. It does not mean that the last response has been written to its socket, nor that
    /// nothing is [tracked](Self::track) afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let work = ctl.track();
    /// ctl.trigger(ShutdownReason::Manual);
    ///
    /// tokio::spawn(async move { drop(work) }); // the last one in flight
    /// ctl.drained().await;
    /// assert_eq!(ctl.in_flight(), 0);
    /// # }
    /// ```
    pub fn drained(&self) -> Wait {
        self.wait(event::DRAINED)
    }

    /// Waits until admitted work is cut. Never resolves if the shutdown ends without that.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.trigger(ShutdownReason::Manual);
    ///
    /// let was_forced = tokio::select! {
    ///     () = ctl.forced() => true,
    ///     () = ctl.stopped() => false,
    /// };
    /// assert!(!was_forced);
    /// # }
    /// ```
    pub fn forced(&self) -> Wait {
        self.wait(event::FORCED)
    }

    /// Waits until the shutdown is over and its report is available.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{LifecycleState, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.trigger(ShutdownReason::Manual);
    /// ctl.stopped().await;
    /// assert_eq!(ctl.state(), LifecycleState::Stopped);
    /// # }
    /// ```
    pub fn stopped(&self) -> Wait {
        self.wait(LifecycleState::Stopped.at_or_past())
    }

    /// Waits until the server should close its listener.
    ///
    /// Pass this future to the server's own graceful shutdown. It resolves when draining begins: if a
    /// connection is refused, a load balancer sends the request to another server, but it would pass
    /// a 503 on to its client. Requests that still arrive on open connections are served for
    /// [`late_for`](ShutdownConfig::late_for).
    ///
    /// If [`refuse_for`](ShutdownConfig::refuse_for) is above zero, it resolves when draining has
    /// begun, nothing is in flight, and the listener has been open and refusing for that time; or at
    /// the drain deadline. After a force, or when the deadline comes first, the rest of `refuse_for`
    /// is cut to 125 ms at most. Call this method before the trigger in that case: the drain leaves
    /// late clients that time only if the method was called.
    ///
    /// Connections in the kernel's backlog are reset when the listener is closed.
    /// [`serve`](crate::serve) accepts them first. So does `DrainListener` (feature `axum`), for
    /// `axum::serve`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let stop = ctl.stop_accepting();
    /// let request = ctl.track();
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// stop.await;
    /// assert_eq!(ctl.in_flight(), 1); // the request goes on
    /// # drop(request);
    /// # }
    /// ```
    pub fn stop_accepting(&self) -> Wait {
        self.core.note_listener();
        let over = LifecycleState::Stopping.at_or_past();
        self.wait(event::STOP_ACCEPTING | over)
    }

    pub(crate) fn wait<T>(&self, events: u32) -> Wait<T> {
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
