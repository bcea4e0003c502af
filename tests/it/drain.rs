//! `DrainLayer`: who is admitted, who is refused and how, and what force does.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::util::ServiceFn;
use tower::{BoxError, Layer, Service, service_fn};
use tower_lifecycle::error::{Forced, ShuttingDown};
use tower_lifecycle::layers::{Drain, ResponseBody};
use tower_lifecycle::{
    DrainLayer, LifecycleState, RequestTrackingLayer, ShutdownConfig, ShutdownController,
    ShutdownReason,
};
use tower_test::mock;

use crate::support::layers::{
    Broken, Plan, Script, Stage, Step, app, frame, headers, send, settle, text,
};

type Mock = mock::Mock<Request<String>, Response<Full<Bytes>>>;
type Handle = mock::Handle<Request<String>, Response<Full<Bytes>>>;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const REFUSED: &str = r#"{"error":"service is shutting down"}"#;

/// A service whose inner is a mock, which panics when it is called without having been ready.
fn mocked(layer: DrainLayer) -> (mock::Spawn<Drain<Mock>>, Handle) {
    mock::spawn_layer(layer)
}

fn request(path: &str) -> Request<String> {
    Request::get(path).body(String::new()).unwrap()
}

fn grpc(content_type: &str) -> Request<String> {
    let request = Request::post("/package.Service/Method").version(Version::HTTP_2);
    request
        .header(CONTENT_TYPE, content_type)
        .body(String::new())
        .unwrap()
}

fn lame_duck() -> ShutdownController {
    let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    ShutdownController::with_config(config).unwrap()
}

/// A controller whose layers refuse all that arrives while draining.
fn refusing() -> ShutdownController {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    ShutdownController::with_config(config).unwrap()
}

/// Whether the body ends with the error that a cut leaves, now.
fn is_cut<B: Body<Error = BoxError> + Unpin>(body: &mut B) -> bool {
    matches!(frame(body), Poll::Ready(Some(Err(error))) if error.is::<Forced>())
}

// ===== admission =====

// P1
#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_from_its_call_to_the_end_of_its_body() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 0);

    let mut future = task::spawn(service.call(request("/")));
    assert_eq!(ctl.in_flight(), 1);
    assert_pending!(future.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    let mut response = assert_ready_ok!(future.poll());
    assert_eq!(ctl.in_flight(), 1);
    let data = assert_ready!(frame(response.body_mut())).unwrap().unwrap();
    assert_eq!(data.into_data().unwrap(), "hello");
    assert_eq!(ctl.in_flight(), 0);
}

