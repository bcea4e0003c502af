//! How a layer's services reach their shard without touching a line that another core writes.
//!
//! Servers clone a service for every request. A handle that were one `Arc` for all would bring back
//! the contended line that the sharded count does away with. So a layer has one [`LayerShard`] for
//! each shard of the gate, and cloning a handle takes the one of the cloning thread.
//!
//! The peers know each other weakly, else they would keep each other alive. The controller keeps
//! them strongly, for as long as any service uses one of them. When the controller is gone, a clone
//! takes its own: slower on many cores, and right.

use std::fmt;

use crate::core::Core;
use crate::gate::Shard;
use crate::guard::{ShardRef, release};
use crate::sync::{Arc, Mutex, OnceLock, Weak, lock};
use crate::thread_index::thread_index;
use crate::upgrade::Offer;

/// One shard as one layer sees it, with the layer's options. Aligned as the shards are, so that
/// the reference count beside it shares no line with another's.
#[repr(align(128))]
pub(crate) struct LayerShard<O> {
    pub(crate) shard: Arc<Shard>,
    /// Only read, and never cloned for a request: nobody writes to its line.
    pub(crate) options: Arc<O>,
    index: usize,
    peers: Arc<OnceLock<Peers<O>>>,
    /// For the index of the calling thread's shard.
    mask: usize,
    /// What a request that asks for an upgrade was offered; it has one of these for itself.
    pub(crate) offer: Offer,
}

/// All shards of one layer, by their indices.
type Peers<O> = Box<[Weak<LayerShard<O>>]>;

/// A service's handle on the shards of its layer.
pub(crate) struct LayerHandle<O>(Arc<LayerShard<O>>);

/// The layers of one controller that have services.
#[derive(Default)]
pub(crate) struct LayerTables(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    tables: Vec<Box<dyn InUse + Send + Sync>>,
    /// How many there may be before unused ones are looked for.
    limit: usize,
    /// After the end of the shutdown none are kept.
    closed: bool,
}

trait InUse {
    fn is_in_use(&self) -> bool;
}

// ===== impl LayerHandle =====

impl<O: Send + Sync + 'static> LayerHandle<O> {
    /// Makes the shards of one layer, and gives the calling thread's.
    pub(crate) fn new(core: &Core, options: Arc<O>) -> Self {
        let peers = Arc::new(OnceLock::new());
        let shards = core.gate.shards();
        let table: Vec<_> = (shards.iter().enumerate())
            .map(|(index, shard)| {
                Arc::new(LayerShard {
                    shard: Arc::clone(shard),
                    options: Arc::clone(&options),
                    index,
                    peers: Arc::clone(&peers),
                    mask: shards.len() - 1,
                    offer: Offer::none(),
                })
            })
            .collect();
        // It has just been made, so it is not set.
        let _ = peers.set(table.iter().map(Arc::downgrade).collect());
        let local = Self(Arc::clone(&table[core.gate.local_index()]));
        core.layers.keep(table);
        local
    }
}

impl<O> LayerHandle<O> {
    /// Shares the handle as it is, whatever thread it is on: for what has been counted in its shard.
    #[inline]
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The same for one request alone, which was offered an upgrade.
    pub(crate) fn offering(&self, offer: Offer) -> Self {
        self.for_one_request(Arc::clone(&self.shard), offer)
    }

    /// The same for one request alone, which has entered `shard`.
    pub(crate) fn entered(&self, shard: Arc<Shard>) -> Self {
        self.for_one_request(shard, Offer::none())
    }

    fn for_one_request(&self, shard: Arc<Shard>, offer: Offer) -> Self {
        Self(Arc::new(LayerShard {
            shard,
            options: Arc::clone(&self.options),
            index: self.index,
            peers: Arc::clone(&self.peers),
            mask: self.mask,
            offer,
        }))
    }
}

impl<O> AsRef<Shard> for LayerHandle<O> {
    #[inline]
    fn as_ref(&self) -> &Shard {
        &self.0.shard
    }
}

