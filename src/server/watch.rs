//! Watches connections of a user's own accept loop.

mod graceful;
mod handshake;
mod silence;
mod told;

pub use self::graceful::GracefulConnection;
pub use self::handshake::{WatchError, WatchedHandshake};

pub(crate) use self::told::CachedWait;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use self::silence::Silence;
use crate::controller::ShutdownController;
use crate::in_flight::{ConnectionStage, HasStage, OpenConnection, event};
use crate::log::tell;
use crate::shutdown::{Core, ENDED, Wait};
use crate::sync::{Arc, AtomicBool, Ordering};

pin_project! {
    /// The future of [`ShutdownController::watch`].
    ///
    /// # Panics
    ///
    /// Panics if it is polled after completion.
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
        // Declared before `open`, so that it is closed before it stops being counted.
        #[pin]
        connection: Option<C>,
        open: Watched,
        // Draining had begun when it was accepted.
        is_late: bool,
        stage: Stage,
        // Waits for draining to begin, then for the moment when connections are dropped.
        wait: CachedWait,
        // Elapses when the graceful shutdown of the connection starts.
        alarm: Option<Pin<Box<Sleep>>>,
        // Set after the graceful shutdown has started, on HTTP/2.
        silence: Option<Box<Silence>>,
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Draining has not begun.
    Serving,
    /// Draining has begun. The client may still send a request.
    Draining,
    /// The connection closes after its last response.
    Leaving,
}

/// How long a connection accepted while draining may wait for its first request, and how long an HTTP/2
/// peer may be silent after the GOAWAY.
const GRACE: Duration = Duration::from_secs(1);

impl ShutdownController {
    /// Drives one connection of your own accept loop, and closes it gracefully during the shutdown.
    ///
    /// The connection is counted as open from this call on, not from the first poll. The drain is over
    /// only when the connection is closed. hyper closes it when the last byte of the last response has been
    /// written. If there is a handshake first, such as that of TLS, use
    /// [`watch_handshake`](Self::watch_handshake). Otherwise a client that is in its handshake at the
    /// trigger is lost.
    ///
    /// When draining begins, an idle connection may receive a request for another 200 ms (or for
    /// [`refuse_for`](crate::ShutdownConfig::refuse_for), if that is set). Then its graceful shutdown
    /// starts, and it closes after the responses in flight. A connection that was accepted while draining
    /// gets a second instead. Each of these times is at most half of the remaining drain time. When
    /// admitted work is cut, there is a short time to write its responses. Then the connection is dropped.
    ///
    /// A response that is being written is waited for until the drain deadline, however slowly the client
    /// reads. A live HTTP/2 peer responds to the GOAWAY at once (RFC 9113 §6.8), even if its application
    /// does not read. So an HTTP/2 connection is dropped when nothing has been received from its peer
    /// within a second after the GOAWAY, or within a second after the last work in flight has ended, if
    /// that is later. Such a peer has never sent its preface, or has disappeared without closing.
    ///
    /// What is not promised:
    ///
    /// - hyper-util's `auto` connection does not expose its protocol. Before its first bytes it closes as
    ///   soon as its graceful shutdown starts. After that, an HTTP/2 peer that has fallen silent delays the
    ///   drain until its deadline. Let hyper detect such peers (`keep_alive_interval` and
    ///   `keep_alive_timeout` of its HTTP/2 builder), or choose `http1::Builder` or `http2::Builder` by
    ///   ALPN.
    /// - The same delay is caused by an HTTP/2 peer that responds to the GOAWAY and falls silent after
    ///   that, by one that has disappeared, if its own responses make progress within a second after the
    ///   GOAWAY (hyper does not expose the difference), and by an HTTP/1 client that has sent half of a
    ///   request.
    /// - If an HTTP/2 peer reads nothing from its socket for those seconds, data that hyper still has to
    ///   write is lost if its body has ended and is therefore no longer in flight.
    ///
    /// [`serve`](crate::serve) does more: it asks clients to leave during the lame duck, distinguishes half
    /// a request from an idle connection, follows upgrades, and loses no early response.
    ///
    /// Pass the accept loop itself to [`run`](Self::run), and end the loop when
    /// [`stop_accepting`](Self::stop_accepting) resolves.
    ///
    /// # Errors
    ///
    /// The future returns the error of the connection. A connection that the shutdown drops ends without
    /// an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "http2", doc = "```")]
    #[cfg_attr(not(feature = "http2"), doc = "```ignore")]
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
        WatchedConnection::new(Watched::new(self.core(), true), connection)
    }
}

