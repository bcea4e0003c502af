//! Tests that need third-party programs: clients that load a drain, load balancers in front of a
//! deploy.
//!
//! Separate from the other tests, which need nothing installed. `.ci/run` installs the programs,
//! and runs these.
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    #[cfg(feature = "http2")]
    pub mod ledger;
    pub mod loopback;
    pub mod sockets;
}

#[cfg(unix)]
#[cfg(all(
    feature = "axum",
    feature = "health",
    feature = "http2",
    feature = "signal"
))]
mod balancers;
mod programs;
#[cfg(feature = "metrics")]
mod prometheus;
#[cfg(target_os = "linux")]
#[cfg(all(
    feature = "axum",
    feature = "health",
    feature = "restart",
    feature = "http2",
    feature = "signal"
))]
mod restart;
mod units;
