//! A slab of wakers behind one short lock. Each waker has the set of events that it waits for.
//!
//! 1. A waker is never cloned, woken or dropped under the lock. These run foreign code, and the
//!    drop of a waker may drop a future that locks this same set.
//! 2. A slot belongs to the caller that registered it until [`WakerSet::remove`]. Waking takes the
//!    waker and keeps the slot, so a slot that is owned never changes hands.
//! 3. A registration checks under the lock whether an event has happened. The thread that makes the
//!    event happen publishes it first and takes the lock afterwards, so a registration is either
//!    refused or woken.
//! 4. A caller that remembers a waker owns a slot, and the vtable changes only while no slot is
//!    owned. So a waker with the remembered address and that vtable is the one whose clone was put
//!    into the slot.

use std::task::Waker;
use std::{mem, ptr};

use crate::panic;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// How many wakers are taken while the lock is held once.
const BATCH: usize = 128;

/// How many entries are allocated at a time. Entries do not move, so growing copies none of them
/// under the lock.
const CHUNK: usize = 64;

/// A set of wakers. Each one is registered for a mask of events.
#[derive(Debug)]
pub(crate) struct WakerSet {
    slots: Mutex<Slots>,
    /// The address of the vtable of the first waker that was registered in an empty set. The wakers
    /// of a runtime's tasks share one vtable. Changed under the lock.
    vtable: AtomicUsize,
}

#[derive(Debug)]
struct Slots {
    #[expect(clippy::vec_box, reason = "the entries must not move")]
    chunks: Vec<Box<[Entry; CHUNK]>>,
    /// How many entries are in use or vacant. The rest of the last chunk was never used.
    len: u32,
    /// The first vacant entry, or `Slot::NONE`; vacant entries are chained through `tag`.
    vacant: u32,
    /// How many entries have an owner.
    owned: u32,
}

/// Twenty-four bytes: the memory cost of one waiting request.
#[derive(Debug)]
struct Entry {
    waker: Option<Waker>,
    /// The mask of events if the slot has an owner, otherwise the next vacant entry.
    tag: u32,
}

/// A place in a [`WakerSet`], or none.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Slot(u32);

/// The waker that the owner of a slot has registered, by the address of its data. `NONE` if its
/// vtable is not that of the set, or if the clone in the set has other data. Or a number, of an owner
/// that never uses it for a waker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered(usize);

impl Remembered {
    pub(crate) const NONE: Remembered = Remembered(0);

    pub(crate) fn number(number: usize) -> Self {
        Self(number)
    }

    pub(crate) fn as_number(self) -> usize {
        self.0
    }
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

    /// Like [`take`](Self::take), but leaves the old value in place. The caller must not use it
    /// again.
    #[inline]
    pub(crate) fn take_last(&mut self) -> Slot {
        Slot(self.0)
    }
}

// ===== impl WakerSet =====

