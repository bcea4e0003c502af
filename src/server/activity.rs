//! What goes on in one connection, as far as its end is concerned.

use std::task::Waker;

use tokio::time::Instant;

use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, lock};
use crate::upgrade::UpgradeGuard;

/// Shared by the connection, its socket and its requests. Mostly one task uses it, so that nothing
/// here is contended; nothing else is published with it, so that Relaxed is enough where nothing
/// else is said.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Parts of answers that are under way: in the handler, in the body, or handed to hyper and not
    /// yet in its buffer.
    under_way: AtomicUsize,
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
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

// ===== impl Activity =====

impl Activity {
    /// Nothing is in flight for the client, and all that was has been written.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
            && !self.is_stalled()
            && !self.tunnel.load(Ordering::Relaxed)
    }

    pub(super) fn begin(self: &Arc<Self>, is_http1: bool, has_body: bool) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_http1 {
            self.note_may_send(has_body);
        }
        self.under_way()
    }

    pub(super) fn note_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_stalled(&self, stalled: bool) {
        if self.stalled.swap(stalled, Ordering::Relaxed) && !stalled {
            self.note_quiet();
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    fn note_quiet(&self) {
        if self.parting() == Parting::Now {
            let waker = {
                let mut quiet = lock(&self.quiet);
                quiet.since = Some(Instant::now());
                quiet.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        }
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

    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

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

    pub(super) fn parting(&self) -> Parting {
        match self.parting.load(Ordering::Relaxed) {
            0 => Parting::None,
            1 => Parting::NotYet,
            _ => Parting::Now,
        }
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Counts one more part.
    pub(super) fn under_way(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
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

impl Clone for UnderWay {
    fn clone(&self) -> Self {
        self.0.under_way()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // AcqRel: pairs with that of `wake_when_quiet`.
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.heard.store(false, Ordering::Relaxed);
            self.0.note_quiet();
        }
    }
}

impl std::ops::Deref for UnderWay {
    type Target = Activity;

    fn deref(&self) -> &Activity {
        &self.0
    }
}