// P1: nothing is admitted once `trigger` has returned, and what was admitted runs on.
#[tokio::test(start_paused = true)]
async fn nothing_is_admitted_from_the_trigger_on_and_what_was_admitted_ends_whole() {
    let ctl = refusing();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    let mut admitted = task::spawn(send(service.get_mut(), request("/admitted")));
    assert_ready_ok!(service.poll_ready());

    ctl.trigger(MANUAL);
    let mut refused = task::spawn(service.call(request("/refused")));
    let refusal = assert_ready_ok!(refused.poll());
    assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ctl.in_flight(), 1);
    settle().await;
    assert_eq!(ctl.state(), LifecycleState::Draining);

    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request.uri(), "/admitted");
    respond.send_response(Response::new(Full::from("whole")));
    let response = assert_ready_ok!(admitted.poll());
    assert_eq!(text(response.into_body()), "whole");
    assert_pending!(handle.poll_request());

    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_lame_duck_still_admits() {
    let ctl = lame_duck();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    let _future = send(service.get_mut(), request("/"));
    assert_eq!(ctl.in_flight(), 1);
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_controller_is_gone_keeps_serving() {
    let service = DrainLayer::new(ShutdownController::new()).layer(hello());
    let mut clone = service.clone();
    drop(service);
    let response = assert_ready_ok!(task::spawn(send(&mut clone, request("/"))).poll());
    assert_eq!(text(response.into_body()), "hello");
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_can_be_reached() {
    let mut service = DrainLayer::new(ShutdownController::new()).layer("inner");
    assert_eq!(*service.get_ref(), "inner");
    *service.get_mut() = "other";
    assert_eq!(service.into_inner(), "other");
}

// ===== refusals =====

/// Sends `request` while draining. The inner service, which is not ready, must not be needed.
fn refuse(layer: DrainLayer, request: Request<String>) -> Response<ResponseBody<Full<Bytes>>> {
    let (mut service, mut handle) = mocked(layer);
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    let response = assert_ready_ok!(task::spawn(service.call(request)).poll());
    assert_pending!(handle.poll_request());
    response
}

fn draining() -> DrainLayer {
    let ctl = refusing();
    ctl.trigger(MANUAL);
    DrainLayer::new(ctl)
}

#[tokio::test(start_paused = true)]
async fn http1_is_refused_with_503_retry_after_and_close() {
    for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11] {
        for method in [Method::GET, Method::POST, Method::CONNECT] {
            let mut request = request("/");
            *request.version_mut() = version;
            *request.method_mut() = method;
            let response = refuse(draining(), request);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(
                headers(&response),
                [
                    ("connection", "close"),
                    ("content-length", "36"),
                    ("content-type", "application/json"),
                    ("retry-after", "1"),
                ]
            );
            let body = response.into_body();
            assert!(!body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(36));
            assert_eq!(text(body), REFUSED);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http2_is_refused_without_a_connection_header() {
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let mut request = request("/");
        *request.version_mut() = version;
        let response = refuse(draining(), request);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(CONNECTION));
        assert_eq!(text(response.into_body()), REFUSED);
    }
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_head_is_at_its_end_from_the_start() {
    let mut request = request("/");
    *request.method_mut() = Method::HEAD;
    let response = refuse(draining(), request);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    let body = response.into_body();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(text(body), "");
}

#[tokio::test(start_paused = true)]
async fn grpc_is_refused_with_trailers_only() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+my-own",
        "application/grpc;charset=utf-8",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text;charset=utf-8",
        "Application/gRPC+Proto",
    ] {
        let response = refuse(draining(), grpc(content_type));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            headers(&response),
            [
                ("content-type", content_type),
                ("grpc-message", "service is shutting down"),
                ("grpc-status", "14"),
            ]
        );
        assert!(response.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_web_over_http1_is_told_to_close_too() {
    let mut request = grpc("application/grpc-web+proto");
    *request.version_mut() = Version::HTTP_11;
    let response = refuse(draining(), request);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()[CONNECTION], "close");
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_like_grpc_is_refused_as_http() {
    for content_type in [
        "application/grpcurl",
        "application/grp",
        "text/application/grpc",
        "application/json",
        "",
    ] {
        let response = refuse(draining(), grpc(content_type));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("grpc-status"));
        assert_eq!(text(response.into_body()), REFUSED);
    }
}

#[tokio::test(start_paused = true)]
async fn any_method_path_and_header_is_refused() {
    let long = format!("/{}", "x".repeat(10_000));
    for (method, uri) in [
        ("OPTIONS", "*"),
        ("CONNECT", "example.com:443"),
        ("BREW", "http://example.com/pot?milk"),
        ("POST", long.as_str()),
    ] {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header("expect", "100-continue")
            .header(CONTENT_TYPE, &b"\xff\xfe"[..]);
        let response = refuse(
            draining().exempt_paths(["/healthz"]),
            request.body(String::new()).unwrap(),
        );
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_configurations_unless_the_layer_has_its_own() {
    let config = refusing().config().clone();
    let config = config.retry_after(Duration::from_millis(7_001));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.trigger(MANUAL);
    let layer = DrainLayer::new(ctl);
    let response = refuse(layer.clone(), request("/"));
    assert_eq!(response.headers()[RETRY_AFTER], "8");
    let response = refuse(layer.retry_after(Duration::from_secs(30)), request("/"));
    assert_eq!(response.headers()[RETRY_AFTER], "30");
}

#[tokio::test(start_paused = true)]
async fn refuse_with_replaces_the_answer_to_every_protocol() {
    let layer = draining().refuse_with(|parts| {
        let sorry = format!("not now: {} {}", parts.method, parts.uri.path());
        let mut response = Response::new(Bytes::from(sorry));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    });

    let response = refuse(layer.clone(), request("/tea"));
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(headers(&response), [("connection", "close")]);
    assert_eq!(text(response.into_body()), "not now: GET /tea");

    let response = refuse(layer.clone(), grpc("application/grpc"));
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(headers(&response), []);

    let mut head = request("/tea");
    *head.method_mut() = Method::HEAD;
    assert!(refuse(layer, head).body().is_end_stream());
}

// ===== paused =====

fn paused() -> DrainLayer {
    let ctl = ShutdownController::new();
    ctl.pause();
    DrainLayer::new(ctl)
}

const PAUSED: &str = r#"{"error":"service is paused"}"#;

#[tokio::test(start_paused = true)]
async fn a_paused_service_refuses_in_the_protocol_of_the_client_and_says_so() {
    let response = refuse(paused(), request("/"));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        headers(&response),
        [
            ("connection", "close"),
            ("content-length", "29"),
            ("content-type", "application/json"),
            ("retry-after", "1"),
        ]
    );
    assert_eq!(text(response.into_body()), PAUSED);

    let mut http2 = request("/");
    *http2.version_mut() = Version::HTTP_2;
    let response = refuse(paused(), http2);
    assert!(!response.headers().contains_key(CONNECTION));
    assert_eq!(text(response.into_body()), PAUSED);

    let response = refuse(paused(), grpc("application/grpc"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        headers(&response),
        [
            ("content-type", "application/grpc"),
            ("grpc-message", "service is paused"),
            ("grpc-status", "14"),
        ]
    );
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_paused_service_refuses_any_job_with_an_error_that_says_so() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).reject_with_error();
    let (mut service, mut handle) = mock::spawn_layer::<u32, u32, _>(layer);
    handle.allow(0);
    for is_paused in [true, false] {
        if is_paused {
            ctl.pause();
        } else {
            ctl.trigger(MANUAL);
        }
        assert_ready_ok!(service.poll_ready());
        let error = assert_ready_err!(task::spawn(service.call(1)).poll());
        let refused = error.downcast_ref::<ShuttingDown>().unwrap();
        assert_eq!(refused.is_paused(), is_paused);
    }
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.metrics().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_admitted_before_a_pause_ends_whole_and_exempt_paths_are_served_in_it() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    let mut admitted = task::spawn(send(service.get_mut(), request("/")));
    ctl.pause();
    let mut exempt = task::spawn(send(service.get_mut(), request("/exempt")));
    let mut refused = task::spawn(send(service.get_mut(), request("/other")));
    assert_eq!(text(assert_ready_ok!(refused.poll()).into_body()), PAUSED);
    assert_eq!(ctl.in_flight(), 1);
    let mut idle = task::spawn(ctl.idle());
    for (call, path) in [(&mut admitted, "/"), (&mut exempt, "/exempt")] {
        assert_pending!(call.poll());
        let (request, respond) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(request.uri().path(), path);
        respond.send_response(Response::new(Full::from("whole")));
    }
    let response = assert_ready_ok!(admitted.poll());
    assert!(
        !response.headers().contains_key(CONNECTION),
        "nobody is to leave"
    );
    assert_pending!(idle.poll());
    assert_eq!(text(response.into_body()), "whole");
    assert_ready!(idle.poll());
    let response = assert_ready_ok!(exempt.poll());
    assert!(!response.headers().contains_key(CONNECTION), "nor here");
    assert_eq!(text(response.into_body()), "whole");
    assert_eq!((ctl.metrics().admitted, ctl.metrics().refused), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_woken_by_a_pause_and_served_after_it() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    for _ in 0..3 {
        assert_pending!(service.poll_ready());
        ctl.pause();
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        let refused = assert_ready_ok!(task::spawn(service.call(request("/"))).poll());
        assert_eq!(text(refused.into_body()), PAUSED);
        ctl.unpause();
        assert_pending!(service.poll_ready());
    }
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    let _call = service.call(request("/served"));
    let (request, _) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!((request.uri().path(), ctl.in_flight()), ("/served", 1));
}

/// It was told to come and be refused: by the time it calls, nothing says why any more.
#[tokio::test(start_paused = true)]
async fn who_was_ready_to_be_refused_by_a_pause_is_told_of_it_also_after_its_end() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    ctl.pause();
    assert_ready_ok!(service.poll_ready());
    ctl.unpause();
    let refused = assert_ready_ok!(task::spawn(service.call(request("/"))).poll());
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(refused.into_body()), PAUSED);
}

#[tokio::test(start_paused = true)]
async fn a_response_after_a_resume_does_not_ask_to_leave() {
    let ctl = lame_duck();
    let mut service = DrainLayer::new(ctl.clone()).layer(hello());
    let mut asks_to_leave = || {
        let response = assert_ready_ok!(task::spawn(send(&mut service, request("/"))).poll());
        response.headers().contains_key(CONNECTION)
    };
    assert!(!asks_to_leave());
    ctl.trigger(MANUAL);
    assert!(asks_to_leave());
    ctl.resume().unwrap();
    assert!(!asks_to_leave());
}

// ===== exempt paths =====

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_served_while_draining_uncounted_and_uncut() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).exempt_paths(["/metrics"]);
    let mut service = layer.layer(app());
    let exempt = |plan: Plan| {
        let mut request = stage.request(plan);
        *request.uri_mut() = "/metrics?all".parse().unwrap();
        request
    };

    stage.ctl.trigger(MANUAL);
    let body = stage.body([Step::Data("a"), Step::Trailers]);
    let mut future = task::spawn(send(&mut service, exempt(body.into())));
    let mut endless = task::spawn(send(&mut service, exempt(Plan::Stall)));
    assert_pending!(endless.poll());
    assert_eq!(stage.ctl.in_flight(), 0);

    stage.ctl.force();
    settle().await;
    assert!(!endless.is_woken());
    assert_pending!(endless.poll());
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(headers(&response), [("connection", "close")]);
    let mut body = response.into_body();
    assert_eq!(body.size_hint().lower(), 1);
    assert!(assert_ready!(frame(&mut body)).unwrap().unwrap().is_data());
    assert!(
        assert_ready!(frame(&mut body))
            .unwrap()
            .unwrap()
            .is_trailers()
    );
    assert!(!body.is_end_stream());
    assert!(assert_ready!(frame(&mut body)).is_none());

    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(
        (report.admitted(), report.aborted(), report.abandoned()),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_match_exactly() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone())
        .exempt_paths(["/a", "/b"])
        .exempt_paths(["/c"]);
    let mut service = layer.layer(hello());
    ctl.trigger(MANUAL);
    for (path, status) in [
        ("/a", StatusCode::OK),
        ("/b?query", StatusCode::OK),
        ("http://example.com/c", StatusCode::OK),
        ("/", StatusCode::SERVICE_UNAVAILABLE),
        ("/A", StatusCode::SERVICE_UNAVAILABLE),
        ("/a/", StatusCode::SERVICE_UNAVAILABLE),
        ("/a/a", StatusCode::SERVICE_UNAVAILABLE),
        ("/%61", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let response = assert_ready_ok!(task::spawn(send(&mut service, request(path))).poll());
        assert_eq!(response.status(), status, "{path}");
        // Also where the body's length is known.
        assert_eq!(response.headers()["connection"], "close", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_counted_and_cut_as_any_other_until_the_gate_refuses() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).exempt_paths(["/"]);
    let mut future = task::spawn(send(&mut layer.layer(app()), stage.request(Plan::Stall)));
    assert_eq!(stage.ctl.in_flight(), 1);
    assert_pending!(future.poll());
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

// ===== readiness =====

/// Calls, whether the service is ready or not.
fn is_refused<S>(service: &mut mock::Spawn<Drain<S>>, path: &str) -> bool
where
    S: Service<Request<String>, Response = Response<Full<Bytes>>, Error = BoxError>,
{
    let mut future = task::spawn(service.call(request(path)));
    let Poll::Ready(Ok(response)) = future.poll() else {
        return false;
    };
    response.status() == StatusCode::SERVICE_UNAVAILABLE
}

type Hello = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn hello() -> ServiceFn<fn(Request<String>) -> Hello> {
    service_fn(|_| ready(Ok(Response::new(Full::from("hello")))))
}

fn limited(layer: DrainLayer) -> (mock::Spawn<Drain<ConcurrencyLimit<Mock>>>, Handle) {
    mock::spawn_with(move |mock| layer.layer(ConcurrencyLimit::new(mock, 1)))
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inners_while_running() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    handle.send_error(Broken);
    assert!(assert_ready_err!(service.poll_ready()).is::<Broken>());
}

#[tokio::test(start_paused = true)]
async fn readiness_while_draining_does_not_ask_the_inner() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    ctl.trigger(MANUAL);
    // It would say so, if it were asked.
    handle.send_error(Broken);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
}

// The mock panics when it is called without having been ready.
#[tokio::test(start_paused = true)]
async fn a_clone_does_not_inherit_readiness() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    assert!(is_refused(&mut clone, "/"));
    // The guard was handed back.
    assert_eq!(ctl.in_flight(), 0);
    assert_pending!(handle.poll_request());

    let _future = service.call(request("/"));
    assert_eq!(ctl.in_flight(), 1);
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn readiness_is_used_up_by_one_call() {
    let ctl = ShutdownController::new();
    let (mut service, _handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    let _first = service.call(request("/"));
    assert!(is_refused(&mut service, "/"));
    assert_eq!(ctl.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_may_begin_between_readiness_and_call() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    let mut other = service.clone();
    assert_ready_ok!(service.poll_ready());
    assert_ready_ok!(other.poll_ready());
    ctl.trigger(MANUAL);
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
    // The readiness was real, so the exempt path is served.
    let _future = other.call(request("/exempt"));
    assert!(assert_ready!(handle.poll_request()).is_some());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_woken_when_draining_begins_and_refused_after_its_end() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    // It was not polled meanwhile, so it has held nothing up.
    assert!(ctl.state() > LifecycleState::Draining);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_counted_from_the_lame_duck_on() {
    let ctl = lame_duck();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 0);
    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 1);
    ctl.draining().await;
    settle().await;
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 1);
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let _future = service.call(request("/"));
    assert_eq!(ctl.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_parked_service_that_is_dropped_leaves_no_waker_behind() {
    let ctl = ShutdownController::new();
    let (mock, mut handle) = mock::pair::<Request<String>, Response<Full<Bytes>>>();
    handle.allow(0);
    let mut service = DrainLayer::new(ctl.clone()).layer(mock);
    let mut waiter = task::spawn(());
    let before = waiter.waker_ref_count();
    assert_pending!(waiter.enter(|cx, _| service.poll_ready(cx)));
    assert!(waiter.waker_ref_count() > before);
    drop(service);
    assert_eq!(waiter.waker_ref_count(), before);
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_wait_for_a_concurrency_limit_but_who_waited_before_does() {
    let ctl = refusing();
    let (mut service, mut handle) = limited(DrainLayer::new(ctl.clone()));
    let mut other = service.clone();
    let mut admitted = task::spawn(send(service.get_mut(), request("/")));
    assert_pending!(other.poll_ready());

    ctl.trigger(MANUAL);
    settle().await;
    assert!(other.is_woken());
    assert_pending!(other.poll_ready());
    assert_eq!(ctl.in_flight(), 2);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));

    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    assert_eq!(text(assert_ready_ok!(admitted.poll()).into_body()), "hello");
    assert!(other.is_woken());
    assert_ready_ok!(other.poll_ready());
    let mut waited = task::spawn(other.call(request("/")));
    assert_eq!(ctl.in_flight(), 1);
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    assert_eq!(text(assert_ready_ok!(waited.poll()).into_body()), "hello");
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (2, 1));
    assert_eq!(report.late_requests(), 0);
}

// Over a `ConcurrencyLimit`, which panics when it is called without a permit.
#[tokio::test(start_paused = true)]
async fn an_exempt_path_is_refused_while_the_inner_is_not_ready_and_served_once_it_is() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = limited(layer);
    let admitted = send(service.get_mut(), request("/"));
    ctl.trigger(MANUAL);

    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/exempt"));

    // Its permit is free again, but whoever was not told so is not ready.
    assert_ready_ok!(service.poll_ready());
    drop(admitted);
    assert!(is_refused(&mut service, "/exempt"));

    assert!(assert_ready!(handle.poll_request()).is_some());
    assert_ready_ok!(service.poll_ready());
    let _future = service.call(request("/exempt"));
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_turns_into_a_refusal_of_exempt_paths_while_draining() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    ctl.trigger(MANUAL);
    handle.send_error(Broken);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/exempt"));
    assert_pending!(handle.poll_request());
}

// `Buffer` panics when it is called without a slot of its queue.
#[tokio::test(start_paused = true)]
async fn refusals_do_not_wait_for_a_full_buffer_and_what_is_queued_is_served() {
    let ctl = refusing();
    let (mock, mut handle) = mock::pair::<Request<String>, Response<Full<Bytes>>>();
    handle.allow(0);
    let (buffer, worker) = Buffer::pair(mock, 1);
    tokio::spawn(worker);
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let mut service = mock::Spawn::new(layer.layer(buffer));

    let mut queued = Vec::new();
    while service.poll_ready().is_ready() {
        queued.push(tokio::spawn(service.call(request("/"))));
        settle().await;
    }
    assert!(!queued.is_empty());
    assert_eq!(ctl.in_flight(), queued.len() as u64);

    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    let mut late = service.clone();
    drop(service); // it waited, and is never called
    for path in ["/", "/exempt"] {
        assert_ready_ok!(late.poll_ready());
        assert!(is_refused(&mut late, path));
    }

    handle.allow(u64::MAX);
    for future in queued {
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Response::new(Full::from("hello")));
        assert_eq!(text(future.await.unwrap().unwrap().into_body()), "hello");
    }
    ctl.drained().await;
    assert_eq!(ctl.in_flight(), 0);
}

