//! The counts after a force: everything that `serve` breaks off is cut, and is counted once.

use std::fmt::Debug;
use std::future::{Future, pending};
use std::io;
use std::mem;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use http::header::UPGRADE;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_lifecycle::{
    DrainLayer, RequestTrackingLayer, ShutdownConfig, ShutdownController, ShutdownReason,
    UpgradeGuard,
};

use crate::support::server::{self, Frame, Http1, Http2, in_time, start};
use crate::support::sockets::eventually;

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn controller() -> ShutdownController {
    let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(4));
    ShutdownController::with_config(config).unwrap()
}

/// Responds with 64 MiB on `/big`, in chunks on `/chunks`, and never on `/sleep`.
fn app(ctl: &ShutdownController) -> Router {
    let chunk = || Ok::<_, io::Error>(Bytes::from(vec![b'x'; 64 * 1024]));
    let chunks = move || stream::repeat_with(chunk).take(1024);
    Router::new()
        .route("/big", get(|| async { vec![b'x'; 64 << 20] }))
        .route("/chunks", get(async move || Body::from_stream(chunks())))
        .route("/sleep", get(pending::<()>))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(())
}

async fn until_in_flight(ctl: &ShutdownController, count: u64) {
    in_time(eventually(|| ctl.in_flight() >= count)).await;
}

/// The body of one chunk ends when hyper has it: after that, only the connection is counted.
#[tokio::test(start_paused = true)]
async fn a_body_that_its_client_has_not_taken_is_cut() {
    let ctl = controller();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut clients = Vec::new();
    for path in ["/big", "/chunks"] {
        let mut client = Http1::new(connector.pipe(64 * 1024));
        client.send(server::get(path)).await;
        in_time(client.io.read_exact(&mut vec![0; 2 << 20]))
            .await
            .unwrap();
        clients.push(client);
    }
    ctl.trigger(MANUAL);
    let report = server.report().await;
    assert!(report.is_forced());
    assert_eq!(report.in_flight_at_force(), 1, "{report}");
    assert_eq!((report.aborted(), report.abandoned()), (1, 0), "{report}");
    assert_eq!(report.connections_cut(), 2, "{report}");
    let text = report.to_string();
    assert!(text.contains("1 cut, 0 ended by themselves"), "{text}");
    assert!(text.contains("2 closed by force"), "{text}");
}

/// The same with HTTP/2: with a window of zero, and with one that is used up.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_is_used_up_is_cut() {
    const INITIAL_WINDOW_SIZE_ZERO: &[u8] = &[0, 4, 0, 0, 0, 0];
    for settings in [INITIAL_WINDOW_SIZE_ZERO, &[]] {
        let ctl = controller();
        let (connector, server) = start(&ctl, app(&ctl));
        let mut client = Http2::new(connector.pipe(256 * 1024), settings).await;
        for stream in [1, 3] {
            client.send(Frame::get(stream, "/chunks")).await;
        }
        until_in_flight(&ctl, 2).await;
        ctl.trigger(MANUAL);
        let report = server.report().await;
        assert!(report.is_forced());
        assert_eq!((report.aborted(), report.abandoned()), (2, 0), "{report}");
    }
}

/// A client that reads sees the cut in its response. The connection is closed cleanly.
#[tokio::test(start_paused = true)]
async fn what_is_told_of_its_cut_is_counted_once() {
    let ctl = controller();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = Http1::new(connector.pipe(64 * 1024));
    client.send(server::get("/sleep")).await;
    until_in_flight(&ctl, 1).await;
    ctl.trigger(MANUAL);
    assert_eq!(client.answer().await.status, 503);
    client.end().await;
    let report = server.report().await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0), "{report}");
    assert_eq!(report.connections_cut(), 0, "{report}");
}

/// Polls the body once, and drops it after the force.
async fn drop_body_after_force<S, B>(ctl: &ShutdownController, service: S)
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug>,
    B: http_body::Body<Error: Debug> + Unpin,
{
    let request = Request::new(Body::empty());
    let mut response = service.oneshot(request).await.unwrap();
    response.frame().await.unwrap().unwrap();
    ctl.force();
    drop(response);
}

