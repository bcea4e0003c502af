//! `axum::serve` with a `DrainListener`, with a paused clock.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::serve::{Listener, ListenerExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::{
    DrainLayer, DrainListener, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    ShutdownReport,
};

use crate::support::loopback::loopback;
use crate::support::shutdown::ms;

/// A listener without sockets. The channel is its backlog.
struct Pipes(mpsc::Receiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> (DuplexStream, u32) {
        match self.0.recv().await {
            Some(pipe) => (pipe, 0),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<u32> {
        Ok(0)
    }
}

struct Server {
    connect: mpsc::Sender<DuplexStream>,
    run: JoinHandle<ShutdownReport>,
}

impl Server {
    fn start(ctl: &ShutdownController, is_shared: bool) -> Self {
        let (connect, pipes) = mpsc::channel(100);
        Self::start_on(ctl, Pipes(pipes), connect, is_shared)
    }

    fn start_on<L>(
        ctl: &ShutdownController,
        listener: L,
        connect: mpsc::Sender<DuplexStream>,
        is_shared: bool,
    ) -> Self
    where
        L: Listener<Io = DuplexStream, Addr = u32>,
    {
        let app = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/never", get(pending::<Body>))
            .layer(DrainLayer::new(ctl.clone()));
        let listener = DrainListener::new(listener, ctl).shared(is_shared);
        let stop = listener.graceful_shutdown();
        let server = axum::serve(listener, app).with_graceful_shutdown(stop);
        let run = tokio::spawn(ctl.run(server));
        Self { connect, run }
    }

    /// Connects and sends a request.
    async fn client(&self, path: &str) -> DuplexStream {
        let (mut client, pipe) = duplex(4 * 1024);
        self.connect.send(pipe).await.unwrap();
        ask(&mut client, path).await;
        client
    }

    /// Like [`client`](Self::client), with a connection that has had its first response.
    async fn idle_client(&self) -> DuplexStream {
        let mut client = self.client("/").await;
        let mut bytes = [0; 1024];
        let count = client.read(&mut bytes).await.unwrap();
        assert!(bytes[..count].ends_with(b"hello"));
        client
    }
}

async fn ask(client: &mut DuplexStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
}

async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_is_served() {
    let ctl = ShutdownController::new();
    let server = Server::start(&ctl, false);
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(server.client("/").await); // this thread runs: nothing has been accepted
    }
    ctl.trigger(ShutdownReason::Manual);
    for client in &mut clients {
        let answer = read_to_end(client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let report = server.run.await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert!(server.connect.is_closed());
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_is_answered_also_if_late_requests_are_refused() {
    let none = ShutdownConfig::default().late_for(Duration::ZERO);
    for config in [none, ShutdownConfig::default().refuse_for(ms(300))] {
        let ctl = ShutdownController::with_config(config).unwrap();
        let server = Server::start(&ctl, false);
        let stop = ctl.stop_accepting();
        sleep(ms(10)).await;
        ctl.trigger(ShutdownReason::Manual);
        stop.await;
        let (mut client, pipe) = duplex(1024);
        server.connect.send(pipe).await.unwrap(); // this thread runs
        sleep(ms(10)).await;
        ask(&mut client, "/").await;
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(server.run.await.unwrap().is_graceful());
    }
}

#[tokio::test(start_paused = true)]
async fn the_listener_is_closed_while_work_goes_on() {
    let ctl = ShutdownController::new();
    let server = Server::start(&ctl, false);
    let mut client = server.client("/never").await;
    sleep(ms(10)).await;
    assert_eq!(ctl.in_flight(), 1);
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(60)).await;
    assert!(server.connect.is_closed());
    assert_eq!(ctl.state(), LifecycleState::Draining);

    ctl.force();
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 503"));
    let report = server.run.await.unwrap();
    assert_eq!(report.aborted(), 1);
    assert_eq!(report.abandoned(), 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_with_nothing_to_wait_for_is_over_at_once() {
    let ctl = ShutdownController::new();
    let server = Server::start(&ctl, false);
    drop(server.idle_client().await);
    sleep(ms(10)).await;
    let began = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    assert!(server.run.await.unwrap().is_graceful());
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());
}

/// A listener that is out of descriptors once, which axum waits out inside of `accept`.
struct OnceOut {
    is_out: Arc<AtomicBool>,
    pipes: Pipes,
}

impl Listener for OnceOut {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> (DuplexStream, u32) {
        if self.is_out.swap(false, Ordering::Relaxed) {
            sleep(ms(1_000)).await;
        }
        self.pipes.accept().await
    }

    fn local_addr(&self) -> io::Result<u32> {
        Ok(0)
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_is_served_after_an_accept_that_has_failed() {
    let ctl = ShutdownController::new();
    let (connect, pipes) = mpsc::channel(100);
    let is_out = Arc::new(AtomicBool::new(false));
    let listener = OnceOut {
        is_out: Arc::clone(&is_out),
        pipes: Pipes(pipes),
    };
    let server = Server::start_on(&ctl, listener, connect, false);
    let mut idle = server.idle_client().await;
    is_out.store(true, Ordering::Relaxed);
    let mut client = server.client("/").await; // this thread runs: nothing has been accepted
    ctl.trigger(ShutdownReason::Manual);
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(server.run.await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_may_bring_one_more_request_for_a_short_time() {
    let ctl = ShutdownController::new();
    let server = Server::start(&ctl, false);
    let mut late = server.idle_client().await;
    let mut idle = server.idle_client().await;

    let began = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(150)).await;
    ask(&mut late, "/").await;
    let answer = read_to_end(&mut late).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert_eq!(began.elapsed().as_millis(), 200);
    assert!(server.run.await.unwrap().is_graceful());
    assert!(began.elapsed() < ms(210), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn with_refuse_for_it_is_open_and_refusing_for_that_time() {
    let config = ShutdownConfig::default().refuse_for(ms(300));
    let ctl = ShutdownController::with_config(config).unwrap();
    let server = Server::start(&ctl, false);
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(250)).await;
    let answer = read_to_end(&mut server.client("/").await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    sleep(ms(100)).await;
    assert!(server.connect.is_closed());
    assert!(server.run.await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_shared_socket_is_left_alone_from_the_trigger_on() {
    let config = ShutdownConfig::default().lame_duck(ms(5_000));
    let ctl = ShutdownController::with_config(config).unwrap();
    let server = Server::start(&ctl, true);
    let mut before = server.idle_client().await;

    // In the lame duck nothing new is accepted, and accepted connections are served.
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(10)).await;
    let mut waiting = server.client("/").await;
    assert!(timeout(ms(1_000), read_to_end(&mut waiting)).await.is_err());
    ask(&mut before, "/").await;
    assert!(read_to_end(&mut before).await.ends_with("hello"));

    // After the resume, the waiting connection is accepted.
    ctl.resume().unwrap();
    let mut bytes = [0; 1024];
    let count = waiting.read(&mut bytes).await.unwrap();
    assert!(bytes[..count].ends_with(b"hello"));

    // The socket is closed with the connections in its backlog.
    ctl.trigger(ShutdownReason::Manual);
    let mut left = server.client("/").await;
    ctl.draining().await;
    assert_eq!(read_to_end(&mut left).await, "");
    assert!(server.run.await.unwrap().is_graceful());
    assert!(server.connect.is_closed());
}

#[tokio::test]
async fn connect_info_works_by_way_of_tap_io() {
    let ctl = ShutdownController::new();
    let peer = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
    let app = Router::new().route("/", get(peer));
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = DrainListener::new(listener, &ctl);
    let stop = listener.graceful_shutdown();
    let listener = listener.tap_io(|io| io.get_ref().set_nodelay(true).unwrap());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    let run = tokio::spawn(ctl.run(server));

    let mut client = TcpStream::connect(address).await.unwrap();
    let own = client.local_addr().unwrap().to_string();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&own), "{answer}");
    ctl.trigger(ShutdownReason::Manual);
    assert!(run.await.unwrap().is_graceful());
}
