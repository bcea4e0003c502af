//! P10: the memory cost of the hot path.
//!
//! A separate program, because `allocation_counter` is its allocator. It counts only the calling
//! thread's allocations, so the tests may run in parallel.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::hint::black_box;
use std::mem::size_of;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use tower::util::{BoxCloneService, Oneshot};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::layers::{AnyDrainFuture, DrainFuture, RequestTrackingFuture};
use tower_lifecycle::layers::{AnyService, Http, ResponseBody, TrackedBody};
use tower_lifecycle::{DrainLayer, LongLived, RequestTrackingLayer, ShutdownController};

// ===== allocations =====

fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// A response future or a body that is pending once and then ends.
struct Waits {
    pending: bool,
}

impl Waits {
    fn poll_once(&mut self) -> Poll<()> {
        if std::mem::take(&mut self.pending) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Future for Waits {
    type Output = Result<Response<Waits>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let body = Waits { pending: true };
        self.poll_once().map(|()| Ok(Response::new(body)))
    }
}

impl Body for Waits {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_once().map(|()| None)
    }
}

/// One request as a server sends it: polls readiness, clones the service, calls the clone, polls
/// the response and its body to their ends, and drops everything. Returns the number of polls.
fn serve<S, B>(service: &mut S, cx: &mut Context<'_>) -> usize
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone,
    B: Body,
{
    let mut polls = 0;
    let response = respond(service, cx, &mut polls);
    let mut body = pin!(response.into_body());
    loop {
        polls += 1;
        if let Poll::Ready(None) = body.as_mut().poll_frame(cx) {
            return polls;
        }
    }
}

fn respond<S: Service<Request<Empty<Bytes>>> + Clone>(
    service: &mut S,
    cx: &mut Context<'_>,
    polls: &mut usize,
) -> S::Response {
    assert!(service.poll_ready(cx).is_ready());
    let mut clone = service.clone();
    assert!(clone.poll_ready(cx).is_ready());
    let mut future = pin!(clone.call(Request::new(Empty::new())));
    loop {
        *polls += 1;
        if let Poll::Ready(Ok(response)) = future.as_mut().poll(cx) {
            return response;
        }
    }
}

type Hello = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn hello(_: Request<Empty<Bytes>>) -> Hello {
    ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

fn waits(_: Request<Empty<Bytes>>) -> Waits {
    Waits { pending: true }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1_u64)))), 1);
}

#[test]
fn a_ready_request_allocates_nothing() {
    let ctl = ShutdownController::new();
    let mut drain = DrainLayer::new(ctl.clone()).layer(service_fn(hello));
    let mut tracking = RequestTrackingLayer::new(ctl.clone()).layer(service_fn(hello));
    let mut any = DrainLayer::new(ctl.clone())
        .reject_with_error()
        .layer(service_fn(hello));
    let mut until = RequestTrackingLayer::new(ctl)
        .until_response()
        .layer(service_fn(hello));

    let cx = &mut Context::from_waker(Waker::noop());
    let mut polls = [0; 4];
    assert_eq!(allocations(|| polls[0] = serve(&mut drain, cx)), 0);
    assert_eq!(allocations(|| polls[1] = serve(&mut tracking, cx)), 0);
    assert_eq!(allocations(|| polls[2] = serve(&mut any, cx)), 0);
    assert_eq!(allocations(|| polls[3] = serve(&mut until, cx)), 0);
    // The response, its data, and its end.
    assert_eq!(polls, [3; 4]);
}

/// The layer checks the type of the stream, which is not long-lived.
#[test]
fn a_stream_allocates_nothing_either_with_classes_of_any_kind() {
    let ctl = ShutdownController::new();
    let stream =
        || service_fn(|_: Request<Empty<Bytes>>| ready(Ok::<_, Infallible>(Response::new(Never))));
    let mut layer = DrainLayer::new(ctl.clone());
    let mut plain = layer.layer(stream());
    for path in ["/watch", "/log"] {
        layer = layer.long_lived(LongLived::path(path));
    }
    let mut paths = layer.layer(stream());
    let cx = &mut Context::from_waker(Waker::noop());
    let mut polls = 0;
    assert_eq!(allocations(|| drop(respond(&mut plain, cx, &mut polls))), 0);
    assert_eq!(allocations(|| drop(respond(&mut paths, cx, &mut polls))), 0);
    assert_eq!(polls, 2);
    assert_eq!(ctl.in_flight(), 0);
}

