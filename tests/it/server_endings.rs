//! How `serve` ends its connections: with close_notify on TLS, after reading what the client is
//! still sending, and without making a cut response look complete.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport, serve,
};

use crate::support::loopback::loopback;
use crate::support::server::{self, Frame, HEADERS, Http1, Http2, PREFACE, in_time, pipes, start};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// ===== TLS =====

/// A TLS server, with clients that trust it.
struct TlsServer {
    ctl: ShutdownController,
    connector: server::Connector<DuplexStream>,
    client: TlsConnector,
    server: tokio::task::JoinHandle<ShutdownReport>,
}

type TlsClient = TlsStream<DuplexStream>;

const HEADER_TIMEOUT: Duration = Duration::from_secs(8);

impl TlsServer {
    fn start(config: ShutdownConfig) -> Self {
        let ctl = ShutdownController::with_config(config).unwrap();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let certificate = own.cert.der().clone();
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (connector, listener) = pipes::<DuplexStream>();
        let server = serve(listener, app(&ctl), ctl.clone())
            .header_read_timeout(HEADER_TIMEOUT)
            .handshake(move |io| acceptor.accept(io));
        Self {
            ctl,
            connector,
            client: TlsConnector::from(Arc::new(client)),
            server: tokio::spawn(server.into_future()),
        }
    }

    /// A client whose handshake is done, and which has sent these bytes.
    async fn client(&self, said: &[u8]) -> TlsClient {
        let (client, server) = duplex(64 * 1024);
        self.connector.accept(Ok(server));
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = in_time(self.client.connect(name, client)).await.unwrap();
        client.write_all(said).await.unwrap();
        client
    }

    async fn trigger(&self) {
        sleep(MS).await;
        assert!(self.ctl.trigger(ShutdownReason::Manual));
    }
}

/// Reads to the end; `Err` if the server did not send close_notify (RFC 8446 §6.1).
async fn end(client: &mut TlsClient) -> io::Result<String> {
    let mut rest = Vec::new();
    in_time(client.read_to_end(&mut rest)).await?;
    Ok(String::from_utf8_lossy(&rest).into_owned())
}

