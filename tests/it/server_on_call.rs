//! Tests from a reviewer of the server: races, leaks, panics in user code, zero and infinite
//! limits, and clients that misbehave. Nearly all of them failed at first.

mod accepting;
mod extreme_settings;
mod http_2;
mod leaks;
mod short_drains;
mod storms;
mod tunnels;
mod wake_ups;

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc as std_mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get, post};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, unconstrained};
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::server::Listener;
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport, serve,
};

use crate::support::loopback::loopback;
use crate::support::runtime::threads;
use crate::support::shutdown::ms;

const HOUR: Duration = Duration::from_secs(3_600);

fn ctl(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config).unwrap()
}

fn within(total: u64) -> ShutdownController {
    ctl(ShutdownConfig::default().shutdown_timeout(ms(total)))
}

// ===== the lame duck =====

/// The layer must not change what the application says about its connection.
#[tokio::test(start_paused = true)]
async fn the_application_s_own_close_is_said_in_the_lame_duck_too() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(60_000))
        .lame_duck(ms(30_000)));
    let (door, listener) = pipes();
    let closes = any(async || ([("connection", "close")], HELLO));
    let app = Router::new()
        .route("/", closes)
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let _server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let _first = connect(&door, 0);
    let mut client = connect(&door, 1); // asked to close at 0.3 of the window
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(10)).await;
    client.write_all(GET).await.unwrap();
    let answer = read_until(&mut client, HELLO).await;
    assert!(answer.contains("connection: close"), "{answer}");
}

// ===== the report =====

/// A watched connection that is still open at the end is still alive when the wait ends.
#[tokio::test(start_paused = true)]
async fn a_watched_connection_that_is_left_is_reported_as_abandoned() {
    let ctl = within(1_000);
    let (_client, pipe) = duplex(1024);
    let service = hyper::service::service_fn(|_| async {
        Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(pipe), service);
    let _never_polled = ctl.watch(connection);
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 1);
}

// ===== short drains on a real clock =====

/// Very short shutdowns, connections of every kind, two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_totals_are_kept() {
    for total in [1, 2, 5, 20, 50] {
        let ctl = within(total);
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        let mut clients = Vec::new();
        for bytes in [
            GET,
            b"GE",
            b"",
            b"GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(bytes).await.unwrap();
            clients.push(client);
        }
        sleep(ms(20)).await;
        let began = std::time::Instant::now();
        ctl.trigger(ShutdownReason::Manual);
        server.await.unwrap();
        let took = began.elapsed();
        assert!(took < ms(total + 100), "{total} ms took {took:?}");
        for mut client in clients {
            let end = timeout(ms(1_000), read_until(&mut client, "never"));
            assert!(end.await.is_ok(), "open after {total} ms");
        }
    }
}

// ===== shared helpers =====

/// Where a client connects.
type Door = mpsc::UnboundedSender<io::Result<(DuplexStream, u32)>>;

struct Pipes(mpsc::UnboundedReceiver<io::Result<(DuplexStream, u32)>>);

fn pipes() -> (Door, Pipes) {
    let (door, pipes) = mpsc::unbounded_channel();
    (door, Pipes(pipes))
}

impl Listener for Pipes {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(DuplexStream, u32)> {
        match self.0.recv().await {
            Some(result) => result,
            None => pending().await,
        }
    }
}

fn connect(door: &Door, number: u32) -> DuplexStream {
    let (client, pipe) = duplex(64 * 1024);
    door.send(Ok((pipe, number))).unwrap();
    client
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HELLO: &str = "hello";

fn app(ctl: &ShutdownController) -> Router {
    Router::new()
        .route("/", any(async || HELLO))
        .route("/early", post(async || "early"))
        .route(
            "/slow/{ms}",
            get(
                async |axum::extract::Path(time): axum::extract::Path<u64>| {
                    sleep(ms(time)).await;
                    "slow"
                },
            ),
        )
        .fallback(async || ()) // for CONNECT
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(())
}

/// Reads one response with a known end, or everything before the connection ends.
async fn read_until(client: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut bytes = [0; 4096];
        match client.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
        }
    }
    text
}

