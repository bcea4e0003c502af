//! The entry of an admitted request, and the state that its layer keeps for it.

use super::cut_event::tell_by_name;
use super::options::Options;
use crate::in_flight::{Entry, Lasts, LayerHandle, Listed, Shard};
use crate::shutdown::Core;
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, Weak, lock};

/// The entry of an admitted request, with the options of its layer. It counts nothing if the request was
/// admitted as exempt while the gate was closed.
pub(crate) type Admission = Entry<DrainHandle>;

/// The handle of a [`DrainLayer`](crate::DrainLayer) service to its shard.
pub(crate) type DrainHandle = LayerHandle<RequestContext>;

/// What a request needs from its layer.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) options: Arc<Options>,
    /// The upgrade that was offered to the request, if it asks for one. Such a request has its own handle.
    pub(crate) offer: Offer,
}

/// The upgrade that was offered to a request. Weak, since the upgrade will hold the request's entry.
#[derive(Clone)]
pub(crate) struct Offer(Weak<Upgrade>);

/// The state that all clones of an [`UpgradeGuard`](crate::UpgradeGuard) share.
pub(crate) struct Upgrade {
    shard: Arc<Shard>,
    /// Set if the request has a name. Before the entry, so that it is off the list first.
    listed: Mutex<Option<Listed>>,
    /// The entry of the request, once it is upgraded.
    entry: Mutex<Option<Admission>>,
    /// Where it is counted as an upgrade, from the time that it is one.
    core: OnceLock<Weak<Core>>,
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

/// Returns a handle for a single request that is offered an upgrade.
pub(super) fn handle_for_upgrade(handle: &DrainHandle, offer: Offer) -> DrainHandle {
    let options = Arc::clone(&handle.layer.options);
    handle.for_one_request(Arc::clone(&handle.shard), RequestContext { options, offer })
}

/// Returns a handle for a single request that has entered `shard`.
pub(super) fn handle_for_shard(handle: &DrainHandle, shard: Arc<Shard>) -> DrainHandle {
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
    /// Creates an upgrade that counts nothing yet.
    pub(super) fn new(shard: &Arc<Shard>) -> Arc<Self> {
        Arc::new(Self {
            shard: Arc::clone(shard),
            entry: Mutex::new(None),
            listed: Mutex::new(None),
            core: OnceLock::new(),
            aborted: AtomicBool::new(false),
        })
    }

    pub(super) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    pub(super) fn is_counted(&self) -> bool {
        lock(&self.entry).is_some()
    }

    /// Keeps `entry` until this is dropped.
    pub(super) fn count(&self, mut entry: Admission) {
        // The task that served the request may end long before the connection.
        entry.deregister();
        if let Some(handle) = entry.shard_ref() {
            let core = self
                .core
                .get_or_init(|| handle.layer.options.core().clone());
            if let Some(core) = core.upgrade() {
                core.lasting.begin(Lasts::Upgrade);
            }
        }
        *lock(&self.entry) = Some(entry);
    }

    pub(super) fn is_listed(&self) -> bool {
        lock(&self.listed).is_some()
    }

    /// Keeps `listed` until this is dropped.
    pub(super) fn list(&self, listed: Listed) {
        *lock(&self.listed) = Some(listed);
    }

    pub(super) fn note_aborted(&self) {
        // Relaxed: pairs only with the same swap elsewhere, and decides which is first. The count is
        // published when the entry leaves.
        if lock(&self.entry).is_some() && !self.aborted.swap(true, Ordering::Relaxed) {
            self.shard.note_aborted();
        }
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        // The connection had not ended when force came.
        if self.shard.is_forced() {
            self.note_aborted();
            let listed = lock(&self.listed).take();
            if let Some(listed) = listed {
                tell_by_name(&listed);
            }
        }
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            core.lasting.end(Lasts::Upgrade);
        }
    }
}
