//! A task that has not been spawned yet.

use std::fmt;
use std::future::Future;

use crate::shutdown::{BoxFuture, IntoResult, Policies, Role, TaskPolicy, Wait};
use crate::sync::Arc;

/// A background task with a name, and with policies for its end.
///
/// It is spawned by [`ShutdownController::spawn_task`](crate::ShutdownController::spawn_task).
///
/// # Examples
///
/// ```
/// use tower_lifecycle::controller::TaskPolicy;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, Task};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let consumer = Task::new("consumer", async { Err::<(), _>("connection lost") });
/// ctl.spawn_task(consumer); // begins the shutdown when it fails
///
/// ctl.stopped().await;
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert_eq!(report.reason(), ShutdownReason::Error);
/// assert_eq!(report.tasks()[0].outcome().to_string(), "failed: connection lost");
/// assert!(!report.is_graceful()); // exit code 1
/// # }
/// ```
///
/// A loop inside the future restarts the work. It also ends when draining begins. This one gives up
/// at the fifth failure:
///
/// ```
/// use std::time::Duration;
/// use tokio::time::sleep;
/// use tower_lifecycle::{BoxError, ShutdownController, Task};
///
/// # #[derive(Default)] struct Consumer;
/// # impl Consumer { async fn run(&self) -> Result<(), BoxError> { Err("no broker".into()) } }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # tokio::time::pause();
/// # let consumer = Consumer;
/// let ctl = ShutdownController::new();
/// let mut draining = ctl.draining();
/// ctl.spawn_task(Task::new("consumer", async move {
///     let mut pause = Duration::from_millis(100);
///     for _ in 0..4 {
///         let Err(error) = consumer.run().await else {
///             return Ok(());
///         };
///         eprintln!("consumer: {error}; restarted in {pause:?}");
///         tokio::select! {
///             () = sleep(pause) => pause *= 2,
///             () = &mut draining => return Ok(()),
///         }
///     }
///     consumer.run().await // its error begins the shutdown
/// }));
/// # ctl.stopped().await;
/// # assert_eq!(ctl.notice().unwrap().reason(), tower_lifecycle::ShutdownReason::Error);
/// # }
/// ```
#[must_use = "a task does nothing until it is spawned"]
pub struct Task {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) policies: Policies,
    /// Creates the future. The `Wait` tells it to stop, if its role uses that.
    pub(super) run: Box<dyn FnOnce(Wait) -> BoxFuture + Send>,
}

// ===== impl Task =====

impl Task {
    /// Creates a task that the drain waits for, as [`spawn`](crate::ShutdownController::spawn) does.
    ///
    /// If it fails or panics, it begins the shutdown. An end without an error has no effect.
    pub fn new<F>(name: impl Into<String>, future: F) -> Self
    where
        F: Future<Output: IntoResult> + Send + 'static,
    {
        Self::of(name, Role::Task, |_wait| future)
    }

    /// Creates a worker, which outlives the requests that feed it, as
    /// [`spawn_worker`](crate::ShutdownController::spawn_worker) does.
    ///
    /// If it fails, panics, or ends before a shutdown has begun, it begins one.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::controller::TaskPolicy;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason, Task};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let audit = Task::worker("audit", |stop| async move {
    ///     stop.await;
    ///     Err::<(), _>("disk full")
    /// });
    /// ctl.spawn_task(audit.on_error(TaskPolicy::Ignore)); // its failure does not matter
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn worker<W, F>(name: impl Into<String>, work: W) -> Self
    where
        W: FnOnce(Wait) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        Self::of(name, Role::Worker, work)
    }

    /// Creates an admin server, which ends last, as
    /// [`spawn_admin`](crate::ShutdownController::spawn_admin) does.
    ///
    /// If it fails, panics, or ends before a shutdown has begun, it begins one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::pending;
    /// use tower_lifecycle::controller::TaskPolicy;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason, Task};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let metrics = Task::admin("metrics", |closing| async move {
    ///     closing.await; // serve until then
    /// });
    /// ctl.spawn_task(metrics.on_error(TaskPolicy::Note)); // serve on without metrics
    /// # assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
    /// # }
    /// ```
    pub fn admin<S, F>(name: impl Into<String>, server: S) -> Self
    where
        S: FnOnce(Wait) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        Self::of(name, Role::Admin, server)
    }

    fn of<W, F>(name: impl Into<String>, role: Role, work: W) -> Self
    where
        W: FnOnce(Wait) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        Self {
            name: name.into().into(),
            role,
            policies: Policies::default_of(role),
            // Called inside the task, so that a panic in `work` counts as a panic of the task.
            run: Box::new(|wait| Box::pin(async move { work(wait).await.into_result() })),
        }
    }

    /// Creates a task that watches the service of this name. The stop of the service ends the task.
    pub(crate) fn watch(name: Arc<str>, policy: TaskPolicy, watch: BoxFuture) -> Self {
        Self {
            name,
            role: Role::Watch,
            policies: Policies::all(policy),
            run: Box::new(|_wait| watch),
        }
    }

    /// Sets the policy for when the task ends without an error before a shutdown has begun.
    ///
    /// Default: [`Ignore`](TaskPolicy::Ignore) for [`new`](Self::new), otherwise
    /// [`Shutdown`](TaskPolicy::Shutdown). After the trigger such an end is expected.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::controller::TaskPolicy;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason, Task};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let consumer = Task::new("consumer", async { /* the stream of messages has ended */ });
    /// ctl.spawn_task(consumer.on_end(TaskPolicy::Shutdown));
    ///
    /// ctl.stopped().await;
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.reason(), ShutdownReason::TaskEnded);
    /// # }
    /// ```
    pub fn on_end(mut self, policy: TaskPolicy) -> Self {
        self.policies.end = policy;
        self
    }

    /// Sets the policy for when the task returns an error. Default: [`Shutdown`](TaskPolicy::Shutdown).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::controller::TaskPolicy;
    /// use tower_lifecycle::{LifecycleState, ShutdownController, Task};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let refresh = Task::new("refresh", async { Err::<(), _>("no route to host") });
    /// let _ = ctl.spawn_task(refresh.on_error(TaskPolicy::Note)).await;
    ///
    /// // Readiness is 200 `degraded` until another task of this name is spawned.
    /// assert_eq!(ctl.state(), LifecycleState::Running);
    /// # }
    /// ```
    pub fn on_error(mut self, policy: TaskPolicy) -> Self {
        self.policies.error = policy;
        self
    }

    /// Sets the policy for when the task panics. Default: [`Shutdown`](TaskPolicy::Shutdown).
    pub fn on_panic(mut self, policy: TaskPolicy) -> Self {
        self.policies.panic = policy;
        self
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}
