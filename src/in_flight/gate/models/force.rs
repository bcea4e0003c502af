//! Models of the registration for force.

use super::*;

/// Invariant 5: a registration either sees the force or is woken by it.
///
/// Seeded: `happened` called before the lock is taken; wakers taken before the bit is set.
#[test]
fn a_registration_meets_force_or_is_woken_by_it() {
    check(|| {
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
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

/// Invariant 5: the same for a caller that remembers its waker and takes no lock when it is polled
/// again.
///
/// Seeded: the bit set after the wakers are taken; the waker remembered before it is registered.
#[test]
fn a_registration_that_is_remembered_meets_force_or_is_woken_by_it() {
    check(|| {
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
        assert!(shard.enter(|| ()));
        let request = thread::spawn(move || {
            let mut slot = Slot::NONE;
            let mut remembered = Remembered::NONE;
            let mut forced = false;
            block_on(poll_fn(|cx| {
                // Twice, as when the task is woken for another reason.
                for _ in 0..2 {
                    // As in the layers, which check before they poll the inner future.
                    forced = forced || shard.is_forced();
                    forced =
                        forced || !shard.register_for_force(&mut slot, &mut remembered, cx.waker());
                }
                if forced {
                    Poll::Ready(())
                } else {
                    Poll::Pending
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

/// Two threads that register and deregister during a force leave the slab intact.
///
/// Seeded: `remove` that leaves the waker in the vacant entry.
#[test]
fn slots_are_given_back_while_force_takes_the_wakers() {
    check(|| {
        let gate = Lease::new(1, 0);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shard = &gate.shards()[0];
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

/// Two requests that wait for the force are both woken by it.
///
/// Seeded: `claim` that returns a slot that has an owner; `wake_batch` that ends after one waker;
/// `happened` called before the lock is taken.
#[test]
fn force_wakes_all_who_wait() {
    check(|| {
        let gate = Lease::new(1, 0);
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
/// Seeded: `register` that keeps the old waker; that does not call `happened` the second time.
#[test]
fn a_future_that_moves_is_woken_where_it_is() {
    check(|| {
        let gate = Lease::new(1, 0);
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

/// A task that waited for one event and now waits for another is woken by the new one.
///
/// Seeded: `register` that keeps the old events; that does not call `happened` if the waker is the
/// same.
#[test]
fn who_waits_for_something_else_is_woken_by_it() {
    check(|| {
        let gate = Lease::new(1, 0);
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

/// Two threads that register twice and deregister leave no slot behind.
///
/// Seeded: `claim` that takes a new slot each time.
#[test]
fn registering_again_takes_no_second_slot() {
    check(|| {
        let gate = Lease::new(1, 0);
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

/// Slots that are freed at the same time are reused, each by one owner.
///
/// Seeded: `remove` that releases the lock between its two changes.
#[test]
fn a_slot_has_one_owner() {
    check(|| {
        let gate = Lease::new(1, 0);
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

/// If two threads force and wake at the same time, only one wakes the waker.
///
/// Seeded: `wake_batch` that clones the wakers and takes them out under a second lock.
#[test]
fn a_waker_is_woken_once() {
    check(|| {
        let gate = Lease::new(1, 0);
        let (woken, mut slot) = (Arc::new(Woken::default()), Slot::NONE);
        let waker = Waker::from(Arc::clone(&woken));
        assert!(register(&gate.shards()[0], &mut slot, &waker));
        let other = beside(&gate, cut);
        cut(&gate);
        other.join().unwrap();
        assert_eq!(woken.times(), 1);
    });
}
