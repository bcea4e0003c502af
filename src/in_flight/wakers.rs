//! A slab of wakers behind one short lock, each with the set of events it waits for.
//!
//! 1. A waker is never cloned, woken or dropped under the lock: those run foreign code, and the
//!    drop of a waker may drop a future that locks this same set.
//! 2. A slot belongs to whoever registered it until [`WakerSet::remove`]. Waking takes the waker
//!    out and leaves the slot, so a slot never changes hands under its owner.
//! 3. Whether an event has already happened is asked under the lock. The one who makes it happen
//!    publishes it first and takes the lock afterwards, so a registration is either refused or woken.
//! 4. Who remembers a waker owns a slot, and the table changes only when nobody does. So a waker that is
//!    remembered by its address, and has that table, is the one whose clone was put into the slot.

use std::task::Waker;
use std::{mem, ptr};

use crate::panic;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// How many wakers leave the set under one hold of the lock.
const BATCH: usize = 128;

/// How many entries are allocated at a time. They stay where they are, so that growing copies none of
/// them under the lock.
const CHUNK: usize = 64;

/// A set of wakers, registered by the events that they wait for (a mask).
#[derive(Debug)]
pub(crate) struct WakerSet {
    slots: Mutex<Slots>,
    /// The address of the table of the waker that was registered when there was no other: the wakers of
    /// a runtime's tasks all have the same. Changed under the lock.
    table: AtomicUsize,
}

#[derive(Debug)]
struct Slots {
    #[expect(clippy::vec_box, reason = "the entries are not to be moved")]
    chunks: Vec<Box<[Entry; CHUNK]>>,
    /// How many entries there are; the rest of the last chunk has not been used yet.
    len: usize,
    /// The first vacant entry, or `Slot::NONE`; vacant entries are chained through `tag`.
    vacant: u32,
    /// How many entries have an owner.
    owned: usize,
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

/// Which waker the owner of a slot has registered, by the address of its data; none, if its table is not
/// that of the set, or its clone, which is what the set holds, is another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered(usize);

impl Remembered {
    pub(crate) const NONE: Remembered = Remembered(0);
}

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

    /// As [`take`](Self::take), from a place where nobody looks any more: nothing is written there.
    #[inline]
    pub(crate) fn take_last(&mut self) -> Slot {
        Slot(self.0)
    }
}

// ===== impl WakerSet =====

impl WakerSet {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(Slots {
                chunks: Vec::new(),
                len: 0,
                vacant: Slot::NONE.0,
                owned: 0,
            }),
            table: AtomicUsize::new(0),
        }
    }

    /// Tells whether this is the waker that is remembered to have been registered. If so it is in the set
    /// still, or has been woken.
    #[inline]
    pub(crate) fn is_remembered(&self, remembered: Remembered, waker: &Waker) -> bool {
        // Relaxed: it does not change meanwhile (invariant 4); nothing is read through it.
        remembered.0 == waker.data().addr()
            && remembered.0 != Remembered::NONE.0
            && self.table.load(Ordering::Relaxed) == table_of(waker)
    }

    /// What the owner of a slot may remember of a waker whose clone is in the set; under the lock.
    #[inline]
    fn remember(&self, waker: &Waker) -> Remembered {
        // Relaxed: it changes under the lock.
        match self.table.load(Ordering::Relaxed) == table_of(waker) {
            true => Remembered(waker.data().addr()),
            false => Remembered::NONE,
        }
    }

    /// Leaves `waker` to be woken at any of `events`, and gives what its owner may remember; none, and
    /// does not, if `happened` says that one of them has been published.
    #[inline]
    pub(crate) fn register(
        &self,
        slot: &mut Slot,
        waker: &Waker,
        events: u32,
        happened: impl Fn() -> bool,
    ) -> Option<Remembered> {
        if slot.is_registered() {
            let mut slots = lock(&self.slots);
            let entry = slots.entry(slot.0);
            if entry.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
                // Invariant 3.
                let open = !happened();
                if open {
                    entry.tag = events;
                }
                return open.then(|| self.remember(waker));
            }
        }
        self.register_anew(slot, waker, events, happened)
    }

    /// As [`register`](Self::register), the first time or with another waker. Out of line: it is once a
    /// wait, and not once a poll.
    #[inline(never)]
    pub(crate) fn register_anew(
        &self,
        slot: &mut Slot,
        waker: &Waker,
        events: u32,
        happened: impl Fn() -> bool,
    ) -> Option<Remembered> {
        let clone = waker.clone();
        let is_same = clone.will_wake(waker);
        let mut spare = Some(clone);
        let registered = {
            let mut slots = lock(&self.slots);
            // Invariant 3: under the lock, so that the wake-up cannot fall in between.
            let open = !happened();
            open.then(|| {
                if slots.owned == 0 {
                    // Invariant 4. Relaxed: as in `is_remembered`.
                    self.table.store(table_of(waker), Ordering::Relaxed);
                }
                let entry = slots.claim(slot);
                entry.tag = events;
                mem::swap(&mut entry.waker, &mut spare);
                match is_same {
                    true => self.remember(waker),
                    false => Remembered::NONE,
                }
            })
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
            let vacant = slots.vacant;
            let entry = slots.entry(index);
            entry.tag = vacant;
            let waker = entry.waker.take();
            slots.vacant = index;
            slots.owned -= 1;
            waker
        };
        drop(waker);
    }

    /// Wakes the next batch of those that wait for any of `events`, from `cursor` on; `false` when
    /// there are no more.
    pub(crate) fn wake_batch(&self, events: u32, cursor: &mut usize) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        let more = {
            let mut slots = lock(&self.slots);
            while batch.len() < BATCH && *cursor < slots.len {
                // A vacant entry has no waker, so its tag is not taken for a mask.
                let entry = slots.entry(*cursor as u32);
                if entry.tag & events != 0 {
                    batch.extend(entry.waker.take());
                }
                *cursor += 1;
            }
            *cursor < slots.len
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
        slots
            .chunks
            .iter()
            .flat_map(|chunk| &chunk[..])
            .filter(waiting)
            .count()
    }
}

