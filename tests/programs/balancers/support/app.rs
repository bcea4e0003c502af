//! The app behind the load balancers, with each of the compared ways to serve it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tower_lifecycle::{
    DrainLayer, DrainListener, HealthService, ShutdownConfig, ShutdownController, ShutdownReport,
    serve,
};

use super::process::FALL;

/// The limit of a lame duck that ends early.
pub const LONGEST: Duration = Duration::from_secs(6);
pub const QUICK: &str = "quick";
pub const STREAM_CHUNKS: u8 = 16;
pub const STREAM_CHUNK: usize = 4096;

/// How the app is served, and what it does at SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// `axum::serve` with its graceful shutdown, without this crate.
    Axum,
    /// The README's quick start.
    QuickStart,
    /// This crate's server.
    Serve,
    /// This crate's server, with a lame duck that ends early.
    LameDuck,
    /// Exits immediately: the control.
    Exits,
    /// This crate's server, which prints each request with an id that it has begun.
    Logs,
}

impl App {
    pub const ALL: [Self; 6] = [
        Self::Axum,
        Self::QuickStart,
        Self::Serve,
        Self::LameDuck,
        Self::Exits,
        Self::Logs,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Axum => "axum",
            Self::QuickStart => "quick start",
            Self::Serve => "serve",
            Self::LameDuck => "lame duck",
            Self::Exits => "exits",
            Self::Logs => "logs",
        }
    }

    /// Serves on this port until SIGTERM, and prints its events to stdout.
    pub async fn run(self, port: u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        println!("listening on {port}");
        match self {
            Self::Axum => {
                let mut term = signal(SignalKind::terminate()).unwrap();
                let stop = async move {
                    term.recv().await;
                };
                let app = routes().route("/health", get(async || "healthy"));
                let server = axum::serve(listener, app);
                server.with_graceful_shutdown(stop).await.unwrap();
            }
            Self::QuickStart => {
                let (ctl, app) = drained(routes());
                let listener = DrainListener::new(listener, &ctl);
                let stop = listener.graceful_shutdown();
                let server = axum::serve(listener, app).with_graceful_shutdown(stop);
                check(&ctl.run(server).await);
            }
            Self::Serve => {
                let (ctl, app) = drained(routes());
                check(&serve(listener, app.with_state(()), ctl).await);
            }
            Self::LameDuck => {
                let config = ShutdownConfig::default()
                    .lame_duck(LONGEST)
                    .lame_duck_probes(FALL)
                    .lame_duck_quiet(Duration::from_millis(300));
                let (ctl, app) = drained_with(config, routes());
                let report = serve(listener, app.with_state(()), ctl).await;
                check(&report);
                let lasted = report.phases()[0].duration().as_millis();
                let end = report.lame_duck_end().unwrap();
                println!("lame duck: {lasted} ms, {end}");
            }
            Self::Exits => {
                let app = routes().route("/health", get(async || "healthy"));
                axum::serve(listener, app).await.unwrap();
            }
            Self::Logs => {
                let (ctl, app) = drained(routes());
                let app = app.layer(middleware::from_fn(log)).with_state(());
                check(&serve(listener, app, ctl).await);
            }
        }
    }
}

pub fn routes() -> Router {
    Router::new()
        .route("/", get(async || QUICK))
        .route("/slow/{millis}", get(slow))
        .route("/stream", get(stream))
        .route("/orders/{id}", post(order))
}

/// The layer and the probe as in the quick start.
pub fn drained(app: Router) -> (ShutdownController, Router) {
    drained_with(ShutdownConfig::default(), app)
}

fn drained_with(config: ShutdownConfig, app: Router) -> (ShutdownController, Router) {
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    let app = app
        .layer(DrainLayer::new(ctl.clone()))
        .route_service("/health", HealthService::new(ctl.clone()));
    (ctl, app)
}

fn check(report: &ShutdownReport) {
    assert!(report.is_graceful(), "{report}");
}

async fn slow(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    format!("slow {millis}")
}

async fn stream() -> Body {
    let chunks = stream::iter(0..STREAM_CHUNKS).then(async |number| {
        sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(Bytes::from(vec![number; STREAM_CHUNK]))
    });
    Body::from_stream(chunks)
}

async fn order(Path(id): Path<u64>, body: Bytes) -> String {
    println!("executed {id}");
    format!("order {id} of {}", body.len())
}

#[derive(Deserialize)]
struct Id {
    id: Option<String>,
}

async fn log(Query(query): Query<Id>, request: Request, next: Next) -> Response {
    if let Some(id) = query.id {
        println!("begun {id}");
    }
    next.run(request).await
}
