//! Pause.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pause_refuses_new_work_and_shuts_nothing_down() {
    let ctl = controller(ten_seconds());
    let moves = record(&ctl);
    let guard = ctl.track();
    assert!(!ctl.is_paused());
    assert!(ctl.pause());
    assert!(ctl.is_paused());
    assert!(!ctl.pause(), "it is paused already");
    let refused = ctl.try_admit().unwrap_err();
    assert!(refused.is_paused());
    assert_eq!(refused.to_string(), "service is paused");
    assert_eq!(ctl.in_flight(), 1);

    advance(ms(60_000)).await;
    assert_eq!((ctl.state(), ctl.is_draining()), (Running, false));
    assert!(ctl.notice().is_none());
    ctl.on_shutdown("not late", |_| ready(Ok(()))).unwrap();
    assert_pending!(task::spawn(guard.draining()).poll());
    assert_pending!(task::spawn(guard.forced()).poll());
    drop(guard);
    none_resolves!(
        ctl.triggered(),
        ctl.lame_duck_begun(),
        ctl.draining(),
        ctl.drained(),
        ctl.forced(),
        ctl.stopped(),
        ctl.stop_accepting(),
        ctl.wait_for(LameDuck),
    );
    assert!(moves.lock().unwrap().is_empty());

    assert!(ctl.unpause());
    assert!(!ctl.is_paused() && !ctl.unpause());
    drop(ctl.try_admit().unwrap());
    assert!(ctl.pause() && ctl.unpause(), "again and again");
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waited_before_the_pause_is_not_told_of_a_shutdown() {
    let ctl = controller(ten_seconds());
    let guard = ctl.track();
    let mut told = task::spawn(guard.draining());
    let mut draining = task::spawn(ctl.draining());
    let mut drained = task::spawn(ctl.drained());
    let mut stop_accepting = task::spawn(ctl.stop_accepting());
    assert_pending!(told.poll());
    assert_pending!(draining.poll());
    assert_pending!(drained.poll());
    assert_pending!(stop_accepting.poll());
    ctl.pause();
    settle().await;
    assert!(!told.is_woken() && !draining.is_woken() && !drained.is_woken());
    assert_pending!(told.poll());
    drop(told);
    drop(guard);
    settle().await;
    assert!(!drained.is_woken() && !stop_accepting.is_woken());
    assert_pending!(drained.poll());
}

/// Readiness depends on `is_paused`, and is red no later than the first refusal.
#[test]
fn a_pause_shows_no_later_than_its_first_refusal_and_no_longer_than_its_last() {
    const ROUNDS: u64 = 20_000;
    let ctl = ShutdownController::new();
    let (refused, admitted) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            for round in 1..=ROUNDS {
                while ctl.try_admit().is_ok() {}
                let was_paused = ctl.is_paused();
                // Signalled first: otherwise a waiter would wait forever.
                refused.store(round, Ordering::Release);
                while ctl.is_paused() {}
                let was_admitted = ctl.try_admit().is_ok();
                admitted.store(round, Ordering::Release);
                if !(was_paused && was_admitted) {
                    refused.store(ROUNDS, Ordering::Release);
                    admitted.store(ROUNDS, Ordering::Release);
                    return Err((round, was_paused, was_admitted));
                }
            }
            Ok(())
        });
        for round in 1..=ROUNDS {
            ctl.pause();
            until(|| refused.load(Ordering::Acquire) >= round);
            ctl.unpause();
            until(|| admitted.load(Ordering::Acquire) >= round);
        }
        assert_eq!(client.join().unwrap(), Ok(()), "(round, paused, admitted)");
    });
}
