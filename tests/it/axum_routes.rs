//! The routes of an axum `Router` that a `DrainLayer` wraps, as in README's table.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{Method, Request, StatusCode};
use tower::ServiceExt;
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController};

const OK: u16 = 200;
const NOT_FOUND: u16 = 404;
const NOT_ALLOWED: u16 = 405;
/// Refused by the layer.
const REFUSED: u16 = 503;

async fn hello() -> &'static str {
    "hello"
}

/// Makes a router with the layer of a controller that refuses immediately. Returns the status of
/// each request while it refuses.
async fn while_refusing<const N: usize>(
    router: impl FnOnce(DrainLayer) -> Router,
    requests: [(Method, &str); N],
) -> [u16; N] {
    let ctl = ShutdownController::with_config(ShutdownConfig::default().late_for(Duration::ZERO));
    let ctl = ctl.unwrap();
    let router = router(DrainLayer::new(ctl.clone()));
    assert!(ctl.pause());
    let mut statuses = [0; N];
    for (status, (method, path)) in statuses.iter_mut().zip(requests) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        *status = response.status().as_u16();
        let is_refused = response.headers().contains_key("retry-after");
        assert_eq!(is_refused, *status == REFUSED, "{path}");
    }
    statuses
}

#[tokio::test]
async fn a_layer_is_around_what_the_router_has_when_it_is_added() {
    let router = |drain| {
        Router::new()
            .route("/", get(hello))
            .layer(drain)
            .route("/after", get(hello))
    };
    let requests = [(Method::GET, "/"), (Method::GET, "/after")];
    assert_eq!(while_refusing(router, requests).await, [REFUSED, OK]);
}

#[tokio::test]
async fn a_layer_is_around_the_404_and_the_405_too() {
    let router = |drain| Router::new().route("/", post(hello)).layer(drain);
    let requests = [(Method::GET, "/none"), (Method::GET, "/")];
    assert_eq!(while_refusing(router, requests).await, [REFUSED, REFUSED]);
}

#[tokio::test]
async fn a_fallback_that_is_added_later_escapes() {
    let router = |drain| {
        let router = Router::new().route("/", get(hello)).layer(drain);
        router.fallback(hello)
    };
    let requests = [(Method::GET, "/"), (Method::GET, "/none")];
    assert_eq!(while_refusing(router, requests).await, [REFUSED, OK]);
}

#[tokio::test]
async fn a_fallback_for_methods_that_is_added_later_escapes() {
    let not_allowed = || async { StatusCode::METHOD_NOT_ALLOWED };
    let router = |drain| {
        let router = Router::new().route("/", post(hello)).layer(drain);
        router.method_not_allowed_fallback(not_allowed)
    };
    let requests = [(Method::POST, "/"), (Method::GET, "/")];
    assert_eq!(
        while_refusing(router, requests).await,
        [REFUSED, NOT_ALLOWED]
    );
}

#[tokio::test]
async fn routes_that_are_merged_or_nested_later_escape() {
    let router = |drain| {
        Router::new()
            .route("/", get(hello))
            .layer(drain)
            .merge(Router::new().route("/merged", get(hello)))
            .nest("/nested", Router::new().route("/a", get(hello)))
    };
    let requests = [
        (Method::GET, "/"),
        (Method::GET, "/merged"),
        (Method::GET, "/nested/a"),
    ];
    assert_eq!(while_refusing(router, requests).await, [REFUSED, OK, OK]);
}

#[tokio::test]
async fn a_route_layer_is_not_around_the_404() {
    let router = |drain| {
        let router = Router::new().route("/", post(hello));
        router.route_layer(drain)
    };
    let requests = [
        (Method::POST, "/"),
        (Method::GET, "/"),
        (Method::GET, "/none"),
    ];
    let statuses = while_refusing(router, requests).await;
    assert_eq!(statuses, [REFUSED, REFUSED, NOT_FOUND]);
}
