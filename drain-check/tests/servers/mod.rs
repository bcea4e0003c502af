//! Servers with a known fault each, and a good one. They are this test binary again.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get, post};
use futures_util::{Stream, StreamExt, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tower_lifecycle::{
    DrainLayer, HealthService, ShutdownConfig, ShutdownController, UpgradeGuard, serve,
};

/// Tells the child what to be.
pub const FAULT: &str = "DRAIN_CHECK_TEST_FAULT";
/// How long the process runs after the signal, unless its fault says otherwise.
const REST: Duration = Duration::from_millis(500);

/// Returns the words that start a server.
pub fn command(fault: &str) -> Vec<String> {
    let me = std::env::current_exe().unwrap();
    let set = format!("{FAULT}={fault}");
    let words = ["env", &set, me.to_str().unwrap(), "--exact", "child"];
    let words = words.iter().chain(&["--ignored", "--nocapture"]);
    words.map(ToString::to_string).collect()
}

/// Runs the server that the environment names, to the end of the process.
pub fn run() {
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match fault.as_str() {
            "none" => good().await,
            "cuts_sockets" => cuts_sockets().await,
            "stops_accepting" => stops_accepting().await,
            "never_ready" => {
                println!("waiting for the database");
                pending().await
            }
            fault => faulty(fault).await,
        }
    });
    std::process::exit(0);
}

async fn listen() -> TcpListener {
    let port = std::env::var("PORT").unwrap().parse().unwrap();
    TcpListener::bind(("127.0.0.1", port)).await.unwrap()
}

// ===== a good server =====

async fn good() {
    // Longer than the pauses of the clients, and than it takes a balancer to see it.
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(10))
        .lame_duck(Duration::from_millis(1500));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .route("/slow-upload", post(slow))
        .route("/u", post(async |body: Bytes| body.len().to_string()))
        .route("/events", get(events))
        .route("/ws", any(socket))
        .layer(DrainLayer::new(ctl.clone()))
        .route_service("/health", HealthService::new(ctl.clone()));
    serve(listen().await, app, ctl).await;
}

async fn slow() -> &'static str {
    sleep(Duration::from_millis(150)).await;
    "slow\n"
}

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold(interval(Duration::from_millis(20)), async |mut ticks| {
        ticks.tick().await;
        Some(((), ticks))
    });
    Sse::new(ticks.map(|()| Ok(Event::default().data("tick"))))
}

async fn socket(upgrade: WebSocketUpgrade, Extension(guard): Extension<UpgradeGuard>) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        let close = CloseFrame {
            code: close_code::AWAY,
            reason: "".into(),
        };
        tokio::select! {
            () = guard.draining() => {
                let _ = socket.send(Message::Close(Some(close))).await;
            }
            () = read(&mut socket) => return,
        }
        read(&mut socket).await;
    })
}

async fn read(socket: &mut WebSocket) {
    while let Some(Ok(_)) = socket.recv().await {}
}

/// Serves on, and drops WebSockets when the signal comes.
async fn cuts_sockets() {
    let end = on_signal();
    let ended = end.clone();
    let app = Router::new().route("/", get(async || "hello\n")).route(
        "/ws",
        any(async |upgrade: WebSocketUpgrade| {
            upgrade.on_upgrade(async move |mut socket| {
                tokio::select! {
                    () = read(&mut socket) => {}
                    () = wait(ended) => {}
                }
            })
        }),
    );
    let listener = listen().await;
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served.unwrap(),
        () = async { wait(end).await; sleep(REST).await } => {}
    }
}

/// Serves each connection on, and takes no more of them, with its listener still open.
async fn stops_accepting() {
    let end = on_signal();
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow));
    let listener = listen().await;
    // Connections are closed now and then, and so clients need new ones.
    let mut connections = JoinSet::new();
    let accepts = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(app.clone());
            let connection = http2::Builder::new(TokioExecutor::new());
            let connection = connection.serve_connection(TokioIo::new(stream), service);
            let end = end.clone();
            connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = wait(end) => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
    };
    tokio::select! {
        never = accepts => never,
        () = wait(end.clone()) => {}
    }
    sleep(REST).await;
}

