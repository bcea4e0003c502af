//! The socket that the messages to systemd are sent with.

use std::fmt;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::log::tell;

/// Sends messages without blocking. It is not connected, so that a socket of systemd that was made anew gets
/// them too.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl NotifySocket {
    pub(super) fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to })
    }

    /// Sends a message, or logs why it cannot be sent.
    pub(super) fn send(&self, message: &str) -> Result<(), io::ErrorKind> {
        let sent = self.socket.send_to_addr(message.as_bytes(), &self.to);
        sent.map(drop).map_err(|error| {
            let kind = error.kind();
            tell!(debug, %error, "cannot notify systemd");
            kind
        })
    }
}

impl fmt::Debug for NotifySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifySocket")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}
