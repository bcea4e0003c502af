//! The answer to readiness and liveness probes.
//!
//! Readiness says whether to send traffic, and turns red before the first refusal. Liveness says
//! whether to restart the process, and stays green while it drains: a probe that fails then would
//! have the process killed in the middle (Kubernetes: liveness and readiness probes).

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
use super::round::Round;
use super::services;
use super::step::Shown;
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Answers readiness probes or, made [`liveness`](Self::liveness), liveness probes.
///
/// | state | readiness | liveness |
/// |---|---|---|
/// | `Initializing`, `Starting` | 503 `starting` | 200 |
/// | the same, while it is rolled back | 503 `draining` | 200 |
/// | `Running`, all checks succeed and no task has died | 200 `healthy` | 200 |
/// | `Running`, and a check fails, or a task has died | 200 `degraded` | 200 |
/// | `Running`, and a critical check fails | 503 `unhealthy` | 200 |
/// | `Running`, [paused](ShutdownController::pause) | 503 `paused` | 200 |
/// | `LameDuck`, `Draining` | 503 `draining` | 200 |
/// | `Stopping` | 503 `stopping` | 200 |
/// | `Stopped` | 503 `stopped` | 503 |
/// | `Failed` | 503 `unhealthy` | 503 |
///
/// The body is JSON, and nothing in it comes from the request. Its `services` are those that a
/// [`Startup`](crate::Startup) has started, the named tasks that are running or have died (see
/// [`TaskPolicy`](crate::controller::TaskPolicy)), and the checks; the texts of their errors are shown to
/// everybody who can ask, so keep passwords out of them. GET and HEAD only; other methods get a 405.
///
/// Put it beside the [`DrainLayer`](crate::DrainLayer), not inside: a probe must not be refused;
/// without a router, [`HealthLayer`](super::HealthLayer) puts it in front. A probe that makes a connection also needs a
/// listener: the service's own closes when draining begins. Probes that are to be answered until the
/// end need a port of their own, with a server that is given to
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
    /// At the call, which decided whether checks are run.
    status: &'static str,
    round: Round,
}

/// What there is to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Health { head: bool },
    MethodNotAllowed,
}

// ===== impl HealthService =====

impl HealthService {
    /// Makes a readiness probe's answer.
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

    /// Sets the version that the body shows. Default `unknown`.
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

    /// Adds a check, run for each readiness probe while `Running`.
    ///
    /// All checks run at the same time, and each at most once at a time: a probe that finds a run
    /// under way joins it. One that fails, panics or takes longer than the
    /// [limit](Self::check_timeout) makes the status `degraded`, and the probe stays green; see
    /// [`critical_check`](Self::critical_check). The text of its error is shown in the body, to
    /// everybody who can ask. A later check of the same name replaces the earlier one, whether
    /// critical or not, and a check is shown in place of a service of its name.
    ///
    /// Each run is a task of its own, so outside a tokio runtime all checks fail. It goes on when
    /// its probes are dropped, and is dropped with the service, all its clones and all its probes.
    /// Clones of the service share the runs, and so do services that are made from them by further
    /// setters.
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

    /// Adds a check without which there is no serving: when it fails, the probe is red.
    ///
    /// The status is then `unhealthy`, and no traffic is sent here; mind that a dependency which
    /// all instances share takes all of them out at once. In all else it is a
    /// [`check`](Self::check). Liveness runs neither, so a failing database leads to no restart.
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
    /// One that takes longer shows as failed, at once to all further probes, until it has ended; then
    /// the next probe runs it anew. It is not dropped, and no second run is begun meanwhile: what
    /// it has left on another thread, as `spawn_blocking` does, would go on, and add up. So a check
    /// that never ends stays failed. If its work can be dropped, put a
    /// [`timeout`](tokio::time::timeout) of your own into it.
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

    /// Sets how long the result of a check is shown again. Default zero: each probe runs them all.
    ///
    /// It keeps those who can ask from running the checks as often as they like. The time counts
    /// from the end of the run; failures are cached as well.
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

    /// Runs the checks in the background, at this period; probes only read. Default zero, which is
    /// off.
    ///
    /// The first readiness probe while `Running` begins it, and is the only one that waits: until the
    /// first results are there, or until the [limit](Self::check_timeout), after which a check counts
    /// as failed. So a critical check keeps readiness red until it has succeeded once. Later
    /// probes show the last result, with its `age` in seconds, or that there is no answer within
    /// the limit. A run that takes longer than the period delays the next one.
    ///
    /// The checks go on, whether or not anybody asks, until draining begins, or until the service and
    /// all its clones are gone. [`cache_for`](Self::cache_for) has no effect beside this. Of clones
    /// with different periods the shortest counts.
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

    /// Makes it a liveness probe's answer, which runs no checks.
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
    /// assert_eq!(response.status(), 200); // still at work
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

    /// Undoes [`liveness`](Self::liveness).
    pub(super) fn readiness(mut self) -> Self {
        Arc::make_mut(&mut self.settings).liveness = false;
        self
    }

    fn add(&mut self, check: Check) {
        let checks = &mut Arc::make_mut(&mut self.settings).checks;
        checks.retain(|other| other.name != check.name);
        checks.push(check);
    }

    /// Begins the answer to a probe, of which nothing but the method matters.
    pub(super) fn answer(&self, method: &Method) -> ResponseFuture {
        let answer = match *method {
            Method::GET => Answer::Health { head: false },
            Method::HEAD => Answer::Health { head: true },
            _ => Answer::MethodNotAllowed,
        };
        let status = status(&self.ctl);
        let runs_checks =
            answer != Answer::MethodNotAllowed && !self.settings.liveness && status == HEALTHY;
        let round = if runs_checks {
            Round::start(&self.settings.checks, self.settings.times, &self.ctl)
        } else {
            Round::empty()
        };
        ResponseFuture {
            answer,
            settings: Arc::clone(&self.settings),
            ctl: self.ctl.clone(),
            status,
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
        self.answer(request.method())
    }
}

/// The status of a controller that is ready for traffic, unless a check objects.
const HEALTHY: &str = "healthy";

/// The status that goes with the state. The notice is there before the first shard is closed, and
/// so before the first refusal; the state follows.
fn status(ctl: &ShutdownController) -> &'static str {
    match ctl.state() {
        // A start-up is being rolled back, or the first move of a shutdown is being made.
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
    /// Polls for the response with its body still in one piece.
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Response<Bytes>> {
        let shown = ready!(Pin::new(&mut self.round).poll(cx));
        Poll::Ready(match self.answer {
            Answer::Health { head } => self.health(head, &shown),
            Answer::MethodNotAllowed => method_not_allowed(),
        })
    }

    fn health(&self, head: bool, shown: &[Shown]) -> Response<Bytes> {
        let settings = &*self.settings;
        // It may have turned red while the checks ran; what was red has had no checks run, and so
        // cannot turn green.
        let status = match (self.status, status(&self.ctl)) {
            (HEALTHY, HEALTHY) => self.status_by_checks(shown),
            (before, HEALTHY) => before,
            (_, now) => now,
        };
        let is_green = if settings.liveness {
            !matches!(status, "stopped" | "unhealthy")
        } else {
            matches!(status, "healthy" | "degraded")
        };
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
        // Nothing but strings and numbers: it cannot fail, and an empty body would say so.
        let json = serde_json::to_vec(&payload).unwrap_or_default();
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

    /// P9: from the first refusal on it is red.
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
        let mut future = health.answer(&Method::GET);
        future.status = "starting";
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(response) = future.poll_response(&mut cx) else {
            panic!("there is nothing to wait for")
        };
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
