//! Tests of whole processes: signals, exit codes, limits, the environment, kills in the middle of a
//! write.
//!
//! Their processes are this program again, running one test of it: usually the test `child` of a
//! file. Separate from `it`, whose sockets and locks a starting child would hold open.
#![allow(clippy::unwrap_used)]

#[path = "../support"]
mod support {
    #[cfg(all(target_os = "linux", feature = "persist", feature = "signal"))]
    pub mod log;
    pub mod loopback;
    #[cfg(all(unix, feature = "signal"))]
    pub mod shutdown;
    #[cfg(all(unix, feature = "signal"))]
    pub mod sockets;
    #[cfg(all(unix, feature = "signal"))]
    pub mod startup;
    #[cfg(all(unix, feature = "persist"))]
    pub mod store;
}

mod alone;
#[cfg(all(target_os = "linux", feature = "persist", feature = "signal"))]
mod broken_logs;
#[cfg(all(unix, feature = "http2"))]
mod descriptors;
mod environment;
#[cfg(unix)]
mod exit_after;
#[cfg(all(unix, feature = "persist", feature = "signal"))]
mod frozen;
#[cfg(all(unix, feature = "signal"))]
mod platform;
#[cfg(all(
    target_os = "linux",
    feature = "persist",
    feature = "restart",
    feature = "http2",
    feature = "signal",
    feature = "systemd"
))]
mod restart;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod signal_choice;
#[cfg(all(unix, feature = "signal"))]
mod signals;
#[cfg(all(unix, feature = "persist"))]
mod store_kill;
#[cfg(all(unix, feature = "systemd"))]
mod systemd;

/// Ends this process, which is a child, after its maximum lifetime, if its parent cannot.
#[cfg(all(
    unix,
    any(feature = "persist", feature = "signal", feature = "systemd")
))]
fn end_after(life: std::time::Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(life);
        std::process::exit(99);
    });
}
