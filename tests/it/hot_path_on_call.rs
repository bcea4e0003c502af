//! Faults on the hot path: unexpected panics, and which tasks are woken.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{
    DrainLayer, LongLived, RequestTrackingLayer, ShutdownConfig, ShutdownController, ShutdownReason,
};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::layers::send;
use crate::support::log::listen;
use crate::support::shutdown::settle;

const MANUAL: ShutdownReason = ShutdownReason::Manual;

// ===== panic payloads that panic in their drop =====

/// A panic payload that panics when it is dropped.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("the payload of a panic");
        }
    }
}

struct BadWake;

impl Wake for BadWake {
    fn wake(self: Arc<Self>) {
        panic_any(Payload);
    }
}

/// A handler that never responds.
async fn stalls(_: Request<Empty<Bytes>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    pending().await
}

#[tokio::test(start_paused = true)]
async fn whatever_a_waker_panics_with_the_others_are_woken() {
    let ctl = ShutdownController::new();
    let guard = ctl.track();
    let mut bad = pin!(ctl.drained());
    let waker = Waker::from(Arc::new(BadWake));
    assert_pending!(bad.as_mut().poll(&mut Context::from_waker(&waker)));
    let mut good = task::spawn(ctl.drained());
    assert_pending!(good.poll());
    ctl.trigger(MANUAL);
    settle().await;
    let _ = catch_unwind(AssertUnwindSafe(|| drop(guard)));
    assert!(good.is_woken());
    assert_ready!(good.poll());
}

/// A subscriber that panics at each warning.
struct BadLog;

impl Subscriber for BadLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, _: &Event<'_>) {
        panic!("the log, as planned");
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// It still exists, and may be polled again.
#[tokio::test(start_paused = true)]
async fn a_body_is_cut_once_also_when_the_log_panics() {
    for content_type in ["text/plain", "text/event-stream"] {
        let begins =
            move |_: Request<Empty<Bytes>>| async move { Ok::<_, Infallible>(begun(content_type)) };
        let ctl = ShutdownController::new();
        let mut service = DrainLayer::new(ctl.clone()).layer(service_fn(begins));
        let cx = &mut Context::from_waker(Waker::noop());
        let response = send(&mut service, Request::new(Empty::new()))
            .await
            .unwrap();
        let mut body = Box::pin(response.into_body());
        ctl.force();
        for _ in 0..2 {
            let _log = listen(BadLog);
            let poll = || drop(body.as_mut().poll_frame(cx));
            let _ = catch_unwind(AssertUnwindSafe(poll));
        }
        let figures = (ctl.in_flight(), ctl.metrics().aborted);
        assert_eq!(figures, (0, 1), "{content_type}");
    }
}

// ===== panics in drops =====

/// Records the number in flight when it is dropped, and then panics.
#[derive(Debug)]
struct Bad {
    ctl: ShutdownController,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.seen.lock().unwrap().push(self.ctl.in_flight());
        panic!("in a drop, as planned");
    }
}

/// How a request, or a body, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Fails,
    Dropped,
    Forced,
}

const ENDS: [End; 4] = [End::Whole, End::Fails, End::Dropped, End::Forced];

#[derive(Debug)]
struct Part {
    end: End,
    _bad: Option<Bad>,
}

impl Part {
    fn poll(&self) -> Poll<Result<(), &'static str>> {
        match self.end {
            End::Whole => Poll::Ready(Ok(())),
            End::Fails => Poll::Ready(Err("as planned")),
            End::Dropped | End::Forced => Poll::Pending,
        }
    }
}

/// A response with this content type, whose body stays pending forever.
fn begun(content_type: &str) -> Response<Part> {
    let body = Part {
        end: End::Dropped,
        _bad: None,
    };
    let response = Response::builder().header(CONTENT_TYPE, content_type);
    response.body(body).unwrap()
}

struct Handler {
    part: Part,
    answer: Option<Response<Part>>,
}

impl Future for Handler {
    type Output = Result<Response<Part>, &'static str>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        self.part
            .poll()
            .map_ok(|()| self.answer.take().expect("polled once"))
    }
}

impl Body for Part {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.poll().map(|result| result.err().map(Err))
    }
}

/// Sends one request whose future or body panics when it is dropped, and ends it as given.
fn end<S, B>(ctl: &ShutdownController, mut service: S, request: Request<Empty<Bytes>>, end: End)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let mut future = Box::pin(service.call(request));
    let first = future.as_mut().poll(cx);
    let Poll::Ready(Ok(response)) = first else {
        if end == End::Forced {
            ctl.force();
            let _ = future.as_mut().poll(cx);
        }
        return;
    };
    drop(future);
    let mut body = Box::pin(response.into_body());
    let first = body.as_mut().poll_frame(cx);
    if first.is_pending() && end == End::Forced {
        ctl.force();
        let _ = body.as_mut().poll_frame(cx);
    }
}