impl WakerSet {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(Slots::new()),
            vtable: AtomicUsize::new(0),
        }
    }

    /// Returns whether `waker` is the remembered one. If so, it is still in the set or has been
    /// woken.
    #[inline]
    pub(crate) fn is_remembered(&self, remembered: Remembered, waker: &Waker) -> bool {
        // Relaxed: it does not change while a slot is owned (invariant 4), and nothing is read
        // through it.
        remembered.0 == waker.data().addr()
            && remembered.0 != Remembered::NONE.0
            && self.vtable.load(Ordering::Relaxed) == vtable_of(waker)
    }

    /// Returns what the owner of a slot may remember of a waker whose clone is in the set. Called
    /// under the lock.
    #[inline]
    fn remember(&self, waker: &Waker) -> Remembered {
        // Relaxed: it changes under the lock.
        if self.vtable.load(Ordering::Relaxed) == vtable_of(waker) {
            Remembered(waker.data().addr())
        } else {
            Remembered::NONE
        }
    }

    /// Registers `waker` for any of `events` and returns what the owner may remember. Returns
    /// `None`, and registers nothing, if `happened` returns `true`.
    #[inline]
    pub(crate) fn register(
        &self,
        slot: &mut Slot,
        waker: &Waker,
        events: u32,
        happened: &dyn Fn() -> bool,
    ) -> Option<Remembered> {
        if !slot.is_registered() {
            let remembered;
            (*slot, remembered) = self.register_first(waker, events, happened);
            return slot.is_registered().then_some(remembered);
        }
        {
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
        self.register_other(slot, waker, events, happened)
    }

    /// Like [`register`](Self::register), for a caller without a slot: returns a new slot, or
    /// `Slot::NONE`. Out of line, because it runs once per wait, not once per poll.
    #[inline(never)]
    pub(crate) fn register_first(
        &self,
        waker: &Waker,
        events: u32,
        happened: impl Fn() -> bool,
    ) -> (Slot, Remembered) {
        let clone = waker.clone();
        let is_same = clone.will_wake(waker);
        let mut slots = lock(&self.slots);
        // Invariant 3: under the lock, so that no wake-up is lost.
        if happened() {
            drop(slots);
            // Invariant 1: the clone is dropped outside the lock.
            drop(clone);
            return (Slot::NONE, Remembered::NONE);
        }
        if slots.owned == 0 {
            // Invariant 4. Relaxed: as in `is_remembered`.
            self.vtable.store(vtable_of(waker), Ordering::Relaxed);
        }
        let slot = slots.claim(clone, events);
        let remembered = if is_same {
            self.remember(waker)
        } else {
            Remembered::NONE
        };
        (slot, remembered)
    }

    /// Replaces the waker in a slot.
    #[cold]
    fn register_other(
        &self,
        slot: &Slot,
        waker: &Waker,
        events: u32,
        happened: &dyn Fn() -> bool,
    ) -> Option<Remembered> {
        let clone = waker.clone();
        let is_same = clone.will_wake(waker);
        let mut spare = Some(clone);
        let registered = {
            let mut slots = lock(&self.slots);
            // Invariant 3.
            let open = !happened();
            open.then(|| {
                let entry = slots.entry(slot.0);
                entry.tag = events;
                mem::swap(&mut entry.waker, &mut spare);
                if is_same {
                    self.remember(waker)
                } else {
                    Remembered::NONE
                }
            })
        };
        // Invariant 1: the former waker, or the unused clone, is dropped outside the lock.
        drop(spare);
        registered
    }

    /// Removes the waker and frees the slot.
    pub(crate) fn remove(&self, slot: Slot) {
        drop(self.vacate(slot));
    }

    /// Frees the slot and returns its waker, which must be dropped outside the lock.
    #[inline(always)]
    pub(crate) fn vacate(&self, slot: Slot) -> Option<Waker> {
        if !slot.is_registered() {
            return None;
        }
        let mut slots = lock(&self.slots);
        let vacant = slots.vacant;
        let entry = slots.entry(slot.0);
        entry.tag = vacant;
        let waker = entry.waker.take();
        slots.vacant = slot.0;
        slots.owned -= 1;
        waker
    }

    /// Wakes the next batch of wakers that wait for any of `events`, starting at `cursor`. Returns
    /// `false` when there are no more.
    pub(crate) fn wake_batch(&self, events: u32, cursor: &mut usize) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        let more = {
            let mut slots = lock(&self.slots);
            while batch.len() < BATCH && *cursor < slots.len as usize {
                // A vacant entry has no waker, so a match of its tag has no effect.
                let entry = slots.entry(*cursor as u32);
                if entry.tag & events != 0 {
                    batch.extend(entry.waker.take());
                }
                *cursor += 1;
            }
            *cursor < slots.len as usize
        };
        // A waker that panics does not prevent the others from being woken.
        for waker in batch {
            panic::contained(|| waker.wake());
        }
        more
    }

    /// Drops all that is left, and frees the memory. Called when no slot has an owner, but for those
    /// that were forgotten.
    pub(crate) fn reset(&self) {
        let slots = mem::replace(&mut *lock(&self.slots), Slots::new());
        // Invariant 1: outside the lock.
        panic::contained(|| drop(slots));
    }

    /// Wakes all wakers that wait for any of `events`.
    pub(crate) fn wake_all(&self, events: u32) {
        let mut cursor = 0;
        while self.wake_batch(events, &mut cursor) {}
    }
}

#[cfg(all(test, tower_lifecycle_loom))]
impl WakerSet {
    /// Returns how many wakers are in the set.
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
    const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            vacant: Slot::NONE.0,
            owned: 0,
        }
    }

    /// Returns the entry at an index that is in use or vacant.
    #[inline]
    fn entry(&mut self, index: u32) -> &mut Entry {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }

    /// Puts `waker` into a vacant entry, and assigns that to the returned slot.
    #[inline]
    fn claim(&mut self, waker: Waker, events: u32) -> Slot {
        if self.vacant == Slot::NONE.0 {
            self.add();
        }
        let index = self.vacant;
        let entry = self.entry(index);
        let next = mem::replace(&mut entry.tag, events);
        // Invariant 1: a vacant entry has no waker that would be dropped here.
        mem::forget(entry.waker.replace(waker));
        self.vacant = next;
        self.owned += 1;
        Slot(index)
    }

    /// Adds a vacant entry. Called when there is none.
    #[cold]
    fn add(&mut self) {
        if self.len as usize == self.chunks.len() * CHUNK {
            self.chunks.push(Box::new([const { Entry::NEW }; CHUNK]));
        }
        // Does not overflow: 2^32 wakers would need 96 GiB.
        self.vacant = self.len;
        self.len += 1;
    }
}

impl Entry {
    const NEW: Self = Self {
        waker: None,
        tag: Slot::NONE.0,
    };
}

fn vtable_of(waker: &Waker) -> usize {
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

    /// Another type, so its wakers have another vtable.
    struct Other(Arc<Count>);

    impl Wake for Other {
        fn wake(self: Arc<Self>) {
            self.0.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn register(set: &WakerSet, slot: &mut Slot, waker: &Waker) {
        assert!(set.register(slot, waker, EVENT, &|| false).is_some());
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
        let remembered = set.register(slot, waker, EVENT, &|| false);
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
        // Only wakers of the first type are remembered, until the set is empty.
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
