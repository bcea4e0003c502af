//! How many connections are open, of servers and accept loops that say so.

use crate::core::Core;
use crate::milestones::event;
use crate::sync::{Arc, AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// Of our own servers, which wait for them and are themselves waited for.
    served: AtomicUsize,
    /// Of accept loops that have them watched.
    watched: AtomicUsize,
}

/// One that is open.
pub(crate) struct OpenConnection {
    core: Arc<Core>,
    is_watched: bool,
}

// ===== impl Connections =====

impl Connections {
    pub(crate) fn open(&self) -> u64 {
        self.served() + self.watched()
    }

    pub(crate) fn served(&self) -> u64 {
        // Acquire: pairs with the Release in `drop`; what the connection did has been done.
        self.served.load(Ordering::Acquire) as u64
    }

    pub(crate) fn watched(&self) -> u64 {
        // Acquire: as in `served`.
        self.watched.load(Ordering::Acquire) as u64
    }

    fn of(&self, is_watched: bool) -> &AtomicUsize {
        match is_watched {
            true => &self.watched,
            false => &self.served,
        }
    }
}

// ===== impl OpenConnection =====

impl OpenConnection {
    pub(crate) fn served(core: &Arc<Core>) -> Self {
        Self::new(core, false)
    }

    pub(crate) fn watched(core: &Arc<Core>) -> Self {
        Self::new(core, true)
    }

    fn new(core: &Arc<Core>, is_watched: bool) -> Self {
        // Relaxed: the server that it belongs to, or its watcher, is known to run anyway.
        let count = core.connections.of(is_watched);
        count.fetch_add(1, Ordering::Relaxed);
        let core = Arc::clone(core);
        Self { core, is_watched }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let count = self.core.connections.of(self.is_watched);
        // Release: pairs with the Acquire in `open`.
        if count.fetch_sub(1, Ordering::Release) == 1 {
            self.core.milestones().reach(event::WORK_ENDED);
        }
    }
}
