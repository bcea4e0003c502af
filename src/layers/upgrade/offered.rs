//! The upgrades that are offered to requests, and the state of those that are accepted.

use std::sync::{Mutex as StdMutex, MutexGuard};

use crate::in_flight::{Entry, Lease, Listed, Shard, thread_index};
use crate::layers::cut_event::tell_by_name;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, PoisonError, Weak, lock};

/// The state that all clones of an [`UpgradeGuard`](crate::UpgradeGuard) share.
pub(super) struct Upgrade {
    shard: &'static Shard,
    /// Set if the request has a name. It is off the list before the entry leaves.
    listed: Mutex<Option<Listed>>,
    /// The entry of the request, once it is upgraded.
    entry: Mutex<Option<Entry>>,
    aborted: AtomicBool,
    /// Its number among the offers. Zero if it was not offered.
    offer: usize,
    /// Keeps the shard in use as long as there is no entry.
    _lease: Option<Lease>,
}

/// The upgrades that some of the threads have offered, by number. The request knows the number of its
/// offer.
///
/// In cache lines of their own: some clients ask for an upgrade with each request. The mutex is std's
/// under loom too, because it is static.
#[repr(align(128))]
struct Offers(StdMutex<Offered>);

struct Offered {
    last: usize,
    /// Few: each only until its request is upgraded, or all guards of it are dropped.
    upgrades: Vec<(usize, Weak<Upgrade>)>,
}

const TABLES: usize = 16;
static OFFERS: [Offers; TABLES] = [const { Offers::new() }; TABLES];

// ===== impl Upgrade =====

impl Upgrade {
    /// Creates an upgrade that counts nothing yet, and offers it. Returns the number of the offer too.
    pub(super) fn offer(shard: &'static Shard, lease: Lease) -> (Arc<Self>, usize) {
        let index = thread_index() % TABLES;
        let mut offered = OFFERS[index].lock();
        // The index is in the number, so that it leads to the table. Not zero before it has wrapped.
        offered.last = offered.last.wrapping_add(TABLES);
        let number = offered.last | index;
        let upgrade = Self::with(shard, number, Some(lease));
        offered.upgrades.push((number, Arc::downgrade(&upgrade)));
        drop(offered);
        (upgrade, number)
    }

    /// Takes the upgrade that was offered under this number, if there still is a guard.
    pub(super) fn offered(number: usize) -> Option<Arc<Self>> {
        Offers::take(number)?.upgrade()
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
            shard.gate().upgrades.increment();
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
        if self.offer != 0 {
            drop(Offers::take(self.offer));
        }
        let listed = lock(&self.listed).take();
        if let Some(listed) = listed {
            if self.shard.is_forced() {
                tell_by_name(&listed);
            }
        }
        // Out of its mutex: the check whether the runtime is ending may run foreign code.
        let entry = lock(&self.entry).take();
        if let Some(mut entry) = entry {
            if let Some(shard) = entry.shard() {
                shard.gate().upgrades.decrement();
            }
            // Relaxed: as in `note_aborted`.
            if !self.aborted.load(Ordering::Relaxed) {
                entry.note_unfinished();
            }
        }
    }
}

// ===== impl Offers =====

impl Offers {
    const fn new() -> Self {
        Self(StdMutex::new(Offered {
            last: 0,
            upgrades: Vec::new(),
        }))
    }

    /// Takes the offer with this number, unless it was taken.
    fn take(number: usize) -> Option<Weak<Upgrade>> {
        let upgrades = &mut OFFERS[number % TABLES].lock().upgrades;
        let at = upgrades.iter().rposition(|(other, _)| *other == number)?;
        Some(upgrades.swap_remove(at).1)
    }

    fn lock(&self) -> MutexGuard<'_, Offered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
