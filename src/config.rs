//! How long each part of a shutdown may take.

// A controller validates the whole `ShutdownConfig` when it is created. Depends only on the
// top-level modules of the crate.

mod duration;
mod env;
mod error;
mod field;
mod fit;
mod platform;
#[cfg(feature = "serde")]
mod serde;
mod shutdown_config;
#[cfg(feature = "signal")]
mod surroundings;

pub use self::error::ConfigError;
pub use self::platform::Platform;
pub use self::shutdown_config::ShutdownConfig;

#[cfg(feature = "serde")]
pub(crate) use self::serde::seconds;
