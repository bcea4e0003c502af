//! A connection of somebody else's accept loop, from before its handshake.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    GracefulConnection, Told, Watched, WatchedConnection, grace, told_of_draining,
    told_to_disconnect,
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
    /// When it is polled again after it has completed.
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
            // Declared first, so that its socket is closed before that is told.
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

/// How long a handshake may take.
struct Limits {
    called_at: Instant,
    told: Told,
    is_draining: bool,
    alarm: Pin<Box<Sleep>>,
    /// What the alarm means.
    over: Over,
}

/// What ends a handshake from outside.
#[derive(Clone, Copy)]
enum Over {
    TimedOut,
    /// By the shutdown.
    Cut,
}

/// Says why a connection of [`ShutdownController::watch_handshake`] failed.
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
///         // Scanners and health checks of TCP do this all day.
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
    /// The connection failed, after its handshake.
    Connection(C),
}

/// How long a handshake may take while nothing ends.
const TIMEOUT: Duration = Duration::from_secs(10);

impl ShutdownController {
    /// Does the handshake of a connection, and then drives it as [`watch`](Self::watch) does.
    ///
    /// `handshake` does what comes before HTTP, such as TLS, and gives the connection of hyper. It
    /// is counted as an open connection from the call on, so a client that is in its handshake when
    /// draining begins is served. Call this in the accept loop and spawn what it gives: a call
    /// inside the spawned task comes later than the accept loop's end may.
    ///
    /// A handshake may take 10 s ([`timeout`](WatchedHandshake::timeout)), and while draining a
    /// second from the call or from the beginning of draining, whatever is later, but at most half
    /// of what is left of the drain. When admitted work is cut it has as much time as the answers.
    ///
    /// # Errors
    ///
    /// The future gives a [`WatchError`] that says what failed. A handshake or a connection that is
    /// dropped by the shutdown ends without one.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its timer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    ///
    /// # Examples
    ///
    /// `examples/accept_loop.rs` is the whole of it:
    ///
    /// ```
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
        let open = Watched::new(self.core());
        let limits = Limits {
            called_at: Instant::now(),
            told: told_of_draining(self.core()),
            is_draining: false,
            alarm: Box::pin(sleep(TIMEOUT)),
            over: Over::TimedOut,
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
    /// Sets how long the handshake may take, from the call on. Default: 10 s.
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
            // `sleep` knows a far future.
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
            let over = match handshake.poll(cx) {
                Poll::Ready(Ok(connection)) => {
                    if let StageTaken::Handshake { open, .. } =
                        stage.as_mut().project_replace(Stage::Ended)
                    {
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
            return Poll::Ready(match over {
                Over::TimedOut => Err(WatchError::TimedOut),
                Over::Cut => Ok(()),
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
    fn poll(&mut self, core: &Arc<Core>, cx: &mut Context<'_>) -> Poll<Over> {
        if !self.is_draining && self.told.poll(cx).is_ready() {
            self.is_draining = true;
            self.told = told_to_disconnect(core);
            // It is this task's first poll, or draining has just begun.
            let deadline = Instant::now() + grace(core);
            if deadline < self.alarm.deadline() {
                self.alarm.as_mut().reset(deadline);
                self.over = Over::Cut;
            }
        }
        if self.is_draining && self.told.poll(cx).is_ready() {
            return Poll::Ready(Over::Cut);
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(self.over)
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

// Their own errors are part of the text: that of hyper-util, a box, cannot be a source.
impl<H, C> Error for WatchError<H, C>
where
    H: fmt::Debug + fmt::Display,
    C: fmt::Debug + fmt::Display,
{
}
