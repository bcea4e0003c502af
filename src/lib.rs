//! Graceful shutdown and lifecycle for any tower service.
//!
//! `.layer(DrainLayer::new(ctl.clone()))`, and from then on a deploy loses no request. What is in
//! flight is counted to the end of each response body. Readiness turns red first. Requests that still
//! arrive are served for a while, then refused in the client's own protocol. Admitted work finishes,
//! or is cut by the deadline. Clean-up runs inside a reserved slice of that same deadline, and a
//! report says exactly what happened.
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
//! use tower_lifecycle::{DrainLayer, DrainListener, HealthService, ShutdownController};
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     let ctl = ShutdownController::new();
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
//! - [`ShutdownController`] is the handle: it begins the end, waits for it, and reports it.
//!   [`ShutdownConfig`] says how long each part may take.
//! - [`DrainLayer`] admits, counts, refuses and cuts the requests of a service, of HTTP or not.
//!   [`RequestTrackingLayer`] only counts them.
//! - `serve` (feature `server`) is a server of our own, which looks after what a layer cannot see: idle
//!   connections, HTTP/2's goodbye, upgraded sockets, the last byte of an answer.
//! - `DrainListener` (feature `axum`) is a listener for `axum::serve` that resets nobody when it closes;
//!   `ShutdownController::watch` (feature `server`) is for an accept loop of your own.
//! - [`LongLived`] names streams that are ended when draining begins; an [`UpgradeGuard`] keeps a
//!   WebSocket counted.
//! - [`InFlightGuard`] counts work that is no tower call.
//! - [`Startup`] starts services one after another, and stops them again when one of them fails.
//! - [`ShutdownController::spawn`] is for background tasks, [`ShutdownController::spawn_worker`] for
//!   those that requests feed, [`ShutdownController::spawn_admin`] for a server that ends last. A
//!   [`TaskPolicy`](controller::TaskPolicy) says what the end of one means.
//! - [`ShutdownController::pause`] is for maintenance, [`ShutdownController::metrics`] for figures.
//! - [`Hook`]s clean up, in phases, each in a task of its own and with its own limit.
//! - `HealthService` answers readiness and liveness probes; `HealthLayer` does so in front of a
//!   service that has no router.
//! - [`Readiness`](controller::Readiness) tells whether to send traffic at each change, for gRPC's health protocol or a
//!   registry.
//! - `StateStore` keeps state over a restart, `FileStore` in files.
//! - [`ShutdownNotice`] is what everybody is told at the trigger, [`ShutdownReport`] what happened.
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
//! All of it fits into one total, of which a part is kept for the clean-up:
//!
//! ```text
//! |── lame duck ──|──── drain ────|── workers, if any ──|── clean-up reserve ──|
//! |───────────────────────────── shutdown_timeout ─────────────────────────────|
//! ```
//!
//! # What is not promised
//!
//! A count of zero means that the server has taken the last frame, not that it has been sent.
//! [`ShutdownController::run`] therefore waits for the server's end too; a program that ends its
//! process at [`drained`](ShutdownController::drained) alone truncates large responses. A deadline
//! is kept as long as the runtime is not blocked.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | no | `DrainListener`, a listener for `axum::serve`; `UnixSocket` |
//! | `health` | yes | `HealthService`, `HealthLayer` |
//! | `persist` | yes | `StateStore`, `FileStore`, `MemoryStore`, `ShutdownController::persist` |
//! | `server` | no | `serve`, `ShutdownController::watch` and `watch_handshake`, `UnixSocket` |
//! | `serde` | yes | `ShutdownConfig` from and to the formats of serde, `Metrics` to them |
//! | `signal` | yes | `ShutdownController::listen_for_signals` |
//! | `systemd` | no | `ShutdownController::notify_systemd`, on Unix |
//!
//! # Comparison
//!
//! `tower_http`'s in-flight layer counts, and neither waits, refuses nor cuts. `tokio_util`'s
//! `TaskTracker` waits for tasks, and admits more after `close`. `drain` waits, and lets go at the
//! response head. hyper-util's `GracefulShutdown` and `axum::serve` wait for connections, without a
//! deadline. The README has the whole table.
//!
#![cfg_attr(
    all(
        feature = "axum",
        feature = "health",
        feature = "persist",
        feature = "serde",
        feature = "server",
        feature = "signal",
        feature = "systemd"
    ),
    doc = "The module [`guide`] answers one question after another."
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
#[cfg(any(feature = "server", feature = "axum"))]
pub mod server;
mod shutdown;
#[cfg(feature = "signal")]
pub mod signal;
pub mod startup;
mod state;
#[cfg(feature = "persist")]
pub mod store;
mod sync;
#[cfg(all(unix, feature = "systemd"))]
pub mod systemd;

pub use config::ShutdownConfig;
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

/// What happened, in the parts of a [`ShutdownReport`].
pub mod report {
    pub use crate::shutdown::{
        HookReport, Outcome, PhaseReport, SaveReport, ServiceReport, TaskReport,
    };
}

/// The futures that the controller and the guards give, to be named where a type of your own holds one.
pub mod future {
    pub use crate::in_flight::GuardWait;
    pub use crate::shutdown::{IntoResult, Wait};
}

#[cfg(all(
    feature = "axum",
    feature = "health",
    feature = "persist",
    feature = "serde",
    feature = "server",
    feature = "signal",
    feature = "systemd"
))]
pub mod guide;

#[cfg(all(doctest, feature = "health", feature = "server", feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
