//! Loom models of the gate, of the registration for force and of the milestones.
//!
//! Run them with `.ci/models`.
//! Each model names the bugs that were seeded to see it fail.
//!
//! # Which model covers which pair
//!
//! Each row names two concurrent operations. A change of phase is one of close, pause, unpause,
//! shed, unshed, force.
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
//! | (carries) | enter, read | `the_count_never_falls_while_it_is_carried` |
//! | | pause, unpause | `the_count_is_right_where_a_turn_meets_the_carrying` |
//! | late entry | late entry | `late_entries_are_all_counted` |
//! | | leave | `the_last_late_leave_wakes_who_waits`, `entries_and_leaves_are_all_counted` |
//! | | close, scan | `a_late_entry_holds_the_drain` |
//! | | pause | `a_late_entry_holds_idle` |
//! | | unpause | `a_late_entry_may_meet_the_end_of_its_pause` |
//! | | shed, unshed | `turning_loses_no_entry` |
//! | | force | `who_is_not_refused_is_cut` |
//! | late request | begin drain | `no_request_is_refused_while_late_ones_are_served` |
//! | | end drain, scan | `a_late_request_is_waited_for_or_refused` |
//! | | force | `a_late_request_is_cut_or_refused` |
//! | (refused) | leave | `a_refused_late_request_does_not_hide_the_last_leave` |
//! | leave | leave, close, scan | `the_last_leave_wakes_who_waits` |
//! | | close | `drained_publishes_what_was_done_in_flight`, too |
//! | | pause | `the_last_leave_of_a_pause_wakes_who_waits` |
//! | | unpause | `idle_is_of_this_pause`, `drained_is_not_of_an_earlier_pause` |
//! | | shed, unshed | `turning_loses_no_entry` |
//! | | force | `who_was_cut_is_known_once_drained` |
//! | change of phase | change of phase | `turns_come_one_after_the_other` |
//! | unpause | close | `unpausing_does_not_open_what_is_closed_for_good`, too |
//! | leave, scan | the last lease | `the_last_lease_or_the_last_leave_gives_the_gate_back`, `a_scan_of_an_earlier_life_publishes_nothing` |
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
//! | | wake, force | `a_registration_meets_force_or_is_woken_by_it`, `a_registration_that_is_remembered_meets_force_or_is_woken_by_it` |
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
// loom's cells are not `Sync`, because loom itself checks how threads share them.
#![allow(clippy::arc_with_non_send_sync, clippy::unwrap_used)]

mod carrying;
mod entering;
mod force;
mod late;
mod lives;
mod turns;
mod waiters;

use std::future::poll_fn;
use std::sync::Once;
use std::sync::atomic::AtomicUsize as Count;
use std::task::{Poll, Wake, Waker};
use std::{cell::Cell, panic};

use loom::future::block_on;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;
use crate::in_flight::wakers::{Remembered, Slot};

fn check(model: impl Fn() + Send + Sync + 'static) {
    count_panics();
    PANICS.set(0);
    let mut builder = loom::model::Builder::new();
    // Enough for every seeded bug. Without a bound the larger models take hours.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(move || {
        model();
        // Panics of wakers and of a scan are contained, so they are counted instead.
        assert_eq!(PANICS.get(), 0, "something panicked, and was contained");
    });
}

thread_local! {
    /// All threads of a model run on one OS thread.
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

/// Waits as `Wait` does. A lost wake-up shows as a deadlock.
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

/// Waits as a request does. It may have registered before.
fn wait_in(shard: &Shard, mut slot: Slot, interests: u32) {
    block_on(poll_fn(|cx| {
        if shard.register(&mut slot, cx.waker(), interests) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }));
    shard.deregister(slot);
}

/// Registers `waker` in the shard, as a poll does.
fn register(shard: &Shard, slot: &mut Slot, waker: &Waker) -> bool {
    shard.register(slot, waker, interest::FORCED)
}

/// Cuts all admitted work, as the sequence does.
fn cut(gate: &Gate) {
    gate.force();
    for shard in gate.all_shards() {
        shard.wake_all(interest::FORCED);
    }
}

/// A waker that counts wake-ups. Not part of the model, so the count is std's.
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

/// Runs `act` with `gate` in a new thread.
fn beside<T: 'static>(
    gate: &Lease,
    act: impl FnOnce(&Gate) -> T + 'static,
) -> thread::JoinHandle<T> {
    let gate = gate.clone();
    thread::spawn(move || act(&gate))
}
