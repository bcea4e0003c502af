//! P10: what the hot path costs in memory. `allocation_counter` is this binary's allocator, and
//! counts for the calling thread only.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::mem::size_of;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use tower::util::{BoxCloneService, Oneshot};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::future::{AnyDrainFuture, DrainFuture, RequestTrackingFuture};
use tower_lifecycle::{
    AnyService, DrainLayer, Http, LongLived, RequestTrackingLayer, ResponseBody,
    ShutdownController, TrackedBody,
};

// ===== allocations =====

fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// Says `Pending` once and then ends: a response future, or a body.
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

/// One request as a server sends it: asks the service for readiness, clones it, calls the clone,
/// polls the response and its body to their ends, and drops everything. Gives the number of polls.
fn serve<S, B>(service: &mut S, cx: &mut Context<'_>) -> usize
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
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

fn respond<S: Service<Request<()>> + Clone>(
    service: &mut S,
    cx: &mut Context<'_>,
    polls: &mut usize,
) -> S::Response {
    assert!(service.poll_ready(cx).is_ready());
    let mut clone = service.clone();
    assert!(clone.poll_ready(cx).is_ready());
    let mut future = pin!(clone.call(Request::new(())));
    loop {
        *polls += 1;
        if let Poll::Ready(Ok(response)) = future.as_mut().poll(cx) {
            return response;
        }
    }
}

type Hello = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn hello(_: Request<()>) -> Hello {
    ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

fn waits(_: Request<()>) -> Waits {
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

/// The layer looks at what a stream is, and finds that it is no class of its own.
#[test]
fn a_stream_allocates_nothing_either_with_classes_of_any_kind() {
    let ctl = ShutdownController::new();
    let stream = || service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Never))));
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

/// A body that never ends and does not know its length.
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
            // Twice the response, and twice its body.
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

// ===== sizes =====

/// Asserts how much larger the futures and the bodies are than what they carry.
macro_rules! assert_growth {
    ($($inner:ty),* $(,)?) => {$(
        let inner = size_of::<$inner>();
        let futures = [
            size_of::<DrainFuture<$inner>>(),
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
        // Without a niche of their own.
        (),
        u64,
        [u64; 5],
        // Bodies, and what they are made of.
        Bytes,
        Full<Bytes>,
        Empty<Bytes>,
        axum::body::Body,
        hyper::body::Incoming,
        // Futures.
        Pin<Box<dyn Future<Output = ()> + Send>>,
        Hello,
        axum::routing::future::RouteFuture<Infallible>,
        Oneshot<BoxCloneService<Request<()>, Response<()>, Infallible>, Request<()>>,
    );
}

#[test]
fn a_guard_is_two_words() {
    assert_eq!(size_of::<tower_lifecycle::InFlightGuard>(), 16);
}
