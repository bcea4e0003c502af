//! Counts the open connections of servers and of accept loops that report them.

use super::gate::Lease;
use super::milestones::event;
use crate::sync::{Arc, AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Connections {
    gate: Lease,
    /// Connections of the crate's own servers. The servers wait for them, and the shutdown waits
    /// for the servers.
    served: AtomicUsize,
    /// Connections of accept loops that use the connection watcher.
    watched: AtomicUsize,
}

/// An open connection. Counted until it is dropped.
pub(crate) struct OpenConnection {
    connections: Arc<Connections>,
    is_watched: bool,
}

// ===== impl Connections =====

impl Connections {
    pub(crate) fn new(gate: &Lease) -> Arc<Self> {
        Arc::new(Self {
            gate: gate.clone(),
            served: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
        })
    }

    pub(crate) fn open(&self) -> u64 {
        self.served() + self.watched()
    }

    pub(crate) fn served(&self) -> u64 {
        // Acquire: pairs with the Release in `drop`; everything the connection did is visible.
        self.served.load(Ordering::Acquire) as u64
    }

    pub(crate) fn watched(&self) -> u64 {
        // Acquire: as in `served`.
        self.watched.load(Ordering::Acquire) as u64
    }

    fn count(&self, is_watched: bool) -> &AtomicUsize {
        if is_watched {
            &self.watched
        } else {
            &self.served
        }
    }
}

// ===== impl OpenConnection =====

impl OpenConnection {
    pub(crate) fn served(connections: &Arc<Connections>) -> Self {
        Self::new(connections, false)
    }

    pub(crate) fn watched(connections: &Arc<Connections>) -> Self {
        Self::new(connections, true)
    }

    fn new(connections: &Arc<Connections>, is_watched: bool) -> Self {
        // Relaxed: its server or watcher is known to run anyway.
        connections
            .count(is_watched)
            .fetch_add(1, Ordering::Relaxed);
        let connections = Arc::clone(connections);
        Self {
            connections,
            is_watched,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let count = self.connections.count(self.is_watched);
        // Release: pairs with the Acquire in `served` and `watched`.
        if count.fetch_sub(1, Ordering::Release) == 1 {
            self.connections.gate.milestones().reach(event::WORK_ENDED);
        }
    }
}
