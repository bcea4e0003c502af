//! Servers in separate processes behind a load balancer, and the load on it.

pub mod app;
pub mod load;
pub mod process;

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number, from the random keys of the standard library's maps.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
