//! Streams without end: ended cleanly when draining begins, one after another, in time.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, Request, Response};
use http_body::Body;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_ready, assert_ready_ok, task};
use tower::Layer;
use tower_lifecycle::error::Forced;
use tower_lifecycle::layers::{Drain, ResponseBody};
use tower_lifecycle::{
    DrainLayer, LifecycleState, LongLived, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::support::layers::{
    App, Handler, Script, Stage, Step, app, dropped_first, frame, send, text,
};
use crate::support::log::Lines;
use crate::support::loopback::loopback;
use crate::support::shutdown::settle;
use crate::support::sockets::{Server, client, in_time, with_each_server_and_protocol};

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const SSE: &str = "text/event-stream";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

type Stream = ResponseBody<Script>;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn stage(config: ShutdownConfig) -> Stage {
    Stage::with(ShutdownController::with_config(config).unwrap())
}

fn layer(stage: &Stage) -> DrainLayer {
    DrainLayer::new(stage.ctl.clone())
}

/// Requests `path`. The response is `script`, with these headers.
fn ask(
    path: &str,
    headers: &[(HeaderName, &str)],
    script: Script,
    stage: &Stage,
) -> Request<Handler> {
    let mut response = Response::new(script);
    for (name, value) in headers {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    let mut request = stage.request(response.into());
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn answer(service: &mut Drain<App>, request: Request<Handler>) -> Stream {
    let future = send(service, request);
    assert_ready_ok!(task::spawn(future).poll()).into_body()
}

/// A response with a content type, of unknown length.
fn open(service: &mut Drain<App>, stage: &Stage, content_type: &str, steps: &[Step]) -> Stream {
    let script = stage.body(steps.iter().copied());
    let headers = [(CONTENT_TYPE, content_type)];
    answer(service, ask("/", &headers, script, stage))
}

/// An endless event stream.
fn events(service: &mut Drain<App>, stage: &Stage) -> Stream {
    open(service, stage, SSE, &[Step::Stall])
}

/// Reads a body to its clean end, and returns the time of the end.
fn end_of(mut body: Stream) -> JoinHandle<Instant> {
    tokio::spawn(async move {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frame.unwrap();
        }
        Instant::now()
    })
}

async fn ends_of(readers: Vec<JoinHandle<Instant>>) -> Vec<Instant> {
    let mut ends = Vec::new();
    for reader in readers {
        let end = tokio::time::timeout(secs(3_600), reader).await;
        ends.push(end.expect("it should have ended").unwrap());
    }
    ends.sort();
    ends
}

/// Asserts that the ends are `interval` apart, the first of them at `first`, within the precision
/// of the timer.
fn assert_paced(ends: &[Instant], first: Instant, interval: Duration) {
    for (n, end) in ends.iter().enumerate() {
        let turn = first + interval * u32::try_from(n).unwrap();
        let late = end.checked_duration_since(turn);
        assert!(late.is_some_and(|late| late <= millis(1)), "{n}: {late:?}");
    }
}

/// Polls once, and asserts a clean end.
fn assert_ended(body: &mut Stream) {
    assert!(matches!(frame(body), Poll::Ready(None)));
    assert!(body.is_end_stream());
    assert!(matches!(frame(body), Poll::Ready(None)));
}

fn data(body: &mut Stream) -> Bytes {
    let frame = assert_ready!(frame(body)).unwrap().unwrap();
    frame.into_data().unwrap()
}

// ===== the end =====

#[tokio::test(start_paused = true)]
async fn events_end_between_two_frames_when_draining_begins() {
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let steps = [
        Step::Data("one"),
        Step::Data("two"),
        Step::Wait,
        Step::Data("three"),
    ];
    let mut body = open(&mut service, &stage, SSE, &steps);
    assert_eq!(data(&mut body), "one");
    assert_eq!(data(&mut body), "two");
    let mut body = task::spawn(body);
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());

    let ended = tokio::spawn({
        let ctl = stage.ctl.clone();
        async move { ctl.shutdown(MANUAL).await }
    });
    settle().await;
    assert!(body.is_woken());
    assert_eq!(stage.ctl.in_flight(), 1); // until its end, which it has not reached
    assert!(!body.is_end_stream());
    let mut body = body.into_inner();
    assert_ended(&mut body);
    assert_eq!(
        stage.drops(),
        [dropped_first("future"), dropped_first("body")]
    );
    assert_eq!(stage.ctl.in_flight(), 0);

    let report = ended.await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.aborted(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_that_are_always_there_end_too() {
    let stage = Stage::new();
    let class = LongLived::content_type(SSE).after(secs(1));
    let mut service = layer(&stage).long_lived(class).layer(app());
    let mut body = open(&mut service, &stage, SSE, &[Step::Flood]);
    for _ in 0..1_000 {
        assert_eq!(data(&mut body), "flood");
    }
    stage.ctl.trigger(MANUAL);
    for _ in 0..1_000 {
        assert_eq!(data(&mut body), "flood");
    }
    // Only this task runs, so that no timer does.
    advance(secs(1)).await;
    assert_ended(&mut body);
}

/// In real time, in a task that is never pending, so the timers are not driven meanwhile.
#[tokio::test]
async fn events_end_in_time_in_a_task_that_never_waits() {
    let stage = Stage::new();
    let class = LongLived::content_type(SSE).after(millis(20));
    let mut service = layer(&stage).long_lived(class).layer(app());
    let mut body = open(&mut service, &stage, SSE, &[Step::Flood]);
    stage.ctl.trigger(MANUAL);
    let began = std::time::Instant::now();
    while let Poll::Ready(Some(frame)) = frame(&mut body) {
        frame.unwrap();
        assert!(began.elapsed() < secs(10), "it floods on");
    }
    assert!(body.is_end_stream());
}

#[test]
fn nobody_is_woken_for_one_that_is_gone() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let nobody = Arc::new(Nobody);
    let waker = std::task::Waker::from(Arc::clone(&nobody));
    let mut body = events(&mut service, &stage);
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
    assert_eq!(Arc::strong_count(&nobody), 3);
    drop(body);
    assert_eq!(Arc::strong_count(&nobody), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_its_turn_does_so_as_always() {
    let stage = Stage::new();
    let class = LongLived::content_type(SSE).after(secs(5));
    let mut service = layer(&stage).long_lived(class).layer(app());
    let whole = open(
        &mut service,
        &stage,
        SSE,
        &[Step::Data("a"), Step::Data("b")],
    );
    let mut fails = open(&mut service, &stage, SSE, &[Step::Fail]);
    stage.ctl.trigger(MANUAL);
    assert_eq!(text(whole), "ab");
    assert!(assert_ready!(frame(&mut fails)).is_some_and(|frame| frame.is_err()));
    assert_ended(&mut fails);
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn other_streams_are_let_finish() {
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let steps = [Step::Data("before, "), Step::Wait, Step::Data("after")];
    let script = || stage.body(steps);
    let plain = [(CONTENT_TYPE, "text/plain")];
    let known = [(CONTENT_TYPE, SSE), (CONTENT_LENGTH, "13")];
    let mut others = [
        answer(&mut service, ask("/", &[], script(), &stage)),
        answer(&mut service, ask("/", &plain, script(), &stage)),
        // Its end is known, from a header or from the body.
        answer(&mut service, ask("/", &known, script(), &stage)),
        answer(
            &mut service,
            ask("/", &known[..1], stage.exact_body(steps), &stage),
        ),
    ];
    for body in &mut others {
        assert_eq!(data(body), "before, ");
        assert!(frame(body).is_pending());
    }
    stage.ctl.trigger(MANUAL);
    sleep(secs(20)).await;
    assert_eq!(stage.ctl.in_flight(), 4);
    for mut body in others {
        assert_eq!(text(&mut body), "after");
    }
    assert!(stage.ctl.shutdown(MANUAL).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn neither_a_lame_duck_nor_a_pause_ends_anything() {
    let stage = stage(ShutdownConfig::default().lame_duck(secs(5)));
    let mut service = layer(&stage).layer(app());
    let mut body = task::spawn(events(&mut service, &stage));
    let mut poll = || body.enter(|cx, body| body.poll_frame(cx));
    assert!(poll().is_pending());

    assert!(stage.ctl.pause());
    settle().await;
    assert!(poll().is_pending());
    stage.ctl.unpause();
    stage.ctl.trigger(MANUAL);
    sleep(secs(4)).await;
    assert_eq!(stage.ctl.state(), LifecycleState::LameDuck);
    assert!(poll().is_pending());
    stage.ctl.resume().unwrap();
    sleep(secs(4)).await;
    assert!(poll().is_pending());
    assert!(!body.is_woken());

    let shutdown = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_paced(
        &ends_of(vec![end_of(body.into_inner())]).await,
        shutdown + secs(5),
        secs(0),
    );
}

#[tokio::test(start_paused = true)]
async fn force_cuts_it_as_any_other_body() {
    for after in [Duration::ZERO, secs(10), Duration::MAX] {
        let stage = Stage::new();
        let class = LongLived::content_type(SSE).after(after);
        let mut service = layer(&stage).long_lived(class).layer(app());
        let mut waits = task::spawn(events(&mut service, &stage));
        let mut floods = open(&mut service, &stage, SSE, &[Step::Flood]);
        assert!(waits.enter(|cx, body| body.poll_frame(cx)).is_pending());
        if !after.is_zero() {
            stage.ctl.trigger(MANUAL);
            settle().await;
            assert!(waits.enter(|cx, body| body.poll_frame(cx)).is_pending());
            assert_eq!(data(&mut floods), "flood");
        }
        stage.ctl.force();
        settle().await;
        assert!(waits.is_woken());
        for mut body in [waits.into_inner(), floods] {
            let error = assert_ready!(frame(&mut body)).unwrap().unwrap_err();
            assert!(error.is::<Forced>());
            assert_ended(&mut body);
        }
        assert_eq!(stage.ctl.in_flight(), 0);
        let report = stage.ctl.shutdown(MANUAL).await;
        assert!(!report.is_graceful());
        assert_eq!((report.aborted(), report.abandoned()), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_is_gone_before_and_after_its_first_poll() {
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    drop(events(&mut service, &stage));
    assert_eq!(stage.ctl.in_flight(), 0);
    let mut body = events(&mut service, &stage);
    assert!(frame(&mut body).is_pending());
    drop(Box::new(body)); // moves the box; the pinned content stays
    let drops = stage.drops();
    assert_eq!(drops.len(), 4);
    assert!(
        drops
            .iter()
            .all(|drop| drop.in_flight == 1 && drop.in_place)
    );
    assert_eq!(stage.ctl.in_flight(), 0);
}

/// It must not promise a length that it may not reach.
#[tokio::test(start_paused = true)]
async fn no_length_is_promised() {
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let mut body = open(
        &mut service,
        &stage,
        SSE,
        &[Step::Data("data"), Step::Stall],
    );
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (0, None)
    );
    stage.ctl.trigger(MANUAL);
    assert_ended(&mut body);
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[test]
fn outside_a_runtime_streams_end_at_once() {
    let stage = Stage::new();
    let class = LongLived::content_type(SSE).after(secs(3_600)).rate(1);
    let mut service = layer(&stage).long_lived(class).layer(app());
    let mut bodies = [(); 3].map(|()| events(&mut service, &stage));
    assert!(bodies.iter_mut().all(|body| frame(body).is_pending()));
    stage.ctl.trigger(MANUAL);
    bodies.iter_mut().for_each(assert_ended);
}

// ===== the pace =====

fn many(n: usize, service: &mut Drain<App>, stage: &Stage) -> Vec<JoinHandle<Instant>> {
    (0..n).map(|_| end_of(events(service, stage))).collect()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_end_per_second_evenly() {
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let readers = many(1_000, &mut service, &stage);
    settle().await;

    let began = Instant::now();
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(began.elapsed(), millis(4_995));
    assert!(report.is_graceful(), "{report}");
    let ends = ends_of(readers).await;
    assert_eq!(ends.len(), 1_000);
    assert_paced(&ends, began, millis(5));
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_what_the_class_says() {
    for (rate, interval) in [
        (1, secs(1)),
        (3, Duration::from_nanos(333_333_334)),
        (u32::MAX, Duration::from_nanos(1)),
        // Half of 25 s, divided by ten.
        (0, millis(1_250)),
    ] {
        let stage = Stage::new();
        let class = LongLived::content_type(SSE).rate(rate);
        let mut service = layer(&stage).long_lived(class).layer(app());
        let readers = many(10, &mut service, &stage);
        settle().await;
        let began = Instant::now();
        stage.ctl.trigger(MANUAL);
        assert_paced(&ends_of(readers).await, began, interval);
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_raised_so_that_all_end_within_half_of_the_drain() {
    // Three seconds of drain, after one of lame duck, before one of clean-up.
    let config = ShutdownConfig::default()
        .shutdown_timeout(secs(5))
        .lame_duck(secs(1))
        .cleanup_reserve(secs(1));
    let stage = stage(config);
    let mut service = layer(&stage).layer(app());
    let readers = many(1_000, &mut service, &stage);
    settle().await;
    let began = Instant::now() + secs(1);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful(), "{report}");
    let ends = ends_of(readers).await;
    assert_paced(&ends, began, Duration::from_micros(1_500));
    assert!(ends[999] <= began + millis(1_500));
}

#[tokio::test(start_paused = true)]
async fn a_class_may_go_on_for_its_own_time_and_then_has_half_of_the_rest() {
    let config = ShutdownConfig::default().cleanup_reserve(secs(5)); // a drain of 25 s
    let stage = stage(config);
    let class = LongLived::content_type(SSE).after(secs(15)).rate(1);
    let mut service = layer(&stage).long_lived(class).layer(app());
    let readers = many(10, &mut service, &stage);
    let steps = [Step::Data("a"), Step::Wait, Step::Data("b"), Step::Stall];
    let mut talks = open(&mut service, &stage, SSE, &steps);
    settle().await;
    let began = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_eq!(data(&mut talks), "a");
    assert!(frame(&mut talks).is_pending());
    sleep(secs(14)).await;
    assert_eq!(data(&mut talks), "b");
    drop(talks);
    let ends = ends_of(readers).await;
    // Half of ten seconds for eleven. The first slot belongs to the one that ended before.
    let interval = secs(5) / 11;
    assert_paced(&ends, began + secs(15) + interval, interval);
    assert!(stage.ctl.shutdown(MANUAL).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn its_own_time_counts_from_the_beginning_whenever_it_is_looked_at() {
    let stage = stage(ShutdownConfig::default().lame_duck(secs(2)));
    let class = LongLived::content_type(SSE).after(secs(5));
    let mut service = layer(&stage).long_lived(class).layer(app());
    let body = events(&mut service, &stage);
    let began = Instant::now() + secs(2);
    stage.ctl.trigger(MANUAL);
    sleep(secs(5)).await; // its client does not read, so no frame is polled
    assert_paced(&ends_of(vec![end_of(body)]).await, began + secs(5), secs(0));
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_of_the_drain_the_rate_is_kept() {
    let stage = stage(ShutdownConfig::default().shutdown_timeout(Duration::MAX));
    let class = LongLived::content_type(SSE).rate(1);
    let mut service = layer(&stage).long_lived(class).layer(app());
    let readers = many(100, &mut service, &stage);
    settle().await;
    let began = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_paced(&ends_of(readers).await, began, secs(1));
}

#[tokio::test(start_paused = true)]
async fn only_those_that_are_alive_raise_the_rate() {
    let config = ShutdownConfig::default().shutdown_timeout(secs(4)); // a drain of 3 s
    let stage = stage(config);
    let mut service = layer(&stage).layer(app());
    let readers = many(10, &mut service, &stage);
    for _ in 0..1_000 {
        drop(events(&mut service, &stage));
    }
    settle().await;
    let began = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_paced(&ends_of(readers).await, began, millis(5));
}

#[tokio::test(start_paused = true)]
async fn those_that_come_late_together_do_not_end_together() {
    let stage = Stage::new();
    let class = LongLived::content_type(SSE).rate(1);
    let mut service = layer(&stage).long_lived(class).layer(app());
    let first = many(1, &mut service, &stage);
    let late = [(); 5].map(|()| events(&mut service, &stage));
    settle().await;
    let began = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_paced(&ends_of(first).await, began, secs(0));
    sleep(secs(10)).await;
    let now = Instant::now();
    let ends = ends_of(late.into_iter().map(end_of).collect()).await;
    assert_paced(&ends, now, secs(1));
}

#[tokio::test(start_paused = true)]
async fn each_class_has_its_own_pace_and_all_services_of_a_layer_share_it() {
    let stage = Stage::new();
    let layer = layer(&stage)
        .long_lived(LongLived::content_type(SSE).rate(1))
        .long_lived(LongLived::path("/log").rate(2));
    let mut services = [layer.layer(app()), layer.layer(app())];
    let (mut sse, mut log) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let service = &mut services[n % 2];
        sse.push(end_of(events(service, &stage)));
        let script = stage.body([Step::Stall]);
        log.push(end_of(answer(service, ask("/log", &[], script, &stage))));
    }
    settle().await;
    let began = Instant::now();
    stage.ctl.trigger(MANUAL);
    assert_paced(&ends_of(sse).await, began, secs(1));
    assert_paced(&ends_of(log).await, began, millis(500));
}

// ===== classification =====

/// Returns whether such a response is ended when draining begins.
fn is_ended(layer: impl FnOnce(DrainLayer) -> DrainLayer, path: &str, content_type: &str) -> bool {
    let stage = Stage::new();
    let mut service = layer(DrainLayer::new(stage.ctl.clone())).layer(app());
    let headers = [(CONTENT_TYPE, content_type)];
    let mut body = answer(
        &mut service,
        ask(path, &headers, stage.body([Step::Stall]), &stage),
    );
    assert!(frame(&mut body).is_pending());
    stage.ctl.trigger(MANUAL);
    frame(&mut body).is_ready()
}

#[tokio::test(start_paused = true)]
async fn a_content_type_matches_without_parameters_and_in_any_case() {
    for (content_type, ended) in [
        ("text/event-stream", true),
        ("Text/Event-Stream", true),
        ("text/event-stream;charset=utf-8", true),
        (" text/event-stream ; charset=utf-8", true),
        ("text/event-streams", false),
        ("text/event", false),
        ("text/plain; text/event-stream", false),
        ("text/*", false),
        ("", false),
    ] {
        assert_eq!(
            is_ended(|layer| layer, "/", content_type),
            ended,
            "{content_type}"
        );
        let named = |layer: DrainLayer| {
            let class = LongLived::content_type(" TEXT/Event-Stream; charset=utf-8");
            layer.no_long_lived().long_lived(class)
        };
        assert_eq!(is_ended(named, "/", content_type), ended, "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_matches_exactly() {
    for (path, ended) in [
        (WATCH, true),
        ("/grpc.health.v1.Health/Watch?a=b", true),
        ("/grpc.health.v1.Health/Watch/", false),
        ("/grpc.health.v1.health/watch", false),
        ("/grpc.health.v1.Health/Check", false),
        ("/", false),
    ] {
        let watch = |layer: DrainLayer| layer.long_lived(LongLived::path(WATCH));
        assert_eq!(is_ended(watch, path, "application/grpc"), ended, "{path}");
        assert!(!is_ended(|layer| layer, path, "application/grpc"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_classes_can_be_removed() {
    let removed = |layer: DrainLayer| layer.long_lived(LongLived::path("/a")).no_long_lived();
    assert!(!is_ended(removed, "/a", SSE));
    let one = |layer| removed(layer).long_lived(LongLived::path("/b"));
    assert!(!is_ended(one, "/a", SSE));
    assert!(is_ended(one, "/b", SSE));
}

#[tokio::test(start_paused = true)]
async fn a_class_of_the_same_name_is_replaced_and_a_path_goes_first() {
    let never = Duration::MAX;
    let replaced = |layer: DrainLayer| {
        layer
            .long_lived(LongLived::content_type("TEXT/EVENT-STREAM").after(never))
            .long_lived(LongLived::path("/a").after(never))
            .long_lived(LongLived::path("/a"))
    };
    assert!(!is_ended(replaced, "/", SSE));
    assert!(is_ended(replaced, "/a", SSE));
    let path_first = |layer: DrainLayer| layer.long_lived(LongLived::path("/a").after(never));
    assert!(!is_ended(path_first, "/a", SSE));
    assert!(is_ended(path_first, "/", SSE));
}

// ===== gRPC =====

/// Opens a stream with a gRPC content type, ends it, and returns its last frame.
fn last_frame(content_type: &str) -> http_body::Frame<Bytes> {
    let stage = Stage::new();
    let mut service = layer(&stage)
        .long_lived(LongLived::path(WATCH))
        .layer(app());
    let script = stage.body([Step::Data("message"), Step::Stall]);
    let headers = [(CONTENT_TYPE, content_type)];
    let mut body = answer(&mut service, ask(WATCH, &headers, script, &stage));
    assert_eq!(data(&mut body), "message");
    assert!(frame(&mut body).is_pending());
    stage.ctl.trigger(MANUAL);
    let last = assert_ready!(frame(&mut body)).unwrap().unwrap();
    assert_eq!(
        stage.drops(),
        [dropped_first("future"), dropped_first("body")]
    );
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_ended(&mut body);
    last
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_ends_with_trailers() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;a=b",
    ] {
        let trailers = last_frame(content_type).into_trailers().unwrap();
        assert_eq!(trailers.len(), 2);
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "service is shutting down");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_web_stream_ends_with_trailers_in_its_data() {
    let data = last_frame("application/grpc-web+proto")
        .into_data()
        .unwrap();
    let lines = "grpc-status:14\r\ngrpc-message:service is shutting down\r\n";
    let length = u32::try_from(lines.len()).unwrap().to_be_bytes();
    let expected = [&[0x80], &length[..], lines.as_bytes()].concat();
    assert_eq!(data, expected);
    let data = last_frame("application/grpc-web-text+proto")
        .into_data()
        .unwrap();
    assert_eq!(from_base64(&data), expected);
}

/// Decodes base64 without padding.
fn from_base64(text: &[u8]) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(text.len() % 4, 0);
    let value = |&digit: &u8| DIGITS.find(char::from(digit)).unwrap();
    let bytes = text.chunks(4).flat_map(|four| {
        let bits = four.iter().fold(0, |bits, digit| bits << 6 | value(digit));
        u32::try_from(bits).unwrap().to_be_bytes()[1..].to_vec()
    });
    bytes.collect()
}

#[tokio::test(start_paused = true)]
async fn after_trailers_of_its_own_a_stream_gets_no_others() {
    let stage = Stage::new();
    let mut service = layer(&stage)
        .long_lived(LongLived::path(WATCH))
        .layer(app());
    let headers = [(CONTENT_TYPE, "application/grpc")];
    let script = stage.body([Step::Trailers, Step::Stall]);
    let mut body = answer(&mut service, ask(WATCH, &headers, script, &stage));
    let trailers = assert_ready!(frame(&mut body)).unwrap().unwrap();
    assert!(trailers.into_trailers().unwrap().is_empty());
    stage.ctl.trigger(MANUAL);
    assert_ended(&mut body);
}

// ===== the log =====

#[tokio::test(start_paused = true)]
async fn the_log_has_one_line_for_a_class_with_its_figures() {
    let log = Lines::default();
    let _listening = log.listen();
    let stage = Stage::new();
    let mut service = layer(&stage).layer(app());
    let readers = many(10, &mut service, &stage);
    settle().await;
    stage.ctl.trigger(MANUAL);
    ends_of(readers).await;
    let lines = log.containing("long-lived");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["INFO", "alive=10", "interval_ms=5.0", "text/event-stream"] {
        assert!(lines[0].contains(part), "{}", lines[0]);
    }
}

// ===== real sockets =====

#[tokio::test]
async fn a_client_of_events_sees_a_clean_end_and_the_shutdown_does_not_wait_for_the_deadline() {
    with_each_server_and_protocol(async |kind, protocol| {
        let ctl = ShutdownController::new();
        let hello = || stream::iter([Ok::<_, Infallible>(Event::default().data("hello"))]);
        let sse = get(move || async move { Sse::new(hello().chain(stream::pending())) });
        let server = Server::start(kind, &ctl, Router::new().route("/", sse)).await;
        let client = client(protocol);
        let mut responses = Vec::new();
        for _ in 0..5 {
            let mut response = client.get(server.url("/")).send().await.unwrap();
            let event = response.chunk().await.unwrap().unwrap();
            assert_eq!(event, "data: hello\n\n");
            responses.push(response);
        }
        assert_eq!(ctl.in_flight(), 5);

        let began = std::time::Instant::now();
        ctl.trigger(MANUAL);
        for response in responses {
            assert_eq!(response.text().await.unwrap(), "");
        }
        drop(client);
        let report = server.report().await;
        assert!(report.is_graceful(), "{report}");
        assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_grpc_client_is_told_that_the_service_is_unavailable() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    in_time(async {
        let ctl = ShutdownController::new();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let app = tonic::service::Routes::new(health).into_axum_router();
        let (address, run) = serve_grpc(&ctl, app).await;
        let channel = tonic::transport::Endpoint::new(format!("http://{address}"));
        let channel = channel.unwrap().connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
        let mut watch = watch.into_inner();
        assert!(watch.message().await.unwrap().is_some());
        assert_eq!(ctl.in_flight(), 1);

        ctl.trigger(MANUAL);
        let status = watch.message().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), "service is shutting down");
        drop((watch, client));
        assert!(run.await.unwrap().is_graceful());
    })
    .await;
}

async fn serve_grpc(
    ctl: &ShutdownController,
    app: Router,
) -> (
    std::net::SocketAddr,
    JoinHandle<tower_lifecycle::ShutdownReport>,
) {
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let layer = DrainLayer::new(ctl.clone()).long_lived(LongLived::path(WATCH));
    let server = axum::serve(listener, app.layer(layer));
    let server = server.with_graceful_shutdown(ctl.stop_accepting());
    (address, tokio::spawn(ctl.run(server)))
}
