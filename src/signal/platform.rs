//! Listening for signals on each platform.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use self::unix::listen;
#[cfg(windows)]
pub(super) use self::windows::listen;
