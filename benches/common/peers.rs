//! The compared services.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Context;

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use swansong::Swansong;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::limit::ConcurrencyLimitLayer;
use tower_http::metrics::InFlightRequestsLayer;
use tower_lifecycle::layers::RequestNamesLayer;
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController};

use super::by_hand;
use super::keep::{NoGuard, keep};
use super::request::{Served, request, request_on_clone};

/// Visits each compared service, in its own type.
pub trait Visitor {
    /// `name` is its name in tables, `covers` describes what it does, in a few words.
    fn visit<S, B>(&mut self, name: &'static str, covers: &'static str, service: S)
    where
        S: Served<B>,
        B: Body + Send + 'static;
}

/// A compared service, with its type erased.
pub struct Peer {
    /// Its name in tables.
    pub name: &'static str,
    /// What it does, in a few words.
    pub covers: &'static str,
    /// The service.
    pub service: Box<dyn Requests>,
}

/// Sends a number of requests, one after the other, to a type-erased service.
pub trait Requests: Send + Sync {
    /// Calls the service itself.
    fn requests(&mut self, count: u32, cx: &mut Context<'_>);

    /// Calls a new clone for each request, as servers do.
    fn requests_on_clones(&self, count: u32, cx: &mut Context<'_>);

    /// Returns a clone, as a server makes one for each connection.
    fn clone_boxed(&self) -> Box<dyn Requests>;
}

/// The number of compared services.
pub const COUNT: usize = 15;

/// Returns all of them, around this service.
pub fn all(inner: impl Served<Full<Bytes>>) -> Vec<Peer> {
    let mut peers = Vec::new();
    visit(inner, &mut peers);
    peers
}

/// Visits all of them, around this service.
///
/// The handles that would end them are never used, and are kept until the program ends.
pub fn visit(inner: impl Served<Full<Bytes>>, visitor: &mut impl Visitor) {
    let inner = || inner.clone();

    visitor.visit("bare", "nothing", inner());
    visitor.visit(
        "bare again",
        "nothing: how far equal code is apart",
        inner(),
    );
    visitor.visit(
        "empty wrapper",
        "nothing, in a future and a body: the floor of what keeps something to the body's end",
        keep(inner(), NoGuard::new),
    );

    let ctl = ShutdownController::new();
    visitor.visit(
        "RequestTrackingLayer",
        "counts to the body's end, waits",
        RequestTrackingLayer::new(ctl.clone()).layer(inner()),
    );
    visitor.visit(
        "DrainLayer",
        "counts to the body's end, refuses, waits, cuts response and body",
        DrainLayer::new(ctl.clone()).layer(inner()),
    );
    visitor.visit(
        "RequestNamesLayer",
        "names what waits",
        RequestNamesLayer::new(ctl.clone()).layer(inner()),
    );
    std::mem::forget(ctl);

    let (in_flight, _) = InFlightRequestsLayer::pair();
    visitor.visit(
        "tower-http InFlightRequests",
        "counts to the body's end",
        in_flight.layer(inner()),
    );

    let tracker = TaskTracker::new();
    let force = CancellationToken::new();
    visitor.visit(
        "TaskTracker",
        "counts to the response, waits",
        by_hand::track_future(inner(), tracker.clone()),
    );
    visitor.visit(
        "TaskTracker, select!",
        "counts to the body's end, refuses, waits, cuts the response",
        by_hand::token_and_select(inner(), tracker.clone(), force.clone()),
    );
    visitor.visit(
        "TaskTracker, run_until_cancelled",
        "counts to the body's end, refuses, waits, cuts the response",
        by_hand::token_and_run_until_cancelled(inner(), tracker, force),
    );

    let (signal, drain) = drain::channel();
    visitor.visit(
        "drain Retain",
        "waits for the response",
        drain::Retain::new(drain.clone(), inner()),
    );
    visitor.visit(
        "drain release_after",
        "waits for the response",
        by_hand::release_after(inner(), drain),
    );
    std::mem::forget(signal);

    let swansong = Swansong::new();
    let guard = {
        let swansong = swansong.clone();
        move || swansong.guard()
    };
    visitor.visit(
        "swansong",
        "counts to the body's end, waits",
        keep(inner(), guard),
    );
    std::mem::forget(swansong);

    let (shutdown, began) = watch::channel(false);
    visitor.visit(
        "AtomicUsize and watch",
        "counts to the response, cuts it when the shutdown begins",
        by_hand::counter_and_watch(inner(), Arc::new(AtomicUsize::new(0)), began),
    );
    std::mem::forget(shutdown);

    visitor.visit(
        "tower ConcurrencyLimit",
        "counts to the response, lets so many in: a known point",
        ConcurrencyLimitLayer::new(1024).layer(inner()),
    );
}

// ===== impl Peer =====

impl Visitor for Vec<Peer> {
    fn visit<S, B>(&mut self, name: &'static str, covers: &'static str, service: S)
    where
        S: Served<B>,
        B: Body + Send + 'static,
    {
        let service = Box::new(Typed::new(service));
        self.push(Peer {
            name,
            covers,
            service,
        });
    }
}

/// A service with its body's type, which a trait object cannot name.
struct Typed<S, B> {
    service: S,
    body: std::marker::PhantomData<fn() -> B>,
}

impl<S: Served<B>, B: Body> Typed<S, B> {
    fn new(service: S) -> Self {
        let body = std::marker::PhantomData;
        Self { service, body }
    }
}

impl<S: Served<B>, B: Body + 'static> Requests for Typed<S, B> {
    fn requests(&mut self, count: u32, cx: &mut Context<'_>) {
        for _ in 0..count {
            request(&mut self.service, cx);
        }
    }

    fn requests_on_clones(&self, count: u32, cx: &mut Context<'_>) {
        for _ in 0..count {
            request_on_clone(&self.service, cx);
        }
    }

    fn clone_boxed(&self) -> Box<dyn Requests> {
        Box::new(Self::new(self.service.clone()))
    }
}
