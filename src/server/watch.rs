//! A connection of somebody else's accept loop.

mod graceful;
mod handshake;
mod silence;
mod told;

pub use self::graceful::GracefulConnection;
pub use self::handshake::{WatchError, WatchedHandshake};

pub(crate) use self::told::Told;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use self::silence::Silence;
use crate::controller::ShutdownController;
use crate::in_flight::{OpenConnection, event};
use crate::log::tell;
use crate::shutdown::{Core, ENDED, Wait};
use crate::sync::Arc;

pin_project! {
    /// The future of [`ShutdownController::watch`].
    ///
    /// # Panics
    ///
    /// When it is polled again after it has completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use hyper_util::rt::TokioIo;
    /// use hyper_util::service::TowerToHyperService;
    /// use hyper::server::conn::http1::{Builder, Connection};
    /// use tokio::net::TcpStream;
    /// use tower_lifecycle::server::WatchedConnection;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// type Service = TowerToHyperService<axum::Router>;
    ///
    /// fn watched(
    ///     ctl: &ShutdownController,
    ///     stream: TcpStream,
    ///     service: Service,
    /// ) -> WatchedConnection<Connection<TokioIo<TcpStream>, Service>> {
    ///     ctl.watch(Builder::new().serve_connection(TokioIo::new(stream), service))
    /// }
    /// # let _ = watched;
    /// ```
    #[must_use = "futures do nothing unless polled, and dropping this one closes the connection"]
    pub struct WatchedConnection<C> {
        // Declared first, so that it is closed before that is told.
        #[pin]
        connection: Option<C>,
        open: Watched,
        // Draining had begun when it was accepted.
        came_late: bool,
        stage: Stage,
        told: Told,
        // When it is told to go.
        alarm: Option<Pin<Box<Sleep>>>,
        // On HTTP/2, from then on.
        silence: Option<Box<Silence>>,
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nobody has told it to go.
    Serving,
    /// Draining has begun; it may bring one more request.
    Draining,
    /// It ends with its last answer.
    Leaving,
}

/// How long one that has just come may take for its first request, and an HTTP/2 peer for a sign of
/// life.
const GRACE: Duration = Duration::from_secs(1);

impl ShutdownController {
    /// Drives one connection of an accept loop of your own, and ends it with the shutdown.
    ///
    /// The connection is open for the shutdown from the call on, not from the first poll: the drain
    /// is over only when it is closed, which hyper does when the last byte of the last answer has
    /// been written. If there is a handshake first, such as that of TLS, use
    /// [`watch_handshake`](Self::watch_handshake): a client that is in its handshake at the trigger
    /// is lost otherwise.
    ///
    /// When draining begins, an idle connection may bring a request for another 200 ms (or for
    /// [`refuse_for`](crate::ShutdownConfig::refuse_for), if that is set). Then it is told to end
    /// with what is under way. One that was accepted while draining gets a second instead. Each of
    /// these times is at most half of what is left of the drain. When admitted work is cut, its
    /// answers have a moment to be written; then the connection is dropped.
    ///
    /// An answer that is being written is waited for as long as the drain lasts, however slowly the
    /// client reads. An HTTP/2 peer that is there answers the goodbye at once (RFC 9113 §6.8), also
    /// if its user does not read. So an HTTP/2 connection is dropped when nothing has come from its
    /// peer within a second after the goodbye, or within a second after the last work in flight has
    /// ended, if that is later: a peer that has never sent its preface, or is gone without a word.
    ///
    /// What is not promised:
    ///
    /// - hyper-util's `auto` connection does not tell its protocol. Before its first bytes it ends
    ///   when it is told to; after that, a peer of HTTP/2 that has fallen silent holds the drain up
    ///   to its deadline. Let hyper find such peers (`keep_alive_interval` and `keep_alive_timeout`
    ///   of its HTTP/2 builder), or choose `http1::Builder` or `http2::Builder` by ALPN.
    /// - So does a peer of HTTP/2 that gives a sign of life after the goodbye and falls silent then,
    ///   and a client of HTTP/1 that has sent half of a request.
    /// - What hyper still has to write to an HTTP/2 peer that takes nothing from its socket for
    ///   those seconds is lost, if its body has ended and so is in flight no more.
    ///
    /// [`serve`](crate::serve) does more: it asks clients to leave in the lame duck already, tells
    /// half a request from an idle connection, follows upgrades, and lets no early answer be lost.
    ///
    /// Give the accept loop itself to [`run`](Self::run), and end it when
    /// [`stop_accepting`](Self::stop_accepting) says so.
    ///
    /// # Errors
    ///
    /// The future gives the connection's own; a connection that is dropped by the shutdown ends
    /// without one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use hyper_util::rt::{TokioExecutor, TokioIo};
    /// use hyper_util::server::conn::auto;
    /// use hyper_util::service::TowerToHyperService;
    /// use tokio::net::TcpListener;
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(DrainLayer::new(ctl.clone()));
    /// let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ///
    /// let accept_loop = async {
    ///     let mut stop = ctl.stop_accepting();
    ///     loop {
    ///         let (stream, _) = tokio::select! {
    ///             accepted = listener.accept() => accepted?,
    ///             () = &mut stop => return std::io::Result::Ok(()),
    ///         };
    ///         let service = TowerToHyperService::new(app.clone());
    ///         let builder = auto::Builder::new(TokioExecutor::new());
    ///         let connection = builder.serve_connection(TokioIo::new(stream), service);
    ///         tokio::spawn(ctl.watch(connection.into_owned()));
    ///     }
    /// };
    /// # ctl.trigger(ShutdownReason::Manual);
    /// let report = ctl.run(accept_loop).await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn watch<C: GracefulConnection>(&self, connection: C) -> WatchedConnection<C> {
        WatchedConnection::new(Watched::new(self.core()), connection)
    }
}