// ===== Connection: close =====

/// Has `request` answered with `status` and `Connection: keep-alive` in each state, and gives the
/// `Connection` that the client sees.
async fn connection(request: fn() -> Request<String>, status: StatusCode) -> [String; 3] {
    let ctl = lame_duck();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    let mut seen = Vec::new();
    let calls: Vec<_> = (0..3)
        .map(|_| task::spawn(send(service.get_mut(), request())))
        .collect();
    let states = [
        LifecycleState::Running,
        LifecycleState::LameDuck,
        LifecycleState::Draining,
    ];
    for (mut call, state) in calls.into_iter().zip(states) {
        if state > LifecycleState::Running {
            ctl.trigger(MANUAL);
            ctl.wait_for(state).await;
        }
        assert_eq!(ctl.state(), state);
        let (_, respond) = handle.next_request().await.unwrap();
        let response = Response::builder().status(status).version(Version::HTTP_2);
        let response = response.header(CONNECTION, "keep-alive");
        respond.send_response(response.body(Full::<Bytes>::default()).unwrap());
        let response = assert_ready_ok!(call.poll());
        let values = response.headers().get_all(CONNECTION);
        let values: Vec<_> = values.iter().map(|value| value.to_str().unwrap()).collect();
        seen.push(values.join(", "));
    }
    seen.try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn http1_responses_say_close_from_the_lame_duck_on_whatever_the_application_said() {
    let http10 = || with(Method::GET, Version::HTTP_10);
    let http11 = || with(Method::GET, Version::HTTP_11);
    for request in [http10, http11] {
        for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR] {
            let seen = connection(request, status).await;
            assert_eq!(seen, ["keep-alive", "close", "close"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http2_responses_are_left_as_they_are() {
    let http2 = || with(Method::GET, Version::HTTP_2);
    let seen = connection(http2, StatusCode::OK).await;
    assert_eq!(seen, ["keep-alive"; 3]);
}

#[tokio::test(start_paused = true)]
async fn tunnels_are_left_as_they_are() {
    let upgrade = || with(Method::GET, Version::HTTP_11);
    let seen = connection(upgrade, StatusCode::SWITCHING_PROTOCOLS).await;
    assert_eq!(seen, ["keep-alive"; 3]);

    let connect = || with(Method::CONNECT, Version::HTTP_11);
    for status in [StatusCode::OK, StatusCode::NO_CONTENT] {
        assert_eq!(connection(connect, status).await, ["keep-alive"; 3]);
    }
    // A tunnel that did not come to be.
    let seen = connection(connect, StatusCode::FORBIDDEN).await;
    assert_eq!(seen, ["keep-alive", "close", "close"]);
}

fn with(method: Method, version: Version) -> Request<String> {
    let mut request = request("/");
    *request.method_mut() = method;
    *request.version_mut() = version;
    request
}

// ===== force =====

// P5
#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_is_woken_cut_and_answered() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    assert_pending!(future.poll());
    stage.ctl.trigger(MANUAL);
    settle().await;
    assert!(!future.is_woken());

    stage.ctl.force();
    settle().await;
    assert!(future.is_woken());
    let response = assert_ready_ok!(future.poll());
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = r#"{"error":"service stopped before the request was finished"}"#;
    // No `Retry-After`: the work had begun, and a retry may repeat it.
    assert_eq!(
        headers(&response),
        [
            ("connection", "close"),
            ("content-length", body.len().to_string().as_str()),
            ("content-type", "application/json"),
        ]
    );
    assert_eq!(text(response.into_body()), body);

    let report = stage.ctl.shutdown(MANUAL).await;
    assert!(report.is_forced());
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_drain_deadline_is_cut() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(10))
        .cleanup_reserve(Duration::from_secs(2));
    let stage = Stage::with(ShutdownController::with_config(config).unwrap());
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let handler = tokio::spawn(send(&mut service, stage.request(Plan::Stall)));
    let body = stage.body([Step::Stall]);
    let future = send(&mut service, stage.request(body.into()));
    let body = tokio::spawn(async move {
        let mut body = future.await.unwrap().into_body();
        std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    });

    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(report.duration(), Duration::from_secs(8));
    assert_eq!(report.in_flight_at_force(), 2);
    assert_eq!((report.aborted(), report.abandoned()), (2, 0));
    let response = handler.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.await.unwrap().unwrap().unwrap_err().is::<Forced>());
}

#[tokio::test(start_paused = true)]
async fn the_cut_answer_is_in_the_clients_protocol() {
    /// A request of this method, version and content type, cut before it had an answer.
    fn cut(method: Method, version: Version, content_type: &str) -> Response<ResponseBody<Script>> {
        let stage = Stage::new();
        let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
        let mut request = stage.request(Plan::Stall);
        *request.method_mut() = method;
        *request.version_mut() = version;
        let content_type = content_type.parse().unwrap();
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        let mut future = task::spawn(send(&mut service, request));
        assert_pending!(future.poll());
        stage.ctl.force();
        assert_ready_ok!(future.poll())
    }

    let response = cut(Method::GET, Version::HTTP_2, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key(CONNECTION));
    assert!(!response.headers().contains_key(RETRY_AFTER));

    let response = cut(Method::CONNECT, Version::HTTP_11, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[CONNECTION], "close");

    let response = cut(Method::HEAD, Version::HTTP_11, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.body().is_end_stream());

    for content_type in ["application/grpc", "application/grpc-web+proto"] {
        let response = cut(Method::POST, Version::HTTP_2, content_type);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            headers(&response),
            [
                ("content-type", content_type),
                (
                    "grpc-message",
                    "service stopped before the call was finished"
                ),
                ("grpc-status", "14"),
            ]
        );
        assert!(response.body().is_end_stream());
    }
}

// P5: force is looked at before the inner is polled, for one that is woken anyway would outrun the
// wake-up.
#[tokio::test(start_paused = true)]
async fn a_handler_that_wakes_itself_is_not_polled_again_after_force() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Spin)));
    for polls in 1..=3 {
        assert_pending!(future.poll());
        assert!(future.is_woken());
        assert_eq!(stage.polls(), polls);
    }
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.polls(), 3);
}

