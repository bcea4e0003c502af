//! What a layer keeps for its services, and upgrades that are offered to requests.

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;

use http::Request;

use super::cut_event::tell_by_name;
use super::facts::Facts;
use super::options::Options;
use crate::in_flight::{Entry, Lasts, LayerHandle, Lease, Listed, Shard};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, PoisonError, Weak, lock};

/// The handle of a [`DrainLayer`](crate::DrainLayer) service to its shard.
pub(crate) type DrainHandle = LayerHandle<LayerOptions>;

/// What a [`DrainLayer`](crate::DrainLayer) keeps for its services.
#[derive(Clone)]
pub(crate) struct LayerOptions {
    pub(crate) options: Arc<Options>,
    /// The facts that hold for every request of the layer.
    facts: Facts,
}

/// The state that all clones of an [`UpgradeGuard`](crate::UpgradeGuard) share.
pub(crate) struct Upgrade {
    shard: &'static Shard,
    /// Set if the request has a name. Before the entry, so that it is off the list first.
    listed: Mutex<Option<Listed>>,
    /// The entry of the request, once it is upgraded.
    entry: Mutex<Option<Entry>>,
    aborted: AtomicBool,
    /// Its number among the offers. Zero if it was not offered.
    offer: usize,
    /// Keeps the shard in use as long as there is no entry.
    _lease: Option<Lease>,
}

/// The upgrades that were offered, by number. The request knows the number of its offer. The mutex is
/// std's under loom too, because it is static.
static OFFERS: StdMutex<BTreeMap<usize, Weak<Upgrade>>> = StdMutex::new(BTreeMap::new());

// ===== impl LayerOptions =====

impl LayerOptions {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            facts: Facts::of_layer(options.long_lived.number(), options.long_lived.have_paths()),
        }
    }

    /// Returns the facts about an admitted request that its response needs.
    #[inline(always)]
    pub(super) fn facts_of<T>(&self, request: &Request<T>) -> Facts {
        Facts::of(request).and(self.facts)
    }
}

// ===== impl Upgrade =====

impl Upgrade {
    /// Creates an upgrade that counts nothing yet, and offers it. Returns the number of the offer too.
    pub(super) fn offer(shard: &'static Shard, lease: Lease) -> (Arc<Self>, usize) {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        // Relaxed: it only has to be unique. It is not zero before it has wrapped.
        let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let upgrade = Self::with(shard, number, Some(lease));
        offers().insert(number, Arc::downgrade(&upgrade));
        (upgrade, number)
    }

    /// Returns the upgrade that was offered under this number, if there still is a guard.
    pub(super) fn offered(number: usize) -> Option<Arc<Self>> {
        offers().get(&number)?.upgrade()
    }

    /// Creates an upgrade that will count an entry of `shard` at once.
    pub(super) fn new(shard: &'static Shard) -> Arc<Self> {
        Self::with(shard, 0, None)
    }

    fn with(shard: &'static Shard, offer: usize, lease: Option<Lease>) -> Arc<Self> {
        Arc::new(Self {
            shard,
            entry: Mutex::new(None),
            listed: Mutex::new(None),
            aborted: AtomicBool::new(false),
            offer,
            _lease: lease,
        })
    }

    pub(super) fn shard(&self) -> &Shard {
        self.shard
    }

    pub(super) fn is_counted(&self) -> bool {
        lock(&self.entry).is_some()
    }

    /// Keeps `entry` until this is dropped.
    pub(super) fn count(&self, mut entry: Entry) {
        // The task that served the request may end long before the connection.
        entry.deregister();
        if let Some(shard) = entry.shard() {
            shard.gate().lasting.begin(Lasts::Upgrade);
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

fn offers() -> std::sync::MutexGuard<'static, BTreeMap<usize, Weak<Upgrade>>> {
    OFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        offers().remove(&self.offer);
        // The connection had not ended when force came.
        if self.shard.is_forced() {
            self.note_aborted();
            let listed = lock(&self.listed).take();
            if let Some(listed) = listed {
                tell_by_name(&listed);
            }
        }
        if let Some(shard) = lock(&self.entry).as_ref().and_then(Entry::shard) {
            shard.gate().lasting.end(Lasts::Upgrade);
        }
    }
}
