//! `Readiness`: whether to send traffic, now and at each change.

use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::controller::Readiness;
use tower_lifecycle::{
    LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn controller(lame_duck: Duration) -> ShutdownController {
    let config = ShutdownConfig::default().lame_duck(lame_duck);
    ShutdownController::with_config(config).unwrap()
}

/// Asserts that there is a change, to `expected`.
#[track_caller]
fn tells(readiness: &mut Readiness, expected: Option<bool>) {
    assert_eq!(
        assert_ready!(task::spawn(readiness.next()).poll()),
        expected
    );
}

#[track_caller]
fn is_silent(readiness: &mut Readiness) {
    assert_pending!(task::spawn(readiness.next()).poll());
}

#[tokio::test(start_paused = true)]
async fn it_tells_what_holds_and_then_each_change_until_there_is_no_way_back() {
    let ctl = controller(Duration::from_secs(5));
    let mut readiness = ctl.readiness();
    tells(&mut readiness, Some(true));
    is_silent(&mut readiness);

    ctl.pause();
    assert!(!ctl.is_ready());
    tells(&mut readiness, Some(false));
    is_silent(&mut readiness);
    ctl.unpause();
    assert!(ctl.is_ready());
    tells(&mut readiness, Some(true));

    ctl.trigger(MANUAL);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    assert!(!ctl.is_ready());
    tells(&mut readiness, Some(false));
    is_silent(&mut readiness);
    ctl.resume().unwrap();
    assert!(ctl.is_ready());
    tells(&mut readiness, Some(true));
    is_silent(&mut readiness);

    let _working = ctl.track();
    ctl.trigger(MANUAL);
    tells(&mut readiness, Some(false));
    ctl.draining().await;
    for _ in 0..2 {
        tells(&mut readiness, None);
    }
    let mut late = ctl.readiness();
    tells(&mut late, Some(false));
    tells(&mut late, None);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_by_each_kind_of_change() {
    let ctl = controller(Duration::from_secs(5));
    let mut readiness = ctl.readiness();
    tells(&mut readiness, Some(true));
    let changes: [(&dyn Fn(), Option<bool>); 5] = [
        (&|| assert!(ctl.pause()), Some(false)),
        (&|| assert!(ctl.unpause()), Some(true)),
        (&|| assert!(ctl.trigger(MANUAL)), Some(false)),
        (&|| ctl.resume().unwrap(), Some(true)),
        (&|| ctl.force(), Some(false)),
    ];
    for (change, expected) in changes {
        let mut next = task::spawn(readiness.next());
        assert_pending!(next.poll());
        change();
        assert!(next.is_woken());
        assert_eq!(assert_ready!(next.poll()), expected);
    }
    assert_eq!(readiness.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_has_changed_back_meanwhile_is_not_told_and_no_change_is_lost() {
    let ctl = controller(Duration::ZERO);
    let mut readiness = ctl.readiness();
    tells(&mut readiness, Some(true));
    ctl.pause();
    ctl.unpause();
    is_silent(&mut readiness);

    let mut dropped = task::spawn(readiness.next());
    assert_pending!(dropped.poll());
    ctl.pause();
    drop(dropped);
    tells(&mut readiness, Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_start_up_becomes_ready_when_it_is_done_and_not_when_it_fails() {
    let startup = Startup::new(ShutdownConfig::default()).unwrap();
    let mut readiness = startup.controller().readiness();
    tells(&mut readiness, Some(false));
    is_silent(&mut readiness);
    let ctl = startup.finish().await.unwrap();
    tells(&mut readiness, Some(true));
    drop(ctl);

    let startup = Startup::new(ShutdownConfig::default()).unwrap();
    let mut readiness = startup.controller().readiness();
    tells(&mut readiness, Some(false));
    let ctl = startup.controller();
    drop(startup);
    ctl.stopped().await;
    tells(&mut readiness, None);
}

#[test]
fn it_ends_when_the_controller_is_gone() {
    let ctl = ShutdownController::new();
    let mut readiness = ctl.readiness();
    tells(&mut readiness, Some(true));
    let mut next = task::spawn(readiness.next());
    assert_pending!(next.poll());
    drop(ctl);
    assert!(next.is_woken());
    assert_eq!(assert_ready!(next.poll()), None);
}
