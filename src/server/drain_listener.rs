//! A listener for `axum::serve` that resets no connection when it closes.

mod io;

pub use self::io::DrainIo;

use std::fmt;
use std::future::{Future, pending};
use std::io::{Error, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backlog::Backlog;
use crate::controller::ShutdownController;
use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::{Core, ENDED, Either, Wait, race, until};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// A listener for `axum::serve` that loses no connection when it closes.
///
/// When its graceful shutdown begins, `axum::serve` stops accepting and closes its listener. The kernel
/// then resets the connections that wait in the listener's backlog, and on many of them the client has
/// already sent a request. This listener accepts them first: when draining begins it accepts until its
/// backlog is empty, then closes its socket, and accepts no more. Their requests are served as
/// [late](crate::ShutdownConfig::late_for) ones. Use [`graceful_shutdown`](Self::graceful_shutdown) as the
/// signal for axum: [`stop_accepting`](ShutdownController::stop_accepting) would end axum's loop before
/// the backlog is empty. With a [`refuse_for`](crate::ShutdownConfig::refuse_for) above zero, the listener
/// closes when that time is over.
///
/// The backlog is empty when no connection has come for a millisecond. As long as connections are open, the
/// listener accepts for 50 ms: axum's listeners wait out a failed accept, which looks like an empty backlog.
///
/// It wraps any listener of axum: tokio's `TcpListener`, on Unix its `UnixListener` and
/// [`UnixSocket`](crate::server::UnixSocket), and the listeners that
/// [`tap_io`](axum::serve::ListenerExt::tap_io) returns for them.
///
/// For `ConnectInfo<SocketAddr>`, pass `listener.tap_io(|_| {})` to axum. axum can read the address from that
/// type, but not from a type of another crate.
///
/// What is not promised: a client that connects in the microseconds between the last check of the backlog
/// and the close of the socket is reset. axum closes all idle connections at the same moment, so a request
/// that is sent on one of them just then is lost. `serve` (feature `server`) gives each connection its own
/// time.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tokio::net::TcpListener;
/// use tower_lifecycle::{DrainLayer, DrainListener, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()));
///
/// let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
/// let listener = DrainListener::new(listener, &ctl);
/// let stop = listener.graceful_shutdown();
/// let server = axum::serve(listener, app).with_graceful_shutdown(stop);
/// # ctl.trigger(ShutdownReason::Manual);
/// assert!(ctl.run(server).await.is_graceful());
/// # }
/// ```
#[must_use = "a listener does nothing until it is given to a server"]
pub struct DrainListener<L> {
    // Declared before `state`, so that it is closed before its end is marked.
    listener: Option<L>,
    /// Created when it is time to close.
    backlog: Option<Backlog>,
    is_shared: bool,
    triggered: Wait,
    stop_accepting: Wait,
    core: Arc<Core>,
    state: State,
}

/// A future that resolves when `axum::serve` should close its connections.
///
/// Created by [`DrainListener::graceful_shutdown`].
#[must_use = "give it to `with_graceful_shutdown`"]
pub struct DrainSignal(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

/// What the signal knows about the listener. Dropping it marks the listener as closed.
struct State(watch::Sender<Tally>);

#[derive(Debug, Default)]
struct Tally {
    /// The number of open connections.
    open: usize,
    /// The listener is closed.
    closed: bool,
}

/// Counts an open connection.
struct Open(watch::Sender<Tally>);

/// How long connections from the backlog may wait for their request, at least.
const BACKLOG_GRACE: Duration = Duration::from_millis(50);

// ===== impl DrainListener =====

impl<L: Listener> DrainListener<L> {
    /// Creates a listener that closes when `ctl` is draining.
    pub fn new(listener: L, ctl: &ShutdownController) -> Self {
        let core = Arc::clone(ctl.core());
        Self {
            listener: Some(listener),
            backlog: None,
            is_shared: false,
            triggered: Wait::new(&core, event::TRIGGERED),
            stop_accepting: ctl.stop_accepting(),
            core,
            state: State(watch::Sender::new(Tally::default())),
        }
    }

    /// Sets whether another process accepts from the same socket, now or later: by socket activation, or by a
    /// hand-over of your own. Default: `false`. A hand-over of this crate (feature `restart`) does not need
    /// it: while it is done, the socket is shared.
    ///
    /// If `true`, the backlog is left to the other process. From the trigger on this listener accepts no
    /// connections, also in the lame duck. When the shutdown is called
    /// [off](ShutdownController::resume), it accepts again. When draining begins it drops the socket, and
    /// leaves the backlog alone.
    ///
    /// With `SO_REUSEPORT` each socket has its own backlog. The kernel resets the connections in the
    /// backlog of a closed socket, unless it is configured to migrate them (`net.ipv4.tcp_migrate_req` on
    /// Linux). Without that, leave this at `false`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{DrainListener, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let from_systemd = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let ctl = ShutdownController::new();
    /// from_systemd.set_nonblocking(true)?;
    /// let listener = tokio::net::TcpListener::from_std(from_systemd)?;
    /// let listener = DrainListener::new(listener, &ctl).shared(true);
    /// # let _ = listener;
    /// # Ok(()) }
    /// ```
    pub fn shared(mut self, is_shared: bool) -> Self {
        self.is_shared = is_shared;
        self
    }

    /// Returns the future for `with_graceful_shutdown`.
    ///
    /// It resolves when the listener has been closed for at least 50 ms, and idle connections have had
    /// 200 ms from the beginning of draining for another request (or
    /// [`refuse_for`](crate::ShutdownConfig::refuse_for), if that is set, but at most half of the drain).
    /// It resolves earlier if the listener is closed and none of its connections is open any more. When
    /// admitted work is cut it resolves at once.
    pub fn graceful_shutdown(&self) -> DrainSignal {
        let core = Arc::clone(&self.core);
        let tally = self.state.0.subscribe();
        DrainSignal(Box::pin(resolve(core, tally)))
    }

    /// Waits for the next connection to serve. Returns `None` when it is time to close.
    async fn next(&mut self) -> Option<(L::Io, L::Addr)> {
        if self.backlog.is_none() {
            if let Some(accepted) = self.next_until_draining().await {
                return Some(accepted);
            }
        }
        let listener = self.listener.as_mut()?;
        let backlog = self.backlog.as_mut()?;
        loop {
            let accepted = backlog.next(listener.accept()).await;
            // axum's listeners wait out an error inside of `accept`, for example while there are no descriptors.
            // So they are asked again, as long as an open connection delays the shutdown anyway.
            if accepted.is_some() || !backlog.may_wait() || self.state.open() == 0 {
                return accepted;
            }
        }
    }

    /// Waits for the next connection. Returns `None` when draining has begun: then there is a backlog to be
    /// emptied, unless the socket is shared.
    async fn next_until_draining(&mut self) -> Option<(L::Io, L::Addr)> {
        let listener = self.listener.as_mut()?;
        loop {
            let stop = race(&mut self.stop_accepting, &mut self.triggered);
            if let Either::Right(accepted) = race(stop, listener.accept()).await {
                return Some(accepted);
            }
            // A lame duck may be called off.
            let Some(shutdown) = self.core.shutdown() else {
                continue;
            };
            let is_shared = self.is_shared || self.core.has_successor();
            let end = race(&mut self.stop_accepting, shutdown.called_off());
            let end = if is_shared {
                end.await
            } else {
                match race(end, listener.accept()).await {
                    Either::Left(end) => end,
                    Either::Right(accepted) => return Some(accepted),
                }
            };
            match end {
                Either::Right(()) => {} // called off
                Either::Left(()) => {
                    self.backlog = (!is_shared).then(Backlog::new);
                    return None;
                }
            }
        }
    }

    fn close(&mut self) {
        if self.listener.take().is_some() {
            self.state.close();
            let connections = self.state.open();
            tell!(info, connections, "stopped accepting");
        }
    }
}

impl<L: Listener> Listener for DrainListener<L> {
    type Io = DrainIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, L::Addr) {
        let Some((io, peer)) = self.next().await else {
            self.close();
            // Pending until the server drops this future.
            return pending().await;
        };
        (DrainIo::new(io, Open::new(&self.state.0)), peer)
    }

    fn local_addr(&self) -> Result<L::Addr> {
        match &self.listener {
            Some(listener) => listener.local_addr(),
            None => Err(Error::other("the listener is closed")),
        }
    }
}

impl<L> fmt::Debug for DrainListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainListener")
            .field("shared", &self.is_shared)
            .field("closed", &self.listener.is_none())
            .finish_non_exhaustive()
    }
}

