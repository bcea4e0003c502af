//! Many connections, and many servers: tests that take a minute, or both cores.
//!
//! Separate from `it`: they would disturb tests that run in parallel, and they inspect the whole
//! process, its descriptors, threads and memory.
#![cfg(feature = "http2")]
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    pub mod loopback;
    #[allow(dead_code)] // Only a part of it is used here.
    pub mod server;
}

#[cfg(target_os = "linux")]
mod cycles;
mod force_scale;