// ===== servers with a fault, without a library that would prevent it =====

fn on_signal() -> watch::Receiver<bool> {
    let (ends, end) = watch::channel(false);
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    tokio::spawn(async move {
        terminated.recv().await;
        ends.send_replace(true);
        pending::<()>().await;
    });
    end
}

async fn wait(mut end: watch::Receiver<bool>) {
    end.wait_for(|ends| *ends).await.unwrap();
}

async fn faulty(fault: &str) {
    let listener = listen().await;
    let end = if fault == "no_handler" {
        let (ends, end) = watch::channel(false);
        tokio::spawn(async move { ends.closed().await });
        end
    } else {
        on_signal()
    };
    let server = Server {
        truncates: fault == "truncates",
        resets: fault == "resets_uploads",
        cuts_events: fault == "cuts_events",
        closes_in_use: fault == "closes_in_use",
        end: end.clone(),
    };
    let (mut ended, mut hangs) = (Box::pin(wait(end)), false);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                tokio::spawn(server.clone().serve(stream));
            }
            () = &mut ended, if !hangs => match fault {
                "exits_at_once" => std::process::exit(0),
                "never_ends" => hangs = true,
                "closes_listener_first" => break,
                _ => {
                    // New connections are still served.
                    let accepts = async {
                        loop {
                            let (stream, _) = listener.accept().await.unwrap();
                            tokio::spawn(server.clone().serve(stream));
                        }
                    };
                    tokio::select! {
                        () = accepts => {}
                        () = sleep(REST) => return,
                    }
                }
            },
        }
    }
    drop(listener);
    sleep(REST).await;
}

#[derive(Clone)]
struct Server {
    truncates: bool,
    resets: bool,
    cuts_events: bool,
    closes_in_use: bool,
    end: watch::Receiver<bool>,
}

impl Server {
    async fn serve(self, mut stream: TcpStream) {
        let mut received = Vec::new();
        // An error is the client's end.
        while let Some(()) = self.one(&mut stream, &mut received).await {}
    }

    /// Serves a request. Returns `None` at the end of the connection.
    async fn one(&self, stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
        let head = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<_> = received.drain(..end + 4).collect();
                break String::from_utf8(head).unwrap().to_lowercase();
            }
            if stream.read_buf(received).await.ok()? == 0 {
                return None;
            }
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        while received.len() < length {
            tokio::select! {
                read = stream.read_buf(received) => {
                    if read.ok()? == 0 {
                        return None;
                    }
                }
                () = wait(self.end.clone()), if self.resets => return None,
            }
        }
        received.drain(..length);
        match head.split(' ').nth(1).unwrap() {
            "/slow" | "/slow-upload" => {
                tokio::select! {
                    () = sleep(Duration::from_millis(150)) => {}
                    () = wait(self.end.clone()), if self.closes_in_use => return None,
                }
                self.answer(stream, b"slow\n").await
            }
            "/body" => self.body(stream).await,
            "/events" => self.events(stream).await,
            _ => self.answer(stream, b"hello\n").await,
        }
    }

    async fn answer(&self, stream: &mut TcpStream, body: &[u8]) -> Option<()> {
        let is_last = *self.end.borrow();
        let close = if is_last { "connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\n{close}content-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .ok()?;
        (!is_last).then_some(())
    }

    /// Sends a body of eight pieces that takes its time.
    async fn body(&self, stream: &mut TcpStream) -> Option<()> {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8192\r\n\r\n")
            .await
            .ok()?;
        for _ in 0..8 {
            stream.write_all(&[b'b'; 1024]).await.ok()?;
            sleep(Duration::from_millis(20)).await;
            if self.truncates && *self.end.borrow() {
                return None;
            }
        }
        Some(())
    }

    async fn events(&self, stream: &mut TcpStream) -> Option<()> {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .ok()?;
        loop {
            stream.write_all(b"9\r\ndata: 1\n\n\r\n").await.ok()?;
            tokio::select! {
                () = sleep(Duration::from_millis(20)) => {}
                () = wait(self.end.clone()) => break,
            }
        }
        if !self.cuts_events {
            let _ = stream.write_all(b"0\r\n\r\n").await;
        }
        None
    }
}