/// Counts an open connection of a lifecycle.
struct Watched {
    core: Arc<Core>,
    open: OpenConnection,
    is_connected: Arc<IsConnected>,
}

/// Whether the handshake has ended.
struct IsConnected(AtomicBool);

impl Watched {
    fn new(core: &Arc<Core>, is_connected: bool) -> Self {
        Self {
            core: Arc::clone(core),
            open: OpenConnection::watched(&core.connections),
            is_connected: Arc::new(IsConnected(AtomicBool::new(is_connected))),
        }
    }

    fn list(&mut self, peer: &dyn fmt::Debug) {
        self.open.list(peer, Arc::clone(&self.is_connected) as _);
    }

    fn note_connected(&self) {
        // Relaxed: for display only.
        self.is_connected.0.store(true, Ordering::Relaxed);
    }
}

impl HasStage for IsConnected {
    fn stage(&self) -> ConnectionStage {
        // Relaxed: for display only.
        if self.0.load(Ordering::Relaxed) {
            ConnectionStage::Open
        } else {
            ConnectionStage::Handshake
        }
    }
}

/// Returns a wait for draining to begin.
fn wait_for_draining(core: &Arc<Core>) -> CachedWait {
    CachedWait::new(Wait::new(core, event::CLOSED))
}

/// Returns a wait for the moment when all connections are dropped.
fn wait_for_disconnect(core: &Arc<Core>) -> CachedWait {
    CachedWait::new(Wait::new(core, event::DISCONNECT | ENDED))
}

/// Returns `GRACE`, but at most half of the remaining drain time.
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
            is_late: core.milestones().has(event::CLOSED),
            stage: Stage::Serving,
            wait: wait_for_draining(core),
            alarm: None,
            silence: None,
            open,
        }
    }

    /// Lists the connection by the address of its peer, as its `Debug` shows it.
    ///
    /// [`in_flight_now`](ShutdownController::in_flight_now) returns the list, and the progress lines of a
    /// drain name the oldest if no work has a name. Without this, the connection is only counted.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use tower_lifecycle::ShutdownController;
    /// use tower_lifecycle::server::{GracefulConnection, WatchedConnection};
    ///
    /// fn watched<C>(ctl: &ShutdownController, connection: C, peer: SocketAddr) -> WatchedConnection<C>
    /// where
    ///     C: GracefulConnection,
    /// {
    ///     ctl.watch(connection).peer(peer)
    /// }
    /// ```
    pub fn peer(mut self, peer: impl fmt::Debug) -> Self {
        self.open.list(&peer);
        self
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
                    ready!(this.wait.poll(cx));
                    let until = if *this.is_late {
                        Instant::now().checked_add(grace(core))
                    } else {
                        core.notice().and_then(|notice| core.idle_until(&notice))
                    };
                    *this.alarm = until.map(|until| Box::pin(sleep_until(until)));
                    *this.wait = wait_for_disconnect(core);
                    *this.stage = Stage::Draining;
                    continue;
                }
                Stage::Draining if this.wait.poll(cx).is_pending() => {
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
                Stage::Leaving if this.wait.poll(cx).is_pending() => {
                    let Some(silence) = this.silence else {
                        return Poll::Pending;
                    };
                    ready!(silence.poll(core, cx));
                    tell!(debug, "peer does not respond");
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
