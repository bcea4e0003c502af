//! `HealthLayer`: probes in front of a service in any state; everything else is unchanged.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Future, Ready, pending, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, from_slice, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_lifecycle::health::{Health, HealthBody, HealthLayer};
use tower_lifecycle::health::{HealthFuture, HealthServiceFuture};
use tower_lifecycle::{
    DrainLayer, HealthService, ShutdownConfig, ShutdownController, ShutdownReason,
};
use tower_test::mock::{self, Mock, Spawn};

use crate::support::loopback::loopback;

type Answer = Response<Full<Bytes>>;
type MockService = Mock<Request<&'static str>, Answer>;
type Handle = mock::Handle<Request<&'static str>, Answer>;

fn in_front_of_a_mock(layer: HealthLayer) -> (Spawn<Health<MockService>>, Handle) {
    mock::spawn_with(|mock| layer.layer(mock))
}

fn request(method: Method, uri: &str) -> Request<&'static str> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body("the request's body")
        .unwrap()
}

async fn text(body: impl Body<Data = Bytes, Error: Debug>) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

async fn status_text(response: Response<impl Body<Data = Bytes, Error: Debug>>) -> Value {
    from_slice::<Value>(&text(response.into_body()).await).unwrap()["status"].clone()
}

// ===== probes =====

#[tokio::test(start_paused = true)]
async fn probes_are_answered_while_the_inner_service_is_not_ready() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = in_front_of_a_mock(HealthLayer::new(ctl.clone()));
    handle.allow(0);
    for (path, ready) in [("/livez", 200), ("/readyz", 200)] {
        assert_ready_ok!(service.poll_ready());
        let mut probe = task::spawn(service.call(request(Method::GET, path)));
        assert_eq!(assert_ready_ok!(probe.poll()).status(), ready);
    }

    let _guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    for (path, ready) in [("/livez", 200), ("/readyz", 503)] {
        assert_ready_ok!(service.poll_ready());
        let mut probe = task::spawn(service.call(request(Method::GET, path)));
        let response = assert_ready_ok!(probe.poll());
        assert_eq!(response.status(), ready);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(status_text(response).await, "draining");
    }
    assert_pending!(task::spawn(handle.next_request()).poll());
}

