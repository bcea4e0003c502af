//! Models of tasks that wait for milestones.

use super::*;

/// All tasks that wait for a milestone, or for any of several, are woken when it is reached.
///
/// Seeded: `reach` that wakes before it publishes; `wake_batch` that ends after one waker.
#[test]
fn a_milestone_wakes_all_who_wait() {
    check(|| {
        let gate = Lease::new(1, 0);
        let waiters = [event::FORCED, event::FORCED | event::STOPPED]
            .map(|events| beside(&gate, move |gate| wait_for(gate, events)));
        gate.milestones.reach(event::FORCED);
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// Dropping a waiter does not remove another one.
///
/// Seeded: `remove` that closes the gap in the slab; that also takes the wakers after its own.
#[test]
fn a_dropped_waiter_leaves_the_others() {
    check(|| {
        let gate = Lease::new(1, 0);
        let mut slots = [Slot::NONE, Slot::NONE];
        for slot in &mut slots {
            let (milestones, waker) = (gate.milestones(), Waker::noop());
            assert!(milestones.register(slot, waker, event::FORCED));
        }
        let waiter = beside(&gate, |gate| wait_for(gate, event::FORCED));
        let [first, second] = slots;
        let dropped = beside(&gate, move |gate| gate.milestones().deregister(first));
        gate.milestones().deregister(second);
        gate.milestones.reach(event::FORCED);
        waiter.join().unwrap();
        dropped.join().unwrap();
    });
}

/// If two threads reach a milestone, it is new to one of them. Neither undoes another milestone.
///
/// Seeded: `publish` that loads and then stores.
#[test]
fn a_milestone_is_new_once() {
    check(|| {
        let gate = Lease::new(1, 0);
        let other = beside(&gate, |gate| {
            gate.milestones.reach(event::CLEANUP);
            gate.milestones.reach(event::FORCED)
        });
        let is_new = gate.milestones.reach(event::FORCED);
        assert!(is_new != other.join().unwrap());
        assert!(gate.milestones.has(event::CLEANUP));
    });
}

/// `publish_unless` publishes nothing after the end.
///
/// Seeded: `publish_unless` that loads and then adds.
#[test]
fn nothing_is_published_after_the_end() {
    check(|| {
        let gate = Lease::new(1, 0);
        let force = beside(&gate, |gate| {
            let before = gate
                .milestones
                .publish_unless(event::STOPPED, event::FORCED);
            before.is_some()
        });
        gate.milestones.publish(event::STOPPED);
        let is_forced = gate.milestones.has(event::FORCED);
        assert_eq!(force.join().unwrap(), is_forced);
        assert_eq!(gate.milestones.has(event::FORCED), is_forced);
    });
}

/// A task that waits for an event is woken after others clear it to check again.
///
/// Seeded: `take_back` that loads and then stores; `publish_empty` that does not wake.
#[test]
fn what_is_taken_back_is_reached_again() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.pause());
        let other = beside(&gate, |gate| {
            gate.milestones.take_back(event::IDLE);
            gate.scan();
        });
        gate.milestones.reach(event::FORCED);
        wait_for(&gate, event::IDLE);
        other.join().unwrap();
        assert!(gate.milestones.has(event::IDLE) && gate.milestones.has(event::FORCED));
    });
}
