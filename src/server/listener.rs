//! Sources of connections.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A source of connections.
///
/// It is implemented for tokio's [`TcpListener`], whose connections get `TCP_NODELAY`, and on Unix for its
/// `UnixListener`. Implement it to add other transports. To add TLS to an existing listener, see
/// [`Serve::handshake`](crate::server::Serve::handshake), which does not delay the connections that follow.
///
/// # Examples
///
/// A listener for tests, without sockets:
///
/// ```
/// use std::io;
/// use axum::{Router, routing::get};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
/// use tokio::sync::mpsc;
/// use tower_lifecycle::server::Listener;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, serve};
///
/// struct Pipes(mpsc::Receiver<DuplexStream>);
///
/// impl Listener for Pipes {
///     type Io = DuplexStream;
///     type Addr = ();
///
///     async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
///         match self.0.recv().await {
///             Some(pipe) => Ok((pipe, ())),
///             None => std::future::pending().await, // no more connections
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let (connect, pipes) = mpsc::channel(1);
/// let app: Router = Router::new().route("/", get(|| async { "hello" }));
/// let server = tokio::spawn(serve(Pipes(pipes), app, ctl.clone()).into_future());
///
/// let (mut client, pipe) = duplex(1024);
/// connect.send(pipe).await.unwrap();
/// client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"));
///
/// ctl.trigger(ShutdownReason::Manual);
/// assert!(server.await.unwrap().is_graceful());
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a listener that `serve` can accept connections from",
    label = "not a listener",
    note = "listeners are `tokio::net::TcpListener`, `tokio::net::UnixListener`, `UnixSocket`, and what \
            implements `tower_lifecycle::server::Listener`; one of `std::net` is converted by \
            `TcpListener::from_std`"
)]
pub trait Listener: Send {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The address of a peer. [`in_flight_now`](crate::ShutdownController::in_flight_now) shows its `Debug`.
    type Addr: fmt::Debug + Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// No error ends the server. Errors of a single connection (`ConnectionAborted`, `ConnectionRefused`,
    /// `ConnectionReset`, `HostUnreachable`, `NetworkUnreachable`, `NetworkDown`) are skipped. After other
    /// errors, such as running out of file descriptors, the server waits for up to a second and tries again.
    ///
    /// # Cancel safety
    ///
    /// The server drops the future when something else happens first, and calls `accept` again. This must
    /// not lose a connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Self::Addr)>> + Send;

    /// Stops new connections, while those that are already waiting can still be accepted.
    ///
    /// Closing a socket resets the connections that have come since the last [`accept`](Self::accept).
    /// The server calls this once, shortly before it drops a listener that is not
    /// [shared](crate::server::Serve::shared). The default does nothing. For tokio's [`TcpListener`] on
    /// Linux, the kernel ignores new connections: clients retry a second later, and are refused then. This
    /// holds for the socket, so for its clones, too. A listener that wraps another one should forward the call.
    fn keep_out_newcomers(&mut self) {}
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Responses are written in one piece, and Nagle's algorithm would delay them. An error is
        // ignored: the connection works without the option, too.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }

    #[cfg(target_os = "linux")]
    fn keep_out_newcomers(&mut self) {
        if let Err(error) = super::newcomers::keep_out(self) {
            crate::log::tell!(debug, %error, "cannot keep out new connections; they may be reset");
        }
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> io::Result<(Self::Io, Self::Addr)> {
        tokio::net::UnixListener::accept(self).await
    }
}