#[tokio::test(start_paused = true)]
async fn probes_are_answered_while_the_inner_service_is_broken() {
    let layer = HealthLayer::new(ShutdownController::new());
    let (mut service, mut handle) = in_front_of_a_mock(layer);
    handle.send_error("worn out");
    assert_ready_ok!(service.poll_ready());
    let mut probe = task::spawn(service.call(request(Method::GET, "/livez")));
    assert_eq!(assert_ready_ok!(probe.poll()).status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_probe_has_the_head_and_the_methods_of_the_health_service() {
    let layer = HealthLayer::new(ShutdownController::new());
    let (mut service, _handle) = in_front_of_a_mock(layer);
    for path in ["/livez", "/readyz"] {
        let get = service.call(request(Method::GET, path)).await.unwrap();
        assert_eq!(get.headers()["cache-control"], "no-store");
        let length = get.headers()["content-length"].clone();
        let body = text(get.into_body()).await;
        assert_eq!(length, body.len().to_string());

        let head = service.call(request(Method::HEAD, path)).await.unwrap();
        assert_eq!(head.headers()["content-length"], length);
        assert!(head.body().is_end_stream());
        assert!(text(head.into_body()).await.is_empty());

        let post = service.call(request(Method::POST, path)).await.unwrap();
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(post.headers()["allow"], "GET, HEAD");
        assert!(post.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_its_checks_and_liveness_runs_none() {
    let health = HealthService::new(ShutdownController::new())
        .version("1.4.2")
        .critical_check("db", || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Err("no connection".into())
        });
    // Liveness or not: each path has its own response.
    for health in [health.clone(), health.liveness()] {
        let (mut service, _handle) = in_front_of_a_mock(HealthLayer::from(health));
        let mut probe = task::spawn(service.call(request(Method::GET, "/readyz")));
        assert_pending!(probe.poll());
        let response = probe.await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body: Value = from_slice(&text(response.into_body()).await).unwrap();
        assert_eq!(body["status"], "unhealthy");
        assert_eq!(body["services"]["db"]["error"], "no connection");

        let mut probe = task::spawn(service.call(request(Method::GET, "/livez")));
        let response = assert_ready_ok!(probe.poll());
        assert_eq!(response.status(), StatusCode::OK);
        let body: Value = from_slice(&text(response.into_body()).await).unwrap();
        let facts = (&body["version"], &body["services"]);
        assert_eq!(facts, (&json!("1.4.2"), &json!({})));
    }
}

// ===== paths =====

/// Returns which one responds: the liveness probe, the readiness probe, or the inner service. It
/// drains, so that the probes differ.
async fn who(layer: HealthLayer, ctl: &ShutdownController, uri: &str) -> &'static str {
    let _guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let inner = service_fn(|_: Request<&'static str>| {
        let response = Response::builder().status(StatusCode::IM_A_TEAPOT);
        ready(response.body(Full::<Bytes>::default()))
    });
    let method = if uri.starts_with('/') {
        Method::GET
    } else {
        Method::CONNECT
    };
    let response = layer.layer(inner).oneshot(request(method, uri)).await;
    match response.unwrap().status().as_u16() {
        200 => "liveness",
        503 => "readiness",
        405 => "a probe, by its method",
        418 => "inner",
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn paths_match_exactly_and_without_the_query() {
    let ctl = ShutdownController::new();
    for (uri, expected) in [
        ("/livez", "liveness"),
        ("/livez?verbose", "liveness"),
        ("/readyz", "readiness"),
        ("/readyz?", "readiness"),
        ("/", "inner"),
        ("/livez/", "inner"),
        ("/livezz", "inner"),
        ("/live", "inner"),
        ("/Livez", "inner"),
        ("/readyz/livez", "inner"),
        ("/livez%2f", "inner"),
        ("//livez", "inner"),
        ("livez:80", "inner"),
    ] {
        let layer = HealthLayer::new(ctl.clone());
        assert_eq!(who(layer, &ctl, uri).await, expected, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn paths_can_be_set_and_bad_ones_do_what_the_documentation_says() {
    let ctl = ShutdownController::new();
    let new = || HealthLayer::new(ctl.clone());
    let both = new().liveness_path("/alive").readiness_path("/ready");
    let bare = new().liveness_path("alive").readiness_path("ready");
    let off = new().liveness_path("").readiness_path("");
    let same = new().readiness_path("/health").liveness_path("/health");
    for (layer, uri, expected) in [
        (&both, "/alive", "liveness"),
        (&both, "/ready", "readiness"),
        (&both, "/livez", "inner"),
        (&both, "/readyz", "inner"),
        (&bare, "/alive", "liveness"),
        (&bare, "/ready", "readiness"),
        (&off, "/livez", "inner"),
        (&off, "/readyz", "inner"),
        (&off, "/", "inner"),
        (&off, "example.org:80", "inner"), // a CONNECT, whose path is empty
        (&same, "/health", "liveness"),
    ] {
        assert_eq!(
            who(layer.clone(), &ctl, uri).await,
            expected,
            "{layer:?} {uri}"
        );
    }
}

#[test]
fn setting_a_path_changes_no_service_that_was_made_before() {
    let layer = HealthLayer::new(ShutdownController::new());
    let inner = service_fn(|_: Request<&'static str>| pending::<Result<Answer, Infallible>>());
    let mut before = layer.layer(inner);
    let _after = layer.clone().liveness_path("/alive");
    let mut probe = task::spawn(before.call(request(Method::GET, "/livez")));
    assert_eq!(assert_ready_ok!(probe.poll()).status(), StatusCode::OK);
}

// ===== pass-through =====

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_inner_service_inside_its_future_and_passes_untouched() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);

    let layer = HealthLayer::new(ShutdownController::new());
    let (mut service, mut handle) = in_front_of_a_mock(layer);
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    let mut sent = request(Method::PATCH, "/orders/7?full=1");
    sent.headers_mut().insert("x-id", "9".parse().unwrap());
    sent.extensions_mut().insert(Mark(1));
    let mut call = task::spawn(service.call(sent));
    assert_pending!(call.poll());
    assert_pending!(task::spawn(handle.next_request()).poll());

    handle.allow(1);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let (seen, respond) = handle.next_request().await.unwrap();
    assert_eq!(seen.method(), Method::PATCH);
    assert_eq!(seen.uri(), "/orders/7?full=1");
    assert_eq!(seen.headers().len(), 1);
    assert_eq!(seen.headers()["x-id"], "9");
    assert_eq!(seen.extensions().get(), Some(&Mark(1)));
    assert_eq!(*seen.body(), "the request's body");

    let mut answer = Response::new(Full::from("made"));
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert("x-id", "9".parse().unwrap());
    answer.extensions_mut().insert(Mark(2));
    respond.send_response(answer);
    assert!(call.is_woken());
    let got = assert_ready_ok!(call.poll());
    assert_eq!(got.status(), StatusCode::CREATED);
    assert_eq!(
        (got.headers().len(), &got.headers()["x-id"]),
        (1, &"9".parse().unwrap())
    );
    assert_eq!(got.extensions().get(), Some(&Mark(2)));
    assert_eq!(text(got.into_body()).await, "made");
}

#[derive(Debug, PartialEq)]
struct Broken(&'static str);

/// Records whether the called service itself was ready; clones are not.
#[derive(Debug, Default)]
struct Strict {
    ready_at_poll: usize,
    polls: usize,
    is_ready: bool,
    breaks: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            polls: 0,
            is_ready: false,
            ..*self
        }
    }
}

impl Service<Request<&'static str>> for Strict {
    type Response = Answer;
    type Error = Broken;
    type Future = Ready<Result<Answer, Broken>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.breaks {
            return Poll::Ready(Err(Broken("not ready ever")));
        }
        self.polls += 1;
        self.is_ready = self.polls >= self.ready_at_poll;
        if self.is_ready {
            Poll::Ready(Ok(()))
        } else {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    fn call(&mut self, _: Request<&'static str>) -> Self::Future {
        ready(if std::mem::take(&mut self.is_ready) {
            Ok(Response::default())
        } else {
            Err(Broken("called when not ready"))
        })
    }
}

#[test]
fn the_clone_that_is_called_is_the_one_that_was_polled_until_it_was_ready() {
    let layer = HealthLayer::new(ShutdownController::new());
    let mut service = mock::Spawn::new(layer.layer(Strict {
        ready_at_poll: 3,
        ..Strict::default()
    }));
    assert_ready_ok!(service.poll_ready());
    for _ in 0..2 {
        // The second call is made without polling readiness again: it does not need it.
        let mut call = task::spawn(service.call(request(Method::GET, "/")));
        assert_pending!(call.poll());
        assert_pending!(call.poll());
        assert_ready_ok!(call.poll());
    }
}

#[test]
fn errors_of_the_inner_service_are_passed_on_as_they_are() {
    let layer = HealthLayer::new(ShutdownController::new());
    let mut service = mock::Spawn::new(layer.layer(Strict {
        breaks: true,
        ..Strict::default()
    }));
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(request(Method::GET, "/")));
    assert_eq!(assert_ready_err!(call.poll()), Broken("not ready ever"));

    let fails = service_fn(|_: Request<&'static str>| async { Err::<Answer, _>(Broken("failed")) });
    let mut service = layer.layer(fails);
    let mut call = task::spawn(service.call(request(Method::GET, "/")));
    assert_eq!(assert_ready_err!(call.poll()), Broken("failed"));
}

#[test]
#[should_panic = "response future polled after completion"]
fn a_future_that_is_polled_after_completion_panics_as_documented() {
    let layer = HealthLayer::new(ShutdownController::new());
    let mut service = layer.layer(Strict::default());
    let mut call = task::spawn(service.call(request(Method::GET, "/")));
    assert_ready_ok!(call.poll());
    let _ = call.poll();
}

// ===== with other layers =====

#[tokio::test(start_paused = true)]
async fn outside_the_drain_layer_probes_are_neither_refused_nor_counted() {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    let service = ServiceBuilder::new()
        .layer(HealthLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()))
        .service_fn(|_: Request<String>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
        });
    let ask = |path| {
        let request = request(Method::GET, path).map(str::to_owned);
        service.clone().oneshot(request)
    };
    let probe = ask("/readyz").await.unwrap();
    assert_eq!(ctl.in_flight(), 0);
    assert_eq!(status_text(probe).await, "healthy");
    let admitted = ask("/").await.unwrap();
    assert_eq!(ctl.in_flight(), 1);

    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(ask("/livez").await.unwrap().status(), StatusCode::OK);
    assert_eq!(status_text(ask("/readyz").await.unwrap()).await, "draining");
    let refused = ask("/").await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let body = admitted.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello");
    ctl.drained().await;
}

#[tokio::test(start_paused = true)]
async fn a_saturated_concurrency_limit_fails_no_probe_and_is_kept() {
    let ctl = ShutdownController::new();
    let (inner, mut handle) = mock::pair::<Request<&'static str>, Answer>();
    handle.allow(10);
    let mut service = ServiceBuilder::new()
        .layer(HealthLayer::new(ctl))
        .concurrency_limit(1)
        .service(inner);
    let mut first = task::spawn(service.call(request(Method::GET, "/1")));
    let mut second = task::spawn(service.call(request(Method::GET, "/2")));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let mut probe = task::spawn(service.call(request(Method::GET, "/livez")));
    assert_eq!(assert_ready_ok!(probe.poll()).status(), StatusCode::OK);

    let (seen, respond) = handle.next_request().await.unwrap();
    assert_eq!(seen.uri(), "/1");
    assert_pending!(task::spawn(handle.next_request()).poll());
    respond.send_response(Response::default());
    assert_ready_ok!(first.poll());
    assert!(second.is_woken());
    assert_pending!(second.poll());
    let (seen, _respond) = handle.next_request().await.unwrap();
    assert_eq!(seen.uri(), "/2");
}

#[tokio::test(start_paused = true)]
async fn it_goes_around_an_axum_router_and_into_its_layers() {
    let ctl = ShutdownController::new();
    let routes: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(DrainLayer::new(ctl.clone()));
    let around = HealthLayer::new(ctl.clone()).layer(routes.clone());
    let inside = routes.layer(HealthLayer::new(ctl));
    let empty = axum::body::Body::empty;
    for (path, expected) in [("/", "hello"), ("/readyz", "healthy")] {
        let around = around.clone();
        let request = Request::get(path).body(empty()).unwrap();
        let body = text(around.oneshot(request).await.unwrap().into_body()).await;
        assert!(
            String::from_utf8_lossy(&body).contains(expected),
            "{body:?}"
        );

        let request = Request::get(path).body(empty()).unwrap();
        let body = text(inside.clone().oneshot(request).await.unwrap().into_body()).await;
        assert!(
            String::from_utf8_lossy(&body).contains(expected),
            "{body:?}"
        );
    }
}

// ===== the body =====

/// Two frames of data, trailers, and an unusual size hint.
struct Scripted {
    frames: Vec<Result<Frame<BytesMut>, Broken>>,
}

impl Default for Scripted {
    fn default() -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "3".parse().unwrap());
        let data = |text: &'static [u8]| Ok(Frame::data(BytesMut::from(text)));
        Self {
            // In reverse order.
            frames: vec![
                Err(Broken("no more")),
                Ok(Frame::trailers(trailers)),
                data(b"b"),
                data(b"a"),
            ],
        }
    }
}

impl Body for Scripted {
    type Data = BytesMut;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BytesMut>, Broken>>> {
        Poll::Ready(self.frames.pop())
    }

    fn is_end_stream(&self) -> bool {
        self.frames.len() <= 1
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.frames.len() as u64);
        hint.set_upper(70 + self.frames.len() as u64);
        hint
    }
}

