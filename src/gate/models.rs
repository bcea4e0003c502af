//! Loom models of the gate, of the registration for force, and of those who wait for milestones.
//!
//! They are run with `RUSTFLAGS="--cfg tower_lifecycle_loom" cargo test --release --lib gate::`. Each
//! says which bug was once seeded to see it fail.
//!
//! # Which pair is in which model
//!
//! Two that are done at the same time. A turn is one of close, pause, unpause, shed, unshed, force.
//!
//! | the gate | and | in |
//! |---|---|---|
//! | enter | enter, late entry, leave | `entries_and_leaves_are_all_counted` |
//! | (refused) | late entry | `a_refusal_does_not_hide_the_last_late_leave` |
//! | | close | `nothing_is_alive_once_drained`, `a_refusal_sees_what_led_to_it` |
//! | | pause | `nothing_is_alive_once_idle` |
//! | | unpause | `a_refusal_may_outlast_its_pause`, `an_admission_sees_what_was_done_in_the_pause` |
//! | | shed | `late_arrivals_are_known_once_drained` |
//! | | unshed | `turning_loses_no_entry` |
//! | | force | `who_is_not_refused_is_cut`, `turning_loses_no_entry` |
//! | | scan | `a_refusal_does_not_hide_the_last_leave` |
//! | late entry | late entry | `late_entries_are_all_counted` |
//! | | leave | `the_last_late_leave_wakes_who_waits`, `entries_and_leaves_are_all_counted` |
//! | | close, scan | `a_late_entry_holds_the_drain` |
//! | | pause | `a_late_entry_holds_idle` |
//! | | unpause | `a_late_entry_may_meet_the_end_of_its_pause` |
//! | | shed, unshed | `turning_loses_no_entry` |
//! | | force | `who_is_not_refused_is_cut` |
//! | leave | leave, close, scan | `the_last_leave_wakes_who_waits` |
//! | | close | `drained_publishes_what_was_done_in_flight`, too |
//! | | pause | `the_last_leave_of_a_pause_wakes_who_waits` |
//! | | unpause | `idle_is_of_this_pause`, `drained_is_not_of_an_earlier_pause` |
//! | | shed, unshed | `turning_loses_no_entry` |
//! | | force | `who_was_cut_is_known_once_drained` |
//! | any turn | any turn | `turns_come_one_after_the_other` |
//! | unpause | close | `unpausing_does_not_open_what_is_closed_for_good`, too |
//! | scan | scan | `idle_is_told_once` |
//! | | close | `the_last_leave_wakes_who_waits` |
//! | | pause | `the_last_leave_of_a_pause_wakes_who_waits` |
//! | | unpause | `idle_is_of_this_pause` |
//! | | shed, unshed, force | none: other bits |
//!
//! | force | and | in |
//! |---|---|---|
//! | register | register | `force_wakes_all_who_wait` |
//! | | deregister | `slots_are_given_back_while_force_takes_the_wakers`, `a_slot_has_one_owner` |
//! | | wake, force | `a_registration_meets_force_or_is_woken_by_it` |
//! | register again | register, itself, deregister | `registering_again_takes_no_second_slot` |
//! | | wake, force | `a_future_that_moves_is_woken_where_it_is` |
//! | | (other events) | `who_waits_for_something_else_is_woken_by_it` |
//! | deregister | itself | `a_slot_has_one_owner` |
//! | | wake, force | `slots_are_given_back_while_force_takes_the_wakers` |
//! | wake, force | wake, force | `a_waker_is_woken_once` |
//!
//! | milestones | and | in |
//! |---|---|---|
//! | register, wait | register, wait, reach | `a_milestone_wakes_all_who_wait` |
//! | drop of a waiter | register, wait, drop, reach | `a_dropped_waiter_leaves_the_others` |
//! | reach | reach | `a_milestone_is_new_once` |
//! | publish unless | publish | `nothing_is_published_after_the_end` |
//! | take back | reach, wait | `what_is_taken_back_is_reached_again` |
// loom's cells are not `Sync`, since it finds out by itself who shares them how.
#![allow(clippy::arc_with_non_send_sync, clippy::unwrap_used)]

