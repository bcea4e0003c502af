//! Which signals kill a process that does not handle them.

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};

/// Everywhere.
const KNOWN: [i32; 12] = [
    SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
];

/// Of Linux: also the real-time signals that its C library leaves to programs.
#[cfg(target_os = "linux")]
fn more() -> impl Iterator<Item = i32> {
    use nix::sys::signal::Signal::{SIGIO, SIGPWR};
    [SIGIO as i32, SIGPWR as i32].into_iter().chain(34..=64)
}

#[cfg(not(target_os = "linux"))]
fn more() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

/// Returns the signals that kill a process that does not handle them, without those that nobody may
/// handle and those by which the process itself fails.
pub(super) fn killing() -> impl Iterator<Item = i32> {
    KNOWN.into_iter().chain(more())
}