fn scripted(path: &str) -> Response<HealthBody<Scripted>> {
    let inner = service_fn(|_: Request<&'static str>| {
        ready(Ok::<_, Infallible>(Response::new(Scripted::default())))
    });
    let mut service = HealthLayer::new(ShutdownController::new()).layer(inner);
    let mut call = task::spawn(service.call(request(Method::GET, path)));
    assert_ready_ok!(call.poll())
}

#[test]
fn the_inner_body_is_passed_on_frame_by_frame_with_its_hints() {
    let default = HealthBody::<Scripted>::default();
    for body in [scripted("/").into_body(), default] {
        let mut body = pin!(body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut seen = Vec::new();
        loop {
            let inner = Scripted {
                frames: Scripted::default().frames.drain(seen.len()..).collect(),
            };
            assert_eq!(body.is_end_stream(), inner.is_end_stream());
            assert_eq!(body.size_hint().lower(), inner.size_hint().lower());
            assert_eq!(body.size_hint().upper(), inner.size_hint().upper());
            let Some(frame) = assert_ready!(body.as_mut().poll_frame(&mut cx)) else {
                break;
            };
            seen.push(match frame.map(Frame::into_data) {
                Ok(Ok(data)) => String::from_utf8_lossy(&data).into_owned(),
                Ok(Err(trailers)) => format!("{:?}", trailers.into_trailers().unwrap()["x-sum"]),
                Err(error) => error.0.to_owned(),
            });
        }
        assert_eq!(seen, ["a", "b", "\"3\"", "no more"]);
    }
}

#[test]
fn the_body_of_a_probe_is_one_frame_of_known_length() {
    let response = scripted("/livez");
    let length = response.headers()["content-length"].to_str().unwrap();
    let length: u64 = length.parse().unwrap();
    let mut body = pin!(response.into_body());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert_eq!(body.size_hint().exact(), Some(length));
    assert!(!body.is_end_stream());
    let frame = assert_ready!(body.as_mut().poll_frame(&mut cx));
    let data: BytesMut = frame.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data.len() as u64, length);
    assert_eq!(from_slice::<Value>(&data).unwrap()["status"], "healthy");
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
    assert!(assert_ready!(body.as_mut().poll_frame(&mut cx)).is_none());
}

