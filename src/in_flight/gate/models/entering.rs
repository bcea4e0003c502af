//! Entries and leaves, and what they meet.

use super::*;

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

/// Entries to one shard and leaves from it, at the same time, are all counted.
///
/// Seeded, each: `enter`, `enter_always` and `leave` that load the word and then store it.
#[test]
fn entries_and_leaves_are_all_counted() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// Phase bits that come and go touch no count, and no count touches them, neither in a shard nor in
/// `late`.
///
/// Seeded, each: `add`, `take` and the entry to `late` that load the word and then store it.
#[test]
fn turning_loses_no_entry() {
    for is_paused in [false, true] {
        check(move || {
            let gate = Gate::new(1, 0);
            assert!(!is_paused || gate.pause());
            let client = beside(&gate, move |gate| {
                let shard = &gate.shards()[0];
                assert!(shard.enter(|| ()) != is_paused);
                let counted_in = shard.enter_always(|_| ());
                assert_eq!(Arc::ptr_eq(&counted_in, shard), !is_paused);
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

/// P1 for a pause: after it nothing enters, nothing is alive when it is idle, and who is refused
/// finds it paused.
///
/// Seeded: `pause` that publishes itself after the shards are closed; `enter` as in the first model.
#[test]
fn nothing_is_alive_once_idle() {
    check(|| {
        let gate = Gate::new(1, 0);
        let alive = Arc::new(AtomicUsize::new(0));
        let client = {
            let alive = Arc::clone(&alive);
            beside(&gate, move |gate| {
                if !gate.shards()[0].enter(|| ()) {
                    assert!(gate.is_paused(), "refused by nobody");
                    return;
                }
                // Relaxed: the gate alone is to order these.
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

/// Invariant 4 for `late`: of the last one there and the last one of a shard, one announces it.
///
/// Seeded: the fence in `scan` left out.
#[test]
fn the_last_late_leave_wakes_who_waits() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// A refusal that comes and goes while one enters late hides the last leave from nobody.
///
/// Seeded: an undo that does not scan.
#[test]
fn a_refusal_does_not_hide_the_last_late_leave() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// Two that enter late at the same time are two.
///
/// Seeded: an entry to `late` that loads the word and then stores it.
#[test]
fn late_entries_are_all_counted() {
    check(|| {
        let gate = Gate::new(2, 0);
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

/// What may not be refused and meets the end of a pause is counted once, and holds the next pause.
///
/// Seeded: `unpause` that does not note the refusals.
#[test]
fn a_late_entry_may_meet_the_end_of_its_pause() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// Who enters while the gate is closed and forced is refused or cut, and cut also when it may not be
/// refused.
///
/// Seeded: `force` that leaves `late` out; `close` that leaves the last shard open.
#[test]
fn who_is_not_refused_is_cut() {
    for always in [false, true] {
        check(move || {
            let gate = Gate::new(2, 0);
            let client = beside(&gate, move |gate| {
                let shard = &gate.shards()[1];
                let counted_in = match always {
                    true => shard.enter_always(|_| ()),
                    false if shard.enter(|| ()) => Arc::clone(shard),
                    false => return,
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

/// How many were cut is known once it has drained.
///
/// Seeded: `leave` with `Relaxed`.
#[test]
fn who_was_cut_is_known_once_drained() {
    check(|| {
        let gate = Gate::new(2, 0);
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

/// Two that find the gate empty at the same time tell it once.
///
/// Seeded: `tell_empty` that does not ask again what is still to be published.
#[test]
fn idle_is_told_once() {
    check(|| {
        let gate = Gate::new(1, 0);
        gate.close();
        gate.milestones.reach(event::CLOSED);
        let other = beside(&gate, Gate::scan);
        gate.scan();
        other.join().unwrap();
        assert_eq!(gate.idles(), 1);
    });
}
