//! HTTP/2 connections of a custom accept loop, with `watch`: the drain does not wait for silent
//! peers, and does wait for slow ones.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, ShutdownReport};

use crate::support::loopback::loopback;

/// More than the buffers of two sockets hold.
const LARGE: usize = 16 * 1024 * 1024;
/// More than an HTTP/2 stream's window.
const MEDIUM: usize = 512 * 1024;
/// Longer than the waits for an idle connection and for a silent peer together.
const A_WHILE: Duration = Duration::from_millis(2_500);
/// Much less than the drain, and much more than the grace.
const SOON: Duration = Duration::from_secs(10);

/// The preface, and empty SETTINGS (RFC 9113 §3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `GET /slow` on stream 1: HEADERS, with its path as a literal (RFC 7541 §6.2.2).
const GET_SLOW: &[u8] = b"\0\0\x09\x01\x05\0\0\0\x01\x82\x86\x04\x05/slow";

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
    /// Detected from the first bytes; hyper itself pings its peers.
    Auto,
}

fn app() -> Router {
    let slow = || async {
        sleep(A_WHILE).await;
        "at last"
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(slow))
        .route("/medium", get(|| async { "~".repeat(MEDIUM) }))
        .route("/large", get(|| async { "~".repeat(LARGE) }))
}

/// An accept loop under `run`.
async fn serve(
    ctl: &ShutdownController,
    protocol: Protocol,
    app: Router,
) -> (SocketAddr, JoinHandle<ShutdownReport>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (watcher, mut stop) = (ctl.clone(), ctl.stop_accepting());
    let accept_loop = async move {
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                () = &mut stop => return io::Result::Ok(()),
            };
            let stream = TokioIo::new(stream);
            let service = TowerToHyperService::new(app.clone());
            match protocol {
                Protocol::Http1 => {
                    let connection = http1::Builder::new().serve_connection(stream, service);
                    tokio::spawn(watcher.watch(connection));
                }
                Protocol::Http2 => {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(watcher.watch(builder.serve_connection(stream, service)));
                }
                Protocol::Auto => {
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder
                        .http2()
                        .timer(TokioTimer::new())
                        .keep_alive_interval(Duration::from_millis(300))
                        .keep_alive_timeout(Duration::from_millis(300));
                    let connection = builder.serve_connection(stream, service);
                    tokio::spawn(watcher.watch(connection.into_owned()));
                }
            }
        }
    };
    (address, tokio::spawn(ctl.run(accept_loop)))
}

/// Shuts down, and asserts that it ends soon, whatever the clients do.
async fn ends_soon(ctl: &ShutdownController, server: JoinHandle<ShutdownReport>) {
    let began = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// Connects, sends `words`, and reads the server's response to that.
async fn client(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(words).await.unwrap();
    // The server's own SETTINGS.
    client.read_exact(&mut [0; 9]).await.unwrap();
    client
}

/// The client sends only this.
async fn assert_not_waited_for(protocol: Protocol, said: &[u8]) {
    let ctl = ShutdownController::new();
    let (address, server) = serve(&ctl, protocol, app()).await;
    let _client = client(address, said).await;
    ends_soon(&ctl, server).await;
}

#[tokio::test]
async fn a_client_that_has_said_nothing_is_not_waited_for() {
    assert_not_waited_for(Protocol::Http2, b"").await;
}

#[tokio::test]
async fn a_client_with_half_a_preface_is_not_waited_for() {
    assert_not_waited_for(Protocol::Http2, &HELLO[..10]).await;
}

#[tokio::test]
async fn a_client_that_answers_nothing_is_not_waited_for() {
    assert_not_waited_for(Protocol::Http2, HELLO).await;
}

#[tokio::test]
async fn a_connection_that_does_not_tell_its_protocol_is_found_by_hypers_own_keep_alive() {
    assert_not_waited_for(Protocol::Auto, HELLO).await;
}

#[tokio::test]
async fn a_client_that_is_cut_off_while_others_are_served_is_not_waited_for() {
    let ctl = ShutdownController::new();
    let (address, server) = serve(&ctl, Protocol::Http2, app()).await;
    let _client = client(address, HELLO).await;
    let work = ctl.track();
    tokio::spawn(async move {
        sleep(A_WHILE).await;
        drop(work);
    });
    ends_soon(&ctl, server).await;
}

#[tokio::test]
async fn a_client_that_answers_nothing_gets_the_answer_that_is_under_way() {
    let ctl = ShutdownController::new();
    let app = app().layer(DrainLayer::new(ctl.clone()));
    let (address, server) = serve(&ctl, Protocol::Http2, app).await;
    let mut client = client(address, &[HELLO, GET_SLOW].concat()).await;
    while ctl.in_flight() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    ctl.trigger(ShutdownReason::Manual);
    let mut answer = Vec::new();
    while !answer.ends_with(b"at last") {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "truncated");
    }
    drop(client);
    assert!(server.await.unwrap().is_graceful());
}

