//! Shows the lifecycle to people and programs, and lets operators act on it.

mod action;
mod page;
mod status;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tower_service::Service;

use self::action::{Action, is_cross_site};
use self::page::{Note, Page};
use self::status::Status;
use crate::controller::ShutdownController;

/// Shows the whole lifecycle: as a page for people, and as JSON for programs.
///
/// The page says at a glance what the service does, how much time is left, and what it waits for. It has no
/// script, loads nothing, and refreshes itself every 2 s. A request gets the page if its `Accept` names
/// `text/html` and not `application/json`, as that of a browser does. Other requests get JSON. `?format=json`
/// and `?format=html` choose regardless of `Accept`. The status is 200 in every state, so this is no probe:
/// for that there is [`HealthService`](crate::HealthService).
///
/// The answer names paths of requests, tasks, hooks and errors. **Serve it on an [admin
/// port](ShutdownController::spawn_admin) that is not public**, the more so with [`actions`](Self::actions).
/// There it also answers until the end of the shutdown.
///
/// # The JSON
///
/// Durations are in seconds. Later versions may add fields and words.
///
/// | field | type | what it is |
/// |---|---|---|
/// | `state` | string | the [state](crate::LifecycleState::name) |
/// | `ready` | boolean | whether traffic should be sent, without regard to checks |
/// | `paused` | boolean | whether new work is refused by a [pause](ShutdownController::pause) |
/// | `forced` | boolean | whether work has been [cut](ShutdownController::force) |
/// | `reason` | string or null | why the shutdown began: `signal`, `manual`, `timeout`, `error`, `server_exited`, `task_ended`, `hand_over`, `interrupted` |
/// | `signal` | string or null | the signal of the reason, otherwise the latest one received |
/// | `result` | string or null | after the end: `graceful`, `with_errors`, `forced`, `interrupted` or `rolled_back` |
/// | `elapsed_seconds` | number or null | since the trigger; after the end, how long the shutdown took |
/// | `deadlines` | object or null | during a shutdown: `lame_duck`, `drain` and `total`, each with `limit_seconds` (from the trigger) and `remaining_seconds`; null if it is past or there is no limit |
/// | `lame_duck_end` | string or null | how the lame duck ended: `in_full`, `early`, `forced` or `servers_ended` |
/// | `lame_duck_lasted_seconds` | number or null | how long it lasted |
/// | `in_flight` | object | what a drain waits for: `total`, and of it `requests` (with guards), `connections`, `tasks`, `servers` and `starts` (services that are starting) |
/// | `oldest` | array | the 20 oldest of what is in flight [by name](ShutdownController::in_flight_now), the oldest first, each with `kind`, `name`, `stage` and `age_seconds` |
/// | `connections` | array | the 20 oldest [open connections](ShutdownController::in_flight_now) of [`serve`](crate::serve()), first those that are not idle, each with `peer`, `stage` and `age_seconds` |
/// | `tasks` | object | running tasks by role: `task`, `worker` and `admin` |
/// | `services` | array | started services and named tasks, each with `name`, `status` and perhaps `error`, as in [`HealthService`](crate::HealthService) |
/// | `hooks`, `saves` | arrays | each with `name`, `phase` and `status`: `registered`, `running` or its outcome, as in the [report](crate::report::Outcome::name) |
/// | `admitted`, `refused`, `late_arrivals`, `late_requests`, `aborted`, `abandoned` | numbers | as in [`Metrics`](crate::controller::Metrics) |
/// | `shutdown_timeout_seconds` | number | the limit for the whole shutdown |
/// | `uptime_seconds` | number | since the controller was created |
/// | `actions` | array of strings | the actions that are possible now; empty if they are not switched on |
///
/// The figures are read one after another, so they may not be consistent with each other.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, http::Request};
/// use http_body_util::BodyExt;
/// use serde_json::{Value, from_slice};
/// use tower::ServiceExt;
/// use tower_lifecycle::health::LifecycleService;
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let admin: Router =
///     Router::new().route_service("/lifecycle", LifecycleService::new(ctl.clone()));
///
/// let _import = ctl.track_named("import of orders.csv");
/// ctl.trigger(ShutdownReason::Manual);
/// let request = Request::get("/lifecycle").body(Body::empty()).unwrap();
/// let response = admin.oneshot(request).await.unwrap();
/// let body = response.into_body().collect().await.unwrap();
/// let body: Value = from_slice(&body.to_bytes()).unwrap();
/// assert_eq!(body["state"], "draining");
/// assert_eq!(body["in_flight"]["requests"], 1);
/// assert_eq!(body["oldest"][0]["name"], "import of orders.csv");
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a service does nothing until it is put behind a path"]
pub struct LifecycleService {
    ctl: ShutdownController,
    has_actions: bool,
}

/// The response future of [`LifecycleService`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Ready<Response<Full<Bytes>>>);

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Html,
}

/// The answer to a refused action.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

// ===== impl LifecycleService =====

impl LifecycleService {
    /// Creates a service that only shows the lifecycle.
    pub fn new(ctl: ShutdownController) -> Self {
        Self {
            ctl,
            has_actions: false,
        }
    }