/// Calls, and drops the call after the force.
async fn drop_call_after_force<S>(ctl: &ShutdownController, mut service: S)
where
    S: Service<Request<Body>, Error: Debug>,
{
    let call = service.ready().await.unwrap();
    let call = call.call(Request::new(Body::empty()));
    ctl.force();
    drop(call);
}

/// No matter who drops it: the layers know what had not ended.
#[tokio::test]
async fn what_is_dropped_before_its_end_after_a_force_was_cut() {
    let answer = service_fn(|_: Request<Body>| async {
        let (one, endless) = (stream::iter([Ok(Bytes::from("one"))]), stream::pending());
        let body = Body::from_stream(one.chain(endless).map(|item: Result<_, io::Error>| item));
        Ok::<_, io::Error>(Response::new(body))
    });
    let sleep = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, io::Error>>());

    for drops_body in [true, false] {
        for tracks in [true, false] {
            let ctl = controller();
            let (drain, tracking) = (
                DrainLayer::new(ctl.clone()),
                RequestTrackingLayer::new(ctl.clone()),
            );
            match (drops_body, tracks) {
                (true, true) => drop_body_after_force(&ctl, tracking.layer(answer)).await,
                (true, false) => drop_body_after_force(&ctl, drain.layer(answer)).await,
                (false, true) => drop_call_after_force(&ctl, tracking.layer(sleep)).await,
                (false, false) => drop_call_after_force(&ctl, drain.layer(sleep)).await,
            }
            let report = ctl.shutdown(MANUAL).await;
            assert_eq!(report.aborted(), 1, "body: {drops_body}, tracked: {tracks}");
        }
    }
}

#[tokio::test]
async fn a_call_of_any_service_that_is_dropped_after_a_force_was_cut() {
    let sleep = || service_fn(|_: u32| pending::<Result<(), tower::BoxError>>());
    let ctl = controller();
    let layer = DrainLayer::new(ctl.clone()).reject_with_error();
    let cut = layer.layer(sleep()).ready().await.unwrap().call(1);
    let layer = RequestTrackingLayer::new(ctl.clone()).until_response();
    let tracked = layer.layer(sleep()).ready().await.unwrap().call(1);
    ctl.force();
    drop((cut, tracked));
    assert_eq!(ctl.shutdown(MANUAL).await.aborted(), 2);
}

/// A completed request has not been cut, even if it is dropped after the force.
#[tokio::test]
async fn what_has_ended_was_not_cut() {
    let ctl = controller();
    let answer = service_fn(|_: Request<Body>| async {
        Ok::<_, io::Error>(Response::new(Body::from("whole")))
    });
    let drain = DrainLayer::new(ctl.clone()).layer(answer);
    let tracking = RequestTrackingLayer::new(ctl.clone()).layer(answer);
    let mut drained = drain.oneshot(Request::new(Body::empty())).await.unwrap();
    let mut tracked = tracking.oneshot(Request::new(Body::empty())).await.unwrap();
    drained.frame().await.unwrap().unwrap();
    tracked.frame().await.unwrap().unwrap();
    ctl.force();
    drop((drained, tracked));
    assert_eq!(ctl.shutdown(MANUAL).await.aborted(), 0);
}

