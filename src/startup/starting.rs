//! Starting the services of a step.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::StartupError;
use super::startup::Startup;
use super::step::{AnyStep, Step, Steps, step};
use crate::error::BoxError;
use crate::shutdown::{IntoResult, TaskPolicy};
use crate::sync::lock;

/// A service to be started by [`Startup::start`]. It starts when this is awaited.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mut startup = Startup::new(ShutdownConfig::default())?;
/// let port = startup
///     .start("echo", async { Ok::<_, BoxError>(7) }, |_port| async {})
///     .timeout(Duration::from_secs(10))
///     .stop_timeout(Duration::from_secs(2))
///     .await?;
/// assert_eq!(port, 7);
/// # startup.finish().await?;
/// # Ok(()) }
/// ```
#[must_use = "a service is started when this is awaited"]
pub struct StartStep<'a, T> {
    startup: &'a mut Startup,
    step: Step<'a, T>,
}

/// The future of [`Startup::start_all`] and of a [`StartStep`].
#[must_use = "futures do nothing unless polled"]
pub struct StartFuture<'a, T> {
    inner: Pin<Box<dyn Future<Output = Result<T, StartupError>> + Send + 'a>>,
}

// ===== impl Startup =====

impl Startup {
    /// Starts a service, and returns it.
    ///
    /// `start` creates the service. `stop` is called with a clone of it when it should stop, and is not
    /// called if the service was not started. The returned [`StartStep`] has further settings.
    ///
    /// # Errors
    ///
    /// Returns a [`StartupError`] if `start` fails, panics or takes longer than its
    /// [limit](StartStep::timeout), if a shutdown was triggered, or if another service has this name.
    /// All started services have been stopped again by then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only drops `start`. The start-up can go on.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{BoxError, LifecycleState, ShutdownConfig, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut startup = Startup::new(ShutdownConfig::default())?;
    /// let ctl = startup.controller();
    /// startup
    ///     .start("database", async { Ok::<_, BoxError>("pool") }, |_pool| async {})
    ///     .await?;
    ///
    /// let error = startup
    ///     .start("cache", async { Err::<(), _>("connection refused") }, |()| async {})
    ///     .await
    ///     .unwrap_err();
    /// assert_eq!(error.step(), Some("cache"));
    /// assert_eq!(error.rollback()[0].name(), "database"); // stopped again
    /// assert_eq!(ctl.state(), LifecycleState::Failed);
    /// # Ok(()) }
    /// ```
    pub fn start<'a, T, E, F, S, Fut>(
        &'a mut self,
        name: impl Into<String>,
        start: F,
        stop: S,
    ) -> StartStep<'a, T>
    where
        T: Clone + Send + 'static,
        E: Into<BoxError>,
        F: Future<Output = Result<T, E>> + Send + 'a,
        S: FnOnce(T) -> Fut + Send + 'static,
        Fut: Future<Output: IntoResult> + Send + 'static,
    {
        StartStep::new(self, step(name, start, stop))
    }

    /// Starts several services at the same time, as one step, and returns them.
    ///
    /// They are also stopped at the same time. `steps` is a tuple of up to eight [`Step`]s, or a
    /// `Vec` of them. If one fails, the starts of the others are dropped.
    ///
    /// # Errors
    ///
    /// The same as for [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the starts that have not finished. Services that have already started
    /// are stopped at the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::startup::step;
    /// use tower_lifecycle::{BoxError, ShutdownConfig, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut startup = Startup::new(ShutdownConfig::default())?;
    /// let cache = step("cache", async { Ok::<_, BoxError>(1) }, |_| async {});
    /// let queue = step("queue", async { Ok::<_, BoxError>("q") }, |_| async {});
    /// let (cache, queue) = startup.start_all((cache, queue)).await?;
    /// assert_eq!((cache, queue), (1, "q"));
    /// # startup.finish().await?;
    /// # Ok(()) }
    /// ```
    pub fn start_all<'a, S: Steps<'a>>(&'a mut self, steps: S) -> StartFuture<'a, S::Started> {
        let (steps, places) = steps.split();
        StartFuture::new(self, steps, Box::new(move || S::collect(places)))
    }
}

