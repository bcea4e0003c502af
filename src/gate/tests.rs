//! Unit tests of the gate, and its loom models.
//!
//! The models are run with `RUSTFLAGS="--cfg tower_lifecycle_loom" cargo test --release --lib
//! gate::`. Each says which bug was once seeded to see it fail.

use super::*;

impl Gate {
    /// What a trigger does, without the controller.
    fn drain(&self) {
        self.close();
        self.milestones.reach(event::CLOSED);
        self.scan();
    }

    fn is_drained(&self) -> bool {
        self.milestones.has(event::DRAINED)
    }
}

#[cfg(not(tower_lifecycle_loom))]
mod unit {
    use super::shard::{ENTRY, ONE_ENTERED};
    use super::*;

    #[test]
    fn an_open_shard_admits_and_counts() {
        let gate = Gate::new(3, 0);
        assert_eq!(gate.shards().len(), 4, "a power of two");
        assert!(gate.shards()[0].enter(|| ()));
        assert!(gate.shards()[3].enter(|| ()));
        assert_eq!((gate.in_flight(), gate.admitted()), (2, 2));
        gate.shards()[3].leave();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 2));
    }

    #[test]
    fn a_refusal_leaves_no_trace_but_its_own_count() {
        let gate = Gate::new(1, 0);
        gate.drain();
        let before = gate.shards()[0].phase();
        assert!(!gate.shards()[0].enter(|| ()));
        gate.shards()[0].note_refused();
        assert_eq!(gate.shards()[0].phase() % ONE_ENTERED, before % ONE_ENTERED);
        assert_eq!(
            (gate.in_flight(), gate.admitted(), gate.refused()),
            (0, 0, 1)
        );
    }

    #[test]
    fn the_admitted_count_wraps_without_touching_the_rest() {
        let gate = Gate::new(1, 0);
        let shard = &gate.shards()[0];
        shard.word.store(u64::MAX << 32, Ordering::Relaxed);
        assert!(shard.enter(|| ()));
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 0));
        assert!(!shard.is_shedding() && !shard.is_closed() && !shard.is_forced());
    }

    #[test]
    fn a_refusal_that_outlasts_its_pause_is_not_counted_as_admitted() {
        for closed_for_good in [false, true] {
            let gate = Gate::new(1, 0);
            let shard = &gate.shards()[0];
            shard.word.store(u64::MAX << 32, Ordering::Relaxed);
            gate.pause();
            // The first half of an `enter`, whose thread is held up.
            assert_ne!(shard.word.fetch_add(ENTRY, Ordering::Relaxed) & CLOSED, 0);
            gate.unpause();
            assert_eq!(gate.admitted(), u64::from(u32::MAX));
            assert!(shard.enter(|| ()));
            if closed_for_good {
                gate.drain();
            } else {
                gate.pause();
            }
            assert_eq!(gate.admitted(), 0, "it wraps");
            shard.undo_entry();
            shard.leave();
            assert_eq!((gate.in_flight(), gate.admitted()), (0, 0));
            assert!(gate.milestones.has(event::IDLE));
        }
    }

    #[test]
    fn drained_comes_with_the_last_one_and_not_before_draining() {
        let gate = Gate::new(2, 0);
        assert!(gate.shards()[0].enter(|| ()));
        assert!(gate.shards()[1].enter(|| ()));
        gate.shards()[0].leave();
        gate.drain();
        assert!(!gate.is_drained());
        gate.shards()[1].leave();
        assert!(gate.is_drained());
    }

    #[test]
    fn what_enters_late_is_counted_and_waited_for() {
        let gate = Gate::new(1, 0);
        let shard = &gate.shards()[0];
        assert!(shard.enter(|| ()));
        gate.drain();
        let late = shard.enter_always(|| ());
        assert!(Arc::ptr_eq(&late, &gate.late));
        shard.leave();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 2));
        assert!(!gate.is_drained());
        late.leave();
        assert!(gate.is_drained());
    }

    #[test]
    fn a_pause_refuses_and_ends_without_a_trace() {
        let gate = Gate::new(2, 0);
        assert!(gate.shards()[0].enter(|| ()));
        assert!(gate.pause() && !gate.pause());
        assert!(gate.is_paused() && gate.shards()[1].is_paused());
        assert!(!gate.shards()[1].enter(|| ()));
        assert!(!gate.shards()[1].is_draining() && !gate.shards()[1].is_shedding());
        assert!(!gate.milestones.has(event::IDLE));
        gate.shards()[0].leave();
        assert!(gate.milestones.has(event::IDLE));
        assert!(gate.unpause() && !gate.unpause());
        assert!(!gate.is_paused() && !gate.milestones.has(event::IDLE));
        assert!(gate.shards()[1].enter(|| ()));
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 2));
        assert!(!gate.is_drained());
    }

    #[test]
    fn what_is_tracked_while_paused_is_counted_and_holds_idle() {
        let gate = Gate::new(2, 0);
        gate.pause();
        assert!(gate.milestones.has(event::IDLE));
        let late = gate.shards()[0].enter_always(|| ());
        gate.milestones.take_back(event::IDLE);
        gate.scan();
        assert!(!gate.milestones.has(event::IDLE));
        gate.unpause();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 1));
        gate.pause();
        assert!(!gate.milestones.has(event::IDLE));
        late.leave();
        assert!(gate.milestones.has(event::IDLE));
    }

    #[test]
    fn a_pause_ends_with_the_closing_and_not_before_it() {
        let gate = Gate::new(1, 0);
        gate.pause();
        gate.drain();
        assert!(gate.is_drained(), "idle before it, and drained now");
        assert!(!gate.is_paused());
        assert!(!gate.unpause() && !gate.pause());
        assert!(!gate.shards()[0].enter(|| ()));
        gate.unshed();
        assert!(gate.shards()[0].is_shedding());
    }

    /// Enters as a request of the layers does, and tells whether it was taken for a late arrival.
    fn arrives(shard: &Arc<Shard>, always: bool) -> bool {
        let mut arrived = false;
        if always {
            shard.enter_always(|| arrived = true);
        } else {
            shard.enter(|| arrived = true);
        }
        arrived
    }

    #[test]
    fn who_enters_arrives_late_in_a_lame_duck_only() {
        let gate = Gate::new(1, 0);
        let shard = &gate.shards()[0];
        let arrive = || (arrives(shard, false), arrives(shard, true));
        assert_eq!(arrive(), (false, false));
        gate.pause();
        assert_eq!(arrive(), (false, false));
        gate.unpause();
        gate.shed();
        assert_eq!(arrive(), (true, true));
        gate.pause();
        assert_eq!(arrive(), (false, true), "one is refused, and the other not");
        gate.unpause();
        gate.unshed();
        assert_eq!(arrive(), (false, false));
        gate.shed();
        gate.drain();
        assert_eq!(arrive(), (false, false));
        assert_eq!(gate.in_flight(), 9, "twelve, less three that were refused");
    }

    #[test]
    fn arrivals_are_added_up_and_the_last_one_is_of_any_shard() {
        let gate = Gate::new(4, 0);
        assert_eq!(gate.arrivals(), (0, 0));
        for (shard, at) in [(1, 30), (1, 20), (3, 10)] {
            gate.shards()[shard].note_arrival(at);
        }
        assert_eq!(gate.arrivals(), (3, 30));
        gate.shards()[2].note_arrival(40);
        assert_eq!(gate.arrivals(), (4, 40));
        gate.forget_arrivals();
        assert_eq!(gate.arrivals(), (0, 0));
    }

    #[test]
    fn a_shard_outlives_its_gate() {
        let gate = Gate::new(1, 0);
        let shard = Arc::clone(&gate.shards()[0]);
        gate.drain();
        drop(gate);
        assert!(!shard.enter(|| ()));
        shard.enter_always(|| ()).leave();
        assert_eq!(shard.in_flight(), 0);
    }
}