/// A runtime drops its tasks in any order; each is abandoned exactly once, and counted nowhere
/// else.
#[test]
fn what_the_end_of_the_runtime_kills_is_counted_once() {
    for round in 0..40 {
        let threads = round % 2 == 0;
        let mut runtime = if threads {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let ctl = runtime.block_on(async {
            let ctl = ShutdownController::new();
            let (connector, server) = start(&ctl, app(&ctl));
            let mut clients = Vec::new();
            for _ in 0..2 {
                let mut client = Http1::new(connector.pipe(1024));
                client.send(server::get("/sleep")).await;
                clients.push(client);
            }
            let mut http2 = Http2::new(connector.pipe(256 * 1024), &[]).await;
            http2.send(Frame::get(1, "/sleep")).await;
            let guard = ctl.track();
            tokio::spawn(async move {
                let _guard = guard;
                pending::<()>().await
            });
            drop(ctl.spawn("job", pending::<()>()));
            until_in_flight(&ctl, 4).await;
            ctl.trigger(MANUAL);
            // All of them have been polled in the drain.
            tokio::time::sleep(Duration::from_millis(5)).await;
            tokio::spawn(async move {
                let _clients = (clients, http2, connector, server);
                pending::<()>().await
            });
            ctl
        });
        drop(runtime);
        let mut other = tokio::runtime::Builder::new_current_thread();
        let other = other.enable_all().build().unwrap();
        let report = other.block_on(ctl.shutdown(MANUAL));
        assert_eq!(report.reason(), ShutdownReason::Interrupted);
        // Three requests, a guard, a task, and the server.
        let counted = (report.aborted(), report.abandoned());
        assert_eq!(
            counted,
            (0, 6),
            "round {round}, threads: {threads}: {report}"
        );
    }
}

/// What is open in a runtime that ends in the drain, as it is reported from another one.
fn assert_all_killed<F>(count: u64, open: impl Fn(ShutdownController) -> F)
where
    F: Future<Output = ()>,
{
    for round in 0..40 {
        // On several threads, the shutdown may see them gone, and end, before it is dropped itself.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let ctl = runtime.block_on(async {
            let ctl = ShutdownController::new();
            open(ctl.clone()).await;
            ctl.trigger(MANUAL);
            until_in_flight(&ctl, count).await;
            ctl
        });
        drop(runtime);
        let mut other = tokio::runtime::Builder::new_current_thread();
        let other = other.enable_all().build().unwrap();
        let report = other.block_on(ctl.shutdown(MANUAL));
        let counted = (report.aborted(), report.abandoned());
        let round = format!("round {round}: {report}");
        assert_eq!(counted, (0, count), "{round}");
    }
}

#[test]
fn upgraded_connections_that_the_end_of_the_runtime_kills_are_abandoned() {
    assert_all_killed(10, |ctl| async move {
        let accept = service_fn(|request: Request<Body>| async move {
            let guard = request.extensions().get::<UpgradeGuard>().cloned();
            tokio::spawn(async move {
                let _guard = guard;
                pending::<()>().await
            });
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            Ok::<_, io::Error>(response)
        });
        let service = DrainLayer::new(ctl).layer(accept);
        for _ in 0..10 {
            let request = Request::get("/").header(UPGRADE, "websocket");
            let request = request.body(Body::empty()).unwrap();
            drop(service.clone().oneshot(request).await.unwrap());
        }
    });
}

#[test]
fn requests_that_wait_for_readiness_and_are_killed_are_abandoned() {
    assert_all_killed(21, |ctl| async move {
        let answer = service_fn(|_: Request<Body>| pending::<io::Result<Response<Body>>>());
        let mut service = ServiceBuilder::new()
            .layer(DrainLayer::new(ctl))
            .layer(ConcurrencyLimitLayer::new(1))
            .service(answer);
        let request = || Request::new(Body::empty());
        let waiting = service.clone();
        // It keeps the only permit.
        mem::forget(service.ready().await.unwrap().call(request()));
        for _ in 0..20 {
            tokio::spawn(waiting.clone().oneshot(request()));
        }
    });
}

/// Servers drop an empty body without polling it.
#[tokio::test]
async fn an_empty_body_was_not_cut() {
    let ctl = controller();
    let answer =
        service_fn(|_: Request<Body>| async { Ok::<_, io::Error>(Response::new(Body::empty())) });
    let tracking = RequestTrackingLayer::new(ctl.clone()).layer(answer);
    ctl.force();
    drop(tracking.oneshot(Request::new(Body::empty())).await.unwrap());
    assert_eq!(ctl.shutdown(MANUAL).await.aborted(), 0);
}

/// The same in the drain of a `DrainLayer`.
#[tokio::test]
async fn an_empty_body_was_not_cut_in_a_drain() {
    let ctl = controller();
    let answer =
        service_fn(|_: Request<Body>| async { Ok::<_, io::Error>(Response::new(Body::empty())) });
    let drain = DrainLayer::new(ctl.clone()).layer(answer);
    let call = drain.oneshot(Request::new(Body::empty()));
    let guard = ctl.track();
    ctl.trigger(MANUAL);
    let response = call.await.unwrap();
    ctl.force();
    drop((response, guard));
    assert_eq!(ctl.shutdown(MANUAL).await.aborted(), 0);
}
