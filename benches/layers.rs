//! What a layer costs: one request through a bare service, and through the layers around it.
//!
//! One request is what a server does for it: clone the service, ask for its readiness, call, poll
//! to the response, read the body to its end, and drop all of it.
//!
//! ```text
//! cargo bench --bench layers
//! ```

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service, layer::util::Stack, service_fn};
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController};

/// Responses that are there at the first poll: the path without a lock.
fn ready(c: &mut Criterion) {
    let service = service_fn(|_: Request<()>| async { respond() });
    compare(c, "ready", service);
}

/// Responses that wait once: one short lock more.
fn pending_once(c: &mut Criterion) {
    let service = service_fn(|_: Request<()>| async {
        yield_once().await;
        respond()
    });
    compare(c, "pending_once", service);
}

fn compare<S, B>(c: &mut Criterion, group: &str, service: S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let ctl = ShutdownController::new();
    let drain = DrainLayer::new(ctl.clone());
    let tracking = RequestTrackingLayer::new(ctl);
    let both = Stack::new(tracking.clone(), drain.clone());

    let mut group = c.benchmark_group(group);
    let bare = service.clone();
    group.bench_function("bare", |b| b.iter(|| request(&bare)));
    let tracked = tracking.layer(service.clone());
    group.bench_function("tracking", |b| b.iter(|| request(&tracked)));
    let drained = drain.layer(service.clone());
    group.bench_function("drain", |b| b.iter(|| request(&drained)));
    let both = both.layer(service);
    group.bench_function("both", |b| b.iter(|| request(&both)));
    group.finish();
}

fn request<S, B>(service: &S)
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = service.clone();
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = pin!(service.call(black_box(Request::new(()))));
    let response = loop {
        if let Poll::Ready(response) = future.as_mut().poll(&mut cx) {
            break response;
        }
    };
    let Ok(response) = response else {
        unreachable!("the service does not fail")
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_ok());
    }
}

fn respond() -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = benches; config = short(); targets = ready, pending_once }
criterion_main!(benches);
