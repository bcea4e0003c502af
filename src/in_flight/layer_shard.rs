//! A layer's services find their shard without touching a cache line that another core writes.
//!
//! Servers clone a service for every request. One `Arc` shared by all of them would bring back the
//! contended line that the sharded count avoids. So a layer has one [`LayerShard`] for each shard
//! of the gate, and the clone of a handle uses the one of the cloning thread.
//!
//! The peers refer to each other weakly, otherwise they would keep each other alive. The controller
//! keeps them strongly while any service uses one of them. After the controller is gone, a clone
//! uses the shard of the original: slower on many cores, but correct.

use std::fmt;

use super::gate::{Lease, Shard};
use super::thread_index::thread_index;
use crate::sync::{Arc, Mutex, OnceLock, Weak, lock};

/// One shard for one layer, with the data of the layer. Aligned like the shards, so that its
/// reference count shares no line with another one's.
#[repr(align(128))]
pub(crate) struct LayerShard<L> {
    pub(crate) shard: &'static Shard,
    /// Keeps the shard in use.
    pub(crate) lease: Lease,
    /// Read only, and not cloned for an ordinary request, so its line is never written.
    pub(crate) layer: L,
    index: usize,
    peers: Arc<OnceLock<Peers<L>>>,
    /// Maps a thread's number to its shard.
    mask: usize,
}

/// All shards of one layer, by index.
type Peers<L> = Box<[Weak<LayerShard<L>>]>;

/// A service's handle on the shards of its layer.
pub(crate) struct LayerHandle<L>(Arc<LayerShard<L>>);

/// The layers of one controller that have services, and their shards.
#[derive(Default)]
pub(crate) struct LayerTables(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    tables: Vec<Box<dyn InUse + Send + Sync>>,
    /// How many tables there may be before unused ones are removed.
    limit: usize,
    /// Set after the end of the shutdown, when no more tables are kept.
    closed: bool,
}

trait InUse {
    fn is_in_use(&self) -> bool;
}

// ===== impl LayerHandle =====

impl<L: Clone + Send + Sync + 'static> LayerHandle<L> {
    /// Creates the shards of one layer, and returns a handle for the calling thread.
    pub(crate) fn new(gate: &Lease, tables: &LayerTables, layer: L) -> Self {
        let peers = Arc::new(OnceLock::new());
        let shards = gate.shards();
        let table: Vec<_> = (shards.iter().enumerate())
            .map(|(index, shard)| {
                Arc::new(LayerShard {
                    shard,
                    lease: gate.clone(),
                    layer: layer.clone(),
                    index,
                    peers: Arc::clone(&peers),
                    mask: shards.len() - 1,
                })
            })
            .collect();
        // It is new, so it is not set yet.
        let _ = peers.set(table.iter().map(Arc::downgrade).collect());
        let local = Self(Arc::clone(&table[gate.local_index()]));
        tables.keep(table);
        local
    }
}

impl<L> LayerHandle<L> {
    /// Returns a handle for the same shard, whatever the calling thread is. For work that the shard
    /// has already counted.
    #[inline]
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> Clone for LayerHandle<L> {
    #[inline]
    fn clone(&self) -> Self {
        let here = thread_index() & self.0.mask;
        if here == self.0.index {
            return self.share();
        }
        let mut peer = None;
        find_peer(&self.0, here, &mut peer);
        peer.map_or_else(|| self.share(), Self)
    }
}

/// `extern "C"` functions do not unwind, so servers, which clone a service before they move the
/// request, need not keep the request for a panic here. Nothing in it panics.
#[inline(never)]
extern "C" fn find_peer<L>(
    shard: &LayerShard<L>,
    index: usize,
    peer: &mut Option<Arc<LayerShard<L>>>,
) {
    let peers = shard.peers.get();
    *peer = peers.and_then(|peers| peers.get(index)?.upgrade());
}

impl<L> std::ops::Deref for LayerHandle<L> {
    type Target = LayerShard<L>;

    #[inline]
    fn deref(&self) -> &LayerShard<L> {
        &self.0
    }
}

impl<L> fmt::Debug for LayerHandle<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerHandle")
            .field("shard", &self.0.index)
            .finish_non_exhaustive()
    }
}

// ===== impl LayerTables =====

impl LayerTables {
    /// Keeps `table` alive until no service uses it. Unused tables are removed whenever there are
    /// twice as many as were in use, so a program that creates a layer for every connection does
    /// not leak.
    fn keep<L: Send + Sync + 'static>(&self, table: Vec<Arc<LayerShard<L>>>) {
        let mut unused = Vec::new();
        let mut inner = lock(&self.0);
        if inner.closed {
            drop(inner);
            drop(table);
            return;
        }
        if inner.tables.len() >= inner.limit {
            let tables = std::mem::take(&mut inner.tables);
            (inner.tables, unused) = tables.into_iter().partition(|table| table.is_in_use());
            inner.limit = (inner.tables.len() * 2).max(16);
        }
        inner.tables.push(Box::new(table));
        drop(inner);
        // The options hold user code (a closure), so they are dropped outside the lock.
        drop(unused);
    }

    /// Drops all tables and keeps no more, because options may hold the controller. Clones then use
    /// the shard of the original.
    pub(crate) fn close(&self) {
        let tables = {
            let mut inner = lock(&self.0);
            inner.closed = true;
            std::mem::take(&mut inner.tables)
        };
        drop(tables);
    }
}

impl<L> InUse for Vec<Arc<LayerShard<L>>> {
    /// A clone that moves between shards meanwhile may be missed. Its table is then dropped early,
    /// and its clones use the same shard from there on.
    fn is_in_use(&self) -> bool {
        self.iter().any(|shard| Arc::strong_count(shard) > 1)
    }
}

impl fmt::Debug for LayerTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LayerTables")
            .field(&lock(&self.0).tables.len())
            .finish()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
    use crate::state::LifecycleState;

    fn gate() -> Lease {
        Lease::new(8, LifecycleState::Running.bit())
    }

    fn handle(gate: &Lease, tables: &LayerTables) -> LayerHandle<()> {
        LayerHandle::new(gate, tables, ())
    }

    #[test]
    fn a_clone_takes_the_shard_of_its_thread() {
        let (gate, tables) = (gate(), LayerTables::default());
        let shards = gate.shards().len();
        let handle = handle(&gate, &tables);
        for _ in 0..2 * shards {
            let (index, local) = std::thread::scope(|scope| {
                let clone = || (handle.clone().index, gate.local_index());
                scope.spawn(clone).join().expect("no panic")
            });
            assert_eq!(index, local);
        }
    }

    #[test]
    fn a_clone_takes_its_own_when_the_controller_is_gone() {
        let (gate, tables) = (gate(), LayerTables::default());
        let handle = handle(&gate, &tables);
        drop((gate, tables));
        std::thread::scope(|scope| {
            let clone = || assert_eq!(handle.clone().index, handle.index);
            scope.spawn(clone).join().expect("no panic");
        });
    }

    #[test]
    fn a_layer_for_every_connection_does_not_grow_the_controller() {
        let (gate, tables) = (gate(), LayerTables::default());
        let kept = handle(&gate, &tables);
        for _ in 0..1_000 {
            let _ = handle(&gate, &tables);
        }
        let tables = lock(&tables.0).tables.len();
        assert!(tables <= 17, "{tables} tables");
        assert!(
            kept.peers
                .get()
                .is_some_and(|peers| { peers.iter().all(|peer| peer.upgrade().is_some()) })
        );
    }
}
