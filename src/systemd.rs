//! Telling systemd about the lifecycle, as sd_notify(3) describes it.

// `notify` is the entry point. It reads the `environment`, and starts the `watchdog` and a `Messenger`, which
// sends to the `socket` what a `Moment` says. A message about a hand-over (`RELOADING=1`, `MAINPID=`) belongs
// to the `Messenger`, which knows what was sent before. No other wing uses this one.

mod environment;
mod error;
mod messenger;
mod moment;
mod notify;
#[cfg(all(test, not(tower_lifecycle_loom)))]
mod recorder;
mod socket;
mod watchdog;

pub use self::error::SystemdError;
