//! The signals of the operating system that begin a shutdown and force it.

// `listen` is the way in. A `Listener` says what each signal means, `platform` hears it. Nobody else knows
// this wing.

#[cfg(unix)]
mod attention;
mod choice;
mod error;
#[cfg(unix)]
mod killing;
mod listen;
mod listener;
mod platform;
#[cfg(unix)]
mod registrations;

pub use self::choice::Signals;
pub use self::error::SignalError;