/// A body without end and without a known length.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[test]
fn a_request_that_waits_allocates_nothing_once_there_is_a_place_for_its_waker() {
    let ctl = ShutdownController::new();
    let mut drain = DrainLayer::new(ctl.clone()).layer(service_fn(waits));
    let mut any = DrainLayer::new(ctl.clone())
        .reject_with_error()
        .layer(service_fn(waits));
    let mut tracking = RequestTrackingLayer::new(ctl.clone()).layer(service_fn(waits));

    let wakers: [Waker; 2] = std::array::from_fn(|_| Waker::from(Arc::new(Nobody)));
    let mut round = || {
        for waker in &wakers {
            let cx = &mut Context::from_waker(waker);
            // Two polls of the response, and two of its body.
            assert_eq!(serve(&mut drain, cx), 4);
            assert_eq!(serve(&mut any, cx), 4);
            assert_eq!(serve(&mut tracking, cx), 4);
        }
    };
    round();
    let steady = allocations(|| (0..100).for_each(|_| round()));
    assert_eq!(steady, 0);
    assert_eq!(ctl.in_flight(), 0);
}

/// For any outcome: served, cut, refused, exempt, ended by the drain, or dropped at any time.
#[test]
fn what_is_dropped_leaves_no_memory_behind() {
    // The log thread frees what is logged, and is not counted here.
    let silent = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR);
    let _log = tracing::subscriber::set_default(silent.finish());
    let kinds = || {
        // Declared first, so that they are dropped last, after layers, services and controller.
        let (mut guards, mut left) = (Vec::new(), Vec::new());
        let ctl = ShutdownController::new();
        let layer = DrainLayer::new(ctl.clone())
            .exempt_paths(["/health"])
            .long_lived(LongLived::path("/watch"));
        let mut hellos = layer.layer(service_fn(hello));
        let mut waiting = layer.layer(service_fn(waits));
        let stream = |_: Request<Empty<Bytes>>| ready(Ok::<_, Infallible>(Response::new(Never)));
        let mut streams = layer.layer(service_fn(stream));
        let mut tracking = RequestTrackingLayer::new(ctl.clone()).layer(service_fn(waits));
        let mut any = DrainLayer::new(ctl.clone())
            .reject_with_error()
            .layer(service_fn(waits));
        let waker = Waker::from(Arc::new(Nobody));
        let cx = &mut Context::from_waker(&waker);
        let get = |path: &str| Request::get(path).body(Empty::new()).unwrap();
        let upgrade = || {
            Request::get("/")
                .header("upgrade", "echo")
                .body(Empty::new())
                .unwrap()
        };

        for request in [get("/"), get("/health"), get("/watch"), upgrade()] {
            for paused in [false, true] {
                assert!(!paused || ctl.pause());
                assert!(streams.poll_ready(cx).is_ready());
                let mut response = Box::pin(streams.call(request.clone()));
                let Poll::Ready(Ok(mut response)) = response.as_mut().poll(cx) else {
                    panic!("it is ready");
                };
                let _ = Pin::new(response.body_mut()).poll_frame(cx);
                assert!(waiting.poll_ready(cx).is_ready());
                let mut dropped = Box::pin(waiting.call(request.clone()));
                let _ = dropped.as_mut().poll(cx);
                drop(hellos.call(request.clone())); // readiness is not polled
                assert!(hellos.poll_ready(cx).is_ready());
                drop(hellos.call(request.clone())); // and this one is not polled
                assert!(!paused || ctl.unpause());
            }
        }
        serve(&mut waiting, cx);
        serve(&mut tracking, cx);
        serve(&mut any, cx);
        assert_eq!(ctl.in_flight(), 0);

        guards.push(ctl.track());
        assert!(waiting.poll_ready(cx).is_ready());
        left.push(Box::pin(waiting.call(get("/"))));
        assert!(left[0].as_mut().poll(cx).is_pending());
    };
    // Warms up the global state. Other tests use controllers meanwhile, whose memory is kept for later
    // ones, so there has to be enough of it.
    drop(
        (0..32)
            .map(|_| ShutdownController::new())
            .collect::<Vec<_>>(),
    );
    kinds();
    assert_eq!(allocation_counter::measure(kinds).bytes_current, 0);
}

/// Their gates are never freed, and are used again.
#[test]
fn the_memory_of_thousands_of_controllers_is_bounded() {
    let memory = allocation_counter::measure(|| {
        for n in 0..3_000 {
            let ctl = ShutdownController::new();
            let service = DrainLayer::new(ctl.clone()).layer(service_fn(hello));
            let guard = ctl.track();
            // Whatever goes last, gives the gate back.
            match n % 3 {
                0 => drop((guard, service, ctl)),
                1 => drop((service, ctl, guard)),
                _ => drop((ctl, guard, service)),
            }
        }
    });
    // A gate has a kilobyte at least, and other tests may take some of those that are free.
    assert!(memory.bytes_current < 64 * 1_024, "{memory:?}");
}

