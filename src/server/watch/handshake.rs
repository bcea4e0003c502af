//! A watched connection of a user's own accept loop, including its handshake.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    CachedWait, GracefulConnection, Watched, WatchedConnection, grace, wait_for_disconnect,
    wait_for_draining,
};
use crate::controller::ShutdownController;
use crate::log::tell;
use crate::shutdown::Core;
use crate::sync::Arc;

pin_project! {
    /// The future of [`ShutdownController::watch_handshake`].
    ///
    /// # Panics
    ///
    /// Panics if it is polled after completion.
    #[must_use = "futures do nothing unless polled, and dropping this one closes the connection"]
    pub struct WatchedHandshake<F, C> {
        #[pin]
        stage: Stage<F, C>,
    }
}

pin_project! {
    #[project = StageProj]
    #[project_replace = StageTaken]
    enum Stage<F, C> {
        Handshake {
            // Declared before `open`, so that the socket is closed before it stops being counted.
            #[pin]
            handshake: F,
            limits: Limits,
            open: Watched,
        },
        Connection {
            #[pin]
            watch: WatchedConnection<C>,
        },
        Ended,
    }
}

/// What limits a handshake.
struct Limits {
    called_at: Instant,
    /// Waits for draining to begin, then for the moment when connections are dropped.
    wait: CachedWait,
    is_draining: bool,
    alarm: Pin<Box<Sleep>>,
    /// Why the handshake ends when the alarm elapses.
    end: End,
}

/// Why a handshake was dropped.
#[derive(Clone, Copy)]
enum End {
    TimedOut,
    /// Cut by the shutdown.
    Cut,
}

/// The error of a connection of [`ShutdownController::watch_handshake`].
///
/// # Examples
///
/// ```
/// use tower_lifecycle::server::WatchError;
/// use tower_lifecycle::BoxError;
///
/// type Failure = WatchError<std::io::Error, BoxError>;
///
/// fn log(failure: Failure) {
///     match failure {
///         // Common with port scanners and TCP health checks.
///         WatchError::Handshake(_) | WatchError::TimedOut => {}
///         WatchError::Connection(error) => eprintln!("connection failed: {error}"),
///     }
/// }
/// # log(WatchError::TimedOut);
/// ```
#[derive(Debug)]
pub enum WatchError<H, C> {
    /// The handshake failed.
    Handshake(H),
    /// The handshake took too long.
    TimedOut,
    /// The connection failed after its handshake.
    Connection(C),
}

/// The default limit of a handshake.
const TIMEOUT: Duration = Duration::from_secs(10);

impl ShutdownController {
    /// Runs the handshake of a connection, and then drives the connection as [`watch`](Self::watch) does.
    ///
    /// `handshake` does what comes before HTTP, such as TLS, and returns hyper's connection. It is
    /// counted as an open connection from this call on, so a client that is in its handshake when
    /// draining begins is still served. Call this in the accept loop and spawn the returned future. A call
    /// inside the spawned task can come too late: the accept loop may have ended by then.
    ///
    /// A handshake may take 10 s (see [`timeout`](WatchedHandshake::timeout)). While draining it may take
    /// one second, from the call or from the beginning of draining, whichever is later, but at most half
    /// of the remaining drain time. When admitted work is cut, a handshake has as much time left as the
    /// responses.
    ///
    /// # Errors
    ///
    /// The future returns a [`WatchError`] if the handshake fails or times out, or if the connection fails.
    /// A handshake or connection that the shutdown drops ends without an error.
    ///
    /// # Panics
    ///
    /// Panics if called outside a tokio runtime with a timer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    ///
    /// # Examples
    ///
    /// See `examples/accept_loop.rs` for the complete program:
    ///
    #[cfg_attr(feature = "http2", doc = "```")]
    #[cfg_attr(not(feature = "http2"), doc = "```ignore")]
    /// use axum::Router;
    /// use hyper_util::rt::{TokioExecutor, TokioIo};
    /// use hyper_util::server::conn::auto::Builder;
    /// use hyper_util::service::TowerToHyperService;
    /// use tokio::net::TcpStream;
    /// use tokio_rustls::TlsAcceptor;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// fn accepted(ctl: &ShutdownController, tls: TlsAcceptor, tcp: TcpStream, app: Router) {
    ///     let connection = ctl.watch_handshake(async move {
    ///         let stream = TokioIo::new(tls.accept(tcp).await?);
    ///         let service = TowerToHyperService::new(app);
    ///         let builder = Builder::new(TokioExecutor::new());
    ///         let connection = builder.serve_connection_with_upgrades(stream, service);
    ///         std::io::Result::Ok(connection.into_owned())
    ///     });
    ///     tokio::spawn(connection);
    /// }
    /// # let _ = accepted;
    /// ```
    pub fn watch_handshake<F, C, E>(&self, handshake: F) -> WatchedHandshake<F, C>
    where
        F: Future<Output = Result<C, E>>,
        C: GracefulConnection,
    {
        let open = Watched::new(self.core(), false);
        let limits = Limits {
            called_at: Instant::now(),
            wait: wait_for_draining(self.core()),
            is_draining: false,
            alarm: Box::pin(sleep(TIMEOUT)),
            end: End::TimedOut,
        };
        let stage = Stage::Handshake {
            handshake,
            limits,
            open,
        };
        WatchedHandshake { stage }
    }
}

