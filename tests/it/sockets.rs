//! Real servers, real sockets, and third-party clients.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::stream;
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tower_lifecycle::{
    LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
};

use crate::support::shutdown::refusing;
use crate::support::sockets::{
    Event, Feed, Held, Kind, Protocol, Server, client, eventually, fed, with_each_server,
    with_each_server_and_protocol,
};

const REFUSED: &str = r#"{"error":"service is shutting down"}"#;
const CUT: &str = r#"{"error":"service stopped before the request was finished"}"#;
const MIB: usize = 1 << 20;

// ===== what clients see =====

#[tokio::test]
async fn what_was_admitted_is_answered_whole_when_nobody_listens_any_more() {
    with_each_server_and_protocol(async |kind, protocol| {
        let (ctl, held) = (ShutdownController::new(), Held::new());
        let app = Router::new().route("/held", held.route());
        let server = Server::start(kind, &ctl, app).await;
        let client = client(protocol);
        let admitted = tokio::spawn(client.get(server.url("/held")).send());
        held.entered.happened().await;

        ctl.trigger(ShutdownReason::Manual);
        let nobody = async || {
            while TcpStream::connect(server.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        nobody().await;
        assert_eq!(ctl.state(), LifecycleState::Draining);
        assert_eq!(ctl.in_flight(), 1);

        held.released.happens();
        assert_answered_and_closed(admitted).await;
        assert_graceful(server, 1, 0).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_admitted_is_answered_whole_and_what_comes_later_is_refused() {
    with_each_server_and_protocol(async |kind, protocol| {
        let (ctl, held) = (refusing(), Held::new());
        let app = Router::new()
            .route("/", get(async || "quick"))
            .route("/held", held.route());
        let server = Server::start(kind, &ctl, app).await;
        let client = client(protocol);

        let quick = client.get(server.url("/")).send().await.unwrap();
        assert!(quick.headers().get("connection").is_none());
        assert_eq!(quick.text().await.unwrap(), "quick");
        let admitted = tokio::spawn(client.get(server.url("/held")).send());
        held.entered.happened().await;

        ctl.trigger(ShutdownReason::Manual);
        for _ in 0..3 {
            assert_refused(client.get(server.url("/")).send().await.unwrap()).await;
        }

        held.released.happens();
        assert_answered_and_closed(admitted).await;
        assert_graceful(server, 2, 3).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_under_way_at_the_trigger_ends_whole() {
    with_each_server_and_protocol(async |kind, protocol| {
        let ctl = ShutdownController::new();
        let (server, mut response, feed) = begun(kind, protocol, &ctl, "before, ").await;

        ctl.trigger(ShutdownReason::Manual);
        feed.send("after, ").unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "after, ");
        assert_eq!(ctl.in_flight(), 1);
        feed.send("end").unwrap();
        drop(feed);
        assert_eq!(response.text().await.unwrap(), "end");

        let report = server.report().await;
        assert!(report.is_graceful(), "{report}");
    })
    .await;
}

#[tokio::test]
async fn a_lame_duck_serves_everything_and_asks_http_1_to_leave() {
    with_each_server_and_protocol(async |kind, protocol| {
        let config = ShutdownConfig::default().lame_duck(Duration::from_secs(20));
        let ctl = ShutdownController::with_config(config).unwrap();
        let server =
            Server::start(kind, &ctl, Router::new().route("/", get(async || "served"))).await;
        let client = client(protocol);

        ctl.trigger(ShutdownReason::Manual);
        for _ in 0..3 {
            let response = client.get(server.url("/")).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_closes_http1(&response);
            assert_eq!(response.text().await.unwrap(), "served");
        }
        assert_eq!(ctl.state(), LifecycleState::LameDuck);

        ctl.force();
        assert_eq!(server.report().await.admitted(), 3);
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_close_by_its_next_response_and_is_not_reset() {
    with_each_server(async |kind| {
        let ctl = refusing();
        let server = Server::start(kind, &ctl, Router::new().route("/", get(async || "ok"))).await;
        let (mut sender, connection) = http1(server.address).await;
        let first = sender.send_request(a_request(Method::GET)).await.unwrap();
        assert_eq!(whole(first).await, "ok");

        let working = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        sender.ready().await.unwrap();
        let second = sender.send_request(a_request(Method::GET)).await.unwrap();
        assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(second.headers()["connection"], "close");
        assert_eq!(whole(second).await, REFUSED);
        connection.await.unwrap().unwrap();

        drop(working);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn a_refused_head_leaves_its_http_2_connection_intact() {
    with_each_server(async |kind| {
        let (ctl, held) = (refusing(), Held::new());
        let server = Server::start(kind, &ctl, Router::new().route("/", held.route())).await;
        let (mut sender, connection) = http2(server.address).await;
        let admitted = tokio::spawn(sender.send_request(a_request(Method::GET)));
        held.entered.happened().await;
        ctl.trigger(ShutdownReason::Manual);

        for _ in 0..3 {
            let head = sender.send_request(a_request(Method::HEAD)).await.unwrap();
            assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(head.headers()["content-length"], REFUSED.len().to_string());
            assert!(head.body().is_end_stream(), "the headers end the stream");
            assert_eq!(whole(head).await, "");
            let get = sender.send_request(a_request(Method::GET)).await.unwrap();
            assert_eq!(get.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(whole(get).await, REFUSED);
        }

        held.released.happens();
        assert_eq!(whole(admitted.await.unwrap().unwrap()).await, Held::ANSWER);
        assert!(server.report().await.is_graceful());
        connection.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_grpc_call_is_refused_with_trailers_only() {
    with_each_server(async |kind| {
        let ctl = refusing();
        let server = Server::start(kind, &ctl, Router::new().route("/", post(async || "ok"))).await;
        let (mut sender, _connection) = http2(server.address).await;
        let working = ctl.track();
        ctl.trigger(ShutdownReason::Manual);

        let mut call = a_request(Method::POST);
        let content_type = "application/grpc+proto".parse().unwrap();
        call.headers_mut().insert("content-type", content_type);
        let refusal = sender.send_request(call).await.unwrap();
        assert_eq!(refusal.status(), StatusCode::OK);
        assert_eq!(refusal.headers()["content-type"], "application/grpc+proto");
        assert_eq!(refusal.headers()["grpc-status"], "14");
        assert!(refusal.headers().contains_key("grpc-message"));
        assert!(refusal.body().is_end_stream(), "the headers end the stream");

        drop(working);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn a_large_upload_that_nobody_reads_is_refused() {
    with_each_server_and_protocol(async |kind, protocol| {
        let ctl = refusing();
        let app = Router::new().route("/", post(async |_: Bytes| "ok"));
        let server = Server::start(kind, &ctl, app).await;
        let working = ctl.track();
        ctl.trigger(ShutdownReason::Manual);

        let upload = vec![b'u'; 8 * MIB];
        let response = client(protocol).post(server.url("/")).body(upload).send();
        assert_refused(response.await.unwrap()).await;

        drop(working);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn who_expects_100_continue_is_refused_before_the_upload() {
    with_each_server(async |kind| {
        let (ctl, server) = refusing_server(kind).await;
        let response = exchange(
            server.address,
            "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n",
        )
        .await;
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        assert!(response.ends_with(REFUSED), "{response}");
        ctl.force();
        server.report().await;
    })
    .await;
}

#[tokio::test]
async fn http_1_0_is_refused_in_its_own_version() {
    with_each_server(async |kind| {
        let (ctl, server) = refusing_server(kind).await;
        for keep_alive in ["", "connection: keep-alive\r\n"] {
            let request = format!("GET / HTTP/1.0\r\n{keep_alive}\r\n");
            let response = exchange(server.address, &request).await;
            assert!(response.starts_with("HTTP/1.0 503 "), "{response}");
            assert!(response.contains("\r\nretry-after: 1\r\n"), "{response}");
            // A client that asks for keep-alive gets `close, keep-alive`: the second word comes
            // from hyper.
            assert!(response.contains("\r\nconnection: close"), "{response}");
            assert!(response.ends_with(REFUSED), "{response}");
        }
        ctl.force();
        server.report().await;
    })
    .await;
}

// ===== clients that disappear =====

#[tokio::test]
async fn a_client_that_disappears_before_its_response_gives_its_guard_back() {
    with_each_server_and_protocol(async |kind, protocol| {
        let (ctl, held) = (ShutdownController::new(), Held::new());
        let (server, request) = held_request(kind, protocol, &ctl, &held).await;
        assert_eq!(ctl.in_flight(), 1);

        request.abort();
        assert_given_back(&ctl, server).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_disappears_in_the_middle_of_its_response_gives_its_guard_back() {
    with_each_server_and_protocol(async |kind, protocol| {
        let ctl = ShutdownController::new();
        let (server, response, feed) = begun(kind, protocol, &ctl, "a part").await;
        assert_eq!(ctl.in_flight(), 1);

        drop(response);
        feed.closed().await;
        assert_given_back(&ctl, server).await;
    })
    .await;
}

// ===== force =====

#[tokio::test]
async fn a_handler_that_never_ends_is_cut_and_its_client_told() {
    with_each_server_and_protocol(async |kind, protocol| {
        let (ctl, held) = (ShutdownController::new(), Held::new());
        let (server, request) = held_request(kind, protocol, &ctl, &held).await;

        ctl.force();
        let response = request.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().get("retry-after").is_none());
        assert_closes_http1(&response);
        assert_eq!(response.text().await.unwrap(), CUT);

        assert_forced(server, 1, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_never_ends_ends_with_an_error_at_the_client() {
    with_each_server_and_protocol(async |kind, protocol| {
        let ctl = ShutdownController::new();
        let (quiet, mut feeds) = fed();
        let app = Router::new()
            .route("/quiet", quiet)
            .route("/torrent", get(torrent));
        let server = Server::start(kind, &ctl, app).await;
        let client = client(protocol);
        let mut quiet = client.get(server.url("/quiet")).send().await.unwrap();
        let feed = feeds.recv().await.unwrap();
        feed.send("a part").unwrap();
        assert_eq!(quiet.chunk().await.unwrap().unwrap(), "a part");
        let mut torrent = client.get(server.url("/torrent")).send().await.unwrap();
        assert!(torrent.chunk().await.unwrap().is_some());

        ctl.force();
        assert!(quiet.chunk().await.is_err(), "no clean end");
        let torrent = async {
            loop {
                match torrent.chunk().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("a clean end"),
                    Err(_) => break,
                }
            }
        };
        torrent.await;

        assert_forced(server, 2, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_blocked_thread_is_abandoned_and_the_deadline_kept() {
    with_each_server(async |kind| {
        let (ctl, total) = soon_over();
        let entered = Event::new();
        // Dropped at the end of the test, even on failure, which unblocks the thread.
        let (_release, released) = std::sync::mpsc::channel::<()>();
        let (blocks, released) = (entered.clone(), Arc::new(Mutex::new(released)));
        let app = Router::new().route(
            "/",
            get(async move || {
                blocks.happens();
                let _ = released.lock().unwrap().recv();
            }),
        );
        let server = Server::start(kind, &ctl, app).await;
        let _request = tokio::spawn(client(Protocol::Http1).get(server.url("/")).send());
        entered.happened().await;

        let began = Instant::now();
        ctl.trigger(ShutdownReason::Manual);
        // The request, and the server, which waits for the request's connection.
        let report = assert_forced(server, 0, 2).await;
        assert_kept(began, total);
        assert!(!report.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_stalls_in_its_request_is_abandoned_and_the_deadline_kept() {
    with_each_server(async |kind| {
        let (ctl, total) = soon_over();
        let server = Server::start(kind, &ctl, Router::new().route("/", get(async || "ok"))).await;
        let mut stalled = TcpStream::connect(server.address).await.unwrap();
        stalled.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        // Accepted after the stalled one, so the stalled one has been seen when this one gets its
        // response.
        let other = client(Protocol::Http1).get(server.url("/")).send().await;
        assert_eq!(other.unwrap().status(), StatusCode::OK);

        let began = Instant::now();
        ctl.trigger(ShutdownReason::Manual);
        ctl.drained().await;
        let report = assert_forced(server, 0, 1).await;
        assert_kept(began, total);
        assert!(!report.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn what_is_stuck_is_cut_at_the_drain_deadline() {
    with_each_server_and_protocol(async |kind, protocol| {
        let (ctl, total) = soon_over();
        let entered = Event::new();
        let stuck = entered.clone();
        let app = Router::new().route("/torrent", get(torrent)).route(
            "/stuck",
            get(async move || {
                stuck.happens();
                pending::<()>().await
            }),
        );
        let server = Server::start(kind, &ctl, app).await;
        let client = client(protocol);
        // Its socket is full at the end, because nothing reads it.
        let unread = client.get(server.url("/torrent")).send().await.unwrap();
        let stuck = tokio::spawn(client.get(server.url("/stuck")).send());
        entered.happened().await;

        let began = Instant::now();
        ctl.trigger(ShutdownReason::Manual);
        let cut = stuck.await.unwrap().unwrap();
        assert_eq!(cut.text().await.unwrap(), CUT);
        let report = server.report().await;
        assert_kept(began, total);
        assert!(report.is_forced());
        assert_eq!(report.in_flight_at_force(), 2);
        drop(unread);
    })
    .await;
}

// ===== what `run` adds =====

#[tokio::test]
async fn under_run_a_slow_reader_gets_all_of_a_response_that_is_no_longer_counted() {
    with_each_server(async |kind| {
        const SIZE: usize = 64 * MIB;
        let ctl = ShutdownController::new();
        let app = Router::new().route("/", get(async || Bytes::from(vec![b'b'; SIZE])));
        let server = Server::start(kind, &ctl, app).await;
        let mut response = client(Protocol::Http1)
            .get(server.url("/"))
            .send()
            .await
            .unwrap();

        ctl.trigger(ShutdownReason::Manual);
        ctl.drained().await;
        assert_eq!(ctl.in_flight(), 0);
        let mut received = 0;
        while let Some(chunk) = response.chunk().await.unwrap() {
            received += chunk.len();
            if received < SIZE / 2 {
                assert_eq!(ctl.state(), LifecycleState::Draining);
                assert!(server.is_running());
            }
        }
        assert_eq!(received, SIZE);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

// ===== helpers =====

/// Checks the refusal of a plain request, with either protocol.
async fn assert_refused(response: reqwest::Response) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_closes_http1(&response);
    assert_eq!(response.text().await.unwrap(), REFUSED);
}

fn assert_closes_http1(response: &reqwest::Response) {
    let connection = response.headers().get("connection");
    let expected = (response.version() < Version::HTTP_2).then_some("close");
    assert_eq!(connection.map(|value| value.to_str().unwrap()), expected);
}

/// Starts a server, and sends a request that is held.
async fn held_request(
    kind: Kind,
    protocol: Protocol,
    ctl: &ShutdownController,
    held: &Held,
) -> (Server, Pending) {
    let server = Server::start(kind, ctl, Router::new().route("/", held.route())).await;
    let request = tokio::spawn(client(protocol).get(server.url("/")).send());
    held.entered.happened().await;
    (server, request)
}

type Pending = JoinHandle<reqwest::Result<reqwest::Response>>;

/// Starts a server, and reads the first part of a response that the test sends.
async fn begun(
    kind: Kind,
    protocol: Protocol,
    ctl: &ShutdownController,
    part: &'static str,
) -> (Server, reqwest::Response, Feed) {
    let (route, mut feeds) = fed();
    let server = Server::start(kind, ctl, Router::new().route("/", route)).await;
    let mut response = client(protocol).get(server.url("/")).send().await.unwrap();
    let feed = feeds.recv().await.unwrap();
    feed.send(part).unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), part);
    (server, response, feed)
}

/// Checks the complete response of a held handler.
async fn assert_answered_and_closed(request: Pending) {
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_closes_http1(&response);
    assert_eq!(response.text().await.unwrap(), Held::ANSWER);
}

/// The guard of a disconnected client is released, and the server continues until it is stopped.
async fn assert_given_back(ctl: &ShutdownController, server: Server) {
    eventually(|| ctl.in_flight() == 0).await;
    assert_eq!(ctl.state(), LifecycleState::Running);
    ctl.trigger(ShutdownReason::Manual);
    assert!(server.report().await.is_graceful());
}

async fn assert_graceful(server: Server, admitted: u64, refused: u64) {
    let report = server.report().await;
    assert!(report.is_graceful(), "{report}");
    assert_eq!((report.admitted(), report.refused()), (admitted, refused));
}

async fn assert_forced(server: Server, aborted: u64, abandoned: u64) -> ShutdownReport {
    let report = server.report().await;
    assert!(report.is_forced());
    let figures = (report.aborted(), report.abandoned());
    assert_eq!(figures, (aborted, abandoned), "{report}");
    report
}

/// The machine is noisy, so this checks only the order of magnitude.
fn assert_kept(began: Instant, total: Duration) {
    let took = began.elapsed();
    assert!(took < total + Duration::from_secs(1), "it took {took:?}");
}

/// Returns a controller with a short deadline, and that deadline.
fn soon_over() -> (ShutdownController, Duration) {
    let total = Duration::from_millis(600);
    let config = ShutdownConfig::default().shutdown_timeout(total);
    (ShutdownController::with_config(config).unwrap(), total)
}

/// A server that refuses all requests until it is forced.
async fn refusing_server(kind: Kind) -> (ShutdownController, Server) {
    let ctl = refusing();
    let app = Router::new().route("/", get(async || "ok").post(async |_: Bytes| "ok"));
    let server = Server::start(kind, &ctl, app).await;
    let working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    tokio::spawn(async move { working.forced().await });
    (ctl, server)
}

/// A body that is always ready and never ends.
async fn torrent() -> Body {
    let chunk = Ok::<_, Infallible>(Bytes::from_static(&[b't'; 16 * 1024]));
    Body::from_stream(stream::repeat(chunk))
}

/// Sends only these bytes, and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

fn a_request(method: Method) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("http://test/");
    request.body(Full::default()).unwrap()
}

async fn whole(response: hyper::Response<hyper::body::Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

type Connection = JoinHandle<hyper::Result<()>>;

async fn http1(address: SocketAddr) -> (http1::SendRequest<Full<Bytes>>, Connection) {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = http1::handshake(stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn http2(address: SocketAddr) -> (http2::SendRequest<Full<Bytes>>, Connection) {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let handshake = http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = handshake.unwrap();
    (sender, tokio::spawn(connection))
}
