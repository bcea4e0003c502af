//! How long each part of a shutdown may take.

// `ShutdownConfig` is checked as a whole when a controller is made of it. This wing knows only the ground.

mod duration;
mod env;
mod error;
mod field;
#[cfg(feature = "serde")]
mod serde;
mod shutdown_config;

pub use self::error::ConfigError;
pub use self::shutdown_config::ShutdownConfig;