// ===== impl StartStep =====

impl<'a, T: Clone + Send + 'static> StartStep<'a, T> {
    pub(super) fn new(startup: &'a mut Startup, step: Step<'a, T>) -> Self {
        Self { startup, step }
    }

    /// Sets how long the start may take. Default: no limit.
    ///
    /// After that time the start is dropped, and the start-up has failed.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.step = self.step.timeout(limit);
        self
    }

    /// Sets how long the stop may take. After that time it is dropped.
    ///
    /// This can only shorten the default, which is the remaining time divided by the number of steps
    /// that still have to be stopped.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.step = self.step.stop_timeout(limit);
        self
    }

    /// Watches the service from its start until it has been stopped.
    ///
    /// `watch` is called with a clone of the service. Its future is polled in its own task until the
    /// stop has ended, and is then dropped. If it ends, fails or panics before the stop begins, the
    /// service has failed: health reports that, and the shutdown begins. The report lists the service
    /// among the [tasks](crate::ShutdownReport::tasks), and is not graceful. A
    /// [policy](Self::watch_policy) can change this. An end without an error after the trigger is
    /// expected.
    ///
    /// Outside a tokio runtime, a start with a watch fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::sync::watch;
    /// use tower_lifecycle::{BoxError, ShutdownConfig, ShutdownReason, Startup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut startup = Startup::new(ShutdownConfig::default())?;
    /// let (connection, alive) = watch::channel(());
    /// startup
    ///     .start("broker", async { Ok::<_, BoxError>(alive) }, |_alive| async {})
    ///     .watch(|mut alive| async move {
    ///         while alive.changed().await.is_ok() {}
    ///         Err::<(), _>("connection lost")
    ///     })
    ///     .await?;
    /// let ctl = startup.finish().await?;
    ///
    /// drop(connection);
    /// ctl.stopped().await;
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.reason(), ShutdownReason::Error);
    /// assert_eq!(report.tasks()[0].name(), "broker");
    /// # Ok(()) }
    /// ```
    pub fn watch<W, F>(mut self, watch: W) -> Self
    where
        W: FnOnce(T) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        self.step = self.step.watch(watch);
        self
    }

    /// Sets the policy for when the [watch](Self::watch) ends in any way before the stop begins.
    /// Default: [`Shutdown`](TaskPolicy::Shutdown).
    pub fn watch_policy(mut self, policy: TaskPolicy) -> Self {
        self.step = self.step.watch_policy(policy);
        self
    }
}

impl<'a, T: Clone + Send + 'static> IntoFuture for StartStep<'a, T> {
    type Output = Result<T, StartupError>;
    type IntoFuture = StartFuture<'a, T>;

    fn into_future(self) -> StartFuture<'a, T> {
        let (step, place) = self.step.split();
        StartFuture::new(
            self.startup,
            vec![step],
            Box::new(move || lock(&place).take()),
        )
    }
}

impl<T> fmt::Debug for StartStep<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartStep")
            .field("step", &self.step)
            .finish()
    }
}

// ===== impl StartFuture =====

impl<'a, T: 'static> StartFuture<'a, T> {
    /// `collect` returns the started services, if all of them were started.
    ///
    /// Boxed, so that the future below has no bound with a lifetime: under one, proving that it is `Send`
    /// took 2 % of the time to compile this crate.
    pub(super) fn new(
        startup: &'a mut Startup,
        steps: Vec<AnyStep<'a>>,
        collect: Box<dyn FnOnce() -> Option<T> + Send + 'a>,
    ) -> Self {
        let inner = Box::pin(async move {
            let failure = match startup.run(steps).await {
                // This is always `Some`, because all steps succeeded.
                Ok(()) => match collect() {
                    Some(started) => return Ok(started),
                    None => None,
                },
                Err(failure) => {
                    // Drops the clones for the caller before the stops begin.
                    drop(collect);
                    failure
                }
            };
            Err(startup.failed(failure).await)
        });
        Self { inner }
    }
}

impl<T> Future for StartFuture<'_, T> {
    type Output = Result<T, StartupError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().inner.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for StartFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartFuture").finish_non_exhaustive()
    }
}
