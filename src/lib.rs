//! Graceful shutdown and lifecycle for any tower service.
//!
//! A deploy ends a process that is serving requests. With this crate the requests in flight finish, and
//! are counted to the end of each response body. Readiness turns red first. Requests that still arrive
//! are served for a while, then refused in the client's own protocol. Requests that take too long are cut
//! at a deadline. Clean-up runs in a reserved part of the total time, and a report says what happened.
//!
//! Add a layer, `.layer(DrainLayer::new(ctl.clone()))`, to any tower service, or serve an application with
//! `serve`, which also takes care of its connections. Behind HAProxy and nginx with their default
//! retries, `serve` lost no request of 100,000 in restarts under load. What can still be lost is in
//! the guide.
//!
//! # Quick start
//!
#![cfg_attr(
    all(feature = "axum", feature = "health", feature = "signal"),
    doc = "```no_run"
)]
#![cfg_attr(
    not(all(feature = "axum", feature = "health", feature = "signal")),
    doc = "```ignore"
)]
//! use axum::{Router, routing::get};
//! use tokio::net::TcpListener;
//! use tower_lifecycle::{
//!     DrainLayer, DrainListener, HealthService, Platform, ShutdownConfig, ShutdownController,
//! };
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     let config = ShutdownConfig::within(Platform::kubernetes()).unwrap(); // in 29 s of its 30 s
//!     let ctl = ShutdownController::with_config(config).unwrap();
//!     ctl.listen_for_signals().unwrap();
//!     let app = Router::new()
//!         .route("/", get(|| async { "hello" }))
//!         .layer(DrainLayer::new(ctl.clone()))
//!         .route_service("/health", HealthService::new(ctl.clone())); // after .layer: never refused
//!     let listener = TcpListener::bind("127.0.0.1:3000").await.unwrap();
//!     let listener = DrainListener::new(listener, &ctl);
//!     let stop = listener.graceful_shutdown();
//!     let server = axum::serve(listener, app).with_graceful_shutdown(stop);
//!     ctl.run(server).await.exit_code()
//! }
//! ```
//!
//! # The parts
//!
//! - [`ShutdownController`] is the handle. It begins the shutdown, waits for it and returns its report.
//!   [`ShutdownConfig`] sets the time of each part, and [`Platform`] the time of all of them.
//! - [`DrainLayer`] admits, counts, refuses and cuts the requests of a service, HTTP or not.
//!   [`RequestTrackingLayer`] only counts them.
//! - `serve` (feature `server`) is a server. It takes care of what a layer cannot see: idle connections,
//!   GOAWAY on HTTP/2 (feature `http2`), upgraded sockets, the last byte of a response.
//! - `DrainListener` (feature `axum`) is a listener for `axum::serve` that accepts the connections in the
//!   backlog before it closes. `ShutdownController::watch` (feature `server`) is for your own accept loop.
//! - [`LongLived`] names streams that end when draining begins. An [`UpgradeGuard`] counts a WebSocket.
//! - [`InFlightGuard`] counts work that is not a tower call.
//! - [`Startup`] starts services one after another, and stops them again if one of them fails.
//! - [`ShutdownController::spawn`] is for background tasks, [`ShutdownController::spawn_worker`] for
//!   tasks that requests feed, [`ShutdownController::spawn_admin`] for a server that ends last. A
//!   [`TaskPolicy`](controller::TaskPolicy) says what the end of a task means.
//! - [`ShutdownController::pause`] is for maintenance, [`ShutdownController::metrics`] for figures.
//! - A [`Hook`] cleans up. Hooks run in phases, each in its own task and with its own limit.
//! - `HealthService` answers readiness and liveness probes. `HealthLayer` does so in front of a
//!   service without a router. `LifecycleService` (feature `admin`) shows the whole lifecycle to people and
//!   programs.
//! - [`Readiness`](controller::Readiness) yields each change of readiness, for gRPC's health protocol
//!   or a service registry.
//! - `StateStore` (feature `persist`) keeps state over a restart. `FileStore` keeps it in files.
//! - A [`ShutdownNotice`] is given to everyone at the trigger. A [`ShutdownReport`] says what happened.
//!
//! # The states
//!
//! | state | new HTTP request | responses under way | readiness | liveness |
//! |---|---|---|---|---|
//! | `Initializing`, `Starting` | served | as is | 503 `starting` | 200 |
//! | the same, being rolled back | 503, `Retry-After` | finish, HTTP/1: `Connection: close` | 503 `draining` | 200 |
//! | `Running` | served | as is | 200 `healthy` or `degraded`, 503 `unhealthy` by a critical check | 200 |
//! | paused | 503, `Retry-After` | as is | 503 `paused` | 200 |
//! | `LameDuck` | served | HTTP/1: `Connection: close` | 503 `draining` | 200 |
//! | `Draining`, for `late_for` | served, HTTP/1: `Connection: close` | finish, event streams end, HTTP/1: `Connection: close` | 503 `draining` | 200 |
//! | `Draining`, after that | 503, `Retry-After` | finish, HTTP/1: `Connection: close` | 503 `draining` | 200 |
//! | forced | 503, `Retry-After` | no answer yet: 503; in the body: body error, or status 14 of gRPC | 503 `draining` | 200 |
//! | `Stopping` | 503, `Retry-After` | – | 503 `stopping` | 200 |
//! | `Stopped`, `Failed` | 503, `Retry-After` | – | 503 `stopped`, `unhealthy` | 503 |
//!
//! All parts fit into one total:
//!
//! ```text
//! |── lame duck ──|──── drain ────|── workers, if any ──|── clean-up reserve ──|
//! |───────────────────────────── shutdown_timeout ─────────────────────────────|
//! ```
//!
//! # What is not promised
//!
//! A count of zero means that the server has taken the last frame, not that the frame was sent.
//! Therefore [`ShutdownController::run`] also waits until the server has ended. A program that exits
//! at [`drained`](ShutdownController::drained) truncates large responses. A deadline holds as long as
//! the runtime is not blocked.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `admin` | no | `LifecycleService`: the lifecycle as a page and as JSON |
//! | `axum` | no | `DrainListener`, a listener for `axum::serve`; `UnixSocket` |
//! | `health` | yes | `HealthService`, `HealthLayer` |
//! | `http2` | no | HTTP/2 for `serve` and `ShutdownController::watch` |
//! | `metrics` | no | `ShutdownController::record_metrics`, for the `metrics` facade |
//! | `persist` | no | `StateStore`, `FileStore`, `MemoryStore`, `ShutdownController::persist` |
//! | `restart` | no | `restart::HandOver` and `Inherited`: in-place restart, socket activation, on Unix |
//! | `server` | no | `serve`, `ShutdownController::watch` and `watch_handshake`, `UnixSocket` |
//! | `serde` | no | `ShutdownConfig` from and to the formats of serde, `Metrics` and the report to them |
//! | `signal` | yes | `ShutdownController::listen_for_signals` |
//! | `systemd` | no | `ShutdownController::notify_systemd`, on Unix |
//!
//! # Comparison
//!
//! The in-flight layer of `tower_http` counts, but does not wait, refuse or cut. `TaskTracker` of
//! `tokio_util` waits for tasks, but admits more after `close`. `drain` waits, but only for the head of
//! a response. `GracefulShutdown` of hyper-util and `axum::serve` wait for connections, without a
//! deadline. The README has the whole table.
//!
#![cfg_attr(
    all(
        feature = "admin",
        feature = "axum",
        feature = "health",
        feature = "http2",
        feature = "metrics",
        feature = "persist",
        feature = "restart",
        feature = "serde",
        feature = "signal",
        feature = "systemd"
    ),
    doc = "See the module [`guide`] for more."
)]
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
pub mod controller;
pub mod error;
#[cfg(feature = "health")]
pub mod health;
mod in_flight;
pub mod layers;
mod log;
mod panic;
#[cfg(all(unix, feature = "restart"))]
pub mod restart;
#[cfg(any(feature = "server", feature = "axum"))]
pub mod server;
mod shutdown;
#[cfg(feature = "signal")]
pub mod signal;
mod spawn;
pub mod startup;
mod state;
#[cfg(feature = "persist")]
pub mod store;
mod sync;
#[cfg(all(unix, feature = "systemd"))]
pub mod systemd;
mod text;

