//! Tracks what is under way on one connection, to decide when it can be closed.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::task::Waker;

use tokio::time::Instant;

use crate::in_flight::{ConnectionStage, HasStage};
use crate::layers::UpgradeGuard;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// Shared by the connection, its socket and its requests.
///
/// Mostly one task uses it, so there is no contention. The atomics publish no other data, so they are
/// Relaxed on both sides unless noted otherwise.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Counts parts of responses that are under way: in the handler, in the body, or handed to hyper and
    /// not yet in its buffer. The upper half counts the parts of owed responses.
    under_way: AtomicU64,
    /// Bytes of an owed response were handed over to hyper's buffer, which has not been flushed since.
    handed_over: AtomicBool,
    /// How often bytes were written. Only the connection's own task writes. Wraps.
    writes: AtomicU32,
    /// The socket has not taken all bytes of an owed response.
    unsent: AtomicBool,
    /// The socket takes no more bytes at the moment.
    stalled: AtomicBool,
    /// Bytes have been received since the last response ended, which may be part of a head.
    received: AtomicBool,
    /// How many requests there have been.
    requests: AtomicUsize,
    /// After how many requests the client is asked to leave. Zero means never.
    last_request: usize,
    /// How many streams of HTTP/2 have become tunnels and are still open.
    tunnels: AtomicUsize,
    /// The client may still be sending after the last response: on HTTP/1 the rest of a request body, on
    /// HTTP/2 frames at any time.
    may_send: AtomicBool,
    /// Only the end of the connection ends the response: it has no length and no chunks (RFC 9112 §6.3).
    ends_with_connection: AtomicBool,
    /// All is written. What the client still sends is discarded.
    lingering: AtomicBool,
    /// The HTTP/1 connection has become a tunnel. Whether a tunnel is idle is unknown.
    tunnel: AtomicBool,
    /// A [`Closing`], for the responses to come.
    closing: AtomicUsize,
    /// A [`Protocol`].
    protocol: AtomicUsize,
    /// Recorded only while responses say that the connection will be closed.
    quiet: Mutex<Quiet>,
    /// The guard of the tunnel that an HTTP/1 connection has become.
    upgrade: Mutex<Option<UpgradeGuard>>,
}

#[derive(Debug, Default)]
struct Quiet {
    /// When the last response ended.
    since: Option<Instant>,
    /// When a response last ended, or when the last owed one was sent.
    progress: Option<Instant>,
    /// The connection's task, which waits for that.
    waker: Option<Waker>,
}

/// What responses say about closing the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Closing {
    /// What the application says.
    None = 0,
    /// Not that it will be closed: the moment of this connection has not come yet.
    NotYet = 1,
    /// That it will be closed.
    Now = 2,
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Protocol {
    /// The handshake before HTTP.
    Handshake = 0,
    /// HTTP, but the version is not known yet.
    Unknown = 1,
    Http1 = 2,
    Http2 = 3,
    /// Any other protocol, after an upgrade.
    Tunnel = 4,
    /// None any more: the connection is being closed.
    Over = 5,
}

/// One part of a response under way.
///
/// A response is owed unless the request was refused. A client that does not read an owed response is
/// waited for until the drain deadline.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    is_owed: bool,
    /// The value of `writes` when its bytes were last read, or `NEVER`.
    read_at: Cell<u32>,
}

/// An open tunnel on a stream of HTTP/2.
#[cfg(feature = "http2")]
pub(super) struct StreamTunnel(Arc<Activity>);

/// Not a valid value of `writes`.
const NEVER: u32 = u32::MAX;

/// One part of an owed response, in the upper half of `Activity::under_way`.
const OWED: u64 = 1 << 32;

/// Returns how much one part adds to `Activity::under_way`.
fn part(is_owed: bool) -> u64 {
    if is_owed { 1 + OWED } else { 1 }
}

// ===== impl Activity =====

impl Activity {
    /// `last_request` is after how many requests the client is asked to leave.
    pub(super) fn new(last_request: Option<NonZeroUsize>) -> Self {
        Self {
            last_request: last_request.map_or(0, NonZeroUsize::get),
            ..Self::default()
        }
    }

