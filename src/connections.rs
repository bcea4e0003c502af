//! How many connections are open, of servers and accept loops that say so.

use crate::core::Core;
use crate::milestones::event;
use crate::sync::{Arc, AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Connections(AtomicUsize);

/// One that is open.
pub(crate) struct OpenConnection(Arc<Core>);

// ===== impl Connections =====

impl Connections {
    pub(crate) fn open(&self) -> u64 {
        // Acquire: pairs with the Release in `drop`; what the connection did has been done.
        self.0.load(Ordering::Acquire) as u64
    }
}

// ===== impl OpenConnection =====

impl OpenConnection {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        // Relaxed: the server that it belongs to, or its watcher, is known to run anyway.
        core.connections.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(core))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `open`.
        if self.0.connections.0.fetch_sub(1, Ordering::Release) == 1 {
            self.0.milestones().reach(event::WORK_ENDED);
        }
    }
}
