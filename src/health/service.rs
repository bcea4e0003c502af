//! Answers readiness and liveness probes.
//!
//! Readiness says whether to send traffic. It turns red before the first request is refused. Liveness
//! says whether to restart the process. It stays green while the process drains, because a failed
//! liveness probe would kill the process during the drain (Kubernetes: liveness and readiness probes).

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use super::check::{Check, Times};
use super::json::{Payload, Services, timestamp};
use super::prober::prober;
use super::round::Round;
use super::services;
use super::step::Shown;
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Answers readiness probes, or liveness probes if set to [`liveness`](Self::liveness).
///
/// | state | readiness | liveness |
/// |---|---|---|
/// | `Initializing`, `Starting` | 503 `starting` | 200 |
/// | the same, during a rollback | 503 `draining` | 200 |
/// | `Running`, all checks succeed and no task has died | 200 `healthy` | 200 |
/// | `Running`, a check fails or a task has died | 200 `degraded` | 200 |
/// | `Running`, a critical check fails | 503 `unhealthy` | 200 |
/// | `Running`, [paused](ShutdownController::pause) | 503 `paused` | 200 |
/// | `LameDuck`, `Draining` | 503 `draining` | 200 |
/// | `Stopping` | 503 `stopping` | 200 |
/// | `Stopped` | 503 `stopped` | 503 |
/// | `Failed` | 503 `unhealthy` | 503 |
///
/// The body is JSON. Nothing in it comes from the request. Its `services` are the services started
/// by a [`Startup`](crate::Startup), the named tasks that are running or have died (see
/// [`TaskPolicy`](crate::controller::TaskPolicy)), and the checks. Error texts are visible to everyone
/// who can send a probe, so keep passwords out of them. Only GET and HEAD are answered; other methods
/// get a 405.
///
/// Put this service next to the [`DrainLayer`](crate::DrainLayer) and not inside it, so that a probe
/// is never refused. Without a router, use a [`HealthLayer`](super::HealthLayer). A probe that opens
/// a new connection also needs a listener, and the application's listener closes when draining
/// begins. To answer probes until the end, give them their own port, with a server that is passed to
/// [`spawn_admin`](ShutdownController::spawn_admin).
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_lifecycle::{DrainLayer, HealthService, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()))
///     .route_service("/health", HealthService::new(ctl.clone()))
///     .route_service("/livez", HealthService::new(ctl.clone()).liveness());
///
/// ctl.trigger(ShutdownReason::Manual);
/// for (path, status) in [("/health", 503), ("/livez", 200)] {
///     let probe = Request::get(path).body(Body::empty()).unwrap();
///     assert_eq!(app.clone().oneshot(probe).await.unwrap().status(), status);
/// }
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a service does nothing until it is put behind a path"]
pub struct HealthService {
    ctl: ShutdownController,
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    version: Option<Box<str>>,
    checks: Vec<Check>,
    times: Times,
    liveness: bool,
}

/// The response future of [`HealthService`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    answer: Answer,
    settings: Arc<Settings>,
    ctl: ShutdownController,
    /// The prober, if its probe is to be noted.
    prober: Option<u64>,
    /// The status at the call. It decided whether checks are run.
    status_at_call: &'static str,
    round: Round,
}

/// The kind of response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Health { head: bool },
    MethodNotAllowed,
}

// ===== impl HealthService =====

impl HealthService {
    /// Creates a service that answers readiness probes.
    pub fn new(ctl: ShutdownController) -> Self {
        Self {
            ctl,
            settings: Arc::new(Settings {
                version: None,
                checks: Vec::new(),
                times: Times {
                    timeout: Duration::from_secs(1),
                    cache_for: Duration::ZERO,
                    every: Duration::ZERO,
                },
                liveness: false,
            }),
        }
    }

    /// Sets the version shown in the body. Default `unknown`.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use http_body_util::BodyExt;
    /// use serde_json::{Value, from_slice};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let health = HealthService::new(ctl.clone()).version(env!("CARGO_PKG_VERSION"));
    ///
    /// let response = health.oneshot(Request::new(())).await.unwrap();
    /// let body = response.into_body().collect().await.unwrap();
    /// let body: Value = from_slice(&body.to_bytes()).unwrap();
    /// assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    /// # }
    /// ```
    pub fn version(mut self, version: impl Into<String>) -> Self {
        let version = version.into().into_boxed_str();
        Arc::make_mut(&mut self.settings).version = Some(version);
        self
    }

