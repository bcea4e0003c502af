//! Leases of gates. A gate is allocated once, never freed, and used by one controller after another.
//!
//! So an entry refers to its shard without a reference count, which two locked operations of each
//! request would pay for. The number of gates is the most that were in use at a time.

use std::fmt;
use std::mem;
use std::ops::Deref;

use super::shard::Shard;
use super::{Gate, State};
use crate::in_flight::gauge::Gauge;
use crate::in_flight::milestones::Milestones;
#[cfg(not(tower_lifecycle_loom))]
use crate::sync::lock;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering};

/// Keeps a gate in use. Whoever may enter holds one, or an entry.
#[derive(Clone)]
pub(crate) struct Lease(Arc<Leased>);

/// What all leases of a gate share.
struct Leased(&'static Gate);

/// The gates that nobody uses. Not of loom: a gate belongs to one run of one model.
#[cfg(not(tower_lifecycle_loom))]
static UNUSED: Mutex<Vec<&'static Gate>> = Mutex::new(Vec::new());

// ===== impl Lease =====

impl Lease {
    /// Leases an open gate with at least `shards` shards, rounded up to a power of two.
    pub(crate) fn new(shards: usize, reached: u32) -> Self {
        let shards = shards.max(1).next_power_of_two();
        let gate = unused(shards).unwrap_or_else(|| Gate::leak(shards));
        gate.milestones.publish(reached);
        Self(Arc::new(Leased(gate)))
    }
}

#[cfg(all(test, tower_lifecycle_loom))]
impl Lease {
    pub(super) fn gate(&self) -> &'static Gate {
        self.0.0
    }
}

impl Deref for Lease {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        self.0.0
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Not under loom, where it would be one more operation of each model. Its own model calls it.
#[cfg(not(tower_lifecycle_loom))]
impl Drop for Leased {
    fn drop(&mut self) {
        self.0.orphan();
    }
}

#[cfg(not(tower_lifecycle_loom))]
fn unused(shards: usize) -> Option<&'static Gate> {
    let mut unused = lock(&UNUSED);
    let index = (unused.iter()).rposition(|gate| gate.shards.len() == shards)?;
    Some(unused.swap_remove(index))
}

#[cfg(tower_lifecycle_loom)]
fn unused(_: usize) -> Option<&'static Gate> {
    None
}

// ===== impl Gate =====

impl Gate {
    fn leak(shards: usize) -> &'static Self {
        let all: Vec<_> = (0..shards).map(|_| Shard::open()).collect();
        let gate: &Self = Box::leak(Box::new(Self {
            shards: Vec::leak(all),
            late: Box::leak(Box::new(Shard::late())),
            kept: AtomicU32::new(shards as u32 + 1),
            state: Mutex::new(State::default()),
            openings: AtomicU64::new(0),
            idles: AtomicU64::new(0),
            milestones: Milestones::new(0),
            upgrades: Gauge::default(),
            streams: Gauge::default(),
        }));
        gate.all_shards().for_each(|shard| shard.set_gate(gate));
        gate
    }

    /// Ends the use of the gate: nobody can enter any more (invariant 11). Returns whether that makes
    /// it unused.
    pub(super) fn orphan(&'static self) -> bool {
        let mut is_unused = false;
        for shard in self.all_shards() {
            if shard.orphan() {
                is_unused |= self.give_up_shard();
            }
        }
        is_unused
    }

    /// Gives up a shard that is orphaned and empty. Returns whether that makes the gate unused.
    pub(super) fn give_up_shard(&'static self) -> bool {
        // Release: pairs with the Acquire of the last one, which resets what the others used.
        let is_last = self.kept.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            self.reset();
            #[cfg(not(tower_lifecycle_loom))]
            lock(&UNUSED).push(self);
        }
        is_last
    }

    /// Makes the gate as good as new, but for the count of its openings.
    fn reset(&self) {
        self.all_shards().for_each(Shard::reset);
        // Relaxed: the gate changes hands under the lock of `UNUSED`.
        self.kept
            .store(self.shards.len() as u32 + 1, Ordering::Relaxed);
        let mut state = self.state();
        // Together, so that no scan publishes for this life in the next one (invariant 12). Release:
        // pairs with the Acquire in `scan`, as in `unpause`.
        self.openings.fetch_add(1, Ordering::Release);
        self.idles.store(0, Ordering::Relaxed);
        self.upgrades.reset();
        self.streams.reset();
        self.milestones.reset();
        let used = mem::take(&mut *state);
        drop(state);
        drop(used);
        self.milestones.drop_wakers();
    }
}
