//! Servers on loopback, and ways to order events in tests.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tower::{Layer, Service};
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReport};

use crate::support::loopback::loopback;

/// The time limit of a step.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The accept loop to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Axum,
    Hyper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Runs a test with each server.
pub async fn with_each_server(test: impl AsyncFn(Kind)) {
    for kind in [Kind::Axum, Kind::Hyper] {
        println!("{kind:?}");
        in_time(test(kind)).await;
    }
}

/// Runs a test with each server and each protocol.
pub async fn with_each_server_and_protocol(test: impl AsyncFn(Kind, Protocol)) {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        println!("{protocol:?}");
        with_each_server(async |kind| test(kind, protocol).await).await;
    }
}

/// Fails the test if `future` exceeds the time limit.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    let output = tokio::time::timeout(TIMEOUT, future).await;
    output.expect("it should not take this long")
}

/// Polls a condition that nothing signals.
pub async fn eventually(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// ===== order =====

/// Something that happens, any number of times; each occurrence is waited for once.
#[derive(Debug, Clone)]
pub struct Event(Arc<Semaphore>);

impl Event {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn happens(&self) {
        self.0.add_permits(1);
    }

    pub async fn happened(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// A handler that signals when it is entered, and responds when it is released.
#[derive(Debug, Clone)]
pub struct Held {
    pub entered: Event,
    pub released: Event,
}

impl Held {
    pub const ANSWER: &'static str = "at last";

    pub fn new() -> Self {
        Self {
            entered: Event::new(),
            released: Event::new(),
        }
    }

    pub fn route(&self) -> MethodRouter {
        let held = self.clone();
        get(move || async move {
            held.entered.happens();
            held.released.happened().await;
            Self::ANSWER
        })
    }
}

/// The sender of a response body. Dropping it ends the body.
pub type Feed = mpsc::UnboundedSender<&'static str>;

/// Returns a handler whose response bodies the test sends, and a receiver of their feeds.
pub fn fed() -> (MethodRouter, mpsc::UnboundedReceiver<Feed>) {
    let (new_feed, feeds) = mpsc::unbounded_channel();
    let route = get(move || async move {
        let (feed, food) = mpsc::unbounded_channel::<&'static str>();
        new_feed.send(feed).unwrap();
        Body::from_stream(stream::unfold(food, |mut food| async {
            let bite = food.recv().await?;
            Some((Ok::<_, Infallible>(bite), food))
        }))
    });
    (route, feeds)
}

// ===== servers =====

/// A server under `run`, with the layer around its app.
pub struct Server {
    pub address: SocketAddr,
    run: JoinHandle<ShutdownReport>,
}

impl Server {
    pub async fn start(kind: Kind, ctl: &ShutdownController, app: Router) -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let layer = DrainLayer::new(ctl.clone());
        let stop = ctl.stop_accepting();
        let run = match kind {
            Kind::Axum => {
                let server = axum::serve(listener, app.layer(layer));
                tokio::spawn(ctl.run(server.with_graceful_shutdown(stop)))
            }
            Kind::Hyper => tokio::spawn(ctl.run(accept_loop(listener, layer.layer(app), stop))),
        };
        Self { address, run }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn is_running(&self) -> bool {
        !self.run.is_finished()
    }

    /// Waits for the end of `run`.
    pub async fn report(self) -> ShutdownReport {
        self.run.await.unwrap()
    }
}

/// The plain hyper server from the documentation.
async fn accept_loop<S>(listener: TcpListener, service: S, stop: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<Body>>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let mut stop = pin!(stop);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(service.clone());
        let builder = Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        connections.spawn(graceful.watch(connection.into_owned()));
    }
    drop(listener);
    graceful.shutdown().await;
    // A connection's error does not concern the server.
    while connections.join_next().await.is_some() {}
}

// ===== clients =====

/// A client that reuses its connections.
pub fn client(protocol: Protocol) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy();
    match protocol {
        Protocol::Http1 => client.http1_only(),
        Protocol::Http2 => client.http2_prior_knowledge(),
    }
    .build()
    .unwrap()
}
