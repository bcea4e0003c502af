//! Handshakes before HTTP.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

/// A handshake that comes before HTTP on a connection. See [`Serve::handshake`](super::Serve::handshake).
pub trait Handshake<I>: Send + Sync + 'static {
    /// The stream after the handshake, which carries HTTP.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    #[doc(hidden)]
    type Future: Future<Output = io::Result<Self::Io>> + Send;
    #[doc(hidden)]
    fn handshake(&self, io: I) -> Self::Future;
}

/// No handshake: HTTP starts at once.
#[derive(Debug, Clone, Copy)]
pub struct NoHandshake;

/// A handshake of the application. See [`Serve::handshake`](super::Serve::handshake).
pub struct HandshakeWith<F>(pub(super) F);

// ===== impl Handshake =====

impl<I> Handshake<I> for NoHandshake
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = I;
    type Future = Ready<io::Result<I>>;

    fn handshake(&self, io: I) -> Self::Future {
        ready(Ok(io))
    }
}

impl<F, Fut, I, Io> Handshake<I> for HandshakeWith<F>
where
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Io>> + Send,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = Io;
    type Future = Fut;

    fn handshake(&self, io: I) -> Fut {
        (self.0)(io)
    }
}

impl<F> fmt::Debug for HandshakeWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeWith").finish_non_exhaustive()
    }
}
