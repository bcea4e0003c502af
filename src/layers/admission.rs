//! The entry of an admitted request, with what its layer keeps for it.

use super::options::Options;
use crate::in_flight::{Entry, LayerHandle, Shard};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Weak, lock};

/// The entry of an admitted request, with what its layer was told. It counts nothing if the request was let
/// past the closed gate.
pub(crate) type Admission = Entry<DrainHandle>;

/// What leads a service of a [`DrainLayer`](crate::DrainLayer) to its shard.
pub(crate) type DrainHandle = LayerHandle<RequestContext>;

/// What a request needs of its layer.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) options: Arc<Options>,
    /// What a request that asks for an upgrade was offered. It has a handle of its own for that.
    pub(crate) offer: Offer,
}

/// The upgrade as the request's entry knows it: weakly, since the upgrade is to hold the entry.
#[derive(Clone)]
pub(crate) struct Offer(Weak<Upgrade>);

/// What all clones of an [`UpgradeGuard`](crate::UpgradeGuard) share.
pub(crate) struct Upgrade {
    shard: Arc<Shard>,
    /// The request's entry, once it was upgraded.
    entry: Mutex<Option<Admission>>,
    aborted: AtomicBool,
}

// ===== impl RequestContext =====

impl RequestContext {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            offer: Offer(Weak::new()),
        }
    }
}

/// Returns `handle` for a single request, which was offered an upgrade.
pub(super) fn offering(handle: &DrainHandle, offer: Offer) -> DrainHandle {
    let options = Arc::clone(&handle.layer.options);
    handle.for_one_request(Arc::clone(&handle.shard), RequestContext { options, offer })
}

/// Returns `handle` for a single request, which has entered `shard`.
pub(super) fn entered(handle: &DrainHandle, shard: Arc<Shard>) -> DrainHandle {
    handle.for_one_request(shard, RequestContext::new(&handle.layer.options))
}

// ===== impl Offer =====

impl Offer {
    pub(super) fn of(upgrade: &Arc<Upgrade>) -> Self {
        Self(Arc::downgrade(upgrade))
    }

    pub(super) fn upgrade(&self) -> Option<Arc<Upgrade>> {
        self.0.upgrade()
    }
}

// ===== impl Upgrade =====

impl Upgrade {
    /// Makes one that counts nothing yet.
    pub(super) fn new(shard: &Arc<Shard>) -> Arc<Self> {
        Arc::new(Self {
            shard: Arc::clone(shard),
            entry: Mutex::new(None),
            aborted: AtomicBool::new(false),
        })
    }

    pub(super) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    pub(super) fn is_counted(&self) -> bool {
        lock(&self.entry).is_some()
    }

    /// Keeps the entry as long as this.
    pub(super) fn count(&self, mut entry: Admission) {
        // The task that has served the request may be gone long before the connection.
        entry.deregister();
        *lock(&self.entry) = Some(entry);
    }

    pub(super) fn note_aborted(&self) {
        // Relaxed: only who is first matters; the figure is published by the entry's leaving.
        if lock(&self.entry).is_some() && !self.aborted.swap(true, Ordering::Relaxed) {
            self.shard.note_aborted();
        }
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        // It had not ended by the time of the force.
        if self.shard.is_forced() {
            self.note_aborted();
        }
    }
}