/// Servers make a layer's services for every connection; a layer has one table for all of them.
#[test]
fn the_services_of_a_layer_share_what_they_need() {
    let layer = DrainLayer::new(ShutdownController::new());
    let _first = layer.layer(());
    let made = allocation_counter::measure(|| {
        for _ in 0..1_000 {
            let _ = layer.clone().layer(());
        }
    });
    assert_eq!(made.count_total, 0);
}

/// Thousands of requests are refused while the last ones complete.
#[test]
fn a_refusal_takes_no_memory_for_the_handler_that_is_not_called() {
    const LARGE: usize = 64 * 1024;
    let large = |_: Request<Empty<Bytes>>| async {
        let data = [0_u8; LARGE];
        pending::<()>().await;
        black_box(&data);
        Ok::<Response<Empty<Bytes>>, Infallible>(Response::default())
    };
    let ctl = ShutdownController::new();
    let mut service = DrainLayer::new(ctl.clone()).layer(service_fn(large));
    ctl.pause();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let memory = allocation_counter::measure(|| {
        let mut refused = pin!(service.call(Request::new(Empty::new())));
        assert!(size_of_val(&*refused) >= LARGE);
        assert!(refused.as_mut().poll(cx).is_ready());
    });
    assert!(memory.bytes_total < LARGE as u64 / 8, "{memory:?}");
}

// ===== wakers =====

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The waker of another executor.
#[derive(Default)]
struct Elsewhere(AtomicUsize);

impl Wake for Elsewhere {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// For any wakers that a request was polled with before, any number of times.
#[tokio::test(start_paused = true)]
async fn force_wakes_the_last_waker_that_a_request_was_polled_with() {
    let (one, two) = (Arc::new(Task::default()), Arc::new(Task::default()));
    let elsewhere = Arc::new(Elsewhere::default());
    let wakers: [Waker; 3] = [
        one.clone().into(),
        two.clone().into(),
        elsewhere.clone().into(),
    ];
    for polls in
        (0..3_usize.pow(5)).map(|n| [0, 1, 2, 3, 4].map(|place| n / 3_usize.pow(place) % 3))
    {
        let ctl = ShutdownController::new();
        let stalls =
            service_fn(|_: Request<Empty<Bytes>>| pending::<Result<Response<Never>, Infallible>>());
        let mut service = DrainLayer::new(ctl.clone()).layer(stalls);
        assert!(
            service
                .poll_ready(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
        let mut request = Box::pin(service.call(Request::new(Empty::new())));
        for poll in polls {
            let cx = &mut Context::from_waker(&wakers[poll]);
            assert!(request.as_mut().poll(cx).is_pending());
        }
        ctl.force();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let woken = [&one.0, &two.0, &elsewhere.0].map(|count| count.swap(0, Ordering::Relaxed));
        let mut last = [0; 3];
        last[polls[4]] = 1;
        assert_eq!(woken, last, "polled with {polls:?}");
        let cx = &mut Context::from_waker(&wakers[0]);
        assert!(matches!(request.as_mut().poll(cx), Poll::Ready(Ok(cut)) if cut.status() == 503));
        assert_eq!(ctl.in_flight(), 0);
    }
}

// ===== sizes =====

/// Asserts how much larger the futures and the bodies are than the ones that they wrap.
macro_rules! assert_growth {
    ($($inner:ty),* $(,)?) => {$(
        let inner = size_of::<$inner>();
        let futures = [
            size_of::<DrainFuture<$inner, [u64; 5]>>(),
            size_of::<AnyDrainFuture<$inner>>(),
            size_of::<RequestTrackingFuture<$inner, Http>>(),
            size_of::<RequestTrackingFuture<$inner, AnyService>>(),
        ];
        let bodies = [size_of::<ResponseBody<$inner>>(), size_of::<TrackedBody<$inner>>()];
        for future in futures {
            assert!(future <= inner + 24, "{future} of {inner}: {}", stringify!($inner));
        }
        for body in bodies {
            assert!(body <= inner + 16, "{body} of {inner}: {}", stringify!($inner));
        }
    )*};
}

#[test]
fn a_response_future_grows_by_at_most_24_bytes_and_a_body_by_16() {
    assert_growth!(
        // Types without a niche.
        (),
        u64,
        [u64; 5],
        // Bodies, and their parts.
        Bytes,
        Full<Bytes>,
        Empty<Bytes>,
        axum::body::Body,
        hyper::body::Incoming,
        // Futures.
        Pin<Box<dyn Future<Output = ()> + Send>>,
        Hello,
        axum::routing::future::RouteFuture<Infallible>,
        Oneshot<
            BoxCloneService<Request<Empty<Bytes>>, Response<()>, Infallible>,
            Request<Empty<Bytes>>,
        >,
    );
}

#[test]
fn a_guard_is_two_words() {
    assert_eq!(size_of::<tower_lifecycle::InFlightGuard>(), 16);
}
