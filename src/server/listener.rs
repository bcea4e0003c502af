//! Where connections come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Something that connections come from.
///
/// tokio's [`TcpListener`] is one (its connections get `TCP_NODELAY`), and on Unix its
/// `UnixListener`. Implement it to bring other transports. To put TLS on one that is there, see
/// [`Serve::handshake`](crate::server::Serve::handshake), which does not hold up those who come after.
///
/// # Examples
///
/// One for tests, without any socket:
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
///             None => std::future::pending().await, // nobody comes any more
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
pub trait Listener: Send {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// What is known of the other side.
    type Addr: Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// None ends the server. What befell a single connection (`ConnectionAborted`,
    /// `ConnectionRefused`, `ConnectionReset`) is passed over; after others, such as a process that
    /// has run out of file descriptors, the server waits for up to a second and tries again.
    ///
    /// # Cancel safety
    ///
    /// The server drops the future when something else happens first, and calls again. A connection
    /// must not be lost by that.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Self::Addr)>> + Send;

    /// Keeps out those who come from now on, while those who wait are still accepted.
    ///
    /// Closing a socket resets whoever has come since the last [`accept`](Self::accept). The server
    /// calls this once, shortly before it drops a listener that is not
    /// [shared](crate::server::Serve::shared). The default does nothing; tokio's
    /// [`TcpListener`] has Linux ignore newcomers: they ask again a second later, and are refused
    /// then. A listener that wraps another one should call it there, too.
    fn keep_out_newcomers(&mut self) {}
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are written in one piece, for which waiting for more is a delay. Without it, it
        // works as well.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }

    #[cfg(target_os = "linux")]
    fn keep_out_newcomers(&mut self) {
        if let Err(error) = super::newcomers::keep_out(self) {
            crate::log::tell!(debug, %error, "newcomers may be reset");
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
