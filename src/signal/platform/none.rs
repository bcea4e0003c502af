//! Systems without signals, such as WebAssembly.

use std::io;

use tokio::runtime::Handle;

use crate::shutdown::Start;
use crate::signal::choice::Signals;
use crate::signal::listener::Listener;

/// Returns an error.
pub(in crate::signal) fn listen(
    _listener: Listener,
    _signals: &Signals,
    _runtime: &Handle,
) -> io::Result<Start> {
    let error = "this system has no signals; call `trigger` when it is time to end";
    Err(io::Error::new(io::ErrorKind::Unsupported, error))
}
