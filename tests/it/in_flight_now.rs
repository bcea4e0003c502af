//! What is in flight, by name: while it waits, when it is cut, and in the report.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::MatchedPath;
use axum::routing::get;
use futures_util::{StreamExt, future, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_lifecycle::controller::{InFlightItem, InFlightKind, InFlightStage};
use tower_lifecycle::layers::RequestNamesLayer;
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::log::Lines;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// An application whose requests do not end, with and without a response.
fn routes() -> Router {
    let streamed = || async {
        let first = stream::once(future::ready(Ok::<_, Infallible>(Bytes::from("first"))));
        Body::from_stream(first.chain(stream::pending()))
    };
    Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/hangs/{id}", get(pending::<()>))
        .route("/streams", get(streamed))
}

fn app(ctl: &ShutdownController) -> Router {
    routes()
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()))
}

async fn ask(app: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

/// Sends a request, and keeps reading the response.
fn spawn(app: &Router, path: &'static str) -> tokio::task::JoinHandle<()> {
    let app = app.clone();
    tokio::spawn(async move {
        let _ = ask(&app, path).await.into_body().collect().await;
    })
}

fn shown(items: &[InFlightItem]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_listed_with_its_stage_and_age_the_oldest_first() {
    let ctl = ShutdownController::new();
    let app = app(&ctl);
    let hangs = spawn(&app, "/hangs/1?key=secret");
    sleep(SECOND).await;
    let streams = spawn(&app, "/streams");
    sleep(SECOND).await;
    let job = ctl.track_named("job");
    let _unnamed = ctl.track();
    let _worker = ctl.spawn("mail", pending::<()>());
    assert_eq!(ask(&app, "/").await.status(), 200);
    sleep(SECOND).await;

    let now = ctl.in_flight_now();
    let mut names = shown(&now.items);
    // Tasks count in real time.
    names.retain(|name| !name.starts_with("mail"));
    assert_eq!(
        names,
        [
            "GET /hangs/1 (handler, 3.0s)",
            "GET /streams (body, 2.0s)",
            "job (1.0s)"
        ]
    );
    let kinds: Vec<_> = now.items.iter().map(|item| item.kind).collect();
    assert!(kinds.contains(&InFlightKind::Task));
    assert_eq!((now.requests, now.tasks, now.connections), (4, 1, 0));
    let json = serde_json::to_value(&now).unwrap();
    assert_eq!(
        json["items"][0],
        json!({"kind": "request", "name": "GET /hangs/1", "stage": "handler", "age_seconds": 3.0})
    );

    // What has ended, and what its client has left, is not listed.
    for client in [hangs, streams] {
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
    }
    drop(job);
    assert!(
        ctl.in_flight_now()
            .items
            .iter()
            .all(|item| item.kind == InFlightKind::Task)
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ends_in_its_first_poll_is_never_listed() {
    let ctl = ShutdownController::new();
    let seen = ctl.clone();
    let routes = Router::new().route(
        "/",
        get(async move || {
            assert!(seen.in_flight_now().items.is_empty());
            "ok"
        }),
    );
    let app = routes.layer(RequestNamesLayer::new(ctl.clone()));
    let response = ask(&app, "/").await;
    assert!(ctl.in_flight_now().items.is_empty());
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok"
    );
}

/// A server does not poll the body of a client that reads slowly, so the body never waits by itself.
#[tokio::test(start_paused = true)]
async fn a_response_that_its_client_reads_slowly_is_listed() {
    let ctl = ShutdownController::new();
    let pieces = || stream::repeat(Ok::<_, Infallible>(Bytes::from("piece")));
    let routes = Router::new().route("/export", get(async move || Body::from_stream(pieces())));
    let app = routes
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()));
    let mut body = ask(&app, "/export").await.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "piece"
    );
    sleep(2 * SECOND).await;
    assert_eq!(
        shown(&ctl.in_flight_now().items),
        ["GET /export (body, 2.0s)"]
    );

    ctl.force();
    body.frame().await.unwrap().unwrap_err();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(shown(report.aborted_work()), ["GET /export (body, 2.0s)"]);
}

#[tokio::test(start_paused = true)]
async fn a_closure_names_requests() {
    let ctl = ShutdownController::new();
    let by_route = RequestNamesLayer::new(ctl.clone()).name(|request| {
        let route = request.extensions.get::<MatchedPath>();
        format!(
            "route {}\n{}",
            route.map_or("?", |path| path.as_str()),
            "x".repeat(500)
        )
    });
    let app = routes().layer(by_route).layer(DrainLayer::new(ctl.clone()));
    let _client = spawn(&app, "/hangs/1");
    sleep(MS).await;
    let name = ctl.in_flight_now().items[0].name.to_string();
    assert!(name.starts_with("route /hangs/{id}\\nxxx"), "{name}");
    assert_eq!(name.chars().count(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_log_and_the_report_name_what_is_cut_and_what_is_abandoned() {
    let log = Lines::default();
    let _listening = log.listen();
    let config = ShutdownConfig::default()
        .shutdown_timeout(20 * SECOND)
        .cleanup_reserve(5 * SECOND)
        .progress_interval(10 * SECOND);
    let ctl = ShutdownController::with_config(config).unwrap();
    let app = app(&ctl);
    let clients = [spawn(&app, "/hangs/1?key=secret"), spawn(&app, "/streams")];
    let _stuck = ctl.track_named("import");
    sleep(SECOND).await;
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    for client in clients {
        client.await.unwrap();
    }

    let progress = log.containing("still draining");
    assert_eq!(progress.len(), 1, "{progress:?}");
    for name in [
        "GET /hangs/1 (handler, 11.0s)",
        "GET /streams (body, 11.0s)",
        "import (11.0s)",
    ] {
        assert!(progress[0].contains(name), "{progress:?}");
    }
    let cut = log.containing("request cut by the shutdown");
    assert_eq!(cut.len(), 2, "{cut:?}");
    for fields in [
        "request=\"GET /hangs/1\" stage=\"handler\" age_ms=16000",
        "request=\"GET /streams\" stage=\"body\" age_ms=16000",
    ] {
        assert!(cut.iter().any(|line| line.contains(fields)), "{cut:?}");
    }
    assert!(log.containing("secret").is_empty());

    let mut aborted = shown(report.aborted_work());
    aborted.sort();
    assert_eq!(
        aborted,
        [
            "GET /hangs/1 (handler, 16.0s)",
            "GET /streams (body, 16.0s)"
        ]
    );
    assert_eq!(report.aborted(), 2);
    let abandoned = report.abandoned_work();
    assert_eq!(abandoned.len(), 1, "{abandoned:?}");
    assert_eq!(
        (&*abandoned[0].name, abandoned[0].stage),
        ("import", InFlightStage::Running)
    );
    let text = report.to_string();
    assert!(text.contains("\n  cut           GET /"), "{text}");
    assert!(text.contains("\n  abandoned     import ("), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["aborted_work"].as_array().unwrap().len(), 2);
    assert_eq!(json["abandoned_work"][0]["name"], "import");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_hundred_of_those_that_are_cut_are_named() {
    let ctl = ShutdownController::new();
    let app = app(&ctl);
    let clients: Vec<_> = (0..150).map(|_| spawn(&app, "/hangs/1")).collect();
    sleep(MS).await;
    assert_eq!(ctl.in_flight_now().items.len(), 150);
    ctl.force();
    let report = timeout(10 * SECOND, ctl.shutdown(ShutdownReason::Manual))
        .await
        .unwrap();
    assert_eq!((report.aborted(), report.aborted_work().len()), (150, 100));
    drop(clients);
}