#[cfg(tower_lifecycle_loom)]
mod model {
    use std::future::poll_fn;
    use std::task::Poll;

    use loom::future::block_on;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;
    use crate::wakers::Slot;

    fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        // Enough for every bug that was seeded; without a bound the larger models take hours.
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
        builder.check(model);
    }

    /// Waits as `Wait` does. A wake-up that is lost shows as a deadlock.
    fn wait_for(gate: &Gate, events: u32) {
        let mut slot = Slot::NONE;
        block_on(poll_fn(|cx| {
            let milestones = gate.milestones();
            if milestones.has(events) || !milestones.register(&mut slot, cx.waker(), events) {
                return Poll::Ready(());
            }
            Poll::Pending
        }));
        gate.milestones().deregister(slot.take());
    }

    /// P1: after `close` nothing enters, and nothing is alive when it has drained.
    ///
    /// Seeded: `enter` that loads the word and then adds, instead of asking the addition.
    #[test]
    fn nothing_is_alive_once_drained() {
        check(|| {
            let gate = Gate::new(2, 0);
            let alive = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let shard = Arc::clone(&gate.shards()[index]);
                    let alive = Arc::clone(&alive);
                    thread::spawn(move || {
                        if shard.enter(|| ()) {
                            // Relaxed: the gate alone is to order these.
                            alive.fetch_add(1, Ordering::Relaxed);
                            alive.fetch_sub(1, Ordering::Relaxed);
                            shard.leave();
                        }
                    })
                })
                .collect();
            gate.drain();
            assert!(!gate.shards()[0].enter(|| ()));
            wait_for(&gate, event::DRAINED);
            assert_eq!(alive.load(Ordering::Relaxed), 0);
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(alive.load(Ordering::Relaxed), 0);
        });
    }

    /// P3: of two that leave different shards at the same time, one announces it.
    ///
    /// Seeded: `scan` before `CLOSED` is published; a `leave` that does not scan.
    #[test]
    fn the_last_leave_wakes_who_waits() {
        check(|| {
            let gate = Gate::new(2, 0);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let shard = Arc::clone(&gate.shards()[index]);
                    assert!(shard.enter(|| ()));
                    thread::spawn(move || shard.leave())
                })
                .collect();
            gate.drain();
            wait_for(&gate, event::DRAINED);
            assert_eq!(gate.in_flight(), 0);
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    /// A refusal that comes and goes while others leave hides the last leave from nobody.
    ///
    /// Seeded: an undo that does not scan; the fence in `scan` left out.
    #[test]
    fn a_refusal_does_not_hide_the_last_leave() {
        check(|| {
            let gate = Gate::new(2, 0);
            let last = Arc::clone(&gate.shards()[1]);
            assert!(last.enter(|| ()));
            gate.drain();
            let refused = Arc::clone(&gate.shards()[0]);
            let threads = [
                thread::spawn(move || last.leave()),
                thread::spawn(move || assert!(!refused.enter(|| ()))),
            ];
            wait_for(&gate, event::DRAINED);
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(gate.in_flight(), 0);
        });
    }

    /// Invariant 2: what enters a closed shard and may not be refused is never missed, while
    /// another one is in flight all the time.
    ///
    /// Seeded: no `late` shard, that is, counting in the closed shard; `late` looked at before the
    /// shards; the fence in `scan` left out.
    #[test]
    fn a_late_entry_holds_the_drain() {
        check(|| {
            let gate = Gate::new(2, 0);
            let held = Arc::clone(&gate.shards()[1]);
            assert!(held.enter(|| ()));
            let worker = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let shard = Arc::clone(&gate.shards()[0]);
                    let late = shard.enter_always(|| ());
                    held.leave();
                    assert!(!gate.is_drained(), "drained with one in flight");
                    late.leave();
                })
            };
            gate.drain();
            wait_for(&gate, event::DRAINED);
            assert_eq!(gate.in_flight(), 0);
            worker.join().unwrap();
        });
    }

    /// Who came in the lame duck is known once it has drained, and nobody of an earlier one.
    ///
    /// Seeded: the arrivals forgotten after the shedding has begun; noted after the leave; `arrivals`
    /// that asks for the count last.
    #[test]
    fn late_arrivals_are_known_once_drained() {
        check(|| {
            let gate = Gate::new(2, 0);
            gate.shards()[0].note_arrival(9);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let shard = Arc::clone(&gate.shards()[index]);
                    thread::spawn(move || {
                        let mut arrived = 0;
                        let note = || {
                            shard.note_arrival(1);
                            arrived = 1;
                        };
                        if shard.enter(note) {
                            shard.leave();
                        }
                        arrived
                    })
                })
                .collect();
            gate.forget_arrivals();
            gate.shed();
            let (count, last) = gate.arrivals();
            assert!(count == 0 || last == 1, "counted, but not when");
            gate.drain();
            wait_for(&gate, event::DRAINED);
            let (count, last) = gate.arrivals();
            let arrived: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
            assert_eq!((count, last), (arrived, u64::from(arrived > 0)));
        });
    }

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

    /// What was done in flight is seen by who is told that it drained.
    ///
    /// Seeded: `leave` with `Relaxed`.
    #[test]
    fn drained_publishes_what_was_done_in_flight() {
        check(|| {
            let gate = Gate::new(1, 0);
            let work = Arc::new(loom::cell::UnsafeCell::new(0));
            let shard = Arc::clone(&gate.shards()[0]);
            assert!(shard.enter(|| ()));
            let worker = {
                let work = Arc::clone(&work);
                thread::spawn(move || {
                    work.with_mut(|_| ());
                    shard.leave();
                })
            };
            gate.drain();
            wait_for(&gate, event::DRAINED);
            work.with(|_| ());
            worker.join().unwrap();
        });
    }

    /// Who is refused sees what led to the closing, such as the notice that turns readiness red.
    ///
    /// Seeded: `add` with `Relaxed`.
    #[test]
    fn a_refusal_sees_what_led_to_it() {
        check(|| {
            let gate = Gate::new(1, 0);
            let notice = Arc::new(loom::cell::UnsafeCell::new(0));
            let client = {
                let (gate, notice) = (Arc::clone(&gate), Arc::clone(&notice));
                thread::spawn(move || {
                    if gate.shards()[0].enter(|| ()) {
                        gate.shards()[0].leave();
                    } else {
                        notice.with(|_| ());
                    }
                })
            };
            notice.with_mut(|_| ());
            gate.close();
            client.join().unwrap();
        });
    }

    /// Invariant 4 for a pause: who leaves while it begins is announced by one of the two.
    ///
    /// Seeded: `pause` that does not scan, or scans before it has closed.
    #[test]
    fn the_last_leave_of_a_pause_wakes_who_waits() {
        check(|| {
            let gate = Gate::new(2, 0);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let shard = Arc::clone(&gate.shards()[index]);
                    assert!(shard.enter(|| ()));
                    thread::spawn(move || shard.leave())
                })
                .collect();
            assert!(gate.pause());
            wait_for(&gate, event::IDLE);
            assert_eq!(gate.in_flight(), 0);
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    /// Invariant 7: a slow scan of an earlier pause does not tell of a later one, in which something
    /// is in flight.
    ///
    /// Seeded: `tell_empty` that does not compare the openings; `unpause` that leaves `IDLE` as it is.
    #[test]
    fn idle_is_of_this_pause() {
        check(|| {
            let gate = Gate::new(1, 0);
            let shard = Arc::clone(&gate.shards()[0]);
            assert!(shard.enter(|| ()));
            let first = thread::spawn(move || shard.leave());
            assert!(gate.pause());
            assert!(gate.unpause());
            let admitted = gate.shards()[0].enter(|| ());
            assert!(admitted, "open again");
            assert!(gate.pause());
            // Not asked before it has told whatever it has to tell.
            first.join().unwrap();
            assert!(!gate.milestones.has(event::IDLE), "idle with one in flight");
            gate.shards()[0].leave();
            wait_for(&gate, event::IDLE);
        });
    }

    /// Invariant 7 for the closing: a slow scan of a pause does not tell that it has drained.
    ///
    /// Seeded: as above.
    #[test]
    fn drained_is_not_of_an_earlier_pause() {
        check(|| {
            let gate = Gate::new(1, 0);
            let shard = Arc::clone(&gate.shards()[0]);
            assert!(shard.enter(|| ()));
            let first = thread::spawn(move || shard.leave());
            assert!(gate.pause());
            assert!(gate.unpause());
            assert!(gate.shards()[0].enter(|| ()), "open again");
            gate.drain();
            first.join().unwrap();
            assert!(!gate.is_drained(), "drained with one in flight");
            gate.shards()[0].leave();
            wait_for(&gate, event::DRAINED);
        });
    }

    /// What enters while paused and may not be refused holds `IDLE`, while another one is in flight
    /// all the time.
    ///
    /// Seeded: counting in the paused shard, and not in `late`; `late` looked at before the shards.
    #[test]
    fn a_late_entry_holds_idle() {
        check(|| {
            let gate = Gate::new(2, 0);
            let held = Arc::clone(&gate.shards()[1]);
            assert!(held.enter(|| ()));
            let worker = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let shard = Arc::clone(&gate.shards()[0]);
                    let late = shard.enter_always(|| ());
                    held.leave();
                    assert!(!gate.milestones.has(event::IDLE), "idle with one in flight");
                    late.leave();
                })
            };
            assert!(gate.pause());
            wait_for(&gate, event::IDLE);
            assert_eq!(gate.in_flight(), 0);
            worker.join().unwrap();
        });
    }

    /// A pause that ends while the gate is closed for good does not open it.
    ///
    /// Seeded: `unpause` that does not ask whether it is closed for good.
    #[test]
    fn unpausing_does_not_open_what_is_closed_for_good() {
        check(|| {
            let gate = Gate::new(2, 0);
            assert!(gate.pause());
            let unpause = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.unpause())
            };
            gate.drain();
            assert!(!gate.shards()[0].enter(|| ()) && !gate.shards()[1].enter(|| ()));
            unpause.join().unwrap();
            assert!(!gate.shards()[0].enter(|| ()) && !gate.shards()[1].enter(|| ()));
            assert!(gate.is_drained());
        });
    }

    /// A refusal that begins in a pause and is undone after it, or after the closing that follows,
    /// leaves the count right and the drain prompt.
    ///
    /// Seeded: `unpause` that does not note the refusals.
    #[test]
    fn a_refusal_may_outlast_its_pause() {
        check(|| {
            let gate = Gate::new(1, 0);
            assert!(gate.pause());
            let client = {
                let shard = Arc::clone(&gate.shards()[0]);
                thread::spawn(move || {
                    let admitted = shard.enter(|| ());
                    if admitted {
                        shard.leave();
                    }
                    u64::from(admitted)
                })
            };
            assert!(gate.unpause());
            gate.drain();
            wait_for(&gate, event::DRAINED);
            let admitted = client.join().unwrap();
            assert_eq!(gate.in_flight(), 0);
            assert_eq!(gate.admitted(), admitted);
        });
    }

    /// Who is admitted again sees what was done while nobody was.
    ///
    /// Seeded: `take` with `Relaxed`.
    #[test]
    fn an_admission_sees_what_was_done_in_the_pause() {
        check(|| {
            let gate = Gate::new(1, 0);
            let schema = Arc::new(loom::cell::UnsafeCell::new(0));
            assert!(gate.pause());
            let client = {
                let (gate, schema) = (Arc::clone(&gate), Arc::clone(&schema));
                thread::spawn(move || {
                    if gate.shards()[0].enter(|| ()) {
                        schema.with(|_| ());
                        gate.shards()[0].leave();
                    }
                })
            };
            schema.with_mut(|_| ());
            assert!(gate.unpause());
            client.join().unwrap();
        });
    }
}
