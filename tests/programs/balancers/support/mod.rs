//! Servers in processes of their own behind a balancer, and the load on it.

pub mod app;
pub mod load;
pub mod process;

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number that nobody has chosen: each map of the standard library has other keys.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