type Answers<'a> = &'a dyn Fn() -> Response<()>;

/// P2, with any panic: the inner value is dropped first, and it is uncounted once.
#[test]
fn a_drop_that_panics_releases_once_and_before_the_guard() {
    let plain = || Response::new(());
    let events = || {
        let mut response = Response::new(());
        let sse = "text/event-stream".parse().unwrap();
        response.headers_mut().insert(CONTENT_TYPE, sse);
        response
    };
    let upgrade = || {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    };
    let kinds: [(&str, bool, Answers<'_>); 4] = [
        ("plain", false, &plain),
        ("events", false, &events),
        ("upgrade asked for", true, &plain),
        ("upgrade", true, &upgrade),
    ];
    for (kind, asks, answer) in kinds {
        for how in ENDS {
            for of_body in [false, true] {
                for tracking in [false, true] {
                    let case = format!("{kind}, {how:?}, of body: {of_body}, {tracking}");
                    let ctl = ShutdownController::new();
                    let seen = Arc::<Mutex<Vec<u64>>>::default();
                    let bad = || {
                        let (ctl, seen) = (ctl.clone(), Arc::clone(&seen));
                        Some(Bad { ctl, seen })
                    };
                    let (future, body) = if of_body {
                        ((End::Whole, None), (how, bad()))
                    } else {
                        ((how, bad()), (End::Whole, None))
                    };
                    let part = |(end, _bad)| Part { end, _bad };
                    let mut handler = Some(Handler {
                        part: part(future),
                        answer: Some(answer().map(|()| part(body))),
                    });
                    let mut request = Request::new(Empty::new());
                    if asks {
                        let websocket = "websocket".parse().unwrap();
                        request.headers_mut().insert(UPGRADE, websocket);
                    }
                    let handler = service_fn(move |_: Request<Empty<Bytes>>| {
                        handler.take().expect("it is called once")
                    });
                    let run = || {
                        if tracking {
                            let layer = RequestTrackingLayer::new(ctl.clone());
                            end(&ctl, layer.layer(handler), request, how);
                        } else {
                            let layer = DrainLayer::new(ctl.clone());
                            end(&ctl, layer.layer(handler), request, how);
                        }
                    };
                    let run = catch_unwind(AssertUnwindSafe(run));
                    assert!(run.is_err(), "{case}: nothing panicked");
                    assert_eq!(*seen.lock().unwrap(), [1], "{case}");
                    assert_eq!(ctl.in_flight(), 0, "{case}");
                }
            }
        }
    }
}

// ===== notification =====

/// During a pause, exempt requests are counted separately, and notified like all others.
#[tokio::test(start_paused = true)]
async fn who_came_in_a_pause_is_told_of_draining_and_of_force() {
    let ctl = ShutdownController::new();
    ctl.pause();
    let guard = ctl.track();
    ctl.unpause();
    let mut draining = task::spawn(guard.draining());
    let mut forced = task::spawn(guard.forced());
    assert_pending!(draining.poll());
    assert_pending!(forced.poll());

    ctl.trigger(MANUAL);
    settle().await;
    assert!(draining.is_woken());
    assert_ready!(draining.poll());
    assert!(!forced.is_woken());

    ctl.force();
    settle().await;
    assert!(forced.is_woken());
    assert_ready!(forced.poll());
}

/// The same for the thread that gives up, when the runtime that drives the shutdown ends.
#[test]
fn who_came_in_a_pause_is_told_also_when_the_runtime_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    ctl.pause();
    let guard = ctl.track();
    let mut draining = task::spawn(guard.draining());
    let mut forced = task::spawn(guard.forced());
    assert_pending!(draining.poll());
    assert_pending!(forced.poll());

    ctl.trigger(MANUAL);
    drop(runtime);
    assert!(draining.is_woken() && forced.is_woken());
    assert_ready!(draining.poll());
    assert_ready!(forced.poll());
}

/// Between the force and its wake-up, a poll by the same task checks again.
#[tokio::test(start_paused = true)]
async fn who_polls_before_the_wake_up_is_told_at_once() {
    let ctl = ShutdownController::new();
    let guard = ctl.track();
    let mut forced = task::spawn(guard.forced());
    assert_pending!(forced.poll());
    assert_pending!(forced.poll());
    ctl.force();
    assert!(!forced.is_woken(), "woken already: the test shows nothing");
    assert_ready!(forced.poll());
}

