//! Counts work that lasts: upgraded connections, and streams that never end by themselves.

use crate::sync::{AtomicUsize, Ordering};

/// How many there are now.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    upgrades: AtomicUsize,
    streams: AtomicUsize,
}

/// What lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// An upgraded connection.
    Upgrade,
    /// A response of a class that is ended when draining begins.
    Stream,
}

impl Lasting {
    pub(crate) fn begin(&self, what: Lasts) {
        // Relaxed, as in `end`: a figure for people, which nothing waits for.
        self.count(what).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, what: Lasts) {
        // Relaxed: see `begin`.
        self.count(what).fetch_sub(1, Ordering::Relaxed);
    }

    /// Forgets all of an earlier controller.
    pub(super) fn reset(&self) {
        // Relaxed: see `begin`.
        self.upgrades.store(0, Ordering::Relaxed);
        self.streams.store(0, Ordering::Relaxed);
    }

    pub(crate) fn now(&self, what: Lasts) -> u64 {
        // Relaxed: see `begin`.
        self.count(what).load(Ordering::Relaxed) as u64
    }

    fn count(&self, what: Lasts) -> &AtomicUsize {
        match what {
            Lasts::Upgrade => &self.upgrades,
            Lasts::Stream => &self.streams,
        }
    }
}
