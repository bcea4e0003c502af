//! Connections of a custom accept loop, with `watch` and a paused clock.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::support::server::{Frame, Http2};
use crate::support::shutdown::{controller, ms};

/// Two seconds, of which 1.5 are for the drain.
fn two_seconds() -> ShutdownController {
    let config = ShutdownConfig::default().shutdown_timeout(ms(2_000));
    ShutdownController::with_config(config).unwrap()
}

fn app(ctl: &ShutdownController) -> Router {
    let large = || async { "~".repeat(200 * 1024) };
    let slow = || async {
        sleep(ms(700)).await;
        "slow"
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(large))
        .route("/slow", get(slow))
        .route("/never", get(pending::<Body>))
        .layer(DrainLayer::new(ctl.clone()))
}

/// What an accept loop does with one connection.
fn watched(ctl: &ShutdownController, pipe: DuplexStream) -> JoinHandle<Result<(), hyper::Error>> {
    let service = TowerToHyperService::new(app(ctl));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(pipe), service);
    tokio::spawn(ctl.watch(connection))
}

async fn get_path(client: &mut DuplexStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
}

/// Reads the available data until a pause.
async fn read_some(client: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 64 * 1024];
    let count = client.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn the_drain_waits_for_the_last_byte_of_a_slow_reader() {
    let ctl = two_seconds();
    let (mut client, pipe) = duplex(64);
    let connection = watched(&ctl, pipe);
    get_path(&mut client, "/large").await;

    // The body is in hyper's buffer; the client has not read a byte of it.
    tokio::task::yield_now().await;
    sleep(ms(1)).await;
    assert_eq!(ctl.in_flight(), 0);

    let mut shutdown = ctl.shutdown(ShutdownReason::Manual);
    assert!(timeout(ms(900), &mut shutdown).await.is_err(), "too early");
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert_eq!(answer.matches('~').count(), 200 * 1024);
    let report = shutdown.await;
    assert!(report.is_graceful(), "{report}");
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_may_bring_one_more_request_for_a_short_time() {
    let ctl = two_seconds();
    let (mut late, pipe) = duplex(1024);
    let (mut idle, other_pipe) = duplex(1024);
    let connections = [watched(&ctl, pipe), watched(&ctl, other_pipe)];
    for client in [&mut late, &mut idle] {
        get_path(client, "/").await;
        assert!(read_some(client).await.starts_with("HTTP/1.1 200"));
    }

    let began = Instant::now();
    let shutdown = ctl.shutdown(ShutdownReason::Manual);
    sleep(ms(150)).await;
    get_path(&mut late, "/").await;
    let answer = read_to_end(&mut late).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(began.elapsed(), ms(150));

    assert_eq!(read_to_end(&mut idle).await, "");
    assert_eq!(began.elapsed().as_millis(), 200);
    assert!(shutdown.await.is_graceful());
    for connection in connections {
        connection.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_while_draining_is_answered() {
    let ctl = two_seconds();
    let work = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(300)).await; // idle connections are closed

    let (mut client, pipe) = duplex(1024);
    let connection = watched(&ctl, pipe);
    sleep(ms(100)).await;
    get_path(&mut client, "/").await;
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    connection.await.unwrap().unwrap();

    // A silent one is waited for only half of the rest of the drain.
    let (mut silent, pipe) = duplex(1024);
    let began = Instant::now();
    let connection = watched(&ctl, pipe);
    drop(work);
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(began.elapsed(), ms((1_500 - 400) / 2));
    connection.await.unwrap().unwrap();
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_finished_and_closed() {
    let ctl = two_seconds();
    let (mut client, pipe) = duplex(1024);
    let connection = watched(&ctl, pipe);
    get_path(&mut client, "/slow").await;
    sleep(ms(1)).await;

    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual);
    let answer = read_to_end(&mut client).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("slow"));
    assert!(report.await.is_graceful());
    assert!(began.elapsed() < ms(702), "{:?}", began.elapsed());
    connection.await.unwrap().unwrap();
}

/// A service that signals when it is dropped, with its connection.
#[derive(Clone)]
struct Detector(Arc<AtomicBool>);

impl Drop for Detector {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn force_drops_the_connection_of_a_client_that_does_not_read() {
    let ctl = two_seconds();
    let dropped = Arc::new(AtomicBool::new(false));
    let detector = Detector(Arc::clone(&dropped));
    let service = hyper::service::service_fn(move |_| {
        let _held = &detector;
        async { Ok::<_, Infallible>(http::Response::new("~".repeat(200 * 1024))) }
    });
    let (mut client, pipe) = duplex(64);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(pipe), service);
    let connection = tokio::spawn(ctl.watch(connection));
    get_path(&mut client, "/").await;
    sleep(ms(1)).await;

    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(dropped.load(Ordering::SeqCst));
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    assert!(began.elapsed() < ms(1_500 + 126), "{:?}", began.elapsed());
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_is_answered_before_the_connection_goes() {
    let ctl = two_seconds();
    let (mut client, pipe) = duplex(1024);
    let connection = watched(&ctl, pipe);
    get_path(&mut client, "/never").await;
    sleep(ms(1)).await;
    let report = ctl.shutdown(ShutdownReason::Manual);
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("before the request was finished"));
    assert_eq!(report.await.aborted(), 1);
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_no_server_whose_end_would_end_all() {
    let config = ShutdownConfig::default().lame_duck(ms(500));
    let ctl = ShutdownController::with_config(config).unwrap();
    let (mut client, pipe) = duplex(1024);
    let connection = watched(&ctl, pipe);
    get_path(&mut client, "/").await;
    assert!(read_some(&mut client).await.starts_with("HTTP/1.1 200"));
    drop(client);
    connection.await.unwrap().unwrap();
    assert_eq!(ctl.state(), LifecycleState::Running);

    // It does not shorten the lame duck either.
    let began = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    ctl.draining().await;
    assert_eq!(began.elapsed(), ms(500));
}

#[tokio::test(start_paused = true)]
async fn http2_ends_with_the_last_stream() {
    let ctl = two_seconds();
    let (client, pipe) = duplex(64 * 1024);
    let service = TowerToHyperService::new(app(&ctl));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(pipe), service);
    let connection = tokio::spawn(ctl.watch(connection.into_owned()));

    let (mut requests, client) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(client))
        .await
        .unwrap();
    let client = tokio::spawn(client);
    let slow = requests.send_request(Request::get("http://a/slow").body(Empty::new()).unwrap());
    let slow = tokio::spawn(slow);
    sleep(ms(10)).await;

    let report = ctl.shutdown(ShutdownReason::Manual);
    let body = slow.await.unwrap().unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "slow");
    assert!(report.await.is_graceful());
    connection.await.unwrap().unwrap();
    client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_http2_peer_that_has_vanished_is_not_waited_for_though_its_request_was_served() {
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(ms(30_000)));
    let slow = async || {
        sleep(ms(3_000)).await;
        "slow"
    };
    let app = Router::new()
        .route("/", get(slow))
        .layer(DrainLayer::new(ctl.clone()));
    let (client, pipe) = duplex(64 * 1024);
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(app);
    let connection = builder.serve_connection(TokioIo::new(pipe), service);
    let connection = tokio::spawn(ctl.watch(connection));
    let mut client = Http2::new(client, &[]).await;
    client.send(Frame::get(1, "/")).await;
    sleep(ms(10)).await;

    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful() && !report.is_forced(), "{report}");
    let took = began.elapsed();
    assert!(took > ms(3_000) && took < ms(6_000), "{took:?}");
    connection.await.unwrap().unwrap();
}
