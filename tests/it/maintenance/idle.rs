//! Idle.

use super::*;

#[tokio::test(start_paused = true)]
async fn idle_wakes_with_the_last_guard_without_a_tick() {
    let ctl = controller(ten_seconds());
    let (one, two) = (ctl.try_admit().unwrap(), ctl.track());
    let mut before = task::spawn(ctl.idle());
    assert_pending!(before.poll());
    ctl.pause();
    let mut after = task::spawn(ctl.idle());
    assert_pending!(after.poll());
    drop(one);
    assert!(!before.is_woken() && !after.is_woken(), "one is left");
    drop(two);
    assert!(before.is_woken() && after.is_woken());
    assert_ready!(before.poll());
    assert_ready!(after.poll());
    assert_ready!(task::spawn(ctl.idle()).poll(), "nothing has begun since");
    assert_eq!(ctl.state(), Running);
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_a_pause() {
    let ctl = controller(ten_seconds());
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll(), "nothing is in flight, but all is admitted");
    drop(ctl.track());
    assert!(!idle.is_woken());
    ctl.pause();
    assert!(idle.is_woken());
    assert_ready!(idle.poll());
    ctl.unpause();
    assert_pending!(task::spawn(ctl.idle()).poll());
}

#[tokio::test(start_paused = true)]
async fn what_is_tracked_during_a_pause_is_counted_and_holds_idle() {
    let ctl = controller(ten_seconds());
    let early = ctl.track();
    ctl.pause();
    let late = ctl.track();
    assert_eq!(ctl.in_flight(), 2);
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    drop(early);
    assert!(!idle.is_woken());
    drop(late);
    assert!(idle.is_woken());
    assert_ready!(idle.poll());

    // Also if it was idle once.
    let later = ctl.track();
    let mut again = task::spawn(ctl.idle());
    assert_pending!(again.poll());
    drop(later);
    assert_ready!(again.poll());
    assert_eq!((ctl.in_flight(), ctl.metrics().admitted), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_was_tracked_during_a_pause_may_end_after_it() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    let tracked = ctl.track();
    ctl.unpause();
    let admitted = ctl.try_admit().unwrap();
    assert_eq!(ctl.in_flight(), 2);
    ctl.pause();
    let mut idle = task::spawn(ctl.idle());
    drop(admitted);
    assert_pending!(idle.poll());
    drop(tracked);
    assert_ready!(idle.poll());
    assert_eq!((ctl.in_flight(), ctl.metrics().admitted), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn idle_of_an_earlier_pause_is_not_taken_for_this_ones() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    ctl.idle().await;
    ctl.unpause();
    let first = ctl.try_admit().unwrap();
    ctl.pause();
    let mut early = task::spawn(ctl.idle());
    assert_pending!(early.poll());
    ctl.unpause();
    drop(first); // nothing is in flight, but new work may begin
    assert_pending!(early.poll());
    let guard = ctl.try_admit().unwrap();
    ctl.pause();
    assert_pending!(early.poll());
    drop(guard);
    assert_ready!(early.poll());
}

/// It has been idle since the call: work that begins between the call and the poll is not waited
/// for.
#[tokio::test(start_paused = true)]
async fn who_was_woken_as_idle_is_told_so_whatever_begins_before_its_poll() {
    let ctl = controller(ten_seconds());
    let guard = ctl.try_admit().unwrap();
    ctl.pause();
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    drop(guard);
    assert!(idle.is_woken());
    let _begun = ctl.track();
    let mut other = task::spawn(ctl.idle());
    assert_pending!(other.poll());
    assert_ready!(idle.poll());
}

#[tokio::test(start_paused = true)]
async fn idle_resolves_in_a_shutdown_too_and_after_the_end() {
    let ctl = controller(ten_seconds());
    let guard = ctl.track();
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    ctl.trigger(MANUAL);
    assert_pending!(idle.poll());
    drop(guard);
    assert_ready!(idle.poll());
    ctl.stopped().await;
    let _late = ctl.track();
    assert_ready!(task::spawn(ctl.idle()).poll());
}
