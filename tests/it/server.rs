//! `serve`, seen by its clients: exact bytes and exact times.

mod connections;
mod force;
mod goodbyes;
mod idle_peers;
mod lame_duck;
mod ledger;
mod listener;
mod settings;
mod slow_readers;
mod upgrades;
mod uploads;
mod wire;

use std::convert::Infallible;
use std::future::{Future, IntoFuture, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Router, http};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, serve,
};

use crate::support::loopback::loopback;
use crate::support::server::{
    self, Alive, Answer, BIG, CUT, Connector, DATA, END_STREAM, Event, Frame, GOAWAY, HEADERS,
    Http1, Http2, PING, PREFACE, REFUSED, RST_STREAM, SETTINGS, Server, Watched, assert_at, big,
    in_time, pipes, start, start_with, trigger,
};
use crate::support::shutdown::{controller, refusing};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NO_ERROR: u32 = 0;
/// The highest possible stream.
const ALL_STREAMS: u32 = (1 << 31) - 1;
/// What follows the preface.
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

// ===== helpers =====

fn routes() -> Router {
    let pieces = || stream::iter(0..).map(|n| big().chunks(999).nth(n).map(Bytes::copy_from_slice));
    let pieces = move || pieces().take_while(|p| std::future::ready(p.is_some()));
    let pieces = move || pieces().map(|piece| Ok::<_, Infallible>(piece.unwrap()));
    Router::new()
        .route("/", any(async || "ok"))
        .route("/read", post(async |body: Bytes| body.len().to_string()))
        .route("/big", get(async || big()))
        .route(
            "/big-in-pieces",
            get(async move || Body::from_stream(pieces())),
        )
        .route("/panic", get(panics))
}

async fn panics() -> &'static str {
    panic!("a test")
}

/// The usual application.
fn app(ctl: &ShutdownController) -> Router {
    routes().layer(DrainLayer::new(ctl.clone()))
}

fn lame_duck(time: Duration) -> ShutdownController {
    controller(
        ShutdownConfig::default()
            .lame_duck(time)
            .shutdown_timeout(2 * time),
    )
}

/// The usual application, with this route.
fn app_with(ctl: &ShutdownController, path: &str, route: MethodRouter) -> Router {
    let layer = DrainLayer::new(ctl.clone());
    routes().route(path, route).layer(layer)
}

async fn read_again(bytes: &[u8]) -> Answer {
    let (mut io, other) = duplex(bytes.len());
    io.write_all(bytes).await.unwrap();
    Http1::new(other).answer().await
}

/// A handler that signals when it is entered, and responds when it is released.
#[derive(Clone)]
struct Held {
    entered: Event,
    released: Event,
}

impl Held {
    fn new() -> Self {
        Self {
            entered: Event::new(),
            released: Event::new(),
        }
    }

    fn routes(&self) -> Router {
        let held = self.clone();
        let route = get(move || async move {
            held.entered.happens();
            held.released.wait().await;
            "at last"
        });
        routes().route("/held", route)
    }

    fn app(&self, ctl: &ShutdownController) -> Router {
        self.routes().layer(DrainLayer::new(ctl.clone()))
    }
}

// Blocking sockets, for code without a runtime.

fn connect(address: SocketAddr) -> std::net::TcpStream {
    let socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(20 * SECOND)).unwrap();
    socket
}

fn write(socket: &mut std::net::TcpStream, bytes: &[u8]) {
    std::io::Write::write_all(socket, bytes).unwrap();
}

/// Reads to the end.
fn read(socket: &mut std::net::TcpStream) -> io::Result<String> {
    let mut text = String::new();
    std::io::Read::read_to_string(socket, &mut text)?;
    Ok(text)
}

/// Connects a pipe whose other end is counted.
fn watched_pipe(connector: &Connector<Watched<DuplexStream>>, alive: &Alive) -> DuplexStream {
    let (client, io) = duplex(64 * 1024);
    connector.accept(Ok(Watched::new(io, alive)));
    client
}

// ===== shared helpers =====

fn switching() -> Response {
    let headers = [("connection", "upgrade"), ("upgrade", "test")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n";

/// Responds with 101 and echoes, or reports how that failed.
fn echo(ctl: &ShutdownController) -> (Router, mpsc::UnboundedReceiver<io::Result<()>>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let route = get(async move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 1024];
            let result = loop {
                match io.read(&mut piece).await {
                    Ok(0) => break Ok(()),
                    Ok(count) => match io.write_all(&piece[..count]).await {
                        Ok(()) => {}
                        Err(error) => break Err(error),
                    },
                    Err(error) => break Err(error),
                }
            };
            drop(io);
            ended.send(result)
        });
        switching()
    });
    (app_with(ctl, "/upgrade", route), ends)
}

async fn upgraded(connector: &Connector) -> Http1<DuplexStream> {
    let mut client = connector.http1();
    // Data that follows the head at once also belongs to the tunnel.
    client.send(format!("{UPGRADE}first")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert!(
        answer.head.contains("\r\nconnection: upgrade\r\n"),
        "{answer:?}"
    );
    assert_echo(&mut client, "", "first").await;
    client
}

async fn assert_echo(client: &mut Http1<DuplexStream>, sent: &str, expected: &str) {
    client.send(sent).await;
    let echo = client.exactly(expected.len()).await;
    assert_eq!(echo, expected.as_bytes());
}
