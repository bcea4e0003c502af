//! What is in flight, by name: while it waits, when it is cut, and in the report.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, MatchedPath};
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get};
use futures_util::{StreamExt, future, stream};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt};
use tower_lifecycle::controller::{InFlightItem, InFlightKind, InFlightStage};
use tower_lifecycle::layers::RequestNamesLayer;
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, UpgradeGuard,
};

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
    // One event for each, although two layers see it.
    let cut = log.containing("WARN");
    let cut: Vec<_> = cut.iter().filter(|line| line.contains("layer: ")).collect();
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

/// The same without the layer that names requests: one event for each, with its stage.
#[tokio::test(start_paused = true)]
async fn the_log_says_what_is_cut_also_without_names() {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = ShutdownController::new();
    let app = routes().layer(DrainLayer::new(ctl.clone()));
    let clients = [spawn(&app, "/hangs/1"), spawn(&app, "/streams")];
    sleep(MS).await;
    ctl.force();
    for client in clients {
        client.await.unwrap();
    }
    let mut stages: Vec<_> = (log.containing("request cut by the shutdown").iter())
        .map(|line| line.split("shutdown ").nth(1).unwrap().trim().to_owned())
        .collect();
    stages.sort();
    assert_eq!(stages, ["stage=\"body\"", "stage=\"handler\""]);
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_is_listed_as_one() {
    let ctl = ShutdownController::new();
    let events = || async {
        let events = stream::pending::<Result<Event, Infallible>>();
        Sse::new(events)
    };
    let app = Router::new()
        .route("/events", get(events))
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()));
    let client = spawn(&app, "/events");
    sleep(SECOND).await;
    assert_eq!(
        shown(&ctl.in_flight_now().items),
        ["GET /events (stream, 1.0s)"]
    );
    assert_eq!(ctl.metrics().streams, 1);
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    assert_eq!(ctl.metrics().streams, 0);
}

/// A service that is never ready.
#[derive(Debug, Clone)]
struct Busy;

impl Service<Request<Body>> for Busy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_service_is_listed_until_it_gives_up() {
    let ctl = ShutdownController::new();
    let service = RequestNamesLayer::new(ctl.clone()).layer(Busy);
    let client = tokio::spawn(service.clone().oneshot(Request::new(Body::empty())));
    sleep(2 * SECOND).await;
    let now = ctl.in_flight_now();
    assert_eq!(shown(&now.items), ["a request (readiness, 2.0s)"]);
    assert_eq!(now.items[0].kind, InFlightKind::Request);
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    assert!(ctl.in_flight_now().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_listed_to_its_end_and_cut_by_name() {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = ShutdownController::new();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let accept = move |Extension(guard): Extension<UpgradeGuard>| {
        let keep = keep.clone();
        async move {
            sleep(SECOND).await;
            keep.send(guard).unwrap();
            StatusCode::SWITCHING_PROTOCOLS
        }
    };
    let app = Router::new()
        .route("/socket", any(accept))
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()));
    let open = async || {
        let request = Request::get("/socket?key=secret").header("upgrade", "websocket");
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap());
        assert_eq!(response.await.unwrap().status(), 101);
    };
    open().await;
    let first = kept.recv().await.unwrap();
    open().await;
    let second = kept.recv().await.unwrap();
    sleep(SECOND).await;

    let now = ctl.in_flight_now();
    // From the first wait of its request on.
    let both = ["GET /socket (stream, 3.0s)", "GET /socket (stream, 2.0s)"];
    assert_eq!(shown(&now.items), both);
    assert_eq!(now.items[0].kind, InFlightKind::Upgrade);
    assert_eq!((now.requests, ctl.metrics().upgrades), (2, 2));

    drop(first);
    assert_eq!(shown(&ctl.in_flight_now().items), both[1..]);
    assert_eq!(ctl.metrics().upgrades, 1);

    ctl.force();
    drop(second);
    assert!(ctl.in_flight_now().items.is_empty());
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(shown(report.aborted_work()), both[1..]);
    let cut = log.containing("request cut by the shutdown");
    assert_eq!(cut.len(), 1, "{cut:?}");
    let fields = "request=\"GET /socket\" stage=\"stream\" age_ms=2000";
    assert!(cut[0].contains(fields), "{cut:?}");
}

/// The box of a request is used again by the next one, whose method, name and controller may be others.
#[tokio::test(start_paused = true)]
async fn no_request_has_the_name_of_another() {
    let [ctl, other] = [(); 2].map(|()| ShutdownController::new());
    let layer = RequestNamesLayer::new(ctl.clone());
    let by_closure = layer.clone().name(|_| "closure".to_owned());
    let of_other = RequestNamesLayer::new(other.clone());
    let apps = [layer, by_closure, of_other].map(|layer| routes().layer(layer));
    let long = "/hangs/".to_owned() + &"x".repeat(3_000);
    for (app, method, path, name) in [
        (0, "GET", "/hangs/12345", "GET /hangs/12345 "),
        (0, "HEAD", "/hangs/1", "HEAD /hangs/1 "),
        (1, "GET", "/hangs/1", "closure "),
        (0, "GET", "/hangs/1", "GET /hangs/1 "),
        (0, "GET", &*long, "GET /hangs/xxx"),
        (2, "GET", "/hangs/1", "GET /hangs/1 "),
        (0, "GET", "/hangs/1", "GET /hangs/1 "),
    ] {
        assert_eq!(ask(&apps[0], "/").await.status(), 200);
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let client = tokio::spawn(apps[app].clone().oneshot(request));
        sleep(MS).await;
        let [its, others] = match app {
            2 => [&other, &ctl],
            _ => [&ctl, &other],
        };
        let shown = shown(&its.in_flight_now().items);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with(name), "{shown:?}");
        assert!(others.in_flight_now().items.is_empty());
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
    }
}

/// Although the thread keeps the box of its last request.
#[tokio::test]
async fn an_ended_request_keeps_nothing_alive() {
    let kept = Arc::new(());
    let held = Arc::clone(&kept);
    let ctl = ShutdownController::new();
    let layer = RequestNamesLayer::new(ctl).name(move |_| format!("{held:?}"));
    let app = routes().layer(layer);
    assert_eq!(ask(&app, "/").await.status(), 200);
    drop(app);
    assert_eq!(Arc::strong_count(&kept), 1);
}
