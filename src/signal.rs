//! The signals of the operating system that begin a shutdown and force it.

// `listen` is the entry point. `platform` receives the signals, and a `Listener` decides what each one
// means. No other wing uses this one.

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
