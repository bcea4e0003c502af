//! Spawning tasks, workers and admin servers.

use std::future::{Future, pending};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::controller::ShutdownController;
use super::supervised::{Entry, Supervised};
use super::task::Task;
use crate::in_flight::event;
use crate::shutdown::{ENDED, IntoResult, Role, Wait};
use crate::spawn;
use crate::sync::Arc;

impl ShutdownController {
    /// Spawns a background task. The drain waits for it, and a force cuts it.
    ///
    /// This is the same as [`spawn_task`](Self::spawn_task) with a [`Task`] without further settings. If
    /// the task fails or panics, it begins the shutdown. It is then named in health and in the
    /// [report](crate::ShutdownReport::tasks), which is not graceful. An end without an error has no
    /// effect.
    ///
    /// The task runs on the runtime of the caller, or otherwise on the one that drives the shutdown. It
    /// is counted separately from requests: [`drained`](Self::drained) does not wait for it, but the
    /// drain is over only when it has ended. It can wait for the shutdown with
    /// [`triggered`](Self::triggered) or [`draining`](Self::draining), and should then end. At the drain
    /// deadline, or at a force, it is dropped at its current await point, and reported. Several tasks
    /// may have the same name.
    ///
    /// Requests still run, and late requests still arrive, when these futures resolve. So a task that
    /// then ends must not be fed by requests: what they enqueue afterwards is lost. Use a
    /// [worker](Self::spawn_worker) for that, which is told to stop when nothing can feed it any more.
    ///
    /// A task that is spawned after a force, or while stopping, is cut before its first poll.
    ///
    /// A task must not await [`shutdown`](Self::shutdown), which waits for the task. A task that ends at
    /// `triggered` does not come back if that shutdown is [called off](Self::resume). `draining` resolves
    /// only when the shutdown can no longer be called off.
    ///
    /// A future that uses `?` has to name its error type, with `Ok::<_, BoxError>(())` at its end.
    ///
    /// What is not promised: a task that blocks its thread cannot be cut. It is reported as
    /// abandoned.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, if the controller was never used inside one either.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let mut draining = ctl.draining();
    /// let poller = ctl.spawn("poller", async move {
    ///     let mut tick = tokio::time::interval(Duration::from_millis(1));
    ///     loop {
    ///         tokio::select! {
    ///             () = &mut draining => break,
    ///             _ = tick.tick() => { /* fetch the feature flags */ }
    ///         }
    ///     }
    /// });
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(poller.is_finished());
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, name: impl Into<String>, future: F) -> JoinHandle<()>
    where
        F: Future<Output: IntoResult> + Send + 'static,
    {
        self.spawn_task(Task::new(name, future))
    }

    /// Spawns a worker: a task that is fed by requests, and that outlives them.
    ///
    /// `work` is called with a future, `stop`, that resolves when nothing can feed the worker any
    /// more: all admitted work has finished, or was cut and dropped, and all servers and tasks of
    /// [`spawn`](Self::spawn) have ended. The worker should then empty its queue, and end. So the
    /// work that a request enqueues before its response is still done.
    ///
    /// All workers are told to stop at the same time. The shutdown waits for them before it runs the
    /// hooks, while the state is `Draining`. Workers may use the time that requests have left over. If a
    /// worker is running at the trigger, some time is also reserved for the workers: see
    /// [`worker_reserve`](crate::ShutdownConfig::worker_reserve). After that time, or at a
    /// [force](Self::force) while they are being stopped, workers are dropped at their current await
    /// point, and reported. An earlier force cuts the requests, and leaves the workers the reserved
    /// time. The rollback of a start-up also stops workers.
    ///
    /// If a worker fails, panics, or ends before a shutdown has begun, it begins one. See
    /// [`Task::worker`] for further settings.
    ///
    /// What is not promised: the worker may still be fed by work that the controller does not know, such
    /// as a task of `tokio::spawn` or a request outside the layers.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, if the controller was never used inside one either.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::sync::mpsc;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let (sent, mut outbox) = mpsc::unbounded_channel();
    /// let ctl = ShutdownController::new();
    /// let (queue, mut jobs) = mpsc::unbounded_channel();
    /// ctl.spawn_worker("outbox", |mut stop| async move {
    ///     loop {
    ///         tokio::select! {
    ///             biased;
    ///             Some(job) = jobs.recv() => sent.send(job).unwrap(), // while there are jobs
    ///             () = &mut stop => break, // no jobs left, and no new ones
    ///         }
    ///     }
    /// });
    ///
    /// let request = ctl.track();
    /// ctl.trigger(ShutdownReason::Manual);
    /// queue.send("a mail").unwrap(); // enqueued while draining
    /// drop(request);
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.is_graceful());
    /// assert_eq!(outbox.try_recv(), Ok("a mail"));
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_worker<W, F>(&self, name: impl Into<String>, work: W) -> JoinHandle<()>
    where
        W: FnOnce(Wait) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        self.spawn_task(Task::worker(name, work))
    }

    /// Spawns an admin server: a server for health and metrics that ends last.
    ///
    /// `server` is called with a future, `closing`, that resolves right before the end: hooks, stops
    /// and saves are over, and the state is still `Stopping`. Neither the drain nor the clean-up waits
    /// for the server. It may be spawned before the first step of a [`Startup`](crate::Startup), so
    /// that probes are answered from `starting` to `stopping`, also during a rollback.
    ///
    /// When `closing` has resolved, the server has the rest of the shutdown timeout, but at most 250 ms,
    /// to finish its current requests. Then it is dropped. The shutdown is still graceful in that case.
    ///
    /// If the server fails, panics, or ends before a shutdown has begun, it begins one. See
    /// [`Task::admin`] for further settings.
    ///
    /// Any server can be used that takes a future for its graceful shutdown. Do not pass it
    /// [`stop_accepting`](Self::stop_accepting), and do not wrap its routes in a
    /// [`DrainLayer`](crate::DrainLayer). [`serve`](crate::serve) closes its listener when its controller
    /// shuts down, so it needs a separate controller, which is triggered after `closing`.
    ///
    /// What is not promised: dropping a foreign server may leave connections that it has spawned. They
    /// may still answer requests after the end.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, if the controller was never used inside one either.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "health", doc = "```")]
    #[cfg_attr(not(feature = "health"), doc = "```ignore")]
    /// use axum::Router;
    /// use tokio::net::TcpListener;
    /// use tower_lifecycle::{HealthService, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let ctl = ShutdownController::new();
    /// let routes = Router::new().route_service("/health", HealthService::new(ctl.clone()));
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// ctl.spawn_admin("admin", |closing| async move {
    ///     axum::serve(listener, routes).with_graceful_shutdown(closing).await
    /// });
    /// # assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
    /// # Ok(()) }
    /// ```
    ///
    /// With the server of this crate:
    ///
    #[cfg_attr(all(feature = "health", feature = "server"), doc = "```")]
    #[cfg_attr(not(all(feature = "health", feature = "server")), doc = "```ignore")]
    /// # use axum::Router;
    /// # use tokio::net::TcpListener;
    /// # use std::time::Duration;
    /// # use tower_lifecycle::{
    /// #     HealthService, ShutdownConfig, ShutdownController, ShutdownReason, serve,
    /// # };
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_lifecycle::BoxError> {
    /// # let ctl = ShutdownController::new();
    /// # let routes = Router::new().route_service("/health", HealthService::new(ctl.clone()));
    /// # let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let quick = ShutdownConfig::default()
    ///     .shutdown_timeout(Duration::from_millis(200))
    ///     .late_for(Duration::ZERO);
    /// let own = ShutdownController::with_config(quick)?; // serves nothing else
    /// ctl.spawn_admin("admin", |closing| async move {
    ///     let server = serve(listener, routes, own.clone());
    ///     let end = async {
    ///         closing.await;
    ///         own.trigger(ShutdownReason::Manual);
    ///     };
    ///     tokio::join!(server, end);
    /// });
    /// # assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_admin<S, F>(&self, name: impl Into<String>, server: S) -> JoinHandle<()>
    where
        S: FnOnce(Wait) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        self.spawn_task(Task::admin(name, server))
    }

    /// Spawns a task, a worker or an admin server, with its settings.
    ///
    /// See [`Task`] for examples, and [`spawn`](Self::spawn), [`spawn_worker`](Self::spawn_worker) and
    /// [`spawn_admin`](Self::spawn_admin) for the use of each. A task that is aborted through its handle
    /// is not reported.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, if the controller was never used inside one either.
    #[track_caller]
    pub fn spawn_task(&self, task: Task) -> JoinHandle<()> {
        start(self, task)
    }
}