impl<O> ShardRef for LayerHandle<O> {
    #[inline]
    fn release(self) {
        release(self.0);
    }
}

impl<O> Clone for LayerHandle<O> {
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

/// `extern "C"`, since a function of that kind does not unwind, so that servers, which clone a service
/// before they move the request, need not keep it for that. Nothing in it panics.
#[inline(never)]
extern "C" fn find_peer<O>(
    shard: &LayerShard<O>,
    index: usize,
    peer: &mut Option<Arc<LayerShard<O>>>,
) {
    let peers = shard.peers.get();
    *peer = peers.and_then(|peers| peers.get(index)?.upgrade());
}

impl<O> std::ops::Deref for LayerHandle<O> {
    type Target = LayerShard<O>;

    #[inline]
    fn deref(&self) -> &LayerShard<O> {
        &self.0
    }
}

impl<O> fmt::Debug for LayerHandle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerHandle")
            .field("shard", &self.0.index)
            .finish_non_exhaustive()
    }
}

// ===== impl LayerTables =====

impl LayerTables {
    /// Keeps `table` alive until no service uses it. Programs that make a layer for every
    /// connection do not grow: the unused ones go whenever there are twice as many as were in use.
    fn keep<O: Send + Sync + 'static>(&self, table: Vec<Arc<LayerShard<O>>>) {
        let mut unused = Vec::new();
        let mut inner = lock(&self.0);
        if inner.closed {
            drop(inner);
            return drop(table);
        }
        if inner.tables.len() >= inner.limit {
            let tables = std::mem::take(&mut inner.tables);
            (inner.tables, unused) = tables.into_iter().partition(|table| table.is_in_use());
            inner.limit = (inner.tables.len() * 2).max(16);
        }
        inner.tables.push(Box::new(table));
        drop(inner);
        // Options are the user's (a closure): they go outside the lock.
        drop(unused);
    }

    /// Keeps none any more, at the end: options may hold the controller. Clones then take their own shard.
    pub(crate) fn close(&self) {
        let tables = {
            let mut inner = lock(&self.0);
            inner.closed = true;
            std::mem::take(&mut inner.tables)
        };
        drop(tables);
    }
}

impl<O> InUse for Vec<Arc<LayerShard<O>>> {
    /// A clone that moves from one shard to another meanwhile may be missed: its table then goes
    /// early, and its clones take their own shard from there on.
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
    use crate::config::ShutdownConfig;
    use crate::state::LifecycleState;

    fn core() -> Arc<Core> {
        Core::new(ShutdownConfig::default(), LifecycleState::Running)
    }

    #[test]
    fn a_clone_takes_the_shard_of_its_thread() {
        let core = core();
        let shards = core.gate.shards().len();
        let handle = LayerHandle::new(&core, Arc::new(()));
        for _ in 0..2 * shards {
            let (index, local) = std::thread::scope(|scope| {
                let clone = || (handle.clone().index, core.gate.local_index());
                scope.spawn(clone).join().expect("no panic")
            });
            assert_eq!(index, local);
        }
    }

    #[test]
    fn there_are_shards_for_as_many_other_threads_as_there_are_workers() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(core().gate.shards().len() >= 2 * cores);
    }

    #[test]
    fn a_clone_takes_its_own_when_the_controller_is_gone() {
        let core = core();
        let handle = LayerHandle::new(&core, Arc::new(()));
        drop(core);
        std::thread::scope(|scope| {
            let clone = || assert_eq!(handle.clone().index, handle.index);
            scope.spawn(clone).join().expect("no panic");
        });
    }

    #[test]
    fn a_layer_for_every_connection_does_not_grow_the_controller() {
        let core = core();
        let kept = LayerHandle::new(&core, Arc::new(()));
        for _ in 0..1_000 {
            let _ = LayerHandle::new(&core, Arc::new(()));
        }
        let tables = lock(&core.layers.0).tables.len();
        assert!(tables <= 17, "{tables} tables");
        assert!(
            kept.peers
                .get()
                .is_some_and(|peers| { peers.iter().all(|peer| peer.upgrade().is_some()) })
        );
    }
}
