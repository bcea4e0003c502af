//! The registration for force.

use super::*;

/// Invariant 5: a registration meets force, or is woken by it.
///
/// Seeded: `happened` asked before the lock is taken; wakers taken before the bit is set.
#[test]
fn a_registration_meets_force_or_is_woken_by_it() {
    check(|| {
        let gate = Gate::new(1, 0);
        let shard = Arc::clone(&gate.shards()[0]);
        assert!(shard.enter(|| ()));
        let request = thread::spawn(move || {
            let mut slot = Slot::NONE;
            block_on(poll_fn(|cx| {
                if shard.register(&mut slot, cx.waker(), interest::FORCED) {
                    return Poll::Pending;
                }
                Poll::Ready(())
            }));
            assert!(shard.is_forced());
            shard.deregister(slot.take());
            shard.leave();
        });
        gate.force();
        gate.drain();
        let mut cursor = 0;
        while gate.shards()[0].wake_batch(interest::FORCED, &mut cursor) {}
        wait_for(&gate, event::DRAINED);
        request.join().unwrap();
    });
}

/// Invariant 5: so is who remembers the waker, and does not take the lock when it is polled again.
///
/// Seeded: the bit set after the wakers are taken; remembered before it is registered.
#[test]
fn a_registration_that_is_remembered_meets_force_or_is_woken_by_it() {
    check(|| {
        let gate = Gate::new(1, 0);
        let shard = Arc::clone(&gate.shards()[0]);
        assert!(shard.enter(|| ()));
        let request = thread::spawn(move || {
            let mut slot = Slot::NONE;
            let mut remembered = Remembered::NONE;
            let mut met = false;
            block_on(poll_fn(|cx| {
                // Twice, as when it is polled for another reason.
                for _ in 0..2 {
                    // As the layers do: they look before they poll the inner.
                    met = met || shard.is_forced();
                    met = met || !shard.register_for_force(&mut slot, &mut remembered, cx.waker());
                }
                match met {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }));
            assert!(shard.is_forced());
            shard.deregister(slot.take());
            shard.leave();
        });
        cut(&gate);
        gate.drain();
        wait_for(&gate, event::DRAINED);
        request.join().unwrap();
    });
}

/// Two that register and give back at the same time as force leave the slab whole.
///
/// Seeded: `remove` that leaves the waker in the vacant entry.
#[test]
fn slots_are_given_back_while_force_takes_the_wakers() {
    check(|| {
        let gate = Gate::new(1, 0);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shard = Arc::clone(&gate.shards()[0]);
                thread::spawn(move || {
                    let mut slot = Slot::NONE;
                    block_on(poll_fn(|cx| {
                        shard.register(&mut slot, cx.waker(), interest::FORCED);
                        Poll::Ready(())
                    }));
                    shard.deregister(slot.take());
                })
            })
            .collect();
        gate.force();
        let mut cursor = 0;
        while gate.shards()[0].wake_batch(interest::FORCED, &mut cursor) {}
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(gate.shards()[0].wakers.registered(), 0);
    });
}

/// Two that wait for force are both woken by it.
///
/// Seeded: `claim` that gives a slot that has an owner; `wake_batch` that ends after one; `happened`
/// asked before the lock is taken.
#[test]
fn force_wakes_all_who_wait() {
    check(|| {
        let gate = Gate::new(1, 0);
        let requests: Vec<_> = (0..2)
            .map(|_| {
                beside(&gate, |gate| {
                    wait_in(&gate.shards()[0], Slot::NONE, interest::FORCED)
                })
            })
            .collect();
        cut(&gate);
        requests.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// A future that has moved to another task is woken there.
///
/// Seeded: `register` that keeps the waker it has; that does not ask at the second time whether it
/// has happened.
#[test]
fn a_future_that_moves_is_woken_where_it_is() {
    check(|| {
        let gate = Gate::new(1, 0);
        let request = beside(&gate, |gate| {
            let shard = &gate.shards()[0];
            let mut slot = Slot::NONE;
            register(shard, &mut slot, &Waker::from(Arc::new(Woken::default())));
            wait_in(shard, slot, interest::FORCED);
        });
        cut(&gate);
        request.join().unwrap();
    });
}

/// Who waited for one thing and now waits for another is woken by that.
///
/// Seeded: `register` that keeps the events it has; that does not ask whether one of the new ones has
/// happened if the waker is the same.
#[test]
fn who_waits_for_something_else_is_woken_by_it() {
    check(|| {
        let gate = Gate::new(1, 0);
        let request = beside(&gate, |gate| {
            let (shard, mut slot) = (&gate.shards()[0], Slot::NONE);
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            assert!(shard.register(&mut slot, &waker, interest::DRAINING));
            (register(shard, &mut slot, &waker), woken)
        });
        cut(&gate);
        let (waits, woken) = request.join().unwrap();
        assert_eq!(woken.times(), usize::from(waits));
    });
}

/// Two that register again and give back leave nothing behind.
///
/// Seeded: `claim` that finds a new slot each time.
#[test]
fn registering_again_takes_no_second_slot() {
    check(|| {
        let gate = Gate::new(1, 0);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                beside(&gate, |gate| {
                    let shard = &gate.shards()[0];
                    let mut slot = Slot::NONE;
                    for _ in 0..2 {
                        let waker = Waker::from(Arc::new(Woken::default()));
                        assert!(register(shard, &mut slot, &waker));
                    }
                    shard.deregister(slot);
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(gate.shards()[0].wakers.registered(), 0);
    });
}

/// Slots that are given back at the same time are found again, each by one.
///
/// Seeded: `remove` that lets go of the lock between its two changes.
#[test]
fn a_slot_has_one_owner() {
    check(|| {
        let gate = Gate::new(1, 0);
        let owner = |gate: &Gate| {
            let (shard, mut slot) = (&gate.shards()[0], Slot::NONE);
            register(shard, &mut slot, Waker::noop());
            slot
        };
        let (first, second) = (owner(&gate), owner(&gate));
        let other = beside(&gate, move |gate| {
            gate.shards()[0].deregister(first);
            owner(gate);
        });
        gate.shards()[0].deregister(second);
        owner(&gate);
        other.join().unwrap();
        assert_eq!(gate.shards()[0].wakers.registered(), 2);
    });
}

/// Of two that force and wake at the same time, one wakes.
///
/// Seeded: `wake_batch` that clones the wakers and takes them out under a second lock.
#[test]
fn a_waker_is_woken_once() {
    check(|| {
        let gate = Gate::new(1, 0);
        let (woken, mut slot) = (Arc::new(Woken::default()), Slot::NONE);
        let waker = Waker::from(Arc::clone(&woken));
        assert!(register(&gate.shards()[0], &mut slot, &waker));
        let other = beside(&gate, cut);
        cut(&gate);
        other.join().unwrap();
        assert_eq!(woken.times(), 1);
    });
}
