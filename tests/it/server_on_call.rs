//! What a reviewer of the server found, as proofs: races, leaks, panics of foreign code, limits without
//! end and without length, and what a client may do that it should not. Nearly all were red once.

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

const HOUR: Duration = Duration::from_secs(3_600);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ctl(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config).unwrap()
}

fn within(total: u64) -> ShutdownController {
    ctl(ShutdownConfig::default().shutdown_timeout(ms(total)))
}

// ===== pipes =====

/// What a client connects with.
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
        .fallback(async || ()) // of CONNECT
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(())
}

/// Reads one answer whose end is known, or what there is before the connection ends.
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

/// Runs `test` in a thread of its own, so that one that spins fails and does not hang.
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

// ===== wake-ups =====

/// `PlanChannel::send` publishes the new version, and wakes batch after batch. A connection that is polled
/// in between registers, knowing the version; its batch then takes its waker, and it never registers
/// again: it misses all later plans.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_polled_while_a_plan_is_told_hears_of_the_next_one() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(20_000))
        .lame_duck(ms(2_000)));
    let (door, listener) = pipes();
    // Without a layer, which would have some of them leave at once: see the test after this.
    let app: Router = Router::new().route("/", any(async || HELLO));
    let server = tokio::spawn(
        serve(listener, app.with_state(()), ctl.clone())
            .header_read_timeout(HOUR)
            .into_future(),
    );
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = connect(&door, number);
        client.write_all(GET).await.unwrap();
        assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
        clients.push(client);
    }

    ctl.trigger(ShutdownReason::Manual);
    for client in &mut clients {
        unconstrained(client.write_all(GET)).await.unwrap();
    }
    for client in &mut clients {
        assert!(read_until(client, HELLO).await.ends_with(HELLO));
    }
    // All are idle now, and go when late clients are refused no more.
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// "Each is asked to leave at a moment of its own ... and not before": a connection that has a request
/// in the poll in which it would read the plan answers first, by the plan from before.
#[tokio::test(start_paused = true)]
async fn a_client_that_asks_when_the_lame_duck_begins_is_not_asked_to_leave_at_once() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(60_000))
        .lame_duck(ms(30_000)));
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let _first = connect(&door, 0);
    let mut client = connect(&door, 1); // whose moment is at 0.3 of the window
    client.write_all(GET).await.unwrap();
    read_until(&mut client, HELLO).await;
    ctl.trigger(ShutdownReason::Manual);
    unconstrained(client.write_all(GET)).await.unwrap();
    let answer = read_until(&mut client, HELLO).await;
    assert!(!answer.contains("connection: close"), "{answer}");
    drop(server);
}

/// The server may sleep through `resume` and the next `trigger`; it then drains by the deadlines of
/// the shutdown that was called off.
#[tokio::test(start_paused = true)]
async fn a_drain_goes_by_its_own_deadlines_and_not_by_those_of_one_called_off() {
    async fn answer_after_the_force(is_second: bool) -> String {
        let ctl = ctl(ShutdownConfig::default()
            .shutdown_timeout(ms(30_000))
            .lame_duck(ms(24_900)));
        let (door, listener) = pipes();
        let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        if is_second {
            ctl.trigger(ShutdownReason::Manual);
            sleep(ms(24_880)).await;
        }
        let mut client = connect(&door, 4);
        sleep(ms(1)).await;
        if is_second {
            ctl.resume().unwrap();
        }
        ctl.trigger(ShutdownReason::Manual);
        ctl.force();
        sleep(ms(100)).await;
        let _ = client.write_all(GET).await;
        let answer = read_until(&mut client, "}").await;
        drop(server);
        answer
    }
    assert!(answer_after_the_force(false).await.contains("503"));
    assert!(answer_after_the_force(true).await.contains("503"));
}

// ===== settings at their ends =====

fn a_request_of_400_ms_with_a_grace_of(grace: Duration) -> (String, ShutdownReport) {
    in_a_thread(move || async move {
        let ctl = ctl(ShutdownConfig::default()
            .shutdown_timeout(ms(600))
            .refuse_for(ms(20)));
        let (door, listener) = pipes();
        let serving = serve(listener, app(&ctl), ctl.clone()).grace(grace);
        let server = tokio::spawn(serving.into_future());
        let mut client = connect(&door, 0);
        let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        sleep(ms(20)).await;
        ctl.trigger(ShutdownReason::Manual);
        (read_until(&mut client, "slow").await, server.await.unwrap())
    })
}

