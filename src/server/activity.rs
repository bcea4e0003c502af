//! What goes on in one connection, as far as its end is concerned.

use std::cell::Cell;
use std::task::Waker;

use tokio::time::Instant;

use crate::layers::UpgradeGuard;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// Shared by the connection, its socket and its requests. Mostly one task uses it, so that nothing
/// here is contended; nothing else is published with it, so that Relaxed is enough where nothing
/// else is said.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Parts of answers that are under way: in the handler, in the body, or handed to hyper and not
    /// yet in its buffer. The upper half counts those of answers that are owed.
    under_way: AtomicU64,
    /// Bytes of an owed answer were handed over, and not all that is there was flushed since.
    handed_over: AtomicBool,
    /// How often bytes were written; by the connection's own task only. It wraps.
    writes: AtomicU32,
    /// Bytes of an owed answer have not been taken by the socket.
    unsent: AtomicBool,
    /// The socket takes no more bytes at the moment.
    stalled: AtomicBool,
    /// Bytes have come since the last answer ended: part of a head, perhaps.
    heard: AtomicBool,
    /// How many requests there have been.
    requests: AtomicUsize,
    /// The client may be sending when all is said: the rest of a request's body, on HTTP/1, and
    /// frames at any time, on HTTP/2.
    may_send: AtomicBool,
    /// All is said; what the client still sends is thrown away.
    lingering: AtomicBool,
    /// It has become a tunnel, of which nobody here can tell when it is idle.
    tunnel: AtomicBool,
    /// A [`Parting`], for the answers to come.
    parting: AtomicUsize,
    /// Looked at after answers have begun to say that they are the last.
    quiet: Mutex<Quiet>,
    /// Of the tunnel that an HTTP/1 connection has become.
    upgrade: Mutex<Option<UpgradeGuard>>,
}

#[derive(Debug, Default)]
struct Quiet {
    /// When the last answer ended.
    since: Option<Instant>,
    /// When the last answer that was owed ended.
    paid: Option<Instant>,
    /// The connection, which waits for that.
    waker: Option<Waker>,
}

/// What answers are to say about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Parting {
    /// What the application says.
    None = 0,
    /// Not yet that it is to be closed: the moment of this connection has not come.
    NotYet = 1,
    /// That it is to be closed.
    Now = 2,
}

/// One part of an answer under way.
///
/// An answer is owed unless the request was refused: a client that does not read it is waited for as long
/// as the drain lasts.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    is_owed: bool,
    /// How often bytes had been written when its own were looked at last, or `NEVER`.
    looked_at: Cell<u32>,
}

/// Is no number of writes.
const NEVER: u32 = u32::MAX;

/// One part of an answer that is owed, in the upper half of `Activity::under_way`.
const OWED: u64 = 1 << 32;

/// Returns what one part adds to `Activity::under_way`.
fn part(is_owed: bool) -> u64 {
    if is_owed { 1 + OWED } else { 1 }
}

// ===== impl Activity =====

