//! The answer to readiness and liveness probes.
//!
//! Readiness says whether to send traffic, and turns red before the first refusal. Liveness says
//! whether to restart the process, and stays green while it drains: a probe that fails then would
//! have the process killed in the middle (Kubernetes: liveness and readiness probes).

mod json;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use self::json::{Health, Services, timestamp};
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Answers readiness probes or, made [`liveness`](Self::liveness), liveness probes.
///
/// | state | readiness | liveness |
/// |---|---|---|
/// | `Initializing`, `Starting` | 503 `starting` | 200 |
/// | `Running` | 200 `healthy`, or 200 `degraded` when a check fails | 200 |
/// | `LameDuck`, `Draining` | 503 `draining` | 200 |
/// | `Stopping` | 503 `stopping` | 200 |
/// | `Stopped` | 503 `stopped` | 503 |
/// | `Failed` | 503 `unhealthy` | 503 |
///
/// The body is JSON, and nothing in it comes from the request. GET and HEAD only; other methods get
/// a 405.
///
/// Put it beside the [`DrainLayer`](crate::DrainLayer), not inside: a probe must not be refused. A
/// probe also needs a listener that is still open, see
/// [`stop_accepting`](ShutdownController::stop_accepting).
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
    check_timeout: Duration,
    liveness: bool,
}

#[derive(Clone)]
struct Check {
    name: Arc<str>,
    run: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
}

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The response future of [`HealthService`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    answer: Answer,
    settings: Arc<Settings>,
    ctl: ShutdownController,
    checks: JoinSet<(usize, Result<(), String>)>,
    /// For a check that blocks its thread and cannot look at the clock itself.
    clock: Option<Pin<Box<Sleep>>>,
    results: Vec<Option<Result<(), String>>>,
}

/// How much longer than its limit a check is waited for, in case that its thread is only late.
const LATE: Duration = Duration::from_millis(2);

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
                check_timeout: Duration::from_secs(1),
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

    /// Adds a check, run at each readiness probe while `Running`.
    ///
    /// All of them run at the same time. One that fails, panics or takes longer than the
    /// [limit](Self::check_timeout) makes the status `degraded`; the text of its error is shown in
    /// the body, to everybody who can ask. A second check of the same name replaces the first.
    ///
    /// Each run is a task of its own, so outside a tokio runtime all checks fail.
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
        let check = Check {
            name: name.into().into(),
            run: Arc::new(move || Box::pin(check())),
        };
        let checks = &mut Arc::make_mut(&mut self.settings).checks;
        checks.retain(|other| other.name != check.name);
        checks.push(check);
        self
    }

    /// Sets how long each check may take. Default 1 s.
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
        Arc::make_mut(&mut self.settings).check_timeout = limit;
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
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let answer = match *request.method() {
            Method::GET => Answer::Health { head: false },
            Method::HEAD => Answer::Health { head: true },
            _ => Answer::MethodNotAllowed,
        };
        let mut future = ResponseFuture {
            answer,
            settings: Arc::clone(&self.settings),
            ctl: self.ctl.clone(),
            checks: JoinSet::new(),
            clock: None,
            results: Vec::new(),
        };
        if answer != Answer::MethodNotAllowed && !self.settings.liveness && is_ready(&self.ctl) {
            future.start_checks();
        }
        future
    }
}

/// Ready for traffic. The notice is there before the first shard is closed, and so before the first
/// refusal; the state follows.
fn is_ready(ctl: &ShutdownController) -> bool {
    ctl.state() == LifecycleState::Running && !ctl.core().is_triggered()
}