/// A busy connection looks again after `grace`, which is at once: the loop never ends.
#[test]
fn no_grace_at_all_does_not_stop_a_thread() {
    let (answer, report) = a_request_of_400_ms_with_a_grace_of(Duration::ZERO);
    assert!(answer.ends_with("slow") && report.is_graceful(), "{report}");
}

/// As above: a look after an endless grace is none, and the deadline has passed.
#[test]
fn an_endless_grace_does_not_stop_a_thread() {
    let (answer, report) = a_request_of_400_ms_with_a_grace_of(Duration::MAX);
    assert!(answer.ends_with("slow") && report.is_graceful(), "{report}");
}

/// `now + time` overflows: the connection panics, and the client that is refused is reset.
#[tokio::test(start_paused = true)]
async fn lingering_without_a_limit_of_time() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone()).linger(1 << 30, Duration::MAX);
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    assert!(read_until(&mut client, "early").await.ends_with("early"));
    sleep(ms(100)).await;
    client.write_all(&[0; 1000]).await.unwrap();
    sleep(ms(100)).await;
    client.write_all(&[0; 1000]).await.unwrap();
}

/// A socket from which there is always something to be read, and no more than that.
struct Endless {
    head: &'static [u8],
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.head.len().min(buffer.remaining());
        let (now, later) = self.head.split_at(count);
        buffer.put_slice(now);
        self.head = later;
        if count == 0 {
            let rest = buffer.remaining();
            buffer.put_slice(&vec![b'x'; rest]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
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

/// The limit of time is looked at only when there is nothing to be read.
#[test]
fn lingering_ends_in_time_also_when_the_client_never_pauses() {
    let report = in_a_thread(|| async {
        let ctl = within(2_000);
        let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
        let listener = One(Some(Endless { head }));
        let serving = serve(listener, app(&ctl), ctl.clone()).linger(u64::MAX, ms(100));
        let server = tokio::spawn(serving.into_future());
        sleep(ms(500)).await;
        ctl.trigger(ShutdownReason::Manual);
        server.await.unwrap()
    });
    assert!(report.is_graceful(), "{report}");
}

/// the same on a real socket, whose client writes as fast as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lingering_ends_in_time_on_a_socket_that_is_always_full() {
    let ctl = within(10_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, app(&ctl), ctl.clone()).linger(u64::MAX, ms(300));
    let _server = tokio::spawn(serving.into_future());
    let took = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
        client.write_all(head).unwrap();
        let began = std::time::Instant::now();
        let bytes = vec![b'x'; 1 << 20];
        while began.elapsed() < ms(3_000) && client.write_all(&bytes).is_ok() {}
        began.elapsed()
    });
    let took = took.await.unwrap();
    assert!(took < ms(1_500), "{took:?}");
}

/// The look for idle connections takes one that reads and throws away for idle: an upload that was
/// answered early is reset, though its limit of time is much longer.
#[tokio::test(start_paused = true)]
async fn the_time_for_a_head_does_not_end_the_reading_of_an_upload() {
    let ctl = within(60_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone())
        .header_read_timeout(ms(1_000))
        .linger(64 << 20, ms(30_000));
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < ms(10_000) {
        sleep(ms(200)).await;
        let result = client.write_all(&[0; 300]).await;
        assert!(result.is_ok(), "reset after {:?}", began.elapsed());
    }
}

/// a request head that takes no time at all, by a paused clock.
#[test]
fn no_time_for_a_head_does_not_stop_a_thread() {
    let answer = in_a_thread(|| async {
        tokio::time::pause();
        let ctl = within(10_000);
        let (door, listener) = pipes();
        let mut client = connect(&door, 0);
        let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let serving = serve(listener, app(&ctl), ctl.clone()).header_read_timeout(Duration::ZERO);
        let _server = tokio::spawn(serving.into_future());
        read_until(&mut client, "slow").await
    });
    assert!(answer.is_empty() || answer.ends_with("slow"));
}

// ===== tunnels =====

const UPGRADE: &[u8] =
    b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// An application that gives its tunnels to the test.
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

/// To shut the write side of a tunnel is its half-close (a proxy's `copy_bidirectional` does it). The
/// wire takes it for the end of HTTP, and throws away what the client sends.
#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_closed_in_one_direction_loses_nothing_in_the_other() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let (app, mut tunnels) = tunnels(&ctl);
    let _server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let (mut client, mut server_side) = tunnel(&door, &mut tunnels).await;
    client.write_all(b"before, ").await.unwrap();
    let far = tokio::spawn(async move {
        server_side.shutdown().await.unwrap();
        let mut text = String::new();
        server_side.read_to_string(&mut text).await.unwrap();
        text
    });
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    client.write_all(b"after").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(far.await.unwrap(), "before, after");
}

