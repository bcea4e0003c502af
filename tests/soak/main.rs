//! Many connections, and many servers: what takes a minute, or both cores.
//!
//! These tests are apart from `it`: they would disturb those beside them, and they look at the whole
//! process, its descriptors, threads and memory.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    #[allow(dead_code)] // Only a part of it is needed here.
    pub mod server;
}

#[cfg(target_os = "linux")]
mod cycles;
mod force_scale;
