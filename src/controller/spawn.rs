//! Spawning a task.

use std::future::{Future, pending};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::controller::ShutdownController;
use super::supervised::{Entry, Supervised};
use super::task::Task;
use crate::in_flight::event;
use crate::shutdown::{ENDED, IntoResult, Role, Wait};
use crate::sync::Arc;

impl ShutdownController {
    /// Spawns a background task that the drain waits for, and that is cut at force.
    ///
    /// It is the same as [`spawn_task`](Self::spawn_task) of a [`Task`] without further settings: when
    /// it fails or panics, it begins the shutdown, and is named in health and in the
    /// [report](crate::ShutdownReport::tasks), which is not graceful. That it ends means nothing.
    ///
    /// It runs on the runtime of the caller, or else on the one that drives the shutdown. It is
    /// counted apart from requests: [`drained`](Self::drained) takes no notice of it, but the drain
    /// is over only when it has ended. It learns of the shutdown by [`triggered`](Self::triggered) or
    /// [`draining`](Self::draining), and should then come to its end. At the drain deadline, or at
    /// force, it is dropped where it waits, and reported. Several may have one name.
    ///
    /// Requests still run, and late ones still arrive, when it is told. So a task that ends then must
    /// not be one that requests feed: what they enqueue afterwards is lost. That is a
    /// [worker](Self::spawn_worker), which is told to stop when nothing can feed it any more.
    ///
    /// One that is spawned after a force, or while stopping, is cut before its first poll.
    ///
    /// A task must not await [`shutdown`](Self::shutdown), which waits for the task. One that ends at
    /// `triggered` is gone if that shutdown is [called off](Self::resume); `draining` comes only when
    /// there is no way back.
    ///
    /// A future with `?` has to say what its error is: `Ok::<_, BoxError>(())` at its end.
    ///
    /// What is not promised: a task that blocks its thread cannot be cut. It is reported as
    /// abandoned.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the controller was never used inside one either.
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

    /// Spawns a worker: a task that requests feed, and that outlives them.
    ///
    /// `work` is called with a future, `stop`, that resolves when nothing can feed the worker any
    /// more: all that was admitted has finished, or was cut and is gone, and all servers and tasks of
    /// [`spawn`](Self::spawn) have ended. Then it empties its queue, and ends. So what a request
    /// has enqueued before its answer is done.
    ///
    /// All workers are told at the same time, and waited for before the hooks, while the state is
    /// `Draining`. What the requests leave of their time is the workers'. A share of their own is
    /// kept, too, if one is running at the trigger: see
    /// [`worker_reserve`](crate::ShutdownConfig::worker_reserve). After it, or by a [force](Self::force)
    /// while they are being stopped, they are dropped where they wait, and reported. A force that came
    /// before cuts the requests, and leaves the workers that share. The rollback of a start-up stops
    /// workers too.
    ///
    /// When it fails, panics, or ends before a shutdown has begun, it begins one: see [`Task`], whose
    /// [`worker`](Task::worker) has further settings.
    ///
    /// What is not promised: it may be fed by what the controller does not know, such as a task of
    /// `tokio::spawn` or a request outside the layers.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the controller was never used inside one either.
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
    ///             Some(job) = jobs.recv() => sent.send(job).unwrap(), // as long as there is one
    ///             () = &mut stop => break, // none, and none can come
    ///         }
    ///     }
    /// });
    ///
    /// let request = ctl.track();
    /// ctl.trigger(ShutdownReason::Manual);
    /// queue.send("a mail").unwrap(); // while draining, and acknowledged
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

    /// Spawns an admin server: one for health and metrics that ends last.
    ///
    /// `server` is called with a future, `closing`, that resolves right before the end: hooks, stops
    /// and saves are over, and the state is still `Stopping`. Neither the drain nor the clean-up waits
    /// for the server. It may be spawned before the first step of a [`Startup`](crate::Startup), so
    /// that probes are answered from `starting` to `stopping`, the rollback included.
    ///
    /// Once it is told, it has what is left of the total, at most 250 ms, to finish what it is being
    /// asked; then it is dropped. That makes no shutdown less graceful.
    ///
    /// When it fails, panics, or ends before a shutdown has begun, it begins one: see [`Task`], whose
    /// [`admin`](Task::admin) has further settings.
    ///
    /// Any server will do that takes a future for its graceful shutdown. It must not be given
    /// [`stop_accepting`](Self::stop_accepting), and its routes no [`DrainLayer`](crate::DrainLayer).
    /// [`serve`](crate::serve) closes its listener by its controller, so it gets one of its own, which
    /// `closing` triggers.
    ///
    /// What is not promised: dropping a foreign server may leave connections that it has spawned. What
    /// they answer after the end is theirs.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the controller was never used inside one either.
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
    /// With our own server:
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
    /// [`spawn_admin`](Self::spawn_admin) for what each is for. To abort one by its handle is its
    /// owner's business: it is not reported.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the controller was never used inside one either.
    #[track_caller]
    pub fn spawn_task(&self, task: Task) -> JoinHandle<()> {
        start(self, task)
    }
}

/// Spawns a task on the runtime of the caller, or else on that of the controller.
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
    let runtime = runtime.filter(|_| here.is_err());
    if is_refused {
        // Here and now, and not when its runtime comes to it.
        drop(run);
        drop(entry);
        let handle = match runtime {
            Some(runtime) => runtime.spawn(pending()),
            None => tokio::spawn(pending()),
        };
        handle.abort();
        return handle;
    }
    let told_to_end = match role {
        Role::Task | Role::Watch => ENDED,
        Role::Worker => event::STOP_WORKERS | ENDED,
        Role::Admin => event::CLOSE_ADMIN | ENDED,
    };
    let future = run(Wait::new(core, told_to_end));
    let task = Supervised::new(future, entry);
    let handle = match runtime {
        Some(runtime) => runtime.spawn(task),
        None => tokio::spawn(task),
    };
    tasks.spawned(id, handle.abort_handle());
    handle
}