// P5
#[tokio::test(start_paused = true)]
async fn a_handler_that_has_not_been_polled_is_cut_too() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let body = stage.body([]);
    let mut future = task::spawn(send(&mut service, stage.request(body.into())));
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.polls(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 1);
}

/// A handler whose poll brings force about, and then waits: the wake-up is over by the time that
/// it would be registered.
#[tokio::test(start_paused = true)]
async fn force_during_the_first_poll_of_a_handler_cuts_it() {
    let ctl = ShutdownController::new();
    let forcing = ctl.clone();
    let app = service_fn(move |_: Request<String>| {
        let ctl = forcing.clone();
        async move {
            ctl.force();
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    });
    let mut service = DrainLayer::new(ctl.clone()).layer(app);
    let mut future = task::spawn(send(&mut service, request("/")));
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ctl.in_flight(), 0);
}

fn respond(stage: &Stage, body: Script) -> ResponseBody<Script> {
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let future = send(&mut service, stage.request(body.into()));
    assert_ready_ok!(task::spawn(future).poll()).into_body()
}

// P5: 3 GB flowed on after a force that was looked for only when the inner was pending.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_at_its_end_is_not_cut() {
    let stage = Stage::new();
    let mut body = respond(&stage, stage.exact_body([]));
    stage.ctl.force();
    assert!(body.is_end_stream());
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_ready_ends_with_an_error_at_force() {
    let stage = Stage::new();
    let mut body = respond(&stage, stage.body([Step::Flood]));
    for _ in 0..3 {
        assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_ok()));
    }
    let polls = stage.polls();
    stage.ctl.force();
    assert!(!body.is_end_stream());
    assert!(is_cut(&mut body));
    assert_eq!(stage.polls(), polls);
    assert_eq!(stage.ctl.in_flight(), 0);
    assert!(assert_ready!(frame(&mut body)).is_none());
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_pending_is_woken_and_ends_with_an_error_at_force() {
    let stage = Stage::new();
    let body = respond(&stage, stage.body([Step::Data("a"), Step::Stall]));
    let mut body = task::spawn(body);
    assert!(assert_ready!(body.enter(|cx, body| body.poll_frame(cx))).is_some());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());
    stage.ctl.trigger(MANUAL);
    settle().await;
    assert!(!body.is_woken());
    stage.ctl.force();
    settle().await;
    assert!(body.is_woken());
    assert!(is_cut(&mut *body));
    assert_eq!(stage.ctl.in_flight(), 0);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5: the place among the wakers goes from the future to the body, and follows the task.