/// Runs `test` on a separate thread, so that one that spins fails instead of hanging.
fn in_a_thread<F>(test: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F: Future<Output: Send + 'static>,
{
    let (done, outcome) = std_mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let output = runtime.block_on(test());
        let _ = done.send(output);
        runtime.shutdown_background();
    });
    let outcome = outcome.recv_timeout(Duration::from_secs(5));
    outcome.expect("the thread of the server spins")
}

struct One<I>(Option<I>);

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Listener for One<I> {
    type Io = I;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(I, ())> {
        match self.0.take() {
            Some(io) => Ok((io, ())),
            None => pending().await,
        }
    }
}

const UPGRADE: &[u8] =
    b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// An application that hands its tunnels to the test.
fn tunnels(ctl: &ShutdownController) -> (Router, mpsc::UnboundedReceiver<Tunnel>) {
    let (send, receive) = mpsc::unbounded_channel();
    let handler = move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        let send = send.clone();
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let _ = send.send(TokioIo::new(upgraded));
            }
        });
        async {
            let response = Response::builder().status(101);
            let response = response.header("connection", "upgrade");
            response
                .header("upgrade", "raw")
                .body(Body::empty())
                .unwrap()
        }
    };
    let app = Router::new()
        .route("/tunnel", any(handler))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    (app, receive)
}

async fn tunnel(
    door: &Door,
    tunnels: &mut mpsc::UnboundedReceiver<Tunnel>,
) -> (DuplexStream, Tunnel) {
    let mut client = connect(door, 0);
    client.write_all(UPGRADE).await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.contains("101"));
    (client, tunnels.recv().await.unwrap())
}

/// Starts a server on pipes.
fn start(ctl: &ShutdownController, app: Router) -> (Door, JoinHandle<ShutdownReport>) {
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    (door, server)
}

type H2 = (
    http2::SendRequest<Empty<Bytes>>,
    Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    Arc<AtomicBool>,
);

/// A pipe whose client can go silent: it no longer reads, and sends nothing.
struct Mutable {
    pipe: DuplexStream,
    mute: Arc<AtomicBool>,
}

impl AsyncRead for Mutable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.mute.load(Ordering::Relaxed) {
            Poll::Pending
        } else {
            Pin::new(&mut self.pipe).poll_read(cx, buffer)
        }
    }
}

impl AsyncWrite for Mutable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

async fn h2(door: &Door) -> H2 {
    let mute = Arc::new(AtomicBool::new(false));
    let pipe = connect(door, 0);
    let io = TokioIo::new(Mutable {
        pipe,
        mute: Arc::clone(&mute),
    });
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (sender, Box::pin(connection), mute)
}

/// Sends a request and reads its response; then the client goes silent.
async fn ask_and_fall_silent(
    (sender, connection, mute): &mut H2,
    request: http::Request<Empty<Bytes>>,
) {
    let mut answer = pin!(sender.send_request(request));
    let status = poll_fn(|cx| {
        let _ = connection.as_mut().poll(cx);
        answer.as_mut().poll(cx)
    });
    let response = timeout(ms(1_000), status).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    let settle = async {
        let mut settled = pin!(sleep(ms(50)));
        poll_fn(|cx| {
            let _ = connection.as_mut().poll(cx);
            settled.as_mut().poll(cx)
        })
        .await
    };
    settle.await;
    mute.store(true, Ordering::Relaxed);
}

async fn end_with_silent_h2(total: u64, request: http::Request<Empty<Bytes>>) -> ShutdownReport {
    let ctl = within(total);
    let app = app(&ctl);
    let (door, server) = start(&ctl, app);
    let mut client = h2(&door).await;
    ask_and_fall_silent(&mut client, request).await;
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    drop(client);
    report
}

fn h2_get() -> http::Request<Empty<Bytes>> {
    http::Request::get("http://a/").body(Empty::new()).unwrap()
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