async fn is_closed(mut tunnel: Tunnel) -> bool {
    let read = async move { !matches!(tunnel.read(&mut [0; 8]).await, Ok(n) if n > 0) };
    timeout(ms(500), read).await.unwrap_or(false)
}

/// "Dropping it closes every connection".
#[tokio::test(start_paused = true)]
async fn dropping_the_server_closes_its_tunnels_too() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let (app, mut tunnels) = tunnels(&ctl);
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let (_client, server_side) = tunnel(&door, &mut tunnels).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(is_closed(server_side).await, "the tunnel is open");
}

/// "then every socket is closed, whatever is on it", also when no time is kept for the clean-up.
#[tokio::test(start_paused = true)]
async fn a_force_closes_tunnels_also_without_a_reserve() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(500))
        .cleanup_reserve(Duration::ZERO));
    let (door, listener) = pipes();
    let (app, mut tunnels) = tunnels(&ctl);
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let (_client, server_side) = tunnel(&door, &mut tunnels).await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap();
    assert!(is_closed(server_side).await, "the tunnel is open");
}

/// a tunnel that is cut is one that was aborted, once, and none that was abandoned.
#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_cut_is_counted_once() {
    let ctl = within(2_000);
    let (door, listener) = pipes();
    let (app, mut tunnels) = tunnels(&ctl);
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let (_client, mut server_side) = tunnel(&door, &mut tunnels).await;
    let user = tokio::spawn(async move { server_side.read(&mut [0; 8]).await });
    assert_eq!(ctl.in_flight(), 1);
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert_eq!(report.in_flight_at_force(), 1);
    assert_eq!((report.aborted(), report.abandoned()), (1, 0), "{report}");
    assert!(user.await.unwrap().is_err());
}

/// A socket whose drop panics, as one that asserts something may do.
struct BadDrop(DuplexStream);

impl Drop for BadDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a drop that panics");
        }
    }
}

impl AsyncRead for BadDrop {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BadDrop {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The one who waits for the hanging up is woken only after the socket's drop.
#[tokio::test(start_paused = true)]
async fn a_socket_whose_drop_panics_does_not_hold_the_server() {
    let ctl = within(10_000);
    let (mut client, pipe) = duplex(64 * 1024);
    let (app, mut tunnels) = tunnels(&ctl);
    let listener = One(Some(BadDrop(pipe)));
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    client.write_all(UPGRADE).await.unwrap();
    let server_side = tunnels.recv().await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(10)).await;
    let dropped = tokio::spawn(async move { drop(server_side) });
    assert!(dropped.await.unwrap_err().is_panic());
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// an upgrade for which nobody has asked, or which nobody takes, ends the connection.
#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_none_does_not_hold_the_server() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let (app, _tunnels) = tunnels(&ctl);
    let app = app.fallback(async || ());
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let mut clients = Vec::new();
    for request in [
        "GET /tunnel HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ] {
        let mut client = connect(&door, 0);
        client.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut client, "never").await;
        clients.push(client);
    }
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

// ===== HTTP/2 =====

type H2 = (
    http2::SendRequest<Empty<Bytes>>,
    Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    Arc<AtomicBool>,
);

/// A pipe whose client can fall silent: it reads no more, and answers nothing.
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
        match self.mute.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Pin::new(&mut self.pipe).poll_read(cx, buffer),
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

/// Sends a request and reads its answer; then the client falls silent.
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
    let (door, listener) = pipes();
    let app = app(&ctl);
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
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

/// The control of the one after it, and of the one in a short drain.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_does_not_hold_the_drain() {
    let report = end_with_silent_h2(30_000, h2_get()).await;
    assert!(report.is_graceful(), "{report}");
}

/// One stream that was a tunnel, and is over, makes the whole connection one for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_that_once_had_a_tunnel_does_not_hold_the_drain() {
    let connect = http::Request::connect("a:1").body(Empty::new()).unwrap();
    let report = end_with_silent_h2(30_000, connect).await;
    assert!(report.is_graceful(), "{report}");
}

/// A socket that, when it is told to, holds its thread for a while at the end of a poll: as the
/// scheduler of the operating system may at any time.
struct Preempted {
    pipe: DuplexStream,
    armed: Arc<AtomicBool>,
    release: Arc<Notify>,
}

