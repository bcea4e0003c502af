//! Counts and lists the open connections of servers, and of accept loops that report them.

use std::fmt;

use tokio::time::Instant;

use super::connection_item::{ConnectionItem, ConnectionStage};
use super::gate::Lease;
use super::milestones::event;
use super::oldest::Oldest;
use super::places::Places;
use super::roster::readable;
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, lock};

#[derive(Debug)]
pub(crate) struct Connections {
    gate: Lease,
    /// Connections of the crate's own servers. The servers wait for them, and the shutdown waits
    /// for the servers.
    served: AtomicUsize,
    /// Connections of accept loops that use the connection watcher.
    watched: AtomicUsize,
    /// Those of the crate's own servers, and those of accept loops that name their peers.
    list: Mutex<Places<Member>>,
}

/// Knows the stage of a connection.
pub(crate) trait HasStage: Send + Sync {
    fn stage(&self) -> ConnectionStage;
}

struct Member {
    peer: Arc<str>,
    connection: Arc<dyn HasStage>,
    since: Instant,
}

/// An open connection. Counted until it is dropped.
pub(crate) struct OpenConnection {
    connections: Arc<Connections>,
    /// Whether it is of the crate's own server.
    is_served: bool,
    /// Its place in the list.
    place: Option<usize>,
}

// ===== impl Connections =====

impl Connections {
    pub(crate) fn new(gate: &Lease) -> Arc<Self> {
        Arc::new(Self {
            gate: gate.clone(),
            served: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            list: Mutex::default(),
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

    /// Returns at most `most` of those that are listed: first those that are not idle, then the oldest.
    pub(crate) fn oldest(&self, most: usize) -> Vec<ConnectionItem> {
        let now = Instant::now();
        let mut oldest = Oldest::new(most);
        for member in lock(&self.list).iter() {
            let stage = member.connection.stage();
            let age = now.saturating_duration_since(member.since);
            oldest.add(stage == ConnectionStage::Idle, age, || ConnectionItem {
                peer: Arc::clone(&member.peer),
                stage,
                age,
            });
        }
        oldest.into_vec()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

// ===== impl OpenConnection =====

impl OpenConnection {
    /// Counts and lists a connection of the crate's own servers.
    pub(crate) fn served(
        connections: &Arc<Connections>,
        peer: &dyn fmt::Debug,
        connection: Arc<dyn HasStage>,
    ) -> Self {
        let mut open = Self::new(connections, true);
        open.list(peer, connection);
        open
    }

    /// Counts a connection of an accept loop that uses the connection watcher.
    pub(crate) fn watched(connections: &Arc<Connections>) -> Self {
        Self::new(connections, false)
    }

    fn new(connections: &Arc<Connections>, is_served: bool) -> Self {
        let open = Self {
            connections: Arc::clone(connections),
            is_served,
            place: None,
        };
        // Relaxed: its server or watcher is known to run anyway.
        open.count().fetch_add(1, Ordering::Relaxed);
        open
    }

    /// Lists the connection by its peer.
    pub(crate) fn list(&mut self, peer: &dyn fmt::Debug, connection: Arc<dyn HasStage>) {
        let member = Member {
            peer: readable(&format!("{peer:?}")).into(),
            connection,
            since: Instant::now(),
        };
        self.leave_list();
        self.place = Some(lock(&self.connections.list).add(member));
    }

    fn leave_list(&mut self) {
        let list = &self.connections.list;
        let member = (self.place.take()).and_then(|place| lock(list).remove(place));
        drop(member); // outside the lock
    }

    fn count(&self) -> &AtomicUsize {
        if self.is_served {
            &self.connections.served
        } else {
            &self.connections.watched
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.leave_list();
        // Release: pairs with the Acquire in `served` and `watched`.
        if self.count().fetch_sub(1, Ordering::Release) == 1 {
            self.connections.gate.milestones().reach(event::WORK_ENDED);
        }
    }
}