impl Activity {
    /// Nothing is in flight for the client, and all that was has been written.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
            && !self.is_stalled()
            && !self.tunnel.load(Ordering::Relaxed)
    }

    /// What the client has asked for, and was not refused, is under way, or has not been sent.
    #[inline]
    pub(super) fn owes(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= OWED
            || self.has_unsent()
            || (self.is_stalled() && self.handed_over.load(Ordering::Relaxed))
            || self.tunnel.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn begin(self: &Arc<Self>, is_http1: bool, has_body: bool) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_http1 {
            self.note_may_send(has_body);
        }
        self.owed()
    }

    #[inline]
    pub(super) fn note_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
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
        if self.parting() == Parting::Now {
            self.note_end(at);
        }
    }

    #[cold]
    fn note_end(&self, at: fn(&mut Quiet) -> &mut Option<Instant>) {
        let waker = {
            let mut quiet = lock(&self.quiet);
            *at(&mut quiet) = Some(Instant::now());
            quiet.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Notes that bytes are being written.
    #[inline]
    pub(super) fn note_write(&self) {
        // Not one operation: nobody else writes.
        let writes = self.writes.load(Ordering::Relaxed).wrapping_add(1);
        let writes = if writes == NEVER { 0 } else { writes };
        self.writes.store(writes, Ordering::Relaxed);
    }

    /// Takes the note that bytes of an owed answer were handed over.
    pub(super) fn take_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed) && self.handed_over.swap(false, Ordering::Relaxed)
    }

    /// Notes that nothing is left of what was handed over: all has been flushed.
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

    /// Notes whether bytes of an owed answer have not been taken.
    pub(super) fn note_unsent(&self, unsent: bool) {
        self.unsent.store(unsent, Ordering::Relaxed);
        if !unsent {
            self.note_ended(|quiet| &mut quiet.paid);
        }
    }

    /// When the last answer that was owed had been sent, if that was after answers have begun to say
    /// that they are the last.
    pub(super) fn paid_at(&self) -> Option<Instant> {
        lock(&self.quiet).paid
    }

    pub(super) fn quiet_since(&self) -> Option<Instant> {
        lock(&self.quiet).since
    }

    /// Returns how many requests there have been, if it is quiet.
    pub(super) fn quiet_after(&self) -> Option<usize> {
        self.is_quiet().then(|| self.requests())
    }

    /// Wakes the task when it has become quiet: streams of HTTP/2 end in tasks of their own. For
    /// answers that say that they are the last.
    pub(super) fn wake_when_quiet(&self, waker: &Waker) {
        let former = lock(&self.quiet).waker.replace(waker.clone());
        drop(former);
        // AcqRel: pairs with that of the last `UnderWay`. Either it comes after this, and sees what
        // answers are to say, so it finds the waker; or this sees that it was the last.
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
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn note_may_send(&self, may_send: bool) {
        self.may_send.store(may_send, Ordering::Relaxed);
    }

    pub(super) fn may_send(&self) -> bool {
        self.may_send.load(Ordering::Relaxed)
    }

    pub(super) fn part(&self, parting: Parting) {
        if parting != Parting::Now {
            lock(&self.quiet).since = None;
        }
        self.parting.store(parting as usize, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn parting(&self) -> Parting {
        match self.parting.load(Ordering::Relaxed) {
            0 => Parting::None,
            1 => Parting::NotYet,
            _ => Parting::Now,
        }
    }

    #[inline]
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Counts one more part, of an answer that is owed.
    #[inline]
    pub(super) fn owed(self: &Arc<Self>) -> UnderWay {
        self.add(true)
    }

    /// Counts one more part, for which nobody who does not read is waited for.
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
            looked_at: Cell::new(NEVER),
        }
    }

    /// Notes that what follows is not HTTP's. `upgrade` counts it, where there is a layer that
    /// counts.
    pub(super) fn become_tunnel(&self, upgrade: Option<UpgradeGuard>) {
        self.tunnel.store(true, Ordering::Relaxed);
        *lock(&self.upgrade) = upgrade;
    }

    pub(super) fn take_upgrade(&self) -> Option<UpgradeGuard> {
        lock(&self.upgrade).take()
    }
}

// ===== impl UnderWay =====

impl UnderWay {
    /// Notes that its bytes are looked at: to be written, or to be copied.
    #[inline]
    pub(super) fn note_look(&self) {
        let writes = self.activity.writes.load(Ordering::Relaxed);
        self.looked_at.set(writes);
    }

    /// Its bytes were copied, and not written since: whoever writes its own drops them afterwards.
    #[inline]
    fn is_handed_over(&self) -> bool {
        let looked_at = self.looked_at.get();
        looked_at == NEVER || looked_at == self.activity.writes.load(Ordering::Relaxed)
    }

    /// It is the answer to a request that was refused.
    pub(super) fn disown(&mut self) {
        // Nothing of it has been handed over yet.
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
        // AcqRel: pairs with that of `wake_when_quiet`.
        let part = part(self.is_owed);
        let left = self.activity.under_way.fetch_sub(part, Ordering::AcqRel) - part;
        if self.is_owed {
            if self.is_handed_over() {
                self.activity.handed_over.store(true, Ordering::Relaxed);
            }
            if left < OWED {
                self.activity.note_ended(|quiet| &mut quiet.paid);
            }
        }
        if left == 0 {
            self.activity.heard.store(false, Ordering::Relaxed);
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