impl AsyncRead for Preempted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Preempted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.armed.swap(false, Ordering::Relaxed) {
            let release = Arc::clone(&self.release);
            // By another thread: what this one wakes waits for it.
            std::thread::spawn(move || release.notify_one());
            std::thread::sleep(ms(100));
        }
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// A stream's task ends between the connection's poll and the look at what is in flight: its answer is
/// in hyper's queue, of which nobody knows any more, and the connection is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_h2_answer_that_comes_at_the_moment_of_the_look_is_not_lost() {
    let ctl = within(20_000);
    let (armed, release) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let released = Arc::clone(&release);
    let app: Router = Router::new()
        .route("/", get(async move || released.notified().await))
        .route("/before", get(async || sleep(ms(300)).await))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let (client, pipe) = duplex(64 * 1024);
    let listener = One(Some(Preempted {
        pipe,
        armed: Arc::clone(&armed),
        release,
    }));
    let serving = serve(listener, app, ctl.clone()).grace(ms(500));
    let server = tokio::spawn(serving.into_future());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    let before = http::Request::get("http://a/before").body(Empty::new());
    let before = tokio::spawn(sender.send_request(before.unwrap()));
    sleep(ms(100)).await;
    ctl.trigger(ShutdownReason::Manual);
    // A late one: the goodbye has been said after 800 ms, and been answered; the next look is at
    // 1,300 ms.
    sleep(ms(100)).await;
    let answer = tokio::spawn(sender.send_request(h2_get()));
    assert!(before.await.unwrap().is_ok());
    sleep(ms(900)).await;
    armed.store(true, Ordering::Relaxed);
    let answer = timeout(ms(5_000), answer).await.unwrap().unwrap();
    assert!(answer.is_ok_and(|answer| answer.status() == 200));
    assert!(server.await.unwrap().is_graceful());
}

// ===== "none of these waits beyond three quarters of the drain" =====

/// The goodbye is followed by a whole grace, whatever is left of the drain.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_does_not_hold_a_short_drain() {
    let report = end_with_silent_h2(1_500, h2_get()).await;
    assert!(report.is_graceful(), "{report}");
}

/// The grace is over, and then the closing has another one.
#[tokio::test(start_paused = true)]
async fn two_bytes_do_not_hold_a_short_drain() {
    let ctl = within(2_000);
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    client.write_all(b"GE").await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

async fn answer_to_half_a_head() -> String {
    let ctl = within(30_000);
    let (door, listener) = pipes();
    let _server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    let (begin, rest) = GET.split_at(2);
    client.write_all(GET).await.unwrap();
    read_until(&mut client, HELLO).await;
    client.write_all(begin).await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(500)).await; // later than an idle one is closed, and within the grace
    let _ = client.write_all(rest).await;
    read_until(&mut client, HELLO).await
}

/// Half a head has its time on a connection that was in use, too. Not if it came in one piece with
/// the request before it: then hyper has it, and does not tell.
#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_request_has_the_grace_too() {
    assert!(answer_to_half_a_head().await.ends_with(HELLO));
}

/// As above: two bytes have the grace, and not twice the grace.
#[tokio::test(start_paused = true)]
async fn two_bytes_have_one_grace() {
    let ctl = within(30_000);
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    client.write_all(b"GE").await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    let took = report.duration();
    assert!(took < ms(1_100), "{took:?}");
}

/// "closed when that time is over, or up to a quarter of it later", and not after a grace of draining.
#[tokio::test(start_paused = true)]
async fn two_bytes_have_the_time_for_a_head() {
    let ctl = within(30_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone())
        .header_read_timeout(ms(1_000))
        .grace(ms(20_000));
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let began = Instant::now();
    client.write_all(b"GE").await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    let took = began.elapsed();
    assert!(took <= ms(1_260), "{took:?}");
}

