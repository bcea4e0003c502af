//! Tests that need programs which others wrote: clients that load a drain, balancers before a deploy.
//!
//! Apart from the others, which need nothing installed. `.ci/run` installs the programs, and runs these.
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    #[cfg(feature = "server")]
    pub mod ledger;
    pub mod sockets;
}

#[cfg(unix)]
#[cfg(all(
    feature = "axum",
    feature = "health",
    feature = "server",
    feature = "signal"
))]
mod balancers;
mod programs;
mod units;
