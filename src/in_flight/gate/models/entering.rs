//! Models of entries and leaves, concurrent with other operations.

use super::*;

/// P1: after `close` nothing enters, and nothing is in flight when the gate has drained.
///
/// Seeded: `enter` that loads the word and then adds, instead of using the result of the addition.
#[test]
fn nothing_is_alive_once_drained() {
    check(|| {
        let gate = Lease::new(2, 0);
        let alive = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let shard = &gate.shards()[index];
                let alive = Arc::clone(&alive);
                thread::spawn(move || {
                    if shard.enter(|| ()) {
                        // Relaxed: only the gate may order these.
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

/// P3: if two entries leave different shards at the same time, one of them publishes the drain.
///
/// Seeded: `scan` before `CLOSED` is published; a `leave` that does not scan.
#[test]
fn the_last_leave_wakes_who_waits() {
    check(|| {
        let gate = Lease::new(2, 0);
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let shard = &gate.shards()[index];
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

/// A refusal that comes and goes while others leave does not hide the last leave.
///
/// Seeded: an undo that does not scan; no fence in `scan`.
#[test]
fn a_refusal_does_not_hide_the_last_leave() {
    check(|| {
        let gate = Lease::new(2, 0);
        let last = &gate.shards()[1];
        assert!(last.enter(|| ()));
        gate.drain();
        let refused = &gate.shards()[0];
        let threads = [
            thread::spawn(move || last.leave()),
            thread::spawn(move || assert!(!refused.enter(|| ()))),
        ];
        wait_for(&gate, event::DRAINED);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(gate.in_flight(), 0);
    });
}

/// Invariant 2: an entry that finds its shard closed and must not be refused is never missed, while
/// another one is in flight all the time.
///
/// Seeded: no `late` shard (counted in the closed shard); `late` checked before the shards; no
/// fence in `scan`.
#[test]
fn a_late_entry_holds_the_drain() {
    check(|| {
        let gate = Lease::new(2, 0);
        let held = &gate.shards()[1];
        assert!(held.enter(|| ()));
        let worker = {
            let gate = gate.clone();
            thread::spawn(move || {
                let shard = &gate.shards()[0];
                let late = shard.enter_always(|_| ());
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

/// Once the gate has drained, the arrivals in the lame duck are known, and do not include those of
/// an earlier lame duck.
///
/// Seeded: the arrivals forgotten after the shedding has begun; noted after the leave; `arrivals`
/// that loads the count last.
#[test]
fn late_arrivals_are_known_once_drained() {
    check(|| {
        let gate = Lease::new(2, 0);
        gate.shards()[0].note_arrival(9);
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let shard = &gate.shards()[index];
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

/// A waiter for the drain sees what was done in flight.
///
/// Seeded: `leave` with `Relaxed`.
#[test]
fn drained_publishes_what_was_done_in_flight() {
    check(|| {
        let gate = Lease::new(1, 0);
        let work = Arc::new(loom::cell::UnsafeCell::new(0));
        let shard = &gate.shards()[0];
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

/// A refused request sees what came before the closing, such as the notice that turns readiness
/// red.
///
/// Seeded: `set_phase` with `Relaxed`.
#[test]
fn a_refusal_sees_what_led_to_it() {
    check(|| {
        let gate = Lease::new(1, 0);
        let notice = Arc::new(loom::cell::UnsafeCell::new(0));
        let client = {
            let (gate, notice) = (gate.clone(), Arc::clone(&notice));
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

/// Invariant 4 for a pause: if the last entry leaves while a pause begins, one of the two publishes
/// `IDLE`.
///
/// Seeded: `pause` that does not scan, or scans before it has closed.
#[test]
fn the_last_leave_of_a_pause_wakes_who_waits() {
    check(|| {
        let gate = Lease::new(2, 0);
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let shard = &gate.shards()[index];
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

/// Invariant 8: a slow scan of an earlier pause publishes nothing in a later one, in which
/// something is in flight.
///
/// Seeded: `publish_empty` that does not compare the openings; `unpause` that does not clear
/// `IDLE`.
#[test]
fn idle_is_of_this_pause() {
    check(|| {
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
        assert!(shard.enter(|| ()));
        let first = thread::spawn(move || shard.leave());
        assert!(gate.pause());
        assert!(gate.unpause());
        let admitted = gate.shards()[0].enter(|| ());
        assert!(admitted, "open again");
        assert!(gate.pause());
        // Checked after the slow scan has ended.
        first.join().unwrap();
        assert!(!gate.milestones.has(event::IDLE), "idle with one in flight");
        gate.shards()[0].leave();
        wait_for(&gate, event::IDLE);
    });
}

/// Invariant 8 for the closing: a slow scan of a pause does not publish `DRAINED`.
///
/// Seeded: as above.
#[test]
fn drained_is_not_of_an_earlier_pause() {
    check(|| {
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
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

/// An entry that enters while paused and must not be refused holds `IDLE` back, while another one
/// is in flight all the time.
///
/// Seeded: counted in the paused shard instead of `late`; `late` checked before the shards.
#[test]
fn a_late_entry_holds_idle() {
    check(|| {
        let gate = Lease::new(2, 0);
        let held = &gate.shards()[1];
        assert!(held.enter(|| ()));
        let worker = {
            let gate = gate.clone();
            thread::spawn(move || {
                let shard = &gate.shards()[0];
                let late = shard.enter_always(|_| ());
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

/// A pause that ends while the gate is closed for good does not reopen it.
///
/// Seeded: `unpause` that does not check whether the gate is closed for good.
#[test]
fn unpausing_does_not_open_what_is_closed_for_good() {
    check(|| {
        let gate = Lease::new(2, 0);
        assert!(gate.pause());
        let unpause = {
            let gate = gate.clone();
            thread::spawn(move || gate.unpause())
        };
        gate.drain();
        assert!(!gate.shards()[0].enter(|| ()) && !gate.shards()[1].enter(|| ()));
        unpause.join().unwrap();
        assert!(!gate.shards()[0].enter(|| ()) && !gate.shards()[1].enter(|| ()));
        assert!(gate.is_drained());
    });
}

/// A refusal that begins in a pause and is undone after it, or after the closing that follows, does
/// not distort the count or delay the drain.
///
/// Seeded: `unpause` that does not note the refusals.
#[test]
fn a_refusal_may_outlast_its_pause() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.pause());
        let client = {
            let shard = &gate.shards()[0];
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

/// An entry that is admitted after a pause sees what was done during the pause.
///
/// Seeded: `clear_phase` with `Relaxed`.
#[test]
fn an_admission_sees_what_was_done_in_the_pause() {
    check(|| {
        let gate = Lease::new(1, 0);
        let schema = Arc::new(loom::cell::UnsafeCell::new(0));
        assert!(gate.pause());
        let client = {
            let (gate, schema) = (gate.clone(), Arc::clone(&schema));
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

/// Concurrent entries to and leaves from one shard are all counted.
///
/// Seeded, one at a time: `enter`, `enter_always` and `leave` that load the word and then store it.
#[test]
fn entries_and_leaves_are_all_counted() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.shards()[0].enter(|| ()));
        let threads = [
            beside(&gate, |gate| {
                assert!(gate.shards()[0].enter(|| ()));
                gate.shards()[0].leave();
            }),
            beside(&gate, |gate| {
                gate.shards()[0].enter_always(|_| ());
                gate.shards()[0].leave();
            }),
        ];
        assert!(gate.shards()[0].enter(|| ()));
        gate.shards()[0].leave();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 4));
    });
}

/// Changes of phase bits and changes of the counts do not affect each other, neither in a shard nor
/// in `late`.
///
/// Seeded, one at a time: `set_phase`, `clear_phase` and the entry to `late` that load the word and
/// then store it.
#[test]
fn turning_loses_no_entry() {
    for is_paused in [false, true] {
        check(move || {
            let gate = Lease::new(1, 0);
            assert!(!is_paused || gate.pause());
            let client = beside(&gate, move |gate| {
                let shard = &gate.shards()[0];
                assert!(shard.enter(|| ()) != is_paused);
                let counted_in = shard.enter_always(|_| ());
                assert_eq!(std::ptr::eq(counted_in, shard), !is_paused);
                shard.enter_always(|_| ());
                counted_in.leave();
            });
            gate.shed();
            gate.unshed();
            gate.force();
            client.join().unwrap();
            let admitted = if is_paused { 2 } else { 3 };
            assert_eq!(
                (gate.in_flight(), gate.admitted()),
                (admitted - 1, admitted)
            );
            let mut phases = gate.all_shards().map(|shard| shard.phase());
            assert!(phases.all(|phase| phase & (FORCED | SHEDDING) == FORCED));
        });
    }
}

/// P1 for a pause: nothing enters after it, nothing is in flight when it is idle, and a refused
/// request finds it paused.
///
/// Seeded: `pause` that publishes `PAUSED` after the shards are closed; `enter` as in the first
/// model.
#[test]
fn nothing_is_alive_once_idle() {
    check(|| {
        let gate = Lease::new(1, 0);
        let alive = Arc::new(AtomicUsize::new(0));
        let client = {
            let alive = Arc::clone(&alive);
            beside(&gate, move |gate| {
                if !gate.shards()[0].enter(|| ()) {
                    assert!(gate.is_paused(), "refused although not paused");
                    return;
                }
                // Relaxed: only the gate may order these.
                alive.fetch_add(1, Ordering::Relaxed);
                alive.fetch_sub(1, Ordering::Relaxed);
                gate.shards()[0].leave();
            })
        };
        assert!(gate.pause());
        wait_for(&gate, event::IDLE);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        client.join().unwrap();
    });
}

/// Invariant 4 for `late`: if the last entry of `late` and the last entry of a shard leave at the
/// same time, one of them publishes the drain.
///
/// Seeded: no fence in `scan`.
#[test]
fn the_last_late_leave_wakes_who_waits() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.shards()[0].enter(|| ()));
        gate.drain();
        let late = gate.shards()[0].enter_always(|_| ());
        let threads = [
            beside(&gate, |gate| gate.shards()[0].leave()),
            thread::spawn(move || late.leave()),
        ];
        wait_for(&gate, event::DRAINED);
        assert_eq!(gate.in_flight(), 0);
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// A refusal that comes and goes while another entry enters `late` does not hide the last leave.
///
/// Seeded: an undo that does not scan.
#[test]
fn a_refusal_does_not_hide_the_last_late_leave() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.shards()[0].enter(|| ()));
        gate.drain();
        let threads = [
            beside(&gate, |gate| gate.shards()[0].enter_always(|_| ()).leave()),
            beside(&gate, |gate| assert!(!gate.shards()[0].enter(|| ()))),
        ];
        gate.shards()[0].leave();
        wait_for(&gate, event::DRAINED);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!((gate.in_flight(), gate.admitted()), (0, 2));
    });
}

/// Two entries that enter `late` at the same time are both counted.
///
/// Seeded: an entry to `late` that loads the word and then stores it.
#[test]
fn late_entries_are_all_counted() {
    check(|| {
        let gate = Lease::new(2, 0);
        gate.close();
        let threads: Vec<_> = (0..2)
            .map(|index| beside(&gate, move |gate| gate.shards()[index].enter_always(|_| ())))
            .collect();
        let late = threads.into_iter().map(|t| t.join().unwrap());
        let late: Vec<_> = late.collect();
        assert_eq!((gate.in_flight(), gate.admitted()), (2, 2));
        gate.drain();
        late[0].leave();
        assert!(!gate.is_drained(), "drained with one in flight");
        late[1].leave();
        assert!(gate.is_drained());
    });
}

/// An entry that must not be refused and enters as a pause ends is counted once, and holds the next
/// pause back.
///
/// Seeded: `unpause` that does not note the refusals.
#[test]
fn a_late_entry_may_meet_the_end_of_its_pause() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.pause());
        let client = beside(&gate, |gate| gate.shards()[0].enter_always(|_| ()));
        assert!(gate.unpause());
        let entered_in = client.join().unwrap();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 1));
        assert!(gate.pause());
        assert!(!gate.milestones.has(event::IDLE), "idle with one in flight");
        entered_in.leave();
        assert!(gate.milestones.has(event::IDLE));
    });
}

/// An entry during a close and a force is refused or cut. An entry that must not be refused is cut.
///
/// Seeded: `force` that leaves `late` out; `close` that leaves the last shard open.
#[test]
fn who_is_not_refused_is_cut() {
    for always in [false, true] {
        check(move || {
            let gate = Lease::new(2, 0);
            let client = beside(&gate, move |gate| {
                let shard = &gate.shards()[1];
                let counted_in = if always {
                    shard.enter_always(|_| ())
                } else if shard.enter(|| ()) {
                    shard
                } else {
                    return;
                };
                wait_in(&counted_in, Slot::NONE, interest::FORCED);
                counted_in.leave();
            });
            gate.drain();
            cut(&gate);
            assert!(!gate.shards()[1].enter(|| ()));
            wait_for(&gate, event::DRAINED);
            client.join().unwrap();
        });
    }
}

/// The number of cut entries is known once the gate has drained.
///
/// Seeded: `leave` with `Relaxed`.
#[test]
fn who_was_cut_is_known_once_drained() {
    check(|| {
        let gate = Lease::new(2, 0);
        assert!(gate.shards().iter().all(|shard| shard.enter(|| ())));
        gate.drain();
        let requests = [0, 1].map(|index| {
            beside(&gate, move |gate| {
                let shard = &gate.shards()[index];
                let is_cut = shard.is_forced();
                if is_cut {
                    shard.note_aborted();
                }
                shard.leave();
                u64::from(is_cut)
            })
        });
        gate.force();
        wait_for(&gate, event::DRAINED);
        let aborted = gate.aborted();
        let cut = requests.into_iter().map(|t| t.join().unwrap());
        assert_eq!(aborted, cut.sum::<u64>());
    });
}

/// If two scans find the gate empty at the same time, one of them publishes it.
///
/// Seeded: `publish_empty` that does not check again what is still to be published.
#[test]
fn idle_is_told_once() {
    check(|| {
        let gate = Lease::new(1, 0);
        gate.close();
        gate.milestones.reach(event::CLOSED);
        let other = beside(&gate, Gate::scan);
        gate.scan();
        other.join().unwrap();
        assert_eq!(gate.idles(), 1);
    });
}