// ===== impl WatchedHandshake =====

impl<F, C> WatchedHandshake<F, C> {
    /// Lists the connection by the address of its peer, from its handshake on. See
    /// [`WatchedConnection::peer`].
    pub fn peer(mut self, peer: impl fmt::Debug) -> Self {
        match &mut self.stage {
            Stage::Handshake { open, .. } => open.list(&peer),
            Stage::Connection { watch } => watch.open.list(&peer),
            Stage::Ended => {}
        }
        self
    }

    /// Sets how long the handshake may take, from the call of `watch_handshake` on. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_lifecycle::server::{GracefulConnection, WatchedHandshake};
    /// # use tower_lifecycle::ShutdownController;
    /// # fn example<F, C>(ctl: &ShutdownController, handshake: F) -> WatchedHandshake<F, C>
    /// # where F: Future<Output = std::io::Result<C>>, C: GracefulConnection {
    /// ctl.watch_handshake(handshake).timeout(Duration::from_secs(3))
    /// # }
    /// ```
    pub fn timeout(mut self, time: Duration) -> Self {
        if let Stage::Handshake { limits, .. } = &mut self.stage {
            // `sleep` saturates if its deadline overflows.
            let elapsed = limits.called_at.elapsed();
            limits.alarm = Box::pin(sleep(time.saturating_sub(elapsed)));
        }
        self
    }
}

impl<F, C, E> Future for WatchedHandshake<F, C>
where
    F: Future<Output = Result<C, E>>,
    C: GracefulConnection,
{
    type Output = Result<(), WatchError<E, C::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let (handshake, limits, open) = match stage.as_mut().project() {
                StageProj::Handshake {
                    handshake,
                    limits,
                    open,
                } => (handshake, limits, open),
                StageProj::Connection { watch } => {
                    let result = ready!(watch.poll(cx));
                    stage.set(Stage::Ended);
                    return Poll::Ready(result.map_err(WatchError::Connection));
                }
                StageProj::Ended => panic!("`WatchedHandshake` polled after completion"),
            };
            let end = match handshake.poll(cx) {
                Poll::Ready(Ok(connection)) => {
                    if let StageTaken::Handshake { open, .. } =
                        stage.as_mut().project_replace(Stage::Ended)
                    {
                        open.note_connected();
                        let watch = WatchedConnection::new(open, connection);
                        stage.set(Stage::Connection { watch });
                    }
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    stage.set(Stage::Ended);
                    return Poll::Ready(Err(WatchError::Handshake(error)));
                }
                Poll::Pending => ready!(limits.poll(&open.core, cx)),
            };
            stage.set(Stage::Ended);
            tell!(debug, "handshake cut");
            return Poll::Ready(match end {
                End::TimedOut => Err(WatchError::TimedOut),
                End::Cut => Ok(()),
            });
        }
    }
}

impl<F, C> fmt::Debug for WatchedHandshake<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage: &dyn fmt::Debug = match &self.stage {
            Stage::Handshake { .. } => &"Handshake",
            Stage::Connection { watch } => watch,
            Stage::Ended => &"Ended",
        };
        f.debug_struct("WatchedHandshake")
            .field("stage", stage)
            .finish_non_exhaustive()
    }
}

// ===== impl Limits =====

impl Limits {
    /// Ready when the handshake has to end.
    fn poll(&mut self, core: &Arc<Core>, cx: &mut Context<'_>) -> Poll<End> {
        if !self.is_draining && self.wait.poll(cx).is_ready() {
            self.is_draining = true;
            self.wait = wait_for_disconnect(core);
            // This is the first poll, or draining has just begun.
            let deadline = Instant::now() + grace(core);
            if deadline < self.alarm.deadline() {
                self.alarm.as_mut().reset(deadline);
                self.end = End::Cut;
            }
        }
        if self.is_draining && self.wait.poll(cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(self.end)
    }
}

// ===== impl WatchError =====

impl<H: fmt::Display, C: fmt::Display> fmt::Display for WatchError<H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchError::Handshake(error) => write!(f, "handshake failed: {error}"),
            WatchError::TimedOut => f.write_str("handshake took too long"),
            WatchError::Connection(error) => write!(f, "connection failed: {error}"),
        }
    }
}

// `Display` includes the inner error. It is no `source`, because hyper-util's boxed error cannot be one.
impl<H, C> Error for WatchError<H, C>
where
    H: fmt::Debug + fmt::Display,
    C: fmt::Debug + fmt::Display,
{
}
