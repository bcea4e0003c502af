//! The signals that kill a process that does not handle them.

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};

/// On every Unix.
const KNOWN: [i32; 12] = [
    SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
];

/// On Linux, these include the real-time signals that the C library leaves to programs.
#[cfg(target_os = "linux")]
fn more() -> impl Iterator<Item = i32> {
    use nix::sys::signal::Signal::{SIGIO, SIGPWR};
    let first = if cfg!(target_env = "musl") { 35 } else { 34 };
    [SIGIO as i32, SIGPWR as i32].into_iter().chain(first..=64)
}

#[cfg(not(target_os = "linux"))]
fn more() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

/// Returns the signals that kill a process that does not handle them. Excludes signals that cannot be
/// handled, and signals that report a fault of the process itself.
pub(super) fn killing() -> impl Iterator<Item = i32> {
    KNOWN.into_iter().chain(more())
}
