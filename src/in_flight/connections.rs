//! How many connections are open, of servers and accept loops that say so.

use super::gate::Gate;
use super::milestones::event;
use crate::sync::{Arc, AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Connections {
    gate: Arc<Gate>,
    /// Of our own servers, which wait for them and are themselves waited for.
    served: AtomicUsize,
    /// Of accept loops that have them watched.
    watched: AtomicUsize,
}

/// One that is open, until it is dropped.
pub(crate) struct OpenConnection {
    connections: Arc<Connections>,
    is_watched: bool,
}

// ===== impl Connections =====

impl Connections {
    pub(crate) fn new(gate: &Arc<Gate>) -> Arc<Self> {
        Arc::new(Self {
            gate: Arc::clone(gate),
            served: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
        })
    }

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
        // Relaxed: the server that it belongs to, or its watcher, is known to run anyway.
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
        // Release: pairs with the Acquire in `open`.
        if count.fetch_sub(1, Ordering::Release) == 1 {
            self.connections.gate.milestones().reach(event::WORK_ENDED);
        }
    }
}
