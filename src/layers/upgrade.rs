//! Connections that are taken over from HTTP, such as WebSockets. They are in flight until they end.
//!
//! A request that asks for an upgrade gets a guard in its extensions. Until the response, the guard
//! counts nothing, since the request itself is counted. If the response is an upgrade, the entry moves
//! to the state that all clones of the guard share, and leaves with the last clone. Clones are held by
//! the task of the handler, by a server (from the response's extensions), and by the response body,
//! which servers drop at once. If the response is not an upgrade, the entry moves to its body.

mod offered;

use std::fmt;
use std::task::{Context, Poll};

use self::offered::Upgrade;
use super::cut::Cut;
use crate::in_flight::{Entry, GuardWait, Lease, Listed, Shard, Slot, interest};
use crate::sync::Arc;

/// Keeps an upgraded connection in flight: a WebSocket, or a tunnel.
///
/// [`DrainLayer`](crate::DrainLayer) puts a guard into the extensions of each request that asks for an
/// upgrade, with the header `Upgrade` (HTTP/1.1) or the method `CONNECT`. The handler should move the
/// guard into the task that serves the connection. The request and its connection count as one, from
/// the call until the last clone of the guard is dropped. Without the guard, the count would be zero
/// while the socket is open, since servers drop the response at once.
///
/// A response that is not an upgrade (neither a 101 nor a 2xx to `CONNECT`) is counted until its body
/// ends, like any other. The guard then counts nothing. It also counts nothing for an
/// [exempt](crate::DrainLayer::exempt_paths) request that is served while draining.
///
/// A force does not invalidate the guard. If the last clone is dropped after a force, the connection is
/// counted as [aborted](crate::ShutdownReport::aborted). If a clone is kept beyond the unwinding, it is
/// counted as [abandoned](crate::ShutdownReport::abandoned).
///
/// # Examples
///
/// A WebSocket in axum. `WebSocketUpgrade` comes first: it rejects requests that do not ask for an
/// upgrade, and so have no guard.
///
/// ```
/// use axum::extract::Extension;
/// use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
/// use axum::{Router, response::Response, routing::any};
/// use tower_lifecycle::{DrainLayer, ShutdownController, UpgradeGuard};
///
/// async fn accept(ws: WebSocketUpgrade, Extension(guard): Extension<UpgradeGuard>) -> Response {
///     ws.on_upgrade(move |socket| echo(socket, guard))
/// }
///
/// async fn echo(mut socket: WebSocket, guard: UpgradeGuard) {
///     loop {
///         tokio::select! {
///             message = socket.recv() => {
///                 let Some(Ok(message)) = message else { return };
///                 if socket.send(message).await.is_err() {
///                     return;
///                 }
///             }
///             () = guard.draining() => break,
///         }
///     }
///     let going_away = CloseFrame { code: 1001, reason: "shutting down".into() };
///     let goodbye = async {
///         let _ = socket.send(Message::Close(Some(going_away))).await;
///         while let Some(Ok(_)) = socket.recv().await {} // until the client has closed too
///     };
///     tokio::select! {
///         () = goodbye => {}
///         () = guard.forced() => {} // cut
///     }
/// }
///
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/echo", any(accept))
///     .layer(DrainLayer::new(ctl.clone()));
/// assert!(app.has_routes());
/// ```
///
/// Code 1001 is "going away" (RFC 6455 §7.4.1). With hyper alone, get the guard with
/// `request.extensions().get::<UpgradeGuard>()`.
#[derive(Clone)]
#[must_use = "dropping the last clone ends the connection that it counts"]
pub struct UpgradeGuard(Arc<Upgrade>);

/// The guard that a response body holds.
pub(crate) struct UpgradedHold {
    guard: UpgradeGuard,
    slot: Slot,
}

// ===== impl UpgradeGuard =====

impl UpgradeGuard {
    /// Creates a guard that counts nothing yet, and returns the number of the offer too.
    pub(crate) fn offer(shard: &'static Shard, lease: Lease) -> (Self, usize) {
        let (upgrade, number) = Upgrade::offer(shard, lease);
        (Self(upgrade), number)
    }

    /// Returns the guard that was offered, or another one, to count an entry of `shard`, if the handler
    /// has dropped it.
    pub(crate) fn offered(number: usize, shard: &'static Shard) -> Self {
        Self(Upgrade::offered(number).unwrap_or_else(|| Upgrade::new(shard)))
    }

    /// Keeps `entry` until the last clone is dropped.
    pub(crate) fn count(&self, entry: Entry) {
        self.0.count(entry);
    }

    /// Keeps `listed` on the list until the last clone is dropped.
    pub(crate) fn list(&self, listed: Listed) {
        self.0.list(listed);
    }

    /// Resolves when draining has begun, and the connection should be closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; a later call resolves at once if draining has begun.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
    /// use tower_lifecycle::UpgradeGuard;
    ///
    /// async fn serve(mut socket: WebSocket, guard: UpgradeGuard) {
    ///     guard.draining().await; // real code serves the socket meanwhile
    ///     let going_away = CloseFrame { code: close_code::AWAY, reason: "".into() };
    ///     let _ = socket.send(Message::Close(Some(going_away))).await;
    /// }
    /// # assert_eq!(close_code::AWAY, 1001);
    /// ```
    pub fn draining(&self) -> GuardWait<'_> {
        GuardWait::new(self.0.shard(), interest::DRAINING)
    }

    /// Resolves when admitted work is cut, and the connection should be dropped.
    ///
    /// It does not resolve in a shutdown that ends without a force.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; a later call resolves at once if force has come.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
    /// use tower_lifecycle::UpgradeGuard;
    ///
    /// /// Serves a tunnel to its end, or until it is cut.
    /// async fn tunnel<A, B>(mut client: A, mut server: B, guard: UpgradeGuard)
    /// where
    ///     A: AsyncRead + AsyncWrite + Unpin,
    ///     B: AsyncRead + AsyncWrite + Unpin,
    /// {
    ///     tokio::select! {
    ///         _ = copy_bidirectional(&mut client, &mut server) => {}
    ///         () = guard.forced() => {}
    ///     }
    /// }
    /// # let _ = tunnel::<tokio::io::DuplexStream, tokio::io::DuplexStream>;
    /// ```
    pub fn forced(&self) -> GuardWait<'_> {
        GuardWait::new(self.0.shard(), interest::FORCED)
    }

    /// Notes that the connection is being cut. Only the first call counts.
    pub(crate) fn note_aborted(&self) {
        self.0.note_aborted();
    }
}

impl fmt::Debug for UpgradeGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeGuard")
            .field("upgraded", &self.0.is_counted())
            .field("draining", &self.0.shard().is_draining())
            .field("forced", &self.0.shard().is_forced())
            .finish_non_exhaustive()
    }
}

// ===== impl UpgradedHold =====

impl UpgradedHold {
    pub(crate) fn new(guard: UpgradeGuard) -> Self {
        Self {
            guard,
            slot: Slot::NONE,
        }
    }
}

impl Cut for UpgradedHold {
    fn is_forced(&self) -> bool {
        self.guard.0.shard().is_forced()
    }

    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { guard, slot } = self;
        if guard.0.shard().register(slot, cx.waker(), interest::FORCED) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn note_aborted(&self) {
        self.guard.note_aborted();
    }

    fn ends_with_status(&self) -> bool {
        false
    }

    fn is_named(&self) -> bool {
        self.guard.0.is_listed()
    }
}

impl Drop for UpgradedHold {
    fn drop(&mut self) {
        self.guard.0.shard().deregister(self.slot.take());
    }
}

impl fmt::Debug for UpgradedHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}