pub use config::{Platform, ShutdownConfig};
pub use controller::{ShutdownController, Task};
pub use error::BoxError;
#[cfg(feature = "health")]
pub use health::HealthService;
pub use in_flight::InFlightGuard;
pub use layers::{DrainLayer, LongLived, RequestTrackingLayer, UpgradeGuard};
#[cfg(feature = "axum")]
pub use server::DrainListener;
#[cfg(feature = "server")]
pub use server::serve;
pub use shutdown::{Hook, ShutdownNotice, ShutdownReport};
pub use startup::Startup;
pub use state::{LifecycleState, ShutdownReason};

/// The parts of a [`ShutdownReport`].
pub mod report {
    pub use crate::shutdown::{
        HookReport, LameDuckEnd, Outcome, PhaseReport, SaveReport, ServiceReport, TaskReport,
    };
}

/// The futures of the controller and the guards, and what a future may end with.
pub mod future {
    pub use crate::in_flight::GuardWait;
    pub use crate::shutdown::{IntoResult, Wait};
}

#[cfg(all(
    feature = "admin",
    feature = "axum",
    feature = "health",
    feature = "http2",
    feature = "metrics",
    feature = "persist",
    feature = "restart",
    feature = "serde",
    feature = "signal",
    feature = "systemd"
))]
pub mod guide;

#[cfg(all(doctest, feature = "health", feature = "server", feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
