//! The bodies, and the order of drops: first the inner value, in place, then the guard (P2).

use std::convert::Infallible;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_ENCODING,
    ORIGIN,
};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_lifecycle::layers::{RequestNamesLayer, ResponseBody};
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownReason};

use crate::support::layers::{
    App, Broken, Handler, Plan, Script, Stage, Step, app, comes_from_force, dropped_first, frame,
    refusing, send, text,
};
use crate::support::shutdown::settle;

// ----- P2, on each path of a response future -----

fn a_handlers_error_releases_after_the_future<S: Service<Request<Handler>>>(
    stage: &Stage,
    mut service: S,
) {
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Fail)));
    assert_eq!(stage.ctl.in_flight(), 1);
    assert!(assert_ready!(future.poll()).is_err());
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
    drop(future);
    assert_eq!((stage.drops().len(), stage.ctl.in_flight()), (1, 0));
}

fn a_panic_in_call_releases<S: Service<Request<Handler>>>(stage: &Stage, mut service: S) {
    let request = stage.request(Plan::PanicInCall);
    let call = catch_unwind(AssertUnwindSafe(|| drop(send(&mut service, request))));
    assert!(call.is_err());
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
}

fn a_panic_in_poll_releases_when_the_future_is_dropped<S: Service<Request<Handler>>>(
    stage: &Stage,
    mut service: S,
) {
    let mut future = Box::pin(send(&mut service, stage.request(Plan::PanicInPoll)));
    let poll = || {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    };
    assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    assert_eq!(stage.ctl.in_flight(), 1);
    drop(future);
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
}

fn a_future_dropped_before_its_first_poll_releases<S: Service<Request<Handler>>>(
    stage: &Stage,
    mut service: S,
) {
    drop(send(&mut service, stage.request(Plan::Stall)));
    assert_eq!(stage.polls(), 0);
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
}

fn a_future_dropped_after_its_first_poll_releases<S: Service<Request<Handler>>>(
    stage: &Stage,
    mut service: S,
) {
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    assert!(future.poll().is_pending());
    drop(future);
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
}

fn a_future_polled_after_its_end_panics_and_releases_nothing<S: Service<Request<Handler>>>(
    stage: &Stage,
    mut service: S,
) {
    let _other = stage.ctl.track();
    let mut future = Box::pin(send(&mut service, stage.request(Plan::Fail)));
    let mut poll = || {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    };
    assert!(poll().is_ready());
    assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    assert_eq!(stage.ctl.in_flight(), 1);
}

// ----- P2, on each path of a response body -----

/// Calls the service. Returns the body of the response, after the future was dropped.
fn respond<S, B>(stage: &Stage, service: &mut S, body: Script) -> B
where
    S: Service<Request<Handler>, Response = Response<B>>,
{
    let future = send(service, stage.request(body.into()));
    let Ok(response) = assert_ready!(task::spawn(future).poll()) else {
        panic!("as planned, it answers")
    };
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 1);
    response.into_body()
}

/// The body was dropped, in place and while its guard was held, and only once, in every case.
fn assert_released<B>(stage: &Stage, body: B) {
    let drops = [dropped_first("future"), dropped_first("body")];
    assert_eq!(stage.drops(), drops);
    assert_eq!(stage.ctl.in_flight(), 0);
    drop(body);
    assert_eq!(stage.drops(), drops);
    assert_eq!(stage.ctl.in_flight(), 0);
}

fn a_body_that_ends_releases<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body + Unpin,
{
    let script = [Step::Data("a"), Step::Wait, Step::Data("b"), Step::Trailers];
    let mut body = respond(stage, &mut service, stage.body(script));
    assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_ok()));
    assert!(frame(&mut body).is_pending());
    for _ in 0..2 {
        assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_ok()));
    }
    assert_eq!(stage.ctl.in_flight(), 1);
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert!(body.is_end_stream());
    // Polling again is allowed, and does not reach the inner body.
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_released(stage, body);
}

fn a_body_of_known_length_releases_at_its_last_frame<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body + Unpin,
{
    let script = [Step::Data("a"), Step::Data("b")];
    let mut body = respond(stage, &mut service, stage.exact_body(script));
    assert!(assert_ready!(frame(&mut body)).is_some());
    assert_eq!(stage.ctl.in_flight(), 1);
    assert!(assert_ready!(frame(&mut body)).is_some());
    // A consumer that knows the length does not poll again.
    assert!(body.is_end_stream());
    assert_released(stage, body);
}

fn a_bodys_error_releases<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body + Unpin,
{
    let mut body = respond(
        stage,
        &mut service,
        stage.body([Step::Data("a"), Step::Fail]),
    );
    assert!(assert_ready!(frame(&mut body)).is_some());
    assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_err()));
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_released(stage, body);
}

fn a_body_dropped_midway_releases<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body + Unpin,
{
    let script = [Step::Data("a"), Step::Stall];
    let mut body = Box::new(respond(stage, &mut service, stage.body(script)));
    assert!(assert_ready!(frame(&mut *body)).is_some());
    assert!(frame(&mut *body).is_pending());
    drop(body);
    assert_released(stage, ());
}