fn status(ctl: &ShutdownController) -> &'static str {
    match ctl.state() {
        LifecycleState::Initializing | LifecycleState::Starting => "starting",
        LifecycleState::Running if is_ready(ctl) => "healthy",
        LifecycleState::Running | LifecycleState::LameDuck | LifecycleState::Draining => "draining",
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
    /// Starts each check as a task of its own, so that one that panics or blocks its thread does
    /// not take the probe with it.
    fn start_checks(&mut self) {
        let runtime = Handle::try_current();
        let limit = self.settings.check_timeout;
        for (index, check) in self.settings.checks.iter().enumerate() {
            let Ok(runtime) = &runtime else {
                let outside = "a check needs a tokio runtime".to_owned();
                self.results.push(Some(Err(outside)));
                continue;
            };
            self.results.push(None);
            let run = Arc::clone(&check.run);
            let check = async move {
                let result = tokio::time::timeout(limit, async move { run().await }).await;
                let result = match result {
                    Ok(result) => result.map_err(|error| error.to_string()),
                    Err(_) => Err(no_answer_within(limit)),
                };
                (index, result)
            };
            self.checks.spawn_on(check, runtime);
        }
        if !self.checks.is_empty() {
            // A runtime without a timer makes tokio panic; the checks' own limits then do so in
            // their tasks, which shows as failed.
            let clock = || Box::pin(sleep(limit.saturating_add(LATE)));
            self.clock = catch_unwind(clock).ok();
        }
    }

    fn respond(&self) -> Response<Full<Bytes>> {
        match self.answer {
            Answer::Health { head } => self.health(head),
            Answer::MethodNotAllowed => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                let allow = HeaderValue::from_static("GET, HEAD");
                response.headers_mut().insert(ALLOW, allow);
                response
            }
        }
    }

    fn health(&self, head: bool) -> Response<Full<Bytes>> {
        // Asked now and not at the call: it may have turned red while the checks ran.
        let state = self.ctl.state();
        let failed = |result: &Option<Result<(), String>>| !matches!(result, Some(Ok(())));
        let status = match status(&self.ctl) {
            "healthy" if self.results.iter().any(failed) => "degraded",
            status => status,
        };
        let is_green = if self.settings.liveness {
            !state.is_terminal()
        } else {
            matches!(status, "healthy" | "degraded")
        };
        let health = Health {
            status,
            version: self.settings.version.as_deref().unwrap_or("unknown"),
            services: Services {
                checks: &self.settings.checks,
                results: &self.results,
            },
            uptime: self.ctl.uptime().as_secs(),
            in_flight_requests: self.ctl.in_flight(),
            timestamp: timestamp(),
        };
        // Nothing but strings and numbers: it cannot fail, and an empty body would say so.
        let json = serde_json::to_vec(&health).unwrap_or_default();
        let length = json.len();
        let body = if head { Bytes::new() } else { json.into() };
        let mut response = Response::new(Full::new(body));
        if !is_green {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match this.checks.poll_join_next(cx) {
                Poll::Ready(Some(Ok((index, result)))) => this.results[index] = Some(result),
                // A panic: which one it was shows by its having no result.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) => return Poll::Ready(Ok(this.respond())),
                Poll::Pending => break,
            }
        }
        match &mut this.clock {
            Some(clock) => ready!(clock.as_mut().poll(cx)),
            None => return Poll::Pending,
        }
        let late = no_answer_within(this.settings.check_timeout);
        let missing = this.results.iter_mut().filter(|result| result.is_none());
        missing.for_each(|result| *result = Some(Err(late.clone())));
        Poll::Ready(Ok(this.respond()))
    }
}

fn no_answer_within(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("checks_running", &self.checks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
    use crate::state::ShutdownReason;

    /// P9: the moment between the closing of the first shard, when a refusal is possible, and the
    /// publishing of the state.
    #[test]
    fn readiness_is_red_before_the_first_shard_is_closed() {
        for _ in 0..500 {
            let ctl = ShutdownController::new();
            assert!(is_ready(&ctl));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while ctl.try_admit().is_ok() {}
                    assert!(!is_ready(&ctl), "refused while ready");
                    assert_eq!(status(&ctl), "draining");
                });
                ctl.core().announce(ShutdownReason::Manual);
            });
        }
    }
}
