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
//!   [`TaskPolicy`] says what the end of one means.
//! - [`ShutdownController::pause`] is for maintenance, [`ShutdownController::metrics`] for figures.
//! - [`Hook`]s clean up, in phases, each in a task of its own and with its own limit.
//! - `HealthService` answers readiness and liveness probes; `HealthLayer` does so in front of a
//!   service that has no router.
//! - [`Readiness`] tells whether to send traffic at each change, for gRPC's health protocol or a
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
        feature = "signal"
    ),
    doc = "The module [`guide`] answers one question after another."
)]
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod arrivals;
#[cfg(any(feature = "server", feature = "axum"))]
mod backlog;
mod body;
mod cleanup;
mod cold_box;
mod config;
#[cfg(feature = "server")]
mod connections;
mod controller;
mod core;
mod drain;
#[cfg(feature = "axum")]
mod drain_listener;
mod driver;
mod ending;
mod error;
mod exit;
mod facts;
mod gate;
mod grpc;
mod guard;
#[cfg(feature = "health")]
mod health;
mod hooks;
mod into_result;
mod layer_shard;
mod linger;
mod log;
mod long_lived;
mod maintenance;
mod metrics;
mod milestones;
mod mode;
mod notice;
mod outcome;
mod panic;
#[cfg(feature = "persist")]
mod persist;
mod pulse;
mod race;
mod readiness;
mod reject;
mod rejection;
mod report;
mod run;
mod sequence;
#[cfg(feature = "server")]
mod server;
mod servers;
mod services;
mod shutdown;
#[cfg(feature = "signal")]
mod signal;
mod startup;
mod state;
#[cfg(feature = "persist")]
mod store;
mod sync;
mod tasks;
mod thread_index;
mod tracking;
#[cfg(all(unix, any(feature = "server", feature = "axum")))]
mod unix_socket;
mod upgrade;
mod wait;
mod wakers;
#[cfg(feature = "server")]
mod watch;

pub use body::{ResponseBody, TrackedBody};
pub use config::{ConfigError, ShutdownConfig};
pub use controller::ShutdownController;
pub use drain::{Drain, DrainLayer};
#[cfg(feature = "axum")]
pub use drain_listener::{DrainIo, DrainListener, DrainSignal};
pub use error::{BoxError, Forced, ShuttingDown};
pub use guard::{GuardWait, InFlightGuard};
#[cfg(feature = "health")]
pub use health::{Health, HealthBody, HealthLayer, HealthService};
pub use hooks::{Hook, HookError};
pub use into_result::IntoResult;
pub use long_lived::LongLived;
pub use maintenance::ResumeError;
pub use metrics::Metrics;
pub use mode::{AnyService, Http};
pub use notice::ShutdownNotice;
pub use outcome::{HookReport, Outcome, SaveReport, ServiceReport, TaskReport};
pub use readiness::Readiness;
pub use rejection::Rejection;
pub use report::{PhaseReport, ShutdownReport};
pub use run::Run;
#[cfg(feature = "server")]
pub use server::{
    App, Handshake, HandshakeWith, Listener, NoHandshake, Serve, Serving, StreamExecutor, serve,
};
#[cfg(feature = "signal")]
pub use signal::{SignalError, Signals};
pub use startup::{Start, Starting, Startup, StartupCause, StartupError, Step, Steps, step};
pub use state::{LifecycleState, ShutdownReason};
#[cfg(feature = "persist")]
pub use store::{FileStore, MemoryStore, StateStore, StoreError};
pub use tasks::{Task, TaskPolicy};
pub use tracking::{RequestTracking, RequestTrackingLayer};
#[cfg(all(unix, any(feature = "server", feature = "axum")))]
pub use unix_socket::UnixSocket;
pub use upgrade::UpgradeGuard;
pub use wait::Wait;
#[cfg(feature = "server")]
pub use watch::{GracefulConnection, Watch, WatchError, WatchHandshake};

/// The response futures of the services.
///
/// They are here to be named, where a service of your own wraps one of ours.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use std::task::{Context, Poll};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_lifecycle::future::AnyDrainFuture;
/// use tower_lifecycle::{AnyService, BoxError, Drain, DrainLayer, ShutdownController};
///
/// struct Jobs<S>(Drain<S, AnyService>);
///
/// impl<S: Service<u32, Error: Into<BoxError>>> Service<u32> for Jobs<S> {
///     type Response = S::Response;
///     type Error = BoxError;
///     type Future = AnyDrainFuture<S::Future>; // no box
///
///     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
///         self.0.poll_ready(cx)
///     }
///
///     fn call(&mut self, job: u32) -> Self::Future {
///         self.0.call(job)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let layer = DrainLayer::new(ShutdownController::new()).reject_with_error();
/// let double = service_fn(|n: u32| async move { Ok::<_, Infallible>(2 * n) });
/// assert_eq!(Jobs(layer.layer(double)).oneshot(21).await.unwrap(), 42);
/// # }
/// ```
pub mod future {
    pub use crate::drain::{AnyResponseFuture as AnyDrainFuture, ResponseFuture as DrainFuture};
    #[cfg(feature = "health")]
    pub use crate::health::{HealthFuture, ResponseFuture as HealthServiceFuture};
    pub use crate::tracking::ResponseFuture as RequestTrackingFuture;
}

#[cfg(all(
    feature = "axum",
    feature = "health",
    feature = "persist",
    feature = "serde",
    feature = "server",
    feature = "signal"
))]
pub mod guide;

#[cfg(all(doctest, feature = "health", feature = "server", feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