    /// Adds a check. It runs for each readiness probe while `Running`.
    ///
    /// All checks run at the same time. Each check has at most one run at a time: a probe that finds
    /// a run in progress joins it. If a check fails, panics or takes longer than the
    /// [limit](Self::check_timeout), the status is `degraded` and the probe stays green; see
    /// [`critical_check`](Self::critical_check) for the alternative. The error text is shown in the
    /// body, to everyone who can send a probe. A later check with the same name replaces the earlier
    /// one, critical or not. A check also replaces a service with the same name in the body.
    ///
    /// The future of a check ends with `Ok(())` or with any error that `?` converts into a
    /// [`BoxError`]: `|| async { ping().await?; Ok(()) }`.
    ///
    /// Each run is its own task, so all checks fail outside a tokio runtime. A run continues when its
    /// probes are dropped. It is dropped with the service, all clones and all probes. Clones of the
    /// service share the runs, even if the settings of a clone are changed later.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use http_body_util::BodyExt;
    /// use serde_json::{Value, from_slice};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let health = HealthService::new(ctl.clone())
    ///     .check("cache", || async { Ok(()) })
    ///     .check("db", || async { Err("no connection".into()) });
    ///
    /// let response = health.oneshot(Request::new(())).await.unwrap();
    /// let body = response.into_body().collect().await.unwrap();
    /// let body: Value = from_slice(&body.to_bytes()).unwrap();
    /// assert_eq!(body["status"], "degraded");
    /// assert_eq!(body["services"]["cache"]["status"], "healthy");
    /// assert_eq!(body["services"]["db"]["error"], "no connection");
    /// # }
    /// ```
    pub fn check<F, Fut>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.add(Check::new(name.into().into(), false, check));
        self
    }

    /// Adds a check that turns the readiness probe red when it fails.
    ///
    /// The status is then `unhealthy`, and the instance gets no traffic. Note that a dependency
    /// shared by all instances takes all of them out at once. Otherwise it works like
    /// [`check`](Self::check). Liveness runs no checks, so a failing database causes no restart.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use http_body_util::BodyExt;
    /// use serde_json::{Value, from_slice};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let health = HealthService::new(ctl.clone())
    ///     .critical_check("db", || async { Err("no connection".into()) });
    ///
    /// let response = health.oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.status(), 503);
    /// let body = response.into_body().collect().await.unwrap();
    /// let body: Value = from_slice(&body.to_bytes()).unwrap();
    /// assert_eq!(body["status"], "unhealthy");
    /// # }
    /// ```
    pub fn critical_check<F, Fut>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.add(Check::new(name.into().into(), true, check));
        self
    }

    /// Sets how long each check may take. Default 1 s.
    ///
    /// A check that takes longer counts as failed until its run has ended; further probes do not wait
    /// for it. The next probe after that runs it again. The run is not dropped, and no second run is
    /// started meanwhile, because work on another thread, as with `spawn_blocking`, would continue and
    /// pile up. So a check that never ends stays failed. If its work can be dropped, put your own
    /// [`timeout`](tokio::time::timeout) into the check.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{future::pending, time::Duration};
    /// use http::Request;
    /// use http_body_util::BodyExt;
    /// use serde_json::{Value, from_slice};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// # tokio::time::pause();
    /// let health = HealthService::new(ctl.clone())
    ///     .check("db", || pending()) // hangs
    ///     .check_timeout(Duration::from_millis(300));
    ///
    /// let response = health.oneshot(Request::new(())).await.unwrap();
    /// let body = response.into_body().collect().await.unwrap();
    /// let body: Value = from_slice(&body.to_bytes()).unwrap();
    /// assert_eq!(body["services"]["db"]["error"], "no answer within 300ms");
    /// # }
    /// ```
    pub fn check_timeout(mut self, limit: Duration) -> Self {
        Arc::make_mut(&mut self.settings).times.timeout = limit;
        self
    }

    /// Sets how long the result of a check is reused. Default zero: each probe runs all checks.
    ///
    /// This limits how often clients can make the checks run. The time counts from the end of the
    /// run. Failures are cached as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// static QUERIES: AtomicUsize = AtomicUsize::new(0);
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let health = HealthService::new(ctl.clone())
    ///     .check("db", || async {
    ///         QUERIES.fetch_add(1, Ordering::Relaxed);
    ///         Ok(())
    ///     })
    ///     .cache_for(Duration::from_secs(5));
    ///
    /// for _ in 0..100 {
    ///     let response = health.clone().oneshot(Request::new(())).await.unwrap();
    ///     assert_eq!(response.status(), 200);
    /// }
    /// assert_eq!(QUERIES.load(Ordering::Relaxed), 1);
    /// # }
    /// ```
    pub fn cache_for(mut self, age: Duration) -> Self {
        Arc::make_mut(&mut self.settings).times.cache_for = age;
        self
    }

    /// Runs the checks in the background with this period, so that probes only read the results.
    /// Default zero, which turns this off.
    ///
    /// The first readiness probe while `Running` starts the checks. It is the only probe that waits,
    /// for the first results or until the [limit](Self::check_timeout), after which a check counts as
    /// failed. So a critical check keeps readiness red until it has succeeded once. Later probes show
    /// the last result with its `age` in seconds, or that there was no answer within the limit. A run
    /// that takes longer than the period delays the next run.
    ///
    /// The checks run, with or without probes, until draining begins or until the service and all its
    /// clones are dropped. [`cache_for`](Self::cache_for) then has no effect. If clones have different
    /// periods, the shortest applies.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController};
    ///
    /// static QUERIES: AtomicUsize = AtomicUsize::new(0);
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// # let ctl = ShutdownController::new();
    /// let health = HealthService::new(ctl.clone())
    ///     .critical_check("db", || async {
    ///         QUERIES.fetch_add(1, Ordering::Relaxed);
    ///         Ok(())
    ///     })
    ///     .check_every(Duration::from_secs(5));
    ///
    /// let response = health.clone().oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.status(), 200);
    /// tokio::time::sleep(Duration::from_secs(12)).await;
    /// assert_eq!(QUERIES.load(Ordering::Relaxed), 3);
    /// # }
    /// ```
    pub fn check_every(mut self, period: Duration) -> Self {
        Arc::make_mut(&mut self.settings).times.every = period;
        self
    }

    /// Makes the service answer liveness probes. It then runs no checks.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{HealthService, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let liveness = HealthService::new(ctl.clone()).liveness();
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// let response = liveness.clone().oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.status(), 200); // still draining
    ///
    /// ctl.stopped().await;
    /// let response = liveness.oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.status(), 503);
    /// # }
    /// ```
    pub fn liveness(mut self) -> Self {
        Arc::make_mut(&mut self.settings).liveness = true;
        self
    }

    /// Reverts [`liveness`](Self::liveness).
    pub(super) fn readiness(mut self) -> Self {
        Arc::make_mut(&mut self.settings).liveness = false;
        self
    }

    fn add(&mut self, check: Check) {
        let checks = &mut Arc::make_mut(&mut self.settings).checks;
        checks.retain(|other| other.name != check.name);
        checks.push(check);
    }

    /// Starts the response to a probe. Only the method of the request matters for it.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> ResponseFuture {
        let answer = match *request.method() {
            Method::GET => Answer::Health { head: false },
            Method::HEAD => Answer::Health { head: true },
            _ => Answer::MethodNotAllowed,
        };
        let status = status(&self.ctl);
        let is_readiness = answer != Answer::MethodNotAllowed && !self.settings.liveness;
        let round = if is_readiness && status == HEALTHY {
            Round::start(&self.settings.checks, self.settings.times, &self.ctl)
        } else {
            Round::empty()
        };
        let prober = is_readiness.then(|| self.ctl.core().prober(prober(request)));
        ResponseFuture {
            answer,
            prober: prober.flatten(),
            settings: Arc::clone(&self.settings),
            ctl: self.ctl.clone(),
            status_at_call: status,
            round,
        }
    }
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.answer(&request)
    }
}