// ===== sockets =====

/// Signals each request that waits for it.
#[derive(Clone)]
struct NeverReady {
    asked: Arc<Semaphore>,
}

impl<B> Service<Request<B>> for NeverReady {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.asked.add_permits(1);
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        panic!("it was never ready")
    }
}

/// A real server, whose inner service is never ready, and a real client.
#[tokio::test]
async fn over_a_socket_probes_are_answered_in_front_of_a_service_that_is_never_ready() {
    // The request that waits for readiness is refused at the drain deadline.
    let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(2));
    let ctl = ShutdownController::with_config(config).unwrap();
    let asked = Arc::new(Semaphore::new(0));
    let service = ServiceBuilder::new()
        .layer(HealthLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()))
        .service(NeverReady {
            asked: Arc::clone(&asked),
        });
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{address}{path}");

    let test = async {
        let waits = tokio::spawn(client.get(url("/")).send());
        asked.acquire().await.unwrap().forget();
        let probe = async |readiness, status| {
            let response = client.get(url("/livez")).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let response = client.get(url("/readyz")).send().await.unwrap();
            assert_eq!(response.status(), readiness);
            assert_eq!(response.headers()["content-type"], "application/json");
            let body: Value = from_slice(&response.bytes().await.unwrap()).unwrap();
            assert_eq!(body["status"], status);
        };
        probe(StatusCode::OK, "healthy").await;
        assert!(!waits.is_finished());

        let _guard = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        // A refusal does not need the inner service.
        let refused = waits.await.unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
        probe(StatusCode::SERVICE_UNAVAILABLE, "draining").await;

        let response = client.head(url("/livez")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let response = client.post(url("/livez")).body("x").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    };
    tokio::time::timeout(Duration::from_secs(30), test)
        .await
        .unwrap();
    server.abort();
}

// ===== checked by the compiler =====

#[test]
fn layer_service_futures_and_body_are_send_and_sync() {
    fn is_all<T: Send + Sync + Unpin + Debug + 'static>() {}
    fn is_clone<T: Clone>() {}
    fn is_future<T: Future>() {}

    type Inner = tower::util::ServiceFn<fn(Request<String>) -> Ready<Result<Answer, Infallible>>>;
    is_all::<HealthLayer>();
    is_all::<Health<Inner>>();
    is_all::<HealthFuture<Inner, Request<String>>>();
    is_all::<HealthServiceFuture>();
    is_all::<HealthBody<Full<Bytes>>>();
    is_clone::<HealthLayer>();
    is_clone::<Health<Inner>>();
    is_future::<HealthFuture<Inner, Request<String>>>();
}