    /// Sets whether a `POST` may act on the lifecycle. Default `false`.
    ///
    /// | request | what it does | answer if it is not possible now (409) |
    /// |---|---|---|
    /// | `POST ?action=drain` | [`trigger`](ShutdownController::trigger) with the reason `Manual` | a shutdown has begun |
    /// | `POST ?action=resume` | [`resume`](ShutdownController::resume) | the state is not `LameDuck` |
    /// | `POST ?action=pause` | [`pause`](ShutdownController::pause) | paused, or from draining on |
    /// | `POST ?action=unpause` | [`unpause`](ShutdownController::unpause) | not paused |
    ///
    /// The body of the request is not read. A program gets the new status as JSON, and a browser is led back
    /// to the page (303). Another action is answered with 400. Without actions a `POST` is answered with 405
    /// (RFC 9110, section 15.5.6). The page has a button for each action that is possible now. It asks before
    /// it drains. Each action is logged.
    ///
    /// A `POST` that a browser sends for a page of another origin is answered with 403. The browser says so
    /// by `Sec-Fetch-Site`, or by an `Origin` that is not the host of the request. There is no other
    /// protection. Whoever reaches the port can end the process, and a page that makes its own host name
    /// resolve to the port's address (DNS rebinding) counts as the same origin. So keep the port private, or
    /// put a layer that authenticates in front of the service.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, StatusCode};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::ShutdownController;
    /// use tower_lifecycle::health::LifecycleService;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let service = LifecycleService::new(ctl.clone()).actions(true);
    ///
    /// // curl -X POST 'http://127.0.0.1:9000/lifecycle?action=pause'
    /// let pause = || Request::post("/lifecycle?action=pause").body(()).unwrap();
    /// let response = service.clone().oneshot(pause()).await.unwrap();
    /// assert_eq!(response.status(), StatusCode::OK);
    /// assert!(ctl.is_paused());
    ///
    /// let response = service.oneshot(pause()).await.unwrap();
    /// assert_eq!(response.status(), StatusCode::CONFLICT); // already paused
    /// # }
    /// ```
    pub fn actions(mut self, actions: bool) -> Self {
        self.has_actions = actions;
        self
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Bytes> {
        let format = Format::of(request);
        match *request.method() {
            Method::GET => self.show(format, request),
            Method::HEAD => self.show(format, request).map(|_| Bytes::new()),
            Method::POST if self.has_actions => self.act(format, request),
            _ => self.method_not_allowed(),
        }
    }

    fn show<B>(&self, format: Format, request: &Request<B>) -> Response<Bytes> {
        let confirm = parameter(request, "confirm").and_then(Action::from_name);
        let confirm = confirm.filter(|action| self.has_actions && action.is_possible(&self.ctl));
        match format {
            Format::Json => self.json(StatusCode::OK),
            Format::Html => self.page(StatusCode::OK, confirm.map(Note::Confirm)),
        }
    }

    fn act<B>(&self, format: Format, request: &Request<B>) -> Response<Bytes> {
        let action = parameter(request, "action").and_then(Action::from_name);
        let (status, error) = if is_cross_site(request) {
            let error = "an action must not be asked for by a page of another origin";
            (StatusCode::FORBIDDEN, error.to_owned())
        } else if let Some(action) = action {
            match (action.perform(&self.ctl), format) {
                (Ok(()), Format::Json) => return self.json(StatusCode::OK),
                (Ok(()), Format::Html) => return see_page(),
                (Err(error), _) => (StatusCode::CONFLICT, error),
            }
        } else {
            let error = "there is no such action: allowed are `?action=drain`, `resume`, `pause` and \
                         `unpause`, in the query";
            (StatusCode::BAD_REQUEST, error.to_owned())
        };
        match format {
            Format::Json => json(status, &Refusal { error: &error }),
            Format::Html => self.page(status, Some(Note::Error(&error))),
        }
    }

    fn json(&self, code: StatusCode) -> Response<Bytes> {
        json(code, &Status::of(&self.ctl, self.has_actions))
    }

    fn page(&self, code: StatusCode, note: Option<Note<'_>>) -> Response<Bytes> {
        let status = &Status::of(&self.ctl, self.has_actions);
        let page = Page { status, note }.to_string();
        let mut response = response(code, "text/html; charset=utf-8", page.into());
        response.headers_mut().insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; \
                 frame-ancestors 'none'",
            ),
        );
        response
    }

    fn method_not_allowed(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allow = if self.has_actions {
            "GET, HEAD, POST"
        } else {
            "GET, HEAD"
        };
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(allow));
        response
    }
}

fn json(code: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    // Serializing strings and numbers cannot fail. If it did, the body would be empty.
    let json = serde_json::to_vec(body).unwrap_or_default();
    response(code, "application/json", json.into())
}

/// Leads a browser from an action to the page, so that a reload does not repeat the action.
fn see_page() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    // Relative: a router may have removed a part of the path.
    headers.insert(LOCATION, HeaderValue::from_static("?format=html"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn response(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the value of a parameter of the query, as it was sent.
fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let mut parameters = request.uri().query()?.split('&');
    parameters.find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='))
}

impl<B> Service<Request<B>> for LifecycleService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture(ready(self.answer(&request).map(Full::new)))
    }
}

impl fmt::Debug for LifecycleService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LifecycleService")
            .field("actions", &self.has_actions)
            .finish_non_exhaustive()
    }
}

// ===== impl Format =====

impl Format {
    fn of<B>(request: &Request<B>) -> Self {
        match parameter(request, "format") {
            Some("json") => return Self::Json,
            Some("html") => return Self::Html,
            _ => {}
        }
        let names = |name: &str| {
            let accept = request.headers().get_all(ACCEPT).iter();
            let mut ranges = accept
                .filter_map(|accept| accept.to_str().ok())
                .flat_map(|ranges| ranges.split([',', ';']));
            ranges.any(|range| range.trim().eq_ignore_ascii_case(name))
        };
        if names("text/html") && !names("application/json") {
            Self::Html
        } else {
            Self::Json
        }
    }
}

// ===== impl ResponseFuture =====

impl Future for ResponseFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
