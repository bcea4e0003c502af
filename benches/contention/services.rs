//! The compared services, and the requests to them.

use std::pin::pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http_body::Body as _;
use tower::Service;
use tower_http::metrics::InFlightRequestsLayer;
use tower_lifecycle::{DrainLayer, ShutdownController};

use crate::Candidate;
use crate::common::peers;
use crate::common::request::{ready, waker};

/// Those of the services in `common` that are compared here.
const PEERS: [&str; 9] = [
    "bare",
    "bare again",
    "RequestTrackingLayer",
    "DrainLayer",
    "tower-http InFlightRequests",
    "TaskTracker",
    "TaskTracker, select!",
    "drain Retain",
    "swansong",
];
const BY_HAND: &str = "AtomicUsize and watch";

/// Returns the services without a router.
pub fn services() -> Vec<Candidate> {
    let mut peers = peers::all(ready());
    peers.retain(|peer| peer.name == BY_HAND || PEERS.contains(&peer.name));
    assert_eq!(peers.len(), PEERS.len() + 1, "all of them are in `common`");
    let candidates = peers.into_iter().map(|peer| {
        Candidate::new(peer.name, move || {
            let connection = peer.service.clone_boxed();
            let waker = waker();
            Box::new(move |count| {
                connection.requests_on_clones(count, &mut Context::from_waker(&waker));
            })
        })
    });
    candidates.collect()
}

/// Returns routers, with a layer and without.
pub fn routers() -> [Candidate; 3] {
    let app = Router::new().route("/", get(async || "hello"));
    let ctl = ShutdownController::new();
    let ours = app.clone().layer(DrainLayer::new(ctl.clone()));
    let (in_flight, _) = InFlightRequestsLayer::pair();
    let gauge = app.clone().layer(in_flight);
    // The handle that would end the service is never used, but has to be kept.
    std::mem::forget(ctl);
    [
        through_router("bare", app),
        through_router("DrainLayer", ours),
        through_router("tower-http InFlightRequests", gauge),
    ]
}

fn through_router(name: &'static str, app: Router) -> Candidate {
    Candidate::new(name, move || {
        let connection = app.clone();
        let waker = waker();
        Box::new(move |count| {
            let mut cx = Context::from_waker(&waker);
            for _ in 0..count {
                oneshot(connection.clone(), &mut cx);
            }
        })
    })
}

#[inline(never)]
fn oneshot(mut app: Router, cx: &mut Context<'_>) {
    let request = Request::new(Body::empty());
    assert!(Service::<Request<Body>>::poll_ready(&mut app, cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(app.call(request)).poll(cx) else {
        panic!("it answers at once")
    };
    assert!(response.status().is_success());
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
        assert!(frame.is_ok());
    }
}