fn a_body_dropped_before_its_first_poll_releases<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body,
{
    drop(respond(
        stage,
        &mut service,
        stage.body([Step::Data("never read")]),
    ));
    assert_released(stage, ());
}

/// A server sees that the body is empty, and drops it.
fn an_empty_body_releases_when_it_is_dropped<S, B>(stage: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body,
{
    let body = respond(stage, &mut service, stage.exact_body([]));
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    drop(body);
    assert_released(stage, ());
}

/// What a body reports, and what it then yields.
#[derive(Debug, PartialEq)]
struct Look {
    is_end_stream: bool,
    size: (u64, Option<u64>),
    frame: Poll<Bytes>,
}

fn look<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Look {
    let size = body.size_hint();
    Look {
        is_end_stream: body.is_end_stream(),
        size: (size.lower(), size.upper()),
        frame: frame(body).map(|frame| match frame {
            Some(Ok(frame)) => frame.into_data().unwrap_or("trailers".into()),
            Some(Err(_)) => "error".into(),
            None => "end".into(),
        }),
    }
}

fn what_the_inner_body_says_is_unchanged<S, B>(_: &Stage, mut service: S)
where
    S: Service<Request<Handler>, Response = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
{
    let scripts: [&[Step]; 4] = [
        &[],
        &[Step::Data("a"), Step::Wait, Step::Data("bc")],
        &[Step::Data("a"), Step::Trailers],
        &[Step::Wait, Step::Data("a"), Step::Fail],
    ];
    for script in scripts {
        let twins: [fn(&Stage, &[Step]) -> Script; 2] = [
            |stage, script| stage.body(script.iter().copied()),
            |stage, script| stage.exact_body(script.iter().copied()),
        ];
        for twin in twins {
            let stage = Stage::new();
            let mut bare = twin(&stage, script);
            let future = send(&mut service, stage.request(twin(&stage, script).into()));
            let Ok(response) = assert_ready!(task::spawn(future).poll()) else {
                panic!("as planned, it answers")
            };
            let mut wrapped = response.into_body();
            let mut is_over = bare.is_end_stream();
            assert_eq!(wrapped.is_end_stream(), is_over);
            while !is_over {
                let look = (look(&mut wrapped), look(&mut bare));
                assert_eq!(look.0, look.1);
                let ended = matches!(&look.0.frame, Poll::Ready(f) if *f == "end" || *f == "error");
                is_over = ended || bare.is_end_stream();
                assert_eq!(wrapped.is_end_stream(), is_over);
            }
        }
    }
}

/// Generates a test of each rule, for the services that a layer makes.
macro_rules! hold {
    ($layer:expr; $($rule:ident)*) => {$(
        #[test]
        fn $rule() {
            let stage = super::Stage::new();
            let layer = $layer(stage.ctl.clone());
            super::$rule(&stage, super::Layer::layer(&layer, super::app()));
        }
    )*};
}

macro_rules! futures_release {
    ($layer:expr) => {
        hold! {
            $layer;
            a_handlers_error_releases_after_the_future
            a_panic_in_call_releases
            a_panic_in_poll_releases_when_the_future_is_dropped
            a_future_dropped_before_its_first_poll_releases
            a_future_dropped_after_its_first_poll_releases
            a_future_polled_after_its_end_panics_and_releases_nothing
        }
    };
}

macro_rules! bodies_release {
    ($layer:expr) => {
        hold! {
            $layer;
            a_body_that_ends_releases
            a_body_of_known_length_releases_at_its_last_frame
            a_bodys_error_releases
            a_body_dropped_midway_releases
            a_body_dropped_before_its_first_poll_releases
            an_empty_body_releases_when_it_is_dropped
            what_the_inner_body_says_is_unchanged
        }
    };
}

mod drain {
    futures_release!(super::DrainLayer::new);
    bodies_release!(super::DrainLayer::new);
}

mod tracking {
    futures_release!(super::RequestTrackingLayer::new);
    bodies_release!(super::RequestTrackingLayer::new);
}

mod drain_any_service {
    futures_release!(|ctl| super::DrainLayer::new(ctl).reject_with_error());
}

mod tracking_until_response {
    futures_release!(|ctl| super::RequestTrackingLayer::new(ctl).until_response());
}

// P2 and P5: the paths of a cut.
#[tokio::test(start_paused = true)]
async fn cutting_drops_the_inner_first_and_in_place_and_then_the_guard() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    assert_pending!(future.poll());
    stage.ctl.force();
    assert_ready_ok!(future.poll());
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);

    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut body = respond(&stage, &mut service, stage.body([Step::Stall]));
    assert_pending!(frame(&mut body));
    stage.ctl.force();
    assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_err()));
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_released(&stage, body);
}