use std::future::poll_fn;
use std::sync::Once;
use std::sync::atomic::AtomicUsize as Count;
use std::task::{Poll, Wake, Waker};
use std::{cell::Cell, panic};

use loom::future::block_on;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;
use crate::wakers::Slot;

fn check(model: impl Fn() + Send + Sync + 'static) {
    count_panics();
    PANICS.set(0);
    let mut builder = loom::model::Builder::new();
    // Enough for every bug that was seeded; without a bound the larger models take hours.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(move || {
        model();
        // Those of wakers and of a scan are contained, and would pass for no panic.
        assert_eq!(PANICS.get(), 0, "something panicked, and was contained");
    });
}

thread_local! {
    /// All threads of a model run on one.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            report(info);
        }));
    });
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

/// Waits as a request does, which may have registered before.
fn wait_in(shard: &Shard, mut slot: Slot, interests: u32) {
    block_on(poll_fn(|cx| {
        match shard.register(&mut slot, cx.waker(), interests) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }));
    shard.deregister(slot);
}

/// Leaves `waker` in the shard, as a poll does.
fn register(shard: &Shard, slot: &mut Slot, waker: &Waker) -> bool {
    shard.register(slot, waker, interest::FORCED)
}

/// Cuts all that is admitted, as the sequence does.
fn cut(gate: &Gate) {
    gate.force();
    for shard in gate.all_shards() {
        shard.wake_all(interest::FORCED);
    }
}

/// A waker that counts. It is none of loom's business, so the count is std's.
#[derive(Default)]
struct Woken(Count);

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `act` with `gate` in a thread of its own.
fn beside<T: 'static>(
    gate: &Arc<Gate>,
    act: impl FnOnce(&Gate) -> T + 'static,
) -> thread::JoinHandle<T> {
    let gate = Arc::clone(gate);
    thread::spawn(move || act(&gate))
}

// ===== entries, leaves, and the turns of the gate =====

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
                gate.shards()[0].enter_always(|| ());
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
                let counted_in = shard.enter_always(|| ());
                assert_eq!(Arc::ptr_eq(&counted_in, shard), !is_paused);
                shard.enter_always(|| ());
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
        let late = gate.shards()[0].enter_always(|| ());
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
            beside(&gate, |gate| gate.shards()[0].enter_always(|| ()).leave()),
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
            .map(|index| beside(&gate, move |gate| gate.shards()[index].enter_always(|| ())))
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
        let client = beside(&gate, |gate| gate.shards()[0].enter_always(|| ()));
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
                    true => shard.enter_always(|| ()),
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
/// Seeded: `tell_empty` that does not ask again what is untold.
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

#[derive(Debug, Clone, Copy, PartialEq)]
enum Turning {
    Close,
    Pause,
    Unpause,
    Shed,
    Unshed,
    Force,
}

/// How the gate stands after two turns, and what each of them gave.
#[derive(Debug, Clone, PartialEq)]
struct Stand {
    gave: (bool, bool),
    phases: Vec<u64>,
    reached: u32,
}

impl Turning {
    const ALL: [Self; 6] = [
        Self::Close,
        Self::Pause,
        Self::Unpause,
        Self::Shed,
        Self::Unshed,
        Self::Force,
    ];

    fn turn(self, gate: &Gate) -> bool {
        match self {
            Self::Close => gate.drain(),
            Self::Pause => return gate.pause(),
            Self::Unpause => return gate.unpause(),
            Self::Shed => gate.shed(),
            Self::Unshed => gate.unshed(),
            Self::Force => gate.force(),
        }
        true
    }
}

/// A gate that is open, or one that sheds and is paused.
fn turned(is_turned: bool) -> Arc<Gate> {
    let gate = Gate::new(2, 0);
    if is_turned {
        gate.shed();
        gate.pause();
    }
    gate
}