async fn end_with_an_idle_client_after(request: &[u8], total: u64) -> ShutdownReport {
    let ctl = within(total);
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    client.write_all(request).await.unwrap();
    assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
    sleep(ms(1)).await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap()
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";

/// The control of the next.
#[tokio::test(start_paused = true)]
async fn an_idle_client_is_gone_after_200_ms() {
    let took = end_with_an_idle_client_after(GET, 30_000).await.duration();
    assert!(took < ms(300), "{took:?}");
}

/// Its body was read to the end: there is nothing to be read and thrown away.
#[tokio::test(start_paused = true)]
async fn an_idle_client_whose_last_request_had_a_body_is_gone_as_soon() {
    let took = end_with_an_idle_client_after(POST, 30_000).await.duration();
    assert!(took < ms(300), "{took:?}");
}

/// As above, in a short drain: an idle client costs it its grace.
#[tokio::test(start_paused = true)]
async fn an_idle_client_does_not_hold_a_short_drain() {
    let report = end_with_an_idle_client_after(POST, 1_200).await;
    assert!(report.is_graceful(), "{report}");
}

// ===== accepting =====

/// Has an error and a client in its backlog when the listener is to be closed.
struct Backlog {
    ctl: ShutdownController,
    results: Vec<io::Result<(DuplexStream, u32)>>,
}

impl Listener for Backlog {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(DuplexStream, u32)> {
        self.ctl.stop_accepting().await;
        match self.results.pop() {
            Some(result) => result,
            None => pending().await,
        }
    }
}

async fn client_behind(error: Option<io::ErrorKind>) -> String {
    let ctl = within(10_000);
    let (mut client, pipe) = duplex(1024);
    client.write_all(GET).await.unwrap();
    let mut results = vec![Ok((pipe, 0))];
    results.extend(error.map(|kind| Err(kind.into())));
    let listener = Backlog {
        ctl: ctl.clone(),
        results,
    };
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    ctl.trigger(ShutdownReason::Manual);
    let answer = read_until(&mut client, HELLO).await;
    server.await.unwrap();
    answer
}

/// "everything in the accept backlog gets a real answer", also behind one that has gone.
#[tokio::test(start_paused = true)]
async fn a_client_behind_one_that_has_gone_is_answered() {
    assert!(client_behind(None).await.ends_with(HELLO));
    let answer = client_behind(Some(io::ErrorKind::ConnectionAborted)).await;
    assert!(answer.ends_with(HELLO), "{answer:?}");
}

struct Failing;

impl Listener for Failing {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Errors of single connections, one after another without a pause: nobody else comes to his turn.
#[test]
fn connections_that_fail_for_ever_do_not_stop_a_thread() {
    let report = in_a_thread(|| async {
        let ctl = within(1_000);
        let server = tokio::spawn(serve(Failing, app(&ctl), ctl.clone()).into_future());
        sleep(ms(10)).await;
        ctl.trigger(ShutdownReason::Manual);
        server.await.unwrap()
    });
    assert!(report.is_graceful(), "{report}");
}

/// What is made of one peer's address harms that connection at most, not the server and all others.
#[tokio::test(start_paused = true)]
async fn an_extension_that_panics_harms_one_connection() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone()).extension(|peer: &u32| {
        assert_ne!(*peer, 13, "a peer that nobody has thought of");
        *peer
    });
    let _server = tokio::spawn(serving.into_future());
    let mut busy = connect(&door, 1);
    let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
    busy.write_all(request).await.unwrap();
    sleep(ms(10)).await;
    let _unlucky = connect(&door, 13);
    assert!(read_until(&mut busy, "slow").await.ends_with("slow"));
    assert!(ctl.notice().is_none(), "the server has ended");
}

/// an application that panics in its handler, or a handshake, harms its connection only.
#[tokio::test(start_paused = true)]
async fn a_handshake_or_a_builder_that_panics_harms_one_connection() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let first = AtomicBool::new(true);
    let second = AtomicBool::new(true);
    let serving = serve(listener, app(&ctl), ctl.clone())
        .handshake(move |io: DuplexStream| {
            assert!(!first.swap(false, Ordering::Relaxed));
            async { Ok(io) }
        })
        .http1(move |_| assert!(!second.swap(false, Ordering::Relaxed)));
    let server = tokio::spawn(serving.into_future());
    for (number, expected) in [(0, false), (1, false), (2, true)] {
        let mut client = connect(&door, number);
        let _ = client.write_all(GET).await;
        let answer = read_until(&mut client, HELLO).await;
        assert_eq!(answer.ends_with(HELLO), expected, "{number}");
    }
    ctl.trigger(ShutdownReason::Manual);
    assert!(server.await.unwrap().is_graceful());
}

// ===== the lame duck =====

/// What the application says about its connection is not the layer's to take back.
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
    let mut client = connect(&door, 1); // whose moment is at 0.3 of the window
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(10)).await;
    client.write_all(GET).await.unwrap();
    let answer = read_until(&mut client, HELLO).await;
    assert!(answer.contains("connection: close"), "{answer}");
}

// ===== the report =====

/// A watched connection that is still open at the end is still alive when we stop waiting.
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

