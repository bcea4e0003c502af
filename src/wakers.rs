//! A slab of wakers behind one short lock, each with the set of events it waits for.
//!
//! 1. A waker is never cloned, woken or dropped under the lock: those run foreign code, and the
//!    drop of a waker may drop a future that locks this same set.
//! 2. A slot belongs to whoever registered it until [`WakerSet::remove`]. Waking takes the waker
//!    out and leaves the slot, so a slot never changes hands under its owner.
//! 3. Whether an event has already happened is asked under the lock. The one who makes it happen
//!    publishes it first and takes the lock afterwards, so a registration is either refused or woken.

use std::mem;
use std::task::Waker;

use crate::panic;
use crate::sync::{Mutex, lock};

/// How many wakers leave the set under one hold of the lock.
const BATCH: usize = 128;

/// A set of wakers, registered by the events that they wait for (a mask).
#[derive(Debug)]
pub(crate) struct WakerSet {
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    entries: Vec<Entry>,
    /// The first vacant entry, or `Slot::NONE`; vacant entries are chained through `tag`.
    vacant: u32,
}

/// Twenty-four bytes: what one waiting request costs in memory.
#[derive(Debug)]
struct Entry {
    waker: Option<Waker>,
    /// The mask of events while the slot has an owner, the next vacant entry while it has none.
    tag: u32,
}

/// A place in a [`WakerSet`], or none.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const NONE: Slot = Slot(u32::MAX);

    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        self.0 != Slot::NONE.0
    }

    #[inline]
    pub(crate) fn take(&mut self) -> Slot {
        mem::replace(self, Slot::NONE)
    }
}

// ===== impl WakerSet =====

impl WakerSet {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(Slots {
                entries: Vec::new(),
                vacant: Slot::NONE.0,
            }),
        }
    }

    /// Leaves `waker` to be woken at any of `events`; returns `false`, and does not, if `happened`
    /// says that one of them has been published.
    #[inline]
    pub(crate) fn register(
        &self,
        slot: &mut Slot,
        waker: &Waker,
        events: u32,
        happened: impl Fn() -> bool,
    ) -> bool {
        if slot.is_registered() {
            let mut slots = lock(&self.slots);
            if let Some(entry) = slots.entries.get_mut(slot.0 as usize) {
                if entry.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
                    // Invariant 3.
                    let open = !happened();
                    if open {
                        entry.tag = events;
                    }
                    return open;
                }
            }
        }
        self.register_anew(slot, waker, events, happened)
    }

    /// The first time, or with another waker. Out of line: it is once a wait, and not once a poll.
    #[cold]
    #[inline(never)]
    fn register_anew(
        &self,
        slot: &mut Slot,
        waker: &Waker,
        events: u32,
        happened: impl Fn() -> bool,
    ) -> bool {
        let mut spare = Some(waker.clone());
        let registered = {
            let mut slots = lock(&self.slots);
            // Invariant 3: under the lock, so that the wake-up cannot fall in between.
            let open = !happened();
            if open {
                mem::swap(slots.claim(slot, events), &mut spare);
            }
            open
        };
        // Invariant 1: the former waker, or the one not needed, goes outside the lock.
        drop(spare);
        registered
    }

    /// Gives the slot back.
    pub(crate) fn remove(&self, slot: Slot) {
        if !slot.is_registered() {
            return;
        }
        let index = slot.0;
        let waker = {
            let mut slots = lock(&self.slots);
            let vacant = mem::replace(&mut slots.vacant, index);
            let entry = &mut slots.entries[index as usize];
            entry.tag = vacant;
            entry.waker.take()
        };
        drop(waker);
    }

    /// Wakes the next batch of those that wait for any of `events`, from `cursor` on; `false` when
    /// there are no more.
    pub(crate) fn wake_batch(&self, events: u32, cursor: &mut usize) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        let more = {
            let mut slots = lock(&self.slots);
            let rest = slots.entries.get_mut(*cursor..).unwrap_or_default();
            for entry in rest {
                if batch.len() == BATCH {
                    break;
                }
                *cursor += 1;
                // A vacant entry has no waker, so its tag is not taken for a mask.
                if entry.tag & events != 0 {
                    batch.extend(entry.waker.take());
                }
            }
            *cursor < slots.entries.len()
        };
        // One that panics keeps none of the others from being woken.
        for waker in batch {
            panic::contained(|| waker.wake());
        }
        more
    }

    /// Wakes all of those that wait for any of `events`.
    pub(crate) fn wake_all(&self, events: u32) {
        let mut cursor = 0;
        while self.wake_batch(events, &mut cursor) {}
    }
}

#[cfg(all(test, tower_lifecycle_loom))]
impl WakerSet {
    /// Returns how many wakers are left in the set.
    pub(crate) fn registered(&self) -> usize {
        let slots = lock(&self.slots);
        let waiting = |entry: &&Entry| entry.waker.is_some();
        slots.entries.iter().filter(waiting).count()
    }
}

impl Slots {
    /// Returns the place of the slot's waker, finding a slot first if it has none.
    fn claim(&mut self, slot: &mut Slot, events: u32) -> &mut Option<Waker> {
        if !slot.is_registered() {
            if self.vacant == Slot::NONE.0 {
                // Four thousand million wakers would need 96 GiB; the cast cannot wrap before.
                slot.0 = self.entries.len() as u32;
                self.entries.push(Entry {
                    waker: None,
                    tag: events,
                });
            } else {
                slot.0 = self.vacant;
                self.vacant = self.entries[slot.0 as usize].tag;
            }
        }
        let entry = &mut self.entries[slot.0 as usize];
        entry.tag = events;
        &mut entry.waker
    }
}
