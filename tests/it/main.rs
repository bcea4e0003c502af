//! The tests, in one program: linking twice takes twice as long.
//!
//! They run in parallel in one process. So a test must not change process-wide state (the
//! environment, the global subscriber, signal handlers), inspect all threads, or start a child,
//! which would hold the other tests' sockets open for a moment. Such tests are in `process`.
//! `hot_path` counts allocations, `soak` uses both cores, `programs` needs installed programs, and `http1`
//! is for builds without HTTP/2.
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    pub mod grpc;
    #[cfg(feature = "health")]
    pub mod health;
    pub mod layers;
    #[cfg(feature = "http2")]
    pub mod ledger;
    pub mod log;
    pub mod loopback;
    pub mod panics;
    pub mod runtime;
    #[cfg(feature = "http2")]
    pub mod server;
    pub mod shutdown;
    pub mod sockets;
    pub mod startup;
    #[cfg(feature = "persist")]
    pub mod store;
}

#[cfg(feature = "health")]
mod admin;
mod adversity;
mod auto_traits;
mod axum_routes;
mod body;
mod config;
#[cfg(feature = "http2")]
mod conformance;
mod controller;
mod controller_random;
mod drain;
#[cfg(feature = "axum")]
mod drain_listener;
#[cfg(feature = "http2")]
mod force_books;
mod foreign_drops;
mod grpc;
mod grpc_cut;
#[cfg(feature = "health")]
mod health;
#[cfg(feature = "health")]
mod health_checks;
#[cfg(feature = "health")]
mod health_layer;
mod hooks;
mod hot_path_on_call;
#[cfg(feature = "serde")]
mod in_flight_now;
#[cfg(feature = "health")]
mod lame_duck_early;
mod late_arrivals;
mod late_requests;
#[cfg(feature = "http2")]
mod ledger;
#[cfg(feature = "admin")]
mod lifecycle_service;
#[cfg(feature = "axum")]
mod listener;
mod logged_events;
mod logs;
mod long_lived;
mod maintenance;
mod metrics;
#[cfg(all(target_os = "linux", feature = "http2"))]
mod newcomers;
#[cfg(all(feature = "health", feature = "persist"))]
mod on_call;
mod outlives;
mod parallel;
mod platform;
mod readiness;
#[cfg(all(feature = "metrics", target_has_atomic = "64"))]
mod recorder;
mod refused_uploads;
mod rejection;
#[cfg(feature = "serde")]
mod report;
mod runtime_ends;
#[cfg(feature = "persist")]
mod saves;
#[cfg(feature = "http2")]
mod server;
#[cfg(feature = "http2")]
mod server_accept;
#[cfg(feature = "http2")]
mod server_budget;
#[cfg(feature = "http2")]
mod server_endings;
#[cfg(feature = "http2")]
mod server_goodbyes;
#[cfg(feature = "http2")]
mod server_handover;
#[cfg(feature = "http2")]
mod server_idle;
#[cfg(feature = "http2")]
mod server_limits;
#[cfg(feature = "http2")]
mod server_on_call;
#[cfg(all(feature = "http2", unix))]
mod server_shared;
#[cfg(feature = "http2")]
mod server_stuck;
mod service_watch;
mod sockets;
mod spans;
mod startup;
mod startup_random;
#[cfg(feature = "persist")]
mod store;
#[cfg(feature = "persist")]
mod store_folder;
#[cfg(all(
    feature = "health",
    feature = "persist",
    feature = "serde",
    feature = "signal"
))]
mod story;
mod task_policies;
mod tasks;
mod tracking;
#[cfg(all(unix, feature = "http2"))]
mod unix_socket;
mod upgrade;
#[cfg(feature = "http2")]
mod watch;
#[cfg(feature = "http2")]
mod watch_handshake;
#[cfg(feature = "http2")]
mod watch_http2;
mod workers;
