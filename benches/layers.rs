//! The cost of a request in time, for each compared service; and the cost of single calls.
//!
//! ```text
//! cargo bench -p benches --features page --bench layers
//! ```
//!
//! Equal code may differ by some nanoseconds between two builds. `bare again` shows the difference
//! within one build. `instructions` counts the instructions of the same requests exactly.

mod common;

use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::Full;
use tower::Layer;
use tower_lifecycle::health::HealthLayer;
use tower_lifecycle::{HealthService, ShutdownController};

use common::peers::{self, Peer};
use common::request::{self, Served};

// ===== requests =====

/// Responds at the first poll; the same service for each request.
fn ready(c: &mut Criterion) {
    compare(c, "ready", request::ready(), call);
}

/// Responds at the second poll.
fn pending_once(c: &mut Criterion) {
    compare(c, "pending_once", request::pending(1), call);
}

/// A new clone of the service for each request, as servers make it.
fn clone_and_ready(c: &mut Criterion) {
    compare(c, "clone_and_ready", request::ready(), call_clone);
}

/// Both: a new clone for each request, which is answered at the second poll.
fn clone_and_pending(c: &mut Criterion) {
    compare(c, "clone_and_pending", request::pending(1), call_clone);
}

fn compare(
    c: &mut Criterion,
    group: &str,
    inner: impl Served<Full<Bytes>>,
    call: fn(&mut Peer, &mut Context<'_>),
) {
    let waker = request::waker();
    let cx = &mut Context::from_waker(&waker);
    let mut group = c.benchmark_group(group);
    for mut peer in peers::all(inner) {
        group.bench_function(peer.name, |b| b.iter(|| call(&mut peer, cx)));
    }
    group.finish();
}

fn call(peer: &mut Peer, cx: &mut Context<'_>) {
    peer.service.requests(1, cx);
}

fn call_clone(peer: &mut Peer, cx: &mut Context<'_>) {
    peer.service.requests_on_clones(1, cx);
}

// ===== single calls =====

fn controller(c: &mut Criterion) {
    let ctl = ShutdownController::new();
    let mut group = c.benchmark_group("controller");
    group.bench_function("in_flight", |b| b.iter(|| ctl.in_flight()));
    group.bench_function("track, drop", |b| b.iter(|| drop(ctl.track())));
    group.bench_function("try_admit, drop", |b| {
        b.iter(|| drop(ctl.try_admit().expect("nothing drains")));
    });
    group.finish();
}

fn health(c: &mut Criterion) {
    let ctl = ShutdownController::new();
    let cx = &mut Context::from_waker(Waker::noop());
    let mut group = c.benchmark_group("health");

    let mut readiness = HealthService::new(ctl.clone());
    group.bench_function("readiness", |b| {
        b.iter(|| request::request(&mut readiness, cx))
    });
    let mut liveness = HealthService::new(ctl.clone()).liveness();
    group.bench_function("liveness", |b| {
        b.iter(|| request::request(&mut liveness, cx))
    });

    let mut bare = request::ready();
    group.bench_function("another path, bare", |b| {
        b.iter(|| request::request(&mut bare, cx))
    });
    let mut layer = HealthLayer::new(ctl).layer(request::ready());
    group.bench_function("another path, HealthLayer", |b| {
        b.iter(|| request::request(&mut layer, cx));
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
}

criterion_group! {
    name = benches;
    config = short();
    targets = ready, pending_once, clone_and_ready, clone_and_pending, controller, health
}
criterion_main!(benches);