// P2: a refused request is dropped whole, and was never counted.
#[tokio::test(start_paused = true)]
async fn a_refusal_drops_the_request_and_its_unread_body() {
    let stage = Stage::with(refusing());
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    stage.ctl.trigger(ShutdownReason::Manual);
    let _refusal = send(&mut service, stage.request(Plan::Stall));
    let drops = stage.drops();
    assert_eq!(drops.len(), 1);
    assert_eq!(drops[0].in_flight, 0);
    assert_eq!(stage.polls(), 0);
}

#[test]
fn an_error_of_the_inner_body_is_passed_on() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut body: ResponseBody<_> = respond(&stage, &mut service, stage.body([Step::Fail]));
    let error = assert_ready!(frame(&mut body)).unwrap().unwrap_err();
    assert!(error.is::<Broken>());
}

#[test]
fn a_default_body_is_the_inner_ones_default() {
    let mut body = ResponseBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(assert_ready!(frame(&mut body)).is_none());
}

// ----- other layers outside this one -----

type Compressed = tower_http::compression::Compression<tower_lifecycle::layers::Drain<App>>;

const LONG: &str = "a text that is long enough to be worth compressing, and long enough again";

fn compressed(stage: &Stage) -> Compressed {
    CompressionLayer::new().layer(DrainLayer::new(stage.ctl.clone()).layer(app()))
}

fn accepting_gzip(stage: &Stage, body: Script) -> Request<Handler> {
    let mut request = stage.request(body.into());
    let gzip = "gzip".parse().unwrap();
    request.headers_mut().insert(ACCEPT_ENCODING, gzip);
    request
}

#[test]
fn compression_works_outside() {
    let stage = Stage::new();
    let body = stage.body([Step::Data(LONG), Step::Data(LONG)]);
    let future = send(&mut compressed(&stage), accepting_gzip(&stage, body));
    let response = assert_ready_ok!(task::spawn(future).poll());
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let gzip = text(response.into_body());
    assert!(gzip.starts_with(&[0x1f, 0x8b]));
    assert!(gzip.len() < 2 * LONG.len());
    assert_eq!(stage.ctl.in_flight(), 0);
}

// P5
#[tokio::test(start_paused = true)]
async fn compression_outside_passes_on_that_the_body_was_cut() {
    let stage = Stage::new();
    let body = stage.body([Step::Data(LONG), Step::Stall]);
    let future = send(&mut compressed(&stage), accepting_gzip(&stage, body));
    let response = assert_ready_ok!(task::spawn(future).poll());
    let mut body = task::spawn(response.into_body());
    while body.enter(|cx, body| body.poll_frame(cx)).is_ready() {}
    stage.ctl.force();
    settle().await;
    assert!(body.is_woken());
    let cut = assert_ready!(body.enter(|cx, body| body.poll_frame(cx)));
    let error = cut.unwrap().unwrap_err();
    assert!(comes_from_force(&*error));
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(
        stage.ctl.shutdown(ShutdownReason::Manual).await.aborted(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn cors_outside_makes_answers_refusals_and_cuts_readable() {
    let ctl = refusing();
    let app = service_fn(|request: Request<String>| async move {
        if request.uri() == "/stall" {
            pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    });
    let drain = DrainLayer::new(ctl.clone()).layer(app);
    let mut service = CorsLayer::permissive().layer(drain);
    let mut call = |method, path| {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header(ORIGIN, "https://example.com")
            .header(ACCESS_CONTROL_REQUEST_METHOD, "GET");
        task::spawn(send(&mut service, request.body(String::new()).unwrap()))
    };
    let assert_answered = |response: Result<Response<_>, Infallible>, status| {
        let response: Response<ResponseBody<_>> = response.unwrap();
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(response.status(), status);
    };

    let mut served = call(Method::GET, "/");
    assert_answered(assert_ready!(served.poll()), StatusCode::OK);
    let mut cut = call(Method::GET, "/stall");
    assert_pending!(cut.poll());

    ctl.trigger(ShutdownReason::Manual);
    let mut refused = call(Method::GET, "/");
    assert_answered(
        assert_ready!(refused.poll()),
        StatusCode::SERVICE_UNAVAILABLE,
    );
    // `CorsLayer` responds to the preflight itself, with a default body.
    let mut preflight = call(Method::OPTIONS, "/");
    assert_answered(assert_ready!(preflight.poll()), StatusCode::OK);

    assert_eq!(ctl.in_flight(), 1);
    ctl.force();
    assert_answered(assert_ready!(cut.poll()), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ctl.in_flight(), 0);
}

/// The documented order. `CorsLayer` requires a default body of the layers inside it.
#[tokio::test]
async fn all_layers_may_be_inside_cors() {
    let ctl = refusing();
    let layers = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(DrainLayer::new(ctl.clone()))
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(RequestTrackingLayer::new(ctl));
    let app: Router = Router::new().route("/", get(|| async { "hello" }));
    let request = Request::new(axum::body::Body::empty());
    let response = app.layer(layers).oneshot(request).await.unwrap();
    assert_eq!(text(response.into_body()), "hello");
}