#[tokio::test(start_paused = true)]
async fn force_wakes_the_task_that_polled_last() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let future = send(&mut service, stage.request(Plan::Stall));
    let mut moved = Box::pin(future);
    let (mut before, mut after) = (task::spawn(()), task::spawn(()));
    assert!(before.enter(|cx, _| moved.as_mut().poll(cx)).is_pending());
    assert!(after.enter(|cx, _| moved.as_mut().poll(cx)).is_pending());

    let (mock, mut handle) = mock::pair::<Request<String>, Response<Script>>();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(mock);
    let mut handler = task::spawn(send(&mut service, request("/")));
    assert_pending!(handler.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(stage.body([Step::Stall])));
    let response = assert_ready_ok!(handler.poll());
    let mut body = task::spawn(response.into_body());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());

    stage.ctl.force();
    settle().await;
    assert_eq!((before.is_woken(), after.is_woken()), (false, true));
    assert!(!handler.is_woken());
    assert!(body.is_woken());
    assert!(is_cut(&mut *body));
}

// P5
#[tokio::test(start_paused = true)]
async fn every_cut_is_counted_and_what_ended_by_itself_is_not() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut handlers: Vec<_> = (0..300)
        .map(|_| task::spawn(send(&mut service, stage.request(Plan::Stall))))
        .collect();
    for handler in &mut handlers {
        assert_pending!(handler.poll());
    }
    let mut bodies: Vec<_> = (0..200)
        .map(|_| task::spawn(respond(&stage, stage.body([Step::Wait, Step::Stall]))))
        .collect();
    for body in &mut bodies {
        assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());
    }
    let ends = stage.ctl.track();
    assert_eq!(stage.ctl.in_flight(), 501);

    stage.ctl.force();
    settle().await;
    drop(ends);
    // Not by its own end, so that was a cut, too.
    drop(handlers.pop());
    drop(bodies.pop());
    for handler in &mut handlers {
        assert!(handler.is_woken());
        assert_ready_ok!(handler.poll());
    }
    for body in &mut bodies {
        assert!(body.is_woken());
        assert!(is_cut(&mut **body));
    }
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(report.in_flight_at_force(), 501);
    assert_eq!((report.aborted(), report.abandoned()), (500, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn what_does_not_let_itself_be_cut_is_reported_abandoned() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    // Nobody polls it, as if its thread were blocked.
    let stuck = send(&mut service, stage.request(Plan::Stall));
    stage.ctl.force();
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (0, 1));
    assert_eq!(report.duration(), Duration::from_millis(250));
    drop(stuck);
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_around_tracking_counts_twice_and_cuts_both() {
    let stage = Stage::new();
    let tracking = RequestTrackingLayer::new(stage.ctl.clone()).layer(app());
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(tracking);
    let mut handler = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    let body = stage.body([Step::Flood]);
    let future = send(&mut service, stage.request(body.into()));
    let mut body = assert_ready_ok!(task::spawn(future).poll()).into_body();
    assert_pending!(handler.poll());
    assert_eq!(stage.ctl.in_flight(), 4);

    stage.ctl.force();
    assert_ready_ok!(handler.poll());
    assert!(is_cut(&mut body));
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 4);
}