/// An HTTP/2 client that responds to PINGs, and its request.
async fn get_over_http2(address: SocketAddr, path: &str) -> JoinHandle<bytes::Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://a{path}")).body(Empty::new());
    tokio::spawn(async move {
        let answer = requests.send_request(request.unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    })
}

#[tokio::test]
async fn a_slow_handler_is_waited_for() {
    let ctl = ShutdownController::new();
    let app = app().layer(DrainLayer::new(ctl.clone()));
    let (address, server) = serve(&ctl, Protocol::Http2, app).await;
    let answer = get_over_http2(address, "/slow").await;
    while ctl.in_flight() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    ends_soon(&ctl, server).await;
    assert_eq!(answer.await.unwrap(), "at last");
}

#[tokio::test]
async fn a_slow_handler_that_no_layer_counts_is_waited_for() {
    let ctl = ShutdownController::new();
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(1);
    let slow = move || async move {
        entered.send(()).await.unwrap();
        sleep(A_WHILE).await;
        "at last"
    };
    let app = Router::new().route("/slow", get(slow));
    let (address, server) = serve(&ctl, Protocol::Http2, app).await;
    let answer = get_over_http2(address, "/slow").await;
    has_entered.recv().await.unwrap();
    assert_eq!(ctl.in_flight(), 0);
    ends_soon(&ctl, server).await;
    assert_eq!(answer.await.unwrap(), "at last");
}

#[tokio::test]
async fn a_slow_reader_of_a_large_http1_answer_gets_all_of_it() {
    let ctl = ShutdownController::new();
    let app = app().layer(DrainLayer::new(ctl.clone()));
    let (address, server) = serve(&ctl, Protocol::Http1, app).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    client.readable().await.unwrap();
    while ctl.in_flight() > 0 {
        sleep(Duration::from_millis(1)).await;
    }

    // hyper holds the rest of the response, which is not counted.
    ctl.trigger(ShutdownReason::Manual);
    assert!(timeout(A_WHILE, ctl.stopped()).await.is_err(), "too early");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.iter().filter(|byte| **byte == b'~').count(), LARGE);
    assert!(server.await.unwrap().is_graceful());
}

#[tokio::test]
async fn a_slow_reader_of_an_http2_answer_gets_all_of_it() {
    let ctl = ShutdownController::new();
    let app = app().layer(DrainLayer::new(ctl.clone()));
    let (address, server) = serve(&ctl, Protocol::Http2, app).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/medium").body(()).unwrap();
    let mut requests = requests.ready().await.unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();
    drop(requests);
    let mut body = answer.await.unwrap().into_body();

    // All of the body is in hyper, waiting for the stream's window, which stays closed.
    while ctl.in_flight() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    ctl.trigger(ShutdownReason::Manual);
    assert!(timeout(A_WHILE, ctl.stopped()).await.is_err(), "too early");
    let mut read = 0;
    while let Some(bytes) = body.data().await {
        let count = bytes.unwrap().len();
        read += count;
        body.flow_control().release_capacity(count).unwrap();
    }
    assert_eq!(read, MEDIUM);
    drop(body);
    assert!(server.await.unwrap().is_graceful());
}