// ===== leaks =====

fn held_by(app: Router) -> (Router, Weak<()>) {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let app = app.route(
        "/held",
        get(move || {
            let _held = held.clone();
            async { "held" }
        }),
    );
    (app, weak)
}

async fn is_freed(weak: &Weak<()>) -> bool {
    for _ in 0..100 {
        if weak.strong_count() == 0 {
            return true;
        }
        sleep(ms(10)).await;
    }
    false
}

/// nothing of the application is left, awaited or not, dropped half way or ended.
#[tokio::test(start_paused = true)]
async fn an_application_is_freed_however_its_server_ends() {
    // Never awaited.
    let ctl = within(1_000);
    let (app, weak) = held_by(app(&ctl));
    let (_door, listener) = pipes();
    drop(serve(listener, app, ctl.clone()));
    assert!(is_freed(&weak).await);

    // Made a future, never polled.
    let (app, weak) = held_by(self::app(&ctl));
    let (_door, listener) = pipes();
    drop(serve(listener, app, ctl).into_future());
    assert!(is_freed(&weak).await);

    // Dropped half way, with connections of every kind.
    let ctl = within(1_000);
    let (app, weak) = held_by(self::app(&ctl));
    let (door, listener) = pipes();
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let mut clients = [connect(&door, 0), connect(&door, 1), connect(&door, 2)];
    clients[0].write_all(GET).await.unwrap();
    clients[1].write_all(b"GE").await.unwrap();
    let mut client = h2(&door).await;
    ask_and_fall_silent(&mut client, h2_get()).await;
    server.abort();
    assert!(is_freed(&weak).await);
    drop(ctl);
}

/// the runtime goes in the middle; whoever waits elsewhere is told.
#[test]
fn a_runtime_that_goes_in_the_middle_ends_the_shutdown() {
    let ctl = within(2_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (door, listener) = pipes();
    let waiting = ctl.clone();
    let clients = runtime.block_on(async {
        let server: JoinHandle<_> =
            tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        let mut client = connect(&door, 0);
        let request = b"GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut second = h2(&door).await;
        ask_and_fall_silent(&mut second, h2_get()).await;
        ctl.trigger(ShutdownReason::Manual);
        sleep(ms(100)).await;
        drop(server);
        (client, second)
    });
    runtime.shutdown_timeout(ms(100));
    drop(clients);
    let report = in_a_thread(move || async move { waiting.shutdown(ShutdownReason::Manual).await });
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
}

// ===== short drains on a real clock =====

/// tiny totals, connections of every kind, two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_totals_are_kept() {
    for total in [1, 2, 5, 20, 50] {
        let ctl = within(total);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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

// ===== storms =====

/// triggers taken back while clients come and go; then a drain that loses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_triggers_taken_back_loses_nobody() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(20_000))
        .lame_duck(ms(400)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let stop = Arc::new(Notify::new());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let stop = Arc::clone(&stop);
        clients.push(tokio::spawn(async move {
            let mut answers = 0;
            let work = async {
                loop {
                    let mut client = TcpStream::connect(address).await.unwrap();
                    for _ in 0..5 {
                        client.write_all(GET).await.unwrap();
                        let answer = read_until(&mut client, HELLO).await;
                        assert!(answer.ends_with(HELLO), "{answer:?}");
                        answers += 1;
                        if answer.contains("connection: close") {
                            break;
                        }
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.notified() => {}
            }
            answers
        }));
    }
    for _ in 0..200 {
        ctl.trigger(ShutdownReason::Manual);
        sleep(ms(2)).await;
        ctl.resume().unwrap();
    }
    let mut answers = 0;
    stop.notify_waiters();
    for client in clients {
        answers += client.await.unwrap();
    }
    assert!(answers > 100, "{answers}");
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// one that begins when all is over, or nearly, ends with the same report.
#[tokio::test(start_paused = true)]
async fn a_server_that_comes_too_late_ends_at_once() {
    let ctl = within(2_000);
    let (tell, told) = oneshot::channel();
    let guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let (door, listener) = pipes();
    let late = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    client.write_all(GET).await.unwrap();
    assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
    tokio::spawn(async move {
        drop(guard);
        let _ = tell.send(());
    });
    told.await.unwrap();
    assert!(late.await.unwrap().is_graceful());
    let (door, listener) = pipes();
    let mut client = connect(&door, 0);
    assert!(serve(listener, app(&ctl), ctl).await.is_graceful());
    drop(door);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}