// ===== any service =====

type Jobs = mock::Spawn<Drain<mock::Mock<u32, u32>, tower_lifecycle::layers::AnyService>>;

fn jobs(ctl: &ShutdownController) -> (Jobs, mock::Handle<u32, u32>) {
    mock::spawn_layer(DrainLayer::new(ctl.clone()).reject_with_error())
}

// P1 and P2
#[tokio::test(start_paused = true)]
async fn any_service_is_counted_to_the_end_of_its_response_future() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    let mut future = task::spawn(send(service.get_mut(), 1));
    assert_pending!(future.poll());
    assert_eq!(ctl.in_flight(), 1);
    let (job, respond) = handle.next_request().await.unwrap();
    respond.send_response(job + 1);
    assert_eq!(assert_ready_ok!(future.poll()), 2);
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn any_service_is_refused_with_an_error_and_the_inner_is_not_needed() {
    let ctl = ShutdownController::new();
    let busy = ctl.track();
    let (mut service, mut handle) = jobs(&ctl);
    let mut other = service.clone();
    assert_ready_ok!(service.poll_ready());
    handle.allow(0);
    assert_pending!(other.poll_ready());

    ctl.trigger(MANUAL);
    settle().await;
    assert!(other.is_woken());
    assert_ready_ok!(other.poll_ready());
    for service in [&mut service, &mut other] {
        let error = assert_ready_err!(task::spawn(service.call(1)).poll());
        assert!(error.is::<ShuttingDown>());
    }
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.in_flight(), 1);
    drop(busy);
    assert_eq!(ctl.shutdown(MANUAL).await.refused(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_any_service_stay_what_they_are() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    let mut future = task::spawn(send(service.get_mut(), 1));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error(Broken);
    assert!(assert_ready_err!(future.poll()).is::<Broken>());
    handle.send_error(Broken);
    assert!(assert_ready_err!(service.poll_ready()).is::<Broken>());
}

// P5
#[tokio::test(start_paused = true)]
async fn any_service_is_cut_with_an_error() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).reject_with_error();
    let mut service = layer.layer(app());
    let mut waiting = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    let mut spinning = task::spawn(send(&mut service, stage.request(Plan::Spin)));
    assert!(waiting.poll().is_pending());
    assert!(spinning.poll().is_pending());
    stage.ctl.force();
    settle().await;
    assert!(waiting.is_woken());
    for future in [&mut waiting, &mut spinning] {
        let Poll::Ready(Err(error)) = future.poll() else {
            panic!("not cut")
        };
        assert!(error.is::<Forced>());
    }
    assert_eq!(stage.polls(), 2);
    assert_eq!(stage.ctl.in_flight(), 0);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (2, 0));
}

// The mock panics when it is called without having been ready.
#[tokio::test(start_paused = true)]
async fn any_service_is_never_called_unready() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    let error = assert_ready_err!(task::spawn(clone.call(1)).poll());
    assert!(error.is::<ShuttingDown>());
    assert_eq!(ctl.in_flight(), 0);
    assert_pending!(handle.poll_request());
}