/// The same waker then waits for more than before.
#[tokio::test(start_paused = true)]
async fn a_stream_read_by_the_task_that_waited_for_its_head_is_told_of_draining() {
    let ctl = ShutdownController::new();
    let events = |_: Request<Empty<Bytes>>| async {
        let mut waited = false;
        poll_fn(|_| {
            if std::mem::replace(&mut waited, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok::<_, Infallible>(begun("text/event-stream"))
    };
    let mut service = DrainLayer::new(ctl.clone()).layer(service_fn(events));
    let request = async {
        poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
        let response = service.call(Request::new(Empty::new())).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let mut request = task::spawn(request);
    assert_pending!(request.poll(), "the head");
    assert_pending!(request.poll(), "the body");
    ctl.trigger(MANUAL);
    settle().await;
    assert!(request.is_woken());
    assert!(assert_ready!(request.poll()).is_empty());
}

// ===== cuts =====

/// The responses to cut requests share a template, and are independent.
#[tokio::test(start_paused = true)]
async fn what_one_cut_answer_lacks_the_next_one_has() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone());
    let requests = [Method::HEAD, Method::GET, Method::HEAD, Method::GET].map(|method| {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        send(&mut layer.layer(service_fn(stalls)), request)
    });
    ctl.force();
    let mut lengths = Vec::new();
    for request in requests {
        let mut response: Response<ResponseBody<_>> = request.await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        let length: u64 = response.headers()["content-length"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        // The owner of one may change it.
        response.headers_mut().clear();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        lengths.push((length, body.len() as u64));
    }
    let whole = lengths[1].0;
    assert!(whole > 0);
    assert_eq!(
        lengths,
        [(whole, 0), (whole, whole), (whole, 0), (whole, whole)]
    );
}

/// The class of the path and the type of the call are stored together.
#[tokio::test(start_paused = true)]
async fn a_cut_call_is_answered_in_its_protocol_whatever_class_its_path_is() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).long_lived(LongLived::path("/watch"));
    let types = ["application/json", "application/grpc-web+proto"];
    let calls = types.map(|content_type| {
        let request = Request::post("/watch").header(CONTENT_TYPE, content_type);
        let request = request.body(Empty::new()).unwrap();
        send(&mut layer.layer(service_fn(stalls)), request)
    });
    ctl.force();
    let mut answers = Vec::new();
    for call in calls {
        let response = call.await.unwrap();
        let content_type = response.headers()[CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned();
        answers.push((response.status().as_u16(), content_type));
    }
    let expected = [503, 200].into_iter().zip(types.map(str::to_owned));
    assert!(answers.into_iter().eq(expected));
}

// ===== refusals =====

// ===== a drop that panics between the response and its guard =====

/// Records the number in flight when it is dropped, and then panics if configured.
struct Noted {
    name: &'static str,
    panics: bool,
    log: Log,
}

#[derive(Clone)]
struct Log {
    ctl: ShutdownController,
    dropped: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

impl Log {
    fn new(ctl: &ShutdownController) -> Self {
        Self {
            ctl: ctl.clone(),
            dropped: Arc::default(),
        }
    }

    fn noted(&self, name: &'static str, panics: bool) -> Noted {
        Noted {
            name,
            panics,
            log: self.clone(),
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let in_flight = self.log.ctl.in_flight();
        let mut dropped = self
            .log
            .dropped
            .lock()
            .unwrap_or_else(|log| log.into_inner());
        dropped.push((self.name, in_flight));
        drop(dropped);
        if self.panics {
            panic!("the drop of {}, as planned", self.name);
        }
    }
}

/// A body that stays pending forever. It panics at this call of its size hint.
struct Asked {
    _noted: Noted,
    times: Cell<u32>,
}

impl Body for Asked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.times.get().checked_sub(1).expect("as planned");
        self.times.set(left);
        SizeHint::default()
    }
}

/// P2: also when the response is there, and the drop of the handler panics.
#[test]
fn an_answer_goes_before_its_guard_when_the_drop_of_the_handler_panics() {
    let upgrade = || {
        Request::get("/")
            .header(UPGRADE, "echo")
            .body(Empty::new())
            .unwrap()
    };
    for content_type in ["text/plain", "text/event-stream"] {
        for (tracking, request) in [
            (false, Request::new(Empty::new())),
            (true, Request::new(Empty::new())),
            (false, upgrade()),
        ] {
            let asked = format!("{content_type}, {tracking}, {:?}", request.headers());
            let ctl = ShutdownController::new();
            let log = Log::new(&ctl);
            let handler = |_: Request<Empty<Bytes>>| {
                let (held, _noted) = (log.noted("handler", true), log.noted("body", false));
                let times = Cell::new(u32::MAX); // never reached
                let mut body = Some(Asked { _noted, times });
                poll_fn(move |_| {
                    let _ = &held;
                    let response = Response::builder().header(CONTENT_TYPE, content_type);
                    let body = body.take().expect("it is polled once");
                    Poll::Ready(Ok::<_, Infallible>(response.body(body).unwrap()))
                })
            };
            if tracking {
                let layer = RequestTrackingLayer::new(ctl.clone());
                poll_and_drop(layer.layer(service_fn(handler)), request);
            } else {
                let layer = DrainLayer::new(ctl.clone());
                poll_and_drop(layer.layer(service_fn(handler)), request);
            }
            let dropped = log.dropped.lock().unwrap();
            assert_eq!(*dropped, [("handler", 1), ("body", 1)], "{asked}");
            assert_eq!(ctl.in_flight(), 0);
        }
    }
}

/// P2: also when the response panics when it is checked, lastly by this crate.
#[test]
fn handler_and_answer_go_before_the_guard_when_the_length_panics() {
    for times in 0..2 {
        let ctl = ShutdownController::new();
        let log = Log::new(&ctl);
        let handler = |_: Request<Empty<Bytes>>| {
            let (held, _noted) = (log.noted("handler", false), log.noted("body", false));
            let times = Cell::new(times);
            let mut body = Some(Asked { _noted, times });
            poll_fn(move |_| {
                let _ = &held;
                let body = body.take().expect("it is polled once");
                Poll::Ready(Ok::<_, Infallible>(Response::new(body)))
            })
        };
        let layer = DrainLayer::new(ctl.clone());
        poll_and_drop(layer.layer(service_fn(handler)), Request::new(Empty::new()));
        let mut dropped = log.dropped.lock().unwrap();
        dropped.sort_unstable(); // they may be dropped in any order
        assert_eq!(*dropped, [("body", 1), ("handler", 1)], "{times}");
        assert_eq!(ctl.in_flight(), 0);
    }
}

fn poll_and_drop<S: Service<Request<Empty<Bytes>>>>(
    mut service: S,
    request: Request<Empty<Bytes>>,
) {
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let mut response = Box::pin(service.call(request));
    let polled = catch_unwind(AssertUnwindSafe(|| response.as_mut().poll(cx).is_ready()));
    assert!(polled.is_err(), "the drop panics");
}

// ===== wakers that change while force comes =====

struct Flag<const KIND: u8>(AtomicBool);

impl<const KIND: u8> Wake for Flag<KIND> {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// In real time: a request is polled with any wakers, any number of times, while another thread
/// forces. The last waker is woken, or the request is cut.
#[test]
fn the_last_waker_is_woken_whatever_force_falls_between() {
    for round in 0_usize..200 {
        let ctl = ShutdownController::new();
        let mut service = DrainLayer::new(ctl.clone()).layer(service_fn(stalls));
        let mut request = Box::pin(send(&mut service, Request::new(Empty::new())));
        let (one, two) = (
            Arc::new(Flag::<1>(false.into())),
            Arc::new(Flag::<1>(false.into())),
        );
        let other = Arc::new(Flag::<2>(false.into()));
        let wakers: [Waker; 3] = [one.clone().into(), two.clone().into(), other.clone().into()];
        let woken = [&one.0, &two.0, &other.0];

        let forcer = std::thread::spawn(move || {
            (0..round * 20).for_each(|_| std::hint::spin_loop());
            ctl.force();
            ctl
        });
        let mut last = None;
        let mut random = round as u32;
        for _ in 0..300 + round {
            // The same waker or another one, from a small random generator.
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let waker = (random >> 16) as usize % 3;
            let polled = request
                .as_mut()
                .poll(&mut Context::from_waker(&wakers[waker]));
            last = polled.is_pending().then_some(waker);
            if last.is_none() {
                break;
            }
        }
        if let Some(waker) = last {
            let began = Instant::now();
            while !woken[waker].load(Ordering::Acquire) {
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "not woken in round {round}"
                );
                std::thread::yield_now();
            }
            let cx = &mut Context::from_waker(&wakers[waker]);
            assert!(request.as_mut().poll(cx).is_ready());
        }
        let ctl = forcer.join().unwrap();
        drop(request);
        assert_eq!(ctl.in_flight(), 0);
    }
}

#[test]
fn a_body_shows_what_it_is_and_not_how_it_is_kept() {
    let ctl = ShutdownController::with_config(ShutdownConfig::default().late_for(Duration::ZERO));
    let ctl = ctl.unwrap();
    ctl.trigger(MANUAL);
    let hello = |_: Request<Empty<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(http_body_util::Full::<Bytes>::from("hello")))
    };
    let mut app = DrainLayer::new(ctl).layer(service_fn(hello));
    let _ = assert_ready!(task::spawn(poll_fn(|cx| app.poll_ready(cx))).poll());
    let refused = assert_ready!(task::spawn(app.call(Request::new(Empty::new()))).poll()).unwrap();
    let shown = format!("{:?}", refused.body());
    assert!(
        shown == r#"ResponseBody { kind: "refusal", .. }"#,
        "{shown}"
    );
}
