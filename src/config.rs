//! How long each part of a shutdown may take.

// A controller validates the whole `ShutdownConfig` when it is created. Depends only on the
// top-level modules of the crate.

mod duration;
mod env;
mod error;
mod field;
#[cfg(feature = "serde")]
mod serde;
mod shutdown_config;

pub use self::error::ConfigError;
pub use self::shutdown_config::ShutdownConfig;
