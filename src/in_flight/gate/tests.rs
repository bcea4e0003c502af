//! Unit tests of the gate. Concurrent operations are tested in `models.rs`.

use super::*;

impl Gate {
    /// Drains as a trigger does, without the controller.
    pub(super) fn drain(&self) {
        self.close();
        self.milestones.reach(event::CLOSED);
        self.scan();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.milestones.has(event::DRAINED)
    }
}

#[cfg(not(tower_lifecycle_loom))]
mod unit {
    use std::ptr;

    use super::shard::{ENTRY, ONE_ENTERED};
    use super::*;

    /// The count and the wakers of a thread share two cache lines with nothing else.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_shard_fills_its_two_cache_lines_and_no_more() {
        assert_eq!(size_of::<Shard>(), 128);
    }

    #[test]
    fn an_open_shard_admits_and_counts() {
        let gate = Lease::new(3, 0);
        assert_eq!(gate.shards().len(), 4, "a power of two");
        assert!(gate.shards()[0].enter(|| ()));
        assert!(gate.shards()[3].enter(|| ()));
        assert_eq!((gate.in_flight(), gate.admitted()), (2, 2));
        gate.shards()[3].leave();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 2));
    }

    #[test]
    fn a_refusal_leaves_no_trace_but_its_own_count() {
        let gate = Lease::new(1, 0);
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

    /// Returns a gate that `entered` entries have entered and left.
    fn after(entered: u64) -> Lease {
        let gate = Lease::new(1, 0);
        let word = &gate.shards()[0].word;
        word.store(entered * ONE_ENTERED, Ordering::Relaxed);
        gate
    }

    /// Half of what the top field of the word can hold, which is carried, and all of it.
    const HALF: u64 = 1 << 31;
    const ALL: u64 = u32::MAX as u64;

    #[test]
    fn the_admitted_count_does_not_wrap() {
        let enter: [fn(&'static Shard); 2] = [
            |shard| assert!(shard.enter(|| panic!("not a late arrival"))),
            |shard| _ = shard.enter_always(|_| panic!("not a late arrival")),
        ];
        for enter in enter {
            let gate = Lease::new(1, 0);
            let shard = &gate.shards()[0];
            let mut admitted = 0;
            // The sum is more than three times what the field can hold.
            for jump in [HALF - 2, HALF - 1, HALF, HALF - 3, HALF - 1, HALF - 4, HALF] {
                let before = shard.word.fetch_add(jump * ONE_ENTERED, Ordering::Relaxed);
                assert!(
                    before / ONE_ENTERED + jump <= ALL,
                    "as if they entered one by one"
                );
                admitted += jump;
                for in_flight in 1..=5 {
                    enter(shard);
                    admitted += 1;
                    assert_eq!((gate.admitted(), gate.in_flight()), (admitted, in_flight));
                }
                (0..5).for_each(|_| shard.leave());
            }
            assert!(!shard.is_shedding() && !shard.is_closed() && !shard.is_forced());
        }
    }

    #[test]
    fn the_count_of_late_entries_does_not_wrap() {
        let gate = Lease::new(1, 0);
        gate.begin_drain(true);
        let set = |entered| {
            let phase = gate.late.phase() % ONE_ENTERED;
            let word = entered * ONE_ENTERED + phase;
            gate.late.word.store(word, Ordering::Relaxed);
        };
        let shard = &gate.shards()[0];
        set(HALF);
        let request = shard.enter_late().expect("it is served");
        assert_eq!((gate.admitted(), gate.in_flight()), (HALF + 1, 1));
        request.leave();
        set(HALF);
        let tracked = shard.enter_always(|_| ());
        assert_eq!((gate.admitted(), gate.in_flight()), (2 * HALF + 1, 1));
        tracked.leave();
        set(ALL - 1);
        assert_eq!(gate.admitted(), 2 * HALF + ALL - 1);
    }

    #[test]
    fn refusals_do_not_make_the_admitted_count_wrap() {
        let gate = after(HALF - 2);
        let shard = &gate.shards()[0];
        gate.pause();
        (0..4).for_each(|_| assert!(!shard.enter(|| ())));
        assert_eq!((gate.in_flight(), gate.admitted()), (0, HALF - 2));
        gate.unpause();
        assert_eq!(gate.admitted(), HALF - 2);
        assert!(shard.enter(|| ()));
        gate.drain();
        assert!(!shard.enter(|| ()));
        assert_eq!((gate.in_flight(), gate.admitted()), (1, HALF - 1));
    }

    #[test]
    fn a_late_request_that_is_refused_was_never_counted_as_admitted() {
        let gate = Lease::new(1, 0);
        gate.begin_drain(false);
        // Refused without touching the top field, so no reader has seen it as admitted.
        assert!(gate.shards()[0].enter_late().is_none());
        assert_eq!(gate.late.phase() / ONE_ENTERED, 0);
    }

    #[test]
    fn a_refusal_that_outlasts_its_pause_is_not_counted_as_admitted() {
        for closed_for_good in [false, true] {
            let gate = after(HALF);
            let shard = &gate.shards()[0];
            gate.pause();
            // The first half of an `enter` whose thread is then delayed.
            let before = shard.word.fetch_add(ENTRY, Ordering::Relaxed);
            assert_ne!(before & CLOSED, 0);
            shard.carry_if_due(before);
            gate.unpause();
            assert_eq!(gate.admitted(), HALF);
            assert!(shard.enter(|| ()));
            if closed_for_good {
                gate.drain();
            } else {
                gate.pause();
            }
            assert_eq!(gate.admitted(), HALF + 1);
            shard.undo_entry();
            shard.leave();
            assert_eq!((gate.in_flight(), gate.admitted()), (0, HALF + 1));
            assert!(gate.milestones.has(event::IDLE));
        }
    }

    #[test]
    fn drained_comes_with_the_last_one_and_not_before_draining() {
        let gate = Lease::new(2, 0);
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
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
        assert!(shard.enter(|| ()));
        gate.drain();
        let late = shard.enter_always(|_| ());
        assert!(ptr::eq(late, gate.late));
        shard.leave();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 2));
        assert!(!gate.is_drained());
        late.leave();
        assert!(gate.is_drained());
    }

    #[test]
    fn a_pause_refuses_and_ends_without_a_trace() {
        let gate = Lease::new(2, 0);
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
        let gate = Lease::new(2, 0);
        gate.pause();
        assert!(gate.milestones.has(event::IDLE));
        let late = gate.shards()[0].enter_always(|_| ());
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
        let gate = Lease::new(1, 0);
        gate.pause();
        gate.drain();
        assert!(gate.is_drained(), "idle before it, and drained now");
        assert!(!gate.is_paused());
        assert!(!gate.unpause() && !gate.pause());
        assert!(!gate.shards()[0].enter(|| ()));
        gate.unshed();
        assert!(gate.shards()[0].is_shedding());
    }

    /// Enters as a request of the layers does. Returns whether it was noted as a late arrival.
    fn arrives(shard: &'static Shard, always: bool) -> bool {
        let mut arrived = false;
        if always {
            shard.enter_always(|_| arrived = true);
        } else {
            shard.enter(|| arrived = true);
        }
        arrived
    }

    #[test]
    fn who_enters_arrives_late_in_a_shutdown_only() {
        let gate = Lease::new(1, 0);
        let shard = &gate.shards()[0];
        let arrive = || (arrives(shard, false), arrives(shard, true));
        assert_eq!(arrive(), (false, false));
        gate.pause();
        assert_eq!(arrive(), (false, false));
        gate.unpause();
        gate.shed();
        assert_eq!(arrive(), (true, true));
        gate.pause();
        assert_eq!(arrive(), (false, true), "only the first is refused");
        gate.unpause();
        gate.unshed();
        assert_eq!(arrive(), (false, false));
        gate.shed();
        gate.drain();
        assert_eq!(arrive(), (false, true), "noted by the late shard");
        assert_eq!(gate.in_flight(), 9, "twelve entered and three were refused");
    }

    #[test]
    fn late_requests_enter_by_the_late_shard_until_they_are_refused() {
        let gate = Lease::new(2, 0);
        let shard = &gate.shards()[0];
        assert!(shard.enter_late().is_none(), "before the drain");
        gate.begin_drain(true);
        assert!(!shard.enter(|| ()));
        let late = shard.enter_late().expect("it is served");
        assert!(late.is_draining() && late.is_shedding());
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 1));

        gate.refuse_late();
        assert!(shard.enter_late().is_none());
        let awaited = shard.enter_awaited().expect("it has waited");
        gate.end_drain();
        assert!(shard.enter_awaited().is_none());
        late.leave();
        awaited.leave();
        assert_eq!((gate.in_flight(), gate.admitted()), (0, 2));
    }

    #[test]
    fn no_late_request_enters_after_a_force_a_pause_or_a_rollback() {
        let begin: [fn(&Gate); 4] = [
            |gate| {
                gate.begin_drain(true);
                gate.force();
            },
            |gate| {
                gate.pause();
                gate.begin_drain(true);
            },
            |gate| gate.begin_drain(false),
            Gate::close,
        ];
        for begin in begin {
            let gate = Lease::new(1, 0);
            begin(&gate);
            assert!(!gate.shards()[0].serves_late());
            assert!(gate.shards()[0].enter_late().is_none());
            assert_eq!((gate.in_flight(), gate.admitted()), (0, 0));
        }
    }

    #[test]
    fn a_request_that_waits_is_in_flight_and_not_admitted() {
        let gate = Lease::new(1, 0);
        gate.begin_drain(false);
        gate.milestones.publish(event::CLOSED);
        assert!(gate.shards()[0].begin_waiting());
        gate.scan();
        assert_eq!((gate.in_flight(), gate.admitted()), (1, 0));
        assert!(!gate.is_drained());
        gate.shards()[0].end_waiting();
        assert_eq!((gate.in_flight(), gate.admitted()), (0, 0));
        assert!(gate.is_drained());
        gate.end_drain();
        assert!(!gate.shards()[0].begin_waiting());
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn arrivals_are_added_up_and_the_last_one_is_of_any_shard() {
        let gate = Lease::new(4, 0);
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

    /// Returns a number of shards that no other test uses, so the gates are this test's own.
    fn own_number(n: usize) -> usize {
        1 << (8 + n)
    }

    #[test]
    fn a_gate_is_used_again_once_nobody_uses_it() {
        let shards = own_number(0);
        let gate = Lease::new(shards, 0);
        let (first, another) = (gate.local(), gate.clone());
        assert!(gate.shards()[1].enter(|| ()) && gate.shards()[2].enter(|| ()));
        drop((gate, another));
        gate_of(first).shards()[1].leave();
        assert!(
            !ptr::eq(Lease::new(shards, 0).local(), first),
            "still in use"
        );
        gate_of(first).shards()[2].leave();
        let again = [(); 2].map(|()| Lease::new(shards, 0));
        assert!(again.iter().any(|gate| ptr::eq(gate.local(), first)));
    }

    fn gate_of(shard: &Shard) -> &'static Gate {
        shard.gate()
    }

    #[test]
    fn a_gate_that_is_used_again_is_as_good_as_new() {
        let shards = own_number(1);
        let gate = Lease::new(shards, 0);
        let shard = &gate.shards()[0];
        gate.keep_common(7_u8);
        gate.shed();
        shard.note_arrival(1);
        gate.pause();
        shard.note_refused();
        assert!(!shard.enter(|| ()));
        gate.unpause();
        assert!(shard.enter(|| ()));
        gate.begin_drain(true);
        gate.milestones.reach(event::CLOSED);
        let late = shard.enter_late().expect("it is served");
        gate.force();
        late.note_aborted();
        gate.upgrades.increment();
        gate.streams.increment();
        shard.leave();
        drop(gate);
        late.leave();

        let gate = Lease::new(shards, event::STOPPED);
        assert!(ptr::eq(&gate.shards()[0], shard), "the same");
        assert_eq!(gate.milestones.reached(), event::STOPPED);
        let counts = [
            gate.in_flight(),
            gate.admitted(),
            gate.refused(),
            gate.aborted(),
        ];
        assert_eq!((counts, gate.arrivals()), ([0; 4], (0, 0)));
        assert!(gate.all_shards().all(|shard| shard.phase() & !CLOSED == 0));
        assert_eq!((gate.idles(), gate.common::<u8>()), (0, None));
        assert_eq!((gate.upgrades.now(), gate.streams.now()), (0, 0));
        assert!(shard.enter(|| ()) && !gate.late.enter(|| ()));
        assert!(gate.pause() && gate.unpause());
        shard.leave();
        gate.drain();
        assert!(gate.is_drained());
    }

    #[test]
    fn the_number_of_gates_is_the_most_that_were_in_use_at_a_time() {
        let shards = own_number(2);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..500 {
            let gate = Lease::new(shards, 0);
            let shard = gate.local();
            seen.insert(ptr::from_ref(shard).addr());
            let outlives = n % 3 == 0;
            assert!(!outlives || shard.enter(|| ()));
            drop(gate);
            if outlives {
                shard.leave();
            }
        }
        assert_eq!(seen.len(), 1);
    }
}
