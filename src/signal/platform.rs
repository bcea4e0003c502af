//! Listening for signals on each platform.

#[cfg(not(any(unix, windows)))]
mod none;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(any(unix, windows)))]
pub(super) use self::none::listen;
#[cfg(unix)]
pub(super) use self::unix::listen;
#[cfg(windows)]
pub(super) use self::windows::listen;