/// The status of a controller that is ready for traffic, if no check fails.
const HEALTHY: &str = "healthy";

/// Returns the status for the state of the controller. The shutdown notice is set before the first
/// shard is closed, and so before the first refusal. The state changes after that.
fn status(ctl: &ShutdownController) -> &'static str {
    match ctl.state() {
        // A start-up is rolled back, or a shutdown was triggered and the state has not changed yet.
        state if state <= LifecycleState::Running && ctl.core().is_triggered() => "draining",
        LifecycleState::Initializing | LifecycleState::Starting => "starting",
        LifecycleState::Running if ctl.is_paused() => "paused",
        LifecycleState::Running => HEALTHY,
        LifecycleState::LameDuck | LifecycleState::Draining => "draining",
        LifecycleState::Stopping => "stopping",
        LifecycleState::Stopped => "stopped",
        LifecycleState::Failed => "unhealthy",
    }
}

impl fmt::Debug for HealthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = self.settings.checks.iter().map(|check| &check.name);
        f.debug_struct("HealthService")
            .field("liveness", &self.settings.liveness)
            .field("checks", &checks.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

// ===== impl ResponseFuture =====

impl ResponseFuture {
    /// Polls for the response, with its body as one buffer.
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Response<Bytes>> {
        let shown = ready!(Pin::new(&mut self.round).poll(cx));
        Poll::Ready(match self.answer {
            Answer::Health { head } => self.health(head, &shown),
            Answer::MethodNotAllowed => method_not_allowed(),
        })
    }

    fn health(&self, head: bool, shown: &[Shown]) -> Response<Bytes> {
        let settings = &*self.settings;
        // The status may have turned red while the checks ran. If it was red at the call, no checks
        // were run, so the response stays red.
        let status = match (self.status_at_call, status(&self.ctl)) {
            (HEALTHY, HEALTHY) => self.status_by_checks(shown),
            (before, HEALTHY) => before,
            (_, now) => now,
        };
        let is_green = if settings.liveness {
            !matches!(status, "stopped" | "unhealthy")
        } else {
            matches!(status, "healthy" | "degraded")
        };
        if let Some(prober) = self.prober {
            self.ctl.core().note_probe(prober, !is_green);
        }
        let payload = Payload {
            status,
            version: settings.version.as_deref().unwrap_or("unknown"),
            services: Services {
                started: &services::health(self.ctl.core()),
                checks: &settings.checks,
                shown,
            },
            uptime: self.ctl.uptime().as_secs(),
            in_flight_requests: self.ctl.in_flight(),
            timestamp: timestamp(),
        };
        let json = payload.to_string();
        let length = json.len();
        let mut response = Response::new(if head { Bytes::new() } else { json.into() });
        if !is_green {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn status_by_checks(&self, shown: &[Shown]) -> &'static str {
        let checks = self.settings.checks.iter().zip(shown);
        let failed = checks.filter(|(_, shown)| shown.outcome.is_err());
        match failed.map(|(check, _)| check.is_critical).max() {
            None if self.ctl.core().tasks.one_is_dead() => "degraded",
            None => HEALTHY,
            Some(false) => "degraded",
            Some(true) => "unhealthy",
        }
    }
}

fn method_not_allowed() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let allow = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(ALLOW, allow);
    response
}

impl Future for ResponseFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.get_mut().poll_response(cx));
        Poll::Ready(Ok(response.map(Full::new)))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("checks_running", &self.round.waiting())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::state::ShutdownReason;

    /// P9: readiness is red from the first refusal on.
    #[track_caller]
    fn is_red_at_the_first_refusal(red: &str, refuse: fn(&ShutdownController)) {
        for _ in 0..500 {
            let ctl = ShutdownController::new();
            assert_eq!(status(&ctl), HEALTHY);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while ctl.try_admit().is_ok() {}
                    assert_eq!(status(&ctl), red);
                });
                refuse(&ctl);
            });
        }
    }

    #[test]
    fn readiness_is_red_at_the_first_refusal_of_a_shutdown() {
        is_red_at_the_first_refusal("draining", |ctl| {
            ctl.core().announce(ShutdownReason::Manual);
        });
    }

    #[test]
    fn readiness_is_red_at_the_first_refusal_of_a_pause() {
        is_red_at_the_first_refusal("paused", |ctl| {
            ctl.pause();
        });
    }

    #[test]
    fn what_was_red_at_the_call_is_not_answered_green() {
        let health = HealthService::new(ShutdownController::new());
        let mut future = health.answer(&Request::new(()));
        future.status_at_call = "starting";
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(response) = future.poll_response(&mut cx) else {
            panic!("there is nothing to wait for")
        };
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