    /// Returns whether nothing is in flight and all responses have been written.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
            && !self.is_stalled()
            && !self.tunnel.load(Ordering::Relaxed)
    }

    /// Returns whether an owed response is under way or has not been sent completely.
    #[inline]
    pub(super) fn owes(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= OWED
            || self.has_unsent()
            || (self.is_stalled() && self.handed_over.load(Ordering::Relaxed))
            || self.tunnel.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn begin(self: &Arc<Self>, is_http1: bool, has_body: bool) -> UnderWay {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        if before.wrapping_add(1) == self.last_request {
            self.set_closing(Closing::Now);
        }
        if is_http1 {
            self.note_may_send(has_body);
        }
        self.owed()
    }

    #[inline]
    pub(super) fn note_received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn note_stalled(&self, stalled: bool) {
        if self.stalled.swap(stalled, Ordering::Relaxed) && !stalled {
            self.note_quiet();
        }
    }

    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    #[inline]
    fn note_quiet(&self) {
        self.note_ended(|quiet| &mut quiet.since);
    }

    #[inline]
    fn note_ended(&self, at: fn(&mut Quiet) -> &mut Option<Instant>) {
        if self.closing() == Closing::Now {
            self.record_end(at);
        }
    }

    #[cold]
    fn record_end(&self, at: fn(&mut Quiet) -> &mut Option<Instant>) {
        let waker = {
            let mut quiet = lock(&self.quiet);
            *at(&mut quiet) = Some(Instant::now());
            quiet.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Records that bytes are being written.
    #[inline]
    pub(super) fn note_write(&self) {
        // Load and store suffice: only the connection's own task writes.
        let writes = self.writes.load(Ordering::Relaxed).wrapping_add(1);
        let writes = if writes == NEVER { 0 } else { writes };
        self.writes.store(writes, Ordering::Relaxed);
    }

    /// Returns whether bytes of an owed response were handed over, and clears that flag.
    pub(super) fn take_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed) && self.handed_over.swap(false, Ordering::Relaxed)
    }

    /// Records that all bytes that were handed over have been flushed.
    #[inline]
    pub(super) fn note_flushed(&self) {
        if self.handed_over.load(Ordering::Relaxed) {
            self.handed_over.store(false, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Records whether the socket has still to take bytes of an owed response.
    pub(super) fn note_unsent(&self, unsent: bool) {
        self.unsent.store(unsent, Ordering::Relaxed);
        if !unsent {
            self.note_ended(|quiet| &mut quiet.progress);
        }
    }

    /// Returns when the peer last took the rest of a response, if responses already said then that the
    /// connection will be closed.
    pub(super) fn progress_at(&self) -> Option<Instant> {
        lock(&self.quiet).progress
    }

    pub(super) fn quiet_since(&self) -> Option<Instant> {
        lock(&self.quiet).since
    }

    /// Returns how many requests there have been, if the connection is quiet.
    pub(super) fn quiet_after(&self) -> Option<usize> {
        self.is_quiet().then(|| self.requests())
    }

    /// Wakes the task when the connection has become quiet: HTTP/2 streams end in tasks of their own.
    ///
    /// It works only while responses say that the connection will be closed.
    pub(super) fn wake_when_quiet(&self, waker: &Waker) {
        let former = lock(&self.quiet).waker.replace(waker.clone());
        drop(former);
        // AcqRel: pairs with the AcqRel in the drop of the last `UnderWay`. If that comes later, it sees
        // `closing` and finds the waker. Otherwise this sees that it was the last.
        if self.under_way.fetch_add(0, Ordering::AcqRel) == 0 && self.is_quiet() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn note_lingering(&self, lingering: bool) {
        self.lingering.store(lingering, Ordering::Relaxed);
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.lingering.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns whether there have been as many requests as the client may send before it is asked to leave.
    pub(super) fn has_had_last_request(&self) -> bool {
        self.last_request != 0 && self.requests() >= self.last_request
    }

    #[inline]
    pub(super) fn note_may_send(&self, may_send: bool) {
        self.may_send.store(may_send, Ordering::Relaxed);
    }

    pub(super) fn may_send(&self) -> bool {
        self.may_send.load(Ordering::Relaxed)
    }

    /// Records that only the end of the connection ends the response, which is its last.
    pub(super) fn note_ends_with_connection(&self) {
        self.ends_with_connection.store(true, Ordering::Relaxed);
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        self.ends_with_connection.load(Ordering::Relaxed)
    }

    pub(super) fn set_closing(&self, closing: Closing) {
        if closing != Closing::Now {
            lock(&self.quiet).since = None;
        }
        self.closing.store(closing as usize, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn closing(&self) -> Closing {
        match self.closing.load(Ordering::Relaxed) {
            0 => Closing::None,
            1 => Closing::NotYet,
            _ => Closing::Now,
        }
    }

    /// Records the protocol, for [`stage`](HasStage::stage).
    pub(super) fn note_protocol(&self, protocol: Protocol) {
        self.protocol.store(protocol as usize, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Counts one more part of an owed response.
    #[inline]
    pub(super) fn owed(self: &Arc<Self>) -> UnderWay {
        self.add(true)
    }

    /// Counts one more part of a response that is not owed.
    #[cfg(feature = "http2")]
    #[inline]
    pub(super) fn not_owed(self: &Arc<Self>) -> UnderWay {
        self.add(false)
    }

    #[inline]
    fn add(self: &Arc<Self>, is_owed: bool) -> UnderWay {
        self.under_way.fetch_add(part(is_owed), Ordering::Relaxed);
        UnderWay {
            activity: Arc::clone(self),
            is_owed,
            read_at: Cell::new(NEVER),
        }
    }

    /// Records that HTTP has ended on this connection. `upgrade` counts the tunnel, if a layer does.
    pub(super) fn become_tunnel(&self, upgrade: Option<UpgradeGuard>) {
        self.tunnel.store(true, Ordering::Relaxed);
        *lock(&self.upgrade) = upgrade;
    }

    /// Records that a stream of HTTP/2 has become a tunnel, until the result is dropped.
    #[cfg(feature = "http2")]
    pub(super) fn stream_tunnel(self: &Arc<Self>) -> StreamTunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        StreamTunnel(Arc::clone(self))
    }

    /// Returns whether the connection, or a stream of it, is a tunnel. The end of a stream's tunnel wakes the
    /// waker of [`wake_when_quiet`](Self::wake_when_quiet).
    pub(super) fn has_tunnel(&self) -> bool {
        self.is_tunnel() || self.tunnels.load(Ordering::Relaxed) > 0
    }

    pub(super) fn take_upgrade(&self) -> Option<UpgradeGuard> {
        lock(&self.upgrade).take()
    }
}

impl HasStage for Activity {
    fn stage(&self) -> ConnectionStage {
        let is = |protocol| self.protocol.load(Ordering::Relaxed) == protocol as usize;
        if is(Protocol::Handshake) {
            ConnectionStage::Handshake
        } else if self.is_tunnel() {
            ConnectionStage::Tunnel
        } else if is(Protocol::Over) || self.is_lingering() {
            ConnectionStage::Closing
        } else if self.is_stalled() {
            ConnectionStage::Stalled
        } else if !self.is_quiet() {
            ConnectionStage::Busy
        } else if self.has_tunnel() {
            ConnectionStage::Tunnel
        } else if self.has_received() && !is(Protocol::Http2) {
            // On HTTP/2, frames arrive on an idle connection, too.
            ConnectionStage::Head
        } else {
            ConnectionStage::Idle
        }
    }
}

// ===== impl UnderWay =====

impl UnderWay {
    /// Records that its bytes are being read, to be written or copied.
    #[inline]
    pub(super) fn note_read(&self) {
        let writes = self.activity.writes.load(Ordering::Relaxed);
        self.read_at.set(writes);
    }

    /// Returns whether its bytes were copied, and nothing was written since. Bytes that are written
    /// directly are dropped after the write.
    #[inline]
    fn is_handed_over(&self) -> bool {
        let read_at = self.read_at.get();
        read_at == NEVER || read_at == self.activity.writes.load(Ordering::Relaxed)
    }

    /// Records that its request was refused, so that its response is not owed.
    pub(super) fn note_refused(&mut self) {
        // Nothing of the response has been handed over yet.
        self.activity.under_way.fetch_sub(OWED, Ordering::Relaxed);
        self.is_owed = false;
    }
}

impl Clone for UnderWay {
    #[inline]
    fn clone(&self) -> Self {
        self.activity.add(self.is_owed)
    }
}

impl Drop for UnderWay {
    #[inline]
    fn drop(&mut self) {
        // AcqRel: pairs with the AcqRel in `wake_when_quiet`.
        let part = part(self.is_owed);
        let left = self.activity.under_way.fetch_sub(part, Ordering::AcqRel) - part;
        if self.is_owed && self.is_handed_over() {
            self.activity.handed_over.store(true, Ordering::Relaxed);
        }
        if !self.is_owed || left < OWED {
            self.activity.note_ended(|quiet| &mut quiet.progress);
        }
        if left == 0 {
            self.activity.received.store(false, Ordering::Relaxed);
            self.activity.note_quiet();
        }
    }
}

impl std::ops::Deref for UnderWay {
    type Target = Activity;

    fn deref(&self) -> &Activity {
        &self.activity
    }
}

// ===== impl StreamTunnel =====

#[cfg(feature = "http2")]
impl Drop for StreamTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
        // The lock orders it before a `has_tunnel` that comes after a later `wake_when_quiet`.
        let waker = lock(&self.0.quiet).waker.take();
        waker.into_iter().for_each(Waker::wake);
    }
}