impl Stand {
    fn of(gate: &Gate, gave: (bool, bool)) -> Self {
        let bits = SHEDDING | CLOSED | DRAINING | FORCED;
        Self {
            gave,
            phases: gate.all_shards().map(|s| s.phase() & bits).collect(),
            reached: gate.milestones.reached(),
        }
    }

    /// The one after the other.
    fn after(is_turned: bool, first: Turning, second: Turning) -> Self {
        let stand = Arc::new(std::sync::Mutex::new(None));
        let found = Arc::clone(&stand);
        check(move || {
            let gate = turned(is_turned);
            let gave = (first.turn(&gate), second.turn(&gate));
            *found.lock().unwrap() = Some(Self::of(&gate, gave));
        });
        let stand = stand.lock().unwrap().take();
        stand.unwrap()
    }
}

/// Invariant 6: two that turn the gate at the same time do so one after the other, whichever comes
/// first, and who enters meanwhile is counted as what it was told.
///
/// Seeded, each: `close`, `pause`, `unpause`, `shed` and `unshed` that let go of `turn` at once.
/// `force` that does is right as well, since its bit is only ever added.
#[test]
fn turns_come_one_after_the_other() {
    for (index, &one) in Turning::ALL.iter().enumerate() {
        for &other in &Turning::ALL[index..] {
            for is_turned in [false, true] {
                turn_at_once(is_turned, one, other);
            }
        }
    }
}

fn turn_at_once(is_turned: bool, one: Turning, other: Turning) {
    let mut swapped = Stand::after(is_turned, other, one);
    swapped.gave = (swapped.gave.1, swapped.gave.0);
    let right = [Stand::after(is_turned, one, other), swapped];
    check(move || {
        let gate = turned(is_turned);
        let client = beside(&gate, |gate| {
            let is_admitted = gate.shards()[0].enter(|| ());
            if is_admitted {
                gate.shards()[0].leave();
            }
            u64::from(is_admitted)
        });
        let second = beside(&gate, move |gate| other.turn(gate));
        let gave = (one.turn(&gate), second.join().unwrap());
        let admitted = client.join().unwrap();
        let stand = Stand::of(&gate, gave);
        assert!(right.contains(&stand), "{one:?}, {other:?}: {stand:?}");
        assert_eq!((gate.in_flight(), gate.admitted()), (0, admitted));
    });
}

// ===== the registration for force =====

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

// ===== those who wait for milestones =====

/// All who wait for a milestone, or any of several, are woken when it is reached.
///
/// Seeded: `reach` that wakes before it publishes; `wake_batch` that ends after one.
#[test]
fn a_milestone_wakes_all_who_wait() {
    check(|| {
        let gate = Gate::new(1, 0);
        let waiters = [event::FORCED, event::FORCED | event::STOPPED]
            .map(|events| beside(&gate, move |gate| wait_for(gate, events)));
        gate.milestones.reach(event::FORCED);
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// A waiter that is dropped takes no other one along.
///
/// Seeded: `remove` that closes the gap in the slab; that takes the wakers after its own, too.
#[test]
fn a_dropped_waiter_leaves_the_others() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// A milestone is new to one of those who reach it, and none is lost to another.
///
/// Seeded: `publish` that loads and then stores.
#[test]
fn a_milestone_is_new_once() {
    check(|| {
        let gate = Gate::new(1, 0);
        let other = beside(&gate, |gate| {
            gate.milestones.reach(event::CLEANUP);
            gate.milestones.reach(event::FORCED)
        });
        let is_new = gate.milestones.reach(event::FORCED);
        assert!(is_new != other.join().unwrap());
        assert!(gate.milestones.has(event::CLEANUP));
    });
}

/// What is published unless it is over is not published after the end.
///
/// Seeded: `publish_unless` that loads and then adds.
#[test]
fn nothing_is_published_after_the_end() {
    check(|| {
        let gate = Gate::new(1, 0);
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

/// Who waits for an event that others take back, to ask again, is woken by their asking.
///
/// Seeded: `take_back` that loads and then stores; `tell_empty` that wakes nobody.
#[test]
fn what_is_taken_back_is_reached_again() {
    check(|| {
        let gate = Gate::new(1, 0);
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