/// The bytes that clients send before they go silent.
fn beginnings() -> Vec<(&'static str, Vec<u8>)> {
    let whole = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let http2 = [PREFACE.as_bytes(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let upgrade = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    vec![
        ("nothing", vec![]),
        ("half a head", b"GET / HT".to_vec()),
        ("half a preface", PREFACE.as_bytes()[..12].to_vec()),
        ("a request", whole.into()),
        ("a request and half of one", format!("{whole}GET").into()),
        ("a request with an upgrade", upgrade.into()),
        (
            "an upgrade and half a request",
            format!("{upgrade}GET").into(),
        ),
        ("HTTP/2", http2),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_tls_connections_with_close_notify() {
    let tls = TlsServer::start(ShutdownConfig::default());
    let mut clients = Vec::new();
    for (name, said) in beginnings() {
        clients.push((name, tls.client(&said).await));
    }
    tls.trigger().await;
    for (name, client) in &mut clients {
        let ended = end(client).await;
        assert!(ended.is_ok(), "{name}: {ended:?}");
    }
    let report = in_time(tls.server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn tls_clients_that_take_too_long_are_told_by_close_notify() {
    let tls = TlsServer::start(ShutdownConfig::default());
    let since = Instant::now();
    let mut clients = Vec::new();
    for (name, said) in beginnings() {
        // hyper's keep-alive ends HTTP/2.
        if name != "HTTP/2" {
            clients.push((name, tls.client(&said).await));
        }
    }
    for (name, client) in &mut clients {
        let ended = end(client).await;
        assert!(ended.is_ok(), "{name}: {ended:?}");
        let took = since.elapsed();
        assert!(took <= HEADER_TIMEOUT * 3 / 2, "{name} after {took:?}");
    }
    tls.trigger().await;
    assert!(in_time(tls.server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_force_closes_idle_tls_connections_with_close_notify() {
    let tls = TlsServer::start(ShutdownConfig::default());
    let mut clients = Vec::new();
    for (name, said) in beginnings() {
        clients.push((name, tls.client(&said).await));
    }
    sleep(MS).await;
    tls.ctl.force();
    for (name, client) in &mut clients {
        let ended = end(client).await;
        assert!(ended.is_ok(), "{name}: {ended:?}");
    }
    assert!(in_time(tls.server).await.unwrap().is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_none_is_answered_and_closed_with_close_notify() {
    let tls = TlsServer::start(ShutdownConfig::default());
    let mut client = tls.client(b"NO HTTP AT ALL\r\n\r\n").await;
    let answer = end(&mut client).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(client);
    tls.trigger().await;
    assert!(in_time(tls.server).await.unwrap().is_graceful());
}

/// The end of such a response is the end of its connection.
const HTTP_1_0: &str = " HTTP/1.0\r\nhost: test\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_broken_off_does_not_look_whole() {
    let tls = TlsServer::start(ShutdownConfig::default());
    let mut failing = tls
        .client(format!("GET /broken{HTTP_1_0}").as_bytes())
        .await;
    let ended = end(&mut failing).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    let mut cut = tls
        .client(format!("GET /endless{HTTP_1_0}").as_bytes())
        .await;
    sleep(MS).await;
    tls.ctl.force();
    let ended = end(&mut cut).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(in_time(tls.server).await.unwrap().is_forced());
}

/// On plain TCP, only a reset tells a cut response from a whole one.
#[tokio::test]
async fn an_answer_over_tcp_that_is_broken_off_does_not_look_whole() {
    let ctl = ShutdownController::new();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let ask = async |path: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path}{HTTP_1_0}");
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    };
    let read = async |socket: &mut TcpStream| {
        let mut rest = Vec::new();
        in_time(socket.read_to_end(&mut rest))
            .await
            .map_err(|error| error.kind())
    };
    let mut failing = ask("/broken").await;
    assert_eq!(
        read(&mut failing).await,
        Err(io::ErrorKind::ConnectionReset)
    );
    // A response with a length that is cut ends as usual: its client counts.
    let mut counted = ask("/short").await;
    assert!(read(&mut counted).await.is_ok());
    let mut whole = ask("/pieces").await;
    assert!(read(&mut whole).await.is_ok());

    let mut cut = ask("/endless").await;
    cut.read_u8().await.unwrap();
    ctl.force();
    assert_eq!(read(&mut cut).await, Err(io::ErrorKind::ConnectionReset));
    assert!(in_time(server).await.unwrap().is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_tls_client_that_reads_nothing_does_not_hold_the_server() {
    let tls = TlsServer::start(ShutdownConfig::default());
    // A handshake that fits into the socket's buffer, and a response that does not.
    let mut stalled = tls.client(b"GET /big HTTP/1.1\r\nhost: test\r\n\r\n").await;
    sleep(MS).await;
    tls.ctl.force();
    let since = Instant::now();
    assert!(in_time(tls.server).await.unwrap().is_forced());
    assert!(since.elapsed() <= 200 * MS, "{:?}", since.elapsed());
    assert!(end(&mut stalled).await.is_err());
}

// ===== clients that keep sending =====

/// Sends frames until the connection is closed. Returns how long that takes.
async fn send_until_closed(client: &mut Http2<DuplexStream>) -> Duration {
    let since = Instant::now();
    let sending = async {
        while client.try_send(Frame::window(0, 1)).await {
            sleep(50 * MS).await;
        }
    };
    in_time(sending).await;
    since.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_http_2_client_that_sends_on_after_an_error_has_the_grace_and_no_more() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    // A request on a server-initiated stream is a connection error (RFC 9113 §5.1.1).
    client.send(Frame::new(HEADERS, 5, 2, &[0x82])).await;
    let took = send_until_closed(&mut client).await;
    assert!(took <= SECOND + 100 * MS, "{took:?}");

    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    sleep(MS).await;
    ctl.trigger(ShutdownReason::Manual);
    let took = send_until_closed(&mut client).await;
    assert!(took <= 2 * SECOND + 300 * MS, "{took:?}");
    server.graceful().await;
}

/// On real sockets and in real time, because only those are reset.
#[tokio::test]
async fn a_client_that_uploads_after_a_bad_head_is_not_reset() {
    let ctl = ShutdownController::new();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = Http1::new(TcpStream::connect(address).await.unwrap());
    let head = "POST / HTTP/1.1\r\nhost: test\r\nx : y\r\ncontent-length: 100000\r\n\r\n";
    client.send(head).await;
    for piece in 0..10 {
        sleep(20 * MS).await;
        let sent = in_time(client.io.write_all(&[b'u'; 10_000])).await;
        assert!(sent.is_ok(), "the {piece}th: {sent:?}");
    }
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(client.end().await, b"");
    drop(client);
    ctl.trigger(ShutdownReason::Manual);
    assert!(in_time(server).await.unwrap().is_graceful());
}

const UPLOAD: usize = 256 * 1024;

/// Uploads before it reads, as many clients do; on a real socket, because only those are reset.
fn upload(address: SocketAddr, head: &str) -> io::Result<String> {
    let mut socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(20 * SECOND))?;
    let head = format!("POST /closed HTTP/1.1\r\n{head}content-length: {UPLOAD}\r\n\r\n");
    io::Write::write_all(&mut socket, head.as_bytes())?;
    // In pieces: the response comes in the middle.
    for piece in [b'u'; UPLOAD].chunks(16 * 1024) {
        io::Write::write_all(&mut socket, piece)?;
        std::thread::yield_now();
    }
    let mut answer = String::new();
    io::Read::read_to_string(&mut socket, &mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_an_upgrade_with_an_upload_gets_its_early_answer_and_no_reset() {
    let ctl = ShutdownController::new();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let plain = "host: test\r\n";
    // Java's default client sends this with every cleartext request.
    let java = "host: test\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
                http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    let mut wrong = Vec::new();
    for nth in 0..100 {
        let head = if nth % 2 == 0 { plain } else { java };
        let upload = tokio::task::spawn_blocking(move || upload(address, head));
        match in_time(upload).await.unwrap() {
            Ok(answer) if answer.ends_with("\r\n\r\nno") => {}
            other => wrong.push((nth, other)),
        }
    }
    assert!(wrong.is_empty(), "{} of 100: {:?}", wrong.len(), wrong[0]);
    ctl.trigger(ShutdownReason::Manual);
    assert!(in_time(server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_was_not_made_is_closed_though_its_handler_waits_for_it() {
    let ctl = ShutdownController::new();
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let route = get(async move |request: axum::extract::Request| {
        tokio::spawn(async move {
            let error = match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    let mut io = hyper_util::rt::TokioIo::new(upgraded);
                    // The handler keeps reading until the client closes.
                    while io.read_u8().await.is_ok() {}
                    std::future::pending().await
                }
                Err(error) => error.to_string(),
            };
            let _ = told.send(error);
        });
        "no"
    });
    let (connector, server) = start(&ctl, Router::new().route("/", route));
    let mut client: Http1<DuplexStream> = connector.http1();
    let request = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: no\r\n\r\n";
    client.send(request).await;
    assert_eq!(client.answer().await.text(), "no");
    sleep(MS).await;
    ctl.trigger(ShutdownReason::Manual);
    let since = Instant::now();
    assert_eq!(client.end().await, b"");
    server.graceful().await;
    assert!(since.elapsed() <= SECOND, "{:?}", since.elapsed());
    assert!(ended.try_recv().is_err());
}

// ===== helpers =====

fn app(ctl: &ShutdownController) -> Router {
    let broken = || {
        let pieces = [Ok(Bytes::from("half")), Err(io::Error::other("a test"))];
        // With a pause, so that the first piece has been written.
        let pieces = stream::iter(pieces).then(async |piece| {
            sleep(MS).await;
            piece
        });
        Body::from_stream(pieces)
    };
    let endless = async || {
        let pieces = stream::repeat(Bytes::from("more")).then(async |piece| {
            sleep(MS).await;
            Ok::<_, io::Error>(piece)
        });
        Body::from_stream(pieces)
    };
    let short = async move || ([("content-length", "8")], broken());
    let pieces = async || {
        let pieces = stream::iter(["half", "half"]).map(Ok::<_, io::Error>);
        Body::from_stream(pieces)
    };
    Router::new()
        .route("/", get(async || "ok"))
        .route("/big", get(async || server::big()))
        .route("/short", get(short))
        .route("/pieces", get(pieces))
        .route("/broken", get(async move || broken()))
        .route("/endless", get(endless))
        .route("/closed", post(async || ([("connection", "close")], "no")))
        .layer(DrainLayer::new(ctl.clone()))
}