/// A connection that is open, and the lifecycle that it belongs to.
struct Watched {
    core: Arc<Core>,
    _open: OpenConnection,
}

impl Watched {
    fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            _open: OpenConnection::watched(&core.connections),
        }
    }
}

/// Waits for draining to begin.
fn told_of_draining(core: &Arc<Core>) -> Told {
    Told::new(Wait::new(core, event::CLOSED))
}

/// Waits for the moment when every connection is dropped.
fn told_to_disconnect(core: &Arc<Core>) -> Told {
    Told::new(Wait::new(core, event::DISCONNECT | ENDED))
}

/// Returns the grace: at most half of what is left of the drain.
fn grace(core: &Core) -> Duration {
    let left = core.notice().and_then(|notice| notice.drain_remaining());
    GRACE.min(left.map_or(GRACE, |left| left / 2))
}

// ===== impl WatchedConnection =====

impl<C> WatchedConnection<C> {
    fn new(open: Watched, connection: C) -> Self {
        let core = &open.core;
        Self {
            connection: Some(connection),
            came_late: core.milestones().has(event::CLOSED),
            stage: Stage::Serving,
            told: told_of_draining(core),
            alarm: None,
            silence: None,
            open,
        }
    }
}

impl<C: GracefulConnection> Future for WatchedConnection<C> {
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let core = &this.open.core;
        loop {
            let Some(mut connection) = this.connection.as_mut().as_pin_mut() else {
                panic!("`WatchedConnection` polled after completion");
            };
            let polled = match this.silence {
                Some(silence) => {
                    let mut cx = Context::from_waker(silence.waker(cx));
                    connection.as_mut().poll(&mut cx)
                }
                None => connection.as_mut().poll(cx),
            };
            if let Poll::Ready(result) = polled {
                this.connection.set(None);
                return Poll::Ready(result);
            }
            match this.stage {
                Stage::Serving => {
                    ready!(this.told.poll(cx));
                    let until = match this.came_late {
                        true => Instant::now().checked_add(grace(core)),
                        false => core.notice().and_then(|notice| core.idle_until(&notice)),
                    };
                    *this.alarm = until.map(|until| Box::pin(sleep_until(until)));
                    *this.told = told_to_disconnect(core);
                    *this.stage = Stage::Draining;
                    continue;
                }
                Stage::Draining if this.told.poll(cx).is_pending() => {
                    let Some(alarm) = this.alarm else {
                        return Poll::Pending;
                    };
                    ready!(alarm.as_mut().poll(cx));
                    connection.as_mut().graceful_shutdown();
                    let silence = || Box::new(Silence::new(core, grace(core), cx));
                    *this.silence = connection.is_http2().then(silence);
                    *this.stage = Stage::Leaving;
                    continue;
                }
                Stage::Leaving if this.told.poll(cx).is_pending() => {
                    let Some(silence) = this.silence else {
                        return Poll::Pending;
                    };
                    ready!(silence.poll(core, cx));
                    tell!(debug, "its peer does not answer");
                }
                Stage::Draining | Stage::Leaving => {}
            }
            this.connection.set(None);
            tell!(debug, "connection cut");
            return Poll::Ready(Ok(()));
        }
    }
}

impl<C> fmt::Debug for WatchedConnection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedConnection")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