// ===== impl DrainSignal =====

async fn resolve(core: Arc<Core>, tally: watch::Receiver<Tally>) {
    let reached = |events| Wait::<()>::new(&core, events);
    // The sender is dropped when the listener and all its connections are closed, so a receive error means
    // the same as the awaited value.
    let (mut listener, mut connections) = (tally.clone(), tally);
    let gone = connections.wait_for(|tally| tally.closed && tally.open == 0);
    let idle = async {
        reached(event::CLOSED).await;
        let idle_until = core.notice().and_then(|notice| core.idle_until(&notice));
        let _ = listener.wait_for(|tally| tally.closed).await;
        // The connections that were accepted last need time for their request, too.
        let earliest = Instant::now() + BACKLOG_GRACE;
        until(idle_until.map(|at| at.max(earliest)), pending::<()>()).await;
    };
    let over = reached(event::FORCED | ENDED | LifecycleState::Stopping.bit());
    race(over, race(gone, idle)).await;
}

impl Future for DrainSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainSignal").finish_non_exhaustive()
    }
}

// ===== impl State =====

impl State {
    fn open(&self) -> usize {
        self.0.borrow().open
    }

    fn close(&self) {
        self.0.send_modify(|tally| tally.closed = true);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.close();
    }
}

// ===== impl Open =====

impl Open {
    fn new(tally: &watch::Sender<Tally>) -> Self {
        tally.send_if_modified(|tally| {
            tally.open += 1;
            false // only the end of the last connection is waited for
        });
        Self(tally.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_if_modified(|tally| {
            tally.open -= 1;
            tally.open == 0
        });
    }
}