/// Spawns a task on the runtime of the caller, or otherwise on that of the controller.
#[track_caller]
pub(crate) fn start(ctl: &ShutdownController, task: Task) -> JoinHandle<()> {
    let Task {
        name,
        role,
        policies,
        run,
    } = task;
    let core = ctl.core();
    let runtime = core.capture_runtime();
    let tasks = &core.tasks;
    let (id, is_refused) = tasks.begin(Arc::clone(&name), role, policies);
    let entry = Entry::new(ctl, id, role, &name);
    let here = Handle::try_current();
    let runtime = match (here, runtime) {
        (Err(_), Some(runtime)) => runtime.clone(),
        _ => Handle::current(),
    };
    if is_refused {
        // Dropped now, not when the runtime gets to the aborted task.
        drop(run);
        drop(entry);
        let handle = spawn::task(&runtime, pending());
        handle.abort();
        return handle;
    }
    let end_events = match role {
        Role::Task | Role::Watch => ENDED,
        Role::Worker => event::STOP_WORKERS | ENDED,
        Role::Admin => event::CLOSE_ADMIN | ENDED,
    };
    let future = run(Wait::new(core, end_events));
    let task = Supervised::new(future, entry);
    let handle = spawn::task(&runtime, task);
    tasks.spawned(id, handle.abort_handle());
    handle
}
