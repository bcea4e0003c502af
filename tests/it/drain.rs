//! `DrainLayer`: which requests are admitted or refused, with which response, and the effect of
//! force.

mod admission;
mod any_service;
mod connection_close;
mod exempt_paths;
mod force;
mod paused;
mod readiness;
mod refusals;

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
    Broken, Plan, Script, Stage, Step, app, frame, headers, refusing, send, text,
};
use crate::support::shutdown::settle;

type Mock = mock::Mock<Request<String>, Response<Full<Bytes>>>;
type Handle = mock::Handle<Request<String>, Response<Full<Bytes>>>;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const REFUSED: &str = r#"{"error":"service is shutting down"}"#;

/// A service around a mock, which panics when it is called without being ready.
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

/// Returns whether the body ends now with the error of a cut.
fn is_cut<B: Body<Error = BoxError> + Unpin>(body: &mut B) -> bool {
    matches!(frame(body), Poll::Ready(Some(Err(error))) if error.is::<Forced>())
}

// ===== shared helpers =====

/// Sends `request` while draining. The inner service is not ready, and must not be called.
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

type Hello = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn hello() -> ServiceFn<fn(Request<String>) -> Hello> {
    service_fn(|_| ready(Ok(Response::new(Full::from("hello")))))
}

/// Sends `request` in each state, with a response of `status` and `Connection: keep-alive`. Returns
/// the `Connection` header that the client sees.
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

fn with(method: Method, version: Version) -> Request<String> {
    let mut request = request("/");
    *request.method_mut() = method;
    *request.version_mut() = version;
    request
}

fn respond(stage: &Stage, body: Script) -> ResponseBody<Script> {
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let future = send(&mut service, stage.request(body.into()));
    assert_ready_ok!(task::spawn(future).poll()).into_body()
}