impl Slots {
    /// The entry of an index that was given out.
    #[inline]
    fn entry(&mut self, index: u32) -> &mut Entry {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }

    /// Returns the slot's entry, finding a slot first if it has none.
    #[inline]
    fn claim(&mut self, slot: &mut Slot) -> &mut Entry {
        let is_new = !slot.is_registered();
        if is_new {
            if self.vacant == Slot::NONE.0 {
                self.add();
            }
            slot.0 = self.vacant;
        }
        // Not by `entry`, which would borrow the rest as well.
        let entry = &mut self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK];
        if is_new {
            self.vacant = entry.tag;
            self.owned += 1;
        }
        entry
    }

    /// Adds one vacant entry, when there is none.
    #[cold]
    fn add(&mut self) {
        if self.len == self.chunks.len() * CHUNK {
            self.chunks.push(Box::new([const { Entry::NEW }; CHUNK]));
        }
        // Four thousand million wakers would need 96 GiB; the cast cannot wrap before.
        self.vacant = self.len as u32;
        self.len += 1;
    }
}

impl Entry {
    const NEW: Self = Self {
        waker: None,
        tag: Slot::NONE.0,
    };
}

fn table_of(waker: &Waker) -> usize {
    ptr::from_ref(waker.vtable()).addr()
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;
    use crate::sync::Arc;

    const EVENT: u32 = 1;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of another kind: its wakers have a table of their own.
    struct Other(Arc<Count>);

    impl Wake for Other {
        fn wake(self: Arc<Self>) {
            self.0.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn register(set: &WakerSet, slot: &mut Slot, waker: &Waker) {
        assert!(set.register(slot, waker, EVENT, || false).is_some());
    }

    #[test]
    fn each_of_many_chunks_is_woken_once() {
        let set = WakerSet::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let many = 3 * CHUNK + 1;
        let mut slots: Vec<_> = (0..many).map(|_| Slot::NONE).collect();
        slots
            .iter_mut()
            .for_each(|slot| register(&set, slot, &waker));
        for _ in 0..2 {
            set.wake_all(EVENT);
            assert_eq!(count.0.load(Ordering::Relaxed) as usize, many);
        }
        assert_eq!(Arc::strong_count(&count), 2, "none is left in the set");
    }

    #[test]
    fn a_slot_that_was_given_back_is_the_next_to_be_given() {
        let set = WakerSet::new();
        let waker = Waker::noop();
        let mut slots: Vec<_> = (0..CHUNK).map(|_| Slot::NONE).collect();
        for _ in 0..3 {
            slots
                .iter_mut()
                .for_each(|slot| register(&set, slot, waker));
            let places: std::collections::BTreeSet<_> = slots.iter().map(|slot| slot.0).collect();
            assert_eq!(places.len(), CHUNK, "each has its own");
            slots.iter_mut().for_each(|slot| set.remove(slot.take()));
        }
        assert_eq!(lock(&set.slots).chunks.len(), 1);
    }

    fn remember(set: &WakerSet, slot: &mut Slot, waker: &Waker) -> Remembered {
        let remembered = set.register_anew(slot, waker, EVENT, || false);
        remembered.expect("it has not happened")
    }

    #[test]
    fn only_the_waker_that_was_registered_is_remembered() {
        let set = WakerSet::new();
        let [one, another] = [(); 2].map(|()| Waker::from(Arc::new(Count::default())));
        let other = Waker::from(Arc::new(Other(Arc::default())));
        let mut slot = Slot::NONE;
        let remembered = remember(&set, &mut slot, &one);
        assert!(set.is_remembered(remembered, &one));
        assert!(set.is_remembered(remembered, &one.clone()));
        assert!(!set.is_remembered(remembered, &another));
        assert!(!set.is_remembered(remembered, &other));
        assert!(!set.is_remembered(Remembered::NONE, &one));
        // Only the kind of the first one is, until all are gone.
        let remembered = remember(&set, &mut slot, &other);
        assert!(!set.is_remembered(remembered, &other));
        set.remove(slot.take());
        let remembered = remember(&set, &mut slot, &other);
        assert!(set.is_remembered(remembered, &other));
        assert!(!set.is_remembered(remembered, &one));
    }

    #[test]
    fn a_waker_without_data_is_never_remembered() {
        let set = WakerSet::new();
        let waker = Waker::noop();
        let mut slot = Slot::NONE;
        let remembered = remember(&set, &mut slot, waker);
        assert!(!set.is_remembered(remembered, waker));
    }
}
