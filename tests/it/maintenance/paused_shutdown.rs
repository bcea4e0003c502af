//! A shutdown during a pause.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_shutdown_during_a_pause_goes_its_way_and_ends_the_pause() {
    for lame_duck in [ms(0), ms(3_000)] {
        for unpaused in [false, true] {
            let ctl = controller(ten_seconds().lame_duck(lame_duck));
            let moves = record(&ctl);
            let guard = ctl.try_admit().unwrap();
            ctl.pause();
            let late = ctl.track();
            assert!(ctl.try_admit().is_err());
            let (start, hook) = (Instant::now(), ctl.on_shutdown("hook", |_| ready(Ok(()))));
            hook.unwrap();
            let mut told = task::spawn(guard.draining());
            assert_pending!(told.poll());
            ctl.trigger(MANUAL);
            settle().await;
            assert_eq!(told.is_woken(), lame_duck.is_zero());
            if lame_duck.is_zero() {
                assert!(!ctl.is_paused());
            } else {
                assert!(ctl.is_paused() && ctl.try_admit().unwrap_err().is_paused());
                if unpaused {
                    assert!(ctl.unpause());
                    drop(ctl.try_admit().unwrap());
                }
                ctl.draining().await;
                assert_eq!(start.elapsed(), lame_duck);
                settle().await;
                assert!(told.is_woken());
            }
            drop(told);
            // From here on a pause can neither begin nor end.
            assert!(!ctl.is_paused() && !ctl.unpause() && !ctl.pause());
            assert!(!ctl.is_paused());
            assert!(!ctl.try_admit().unwrap_err().is_paused());
            let mut drained = task::spawn(ctl.drained());
            drop(guard);
            assert_pending!(drained.poll());
            drop(late);
            assert_ready!(drained.poll());

            let report = ctl.shutdown(MANUAL).await;
            assert!(report.is_graceful() && report.hooks()[0].is_completed());
            let in_lame_duck = u64::from(!lame_duck.is_zero());
            let unpaused = in_lame_duck * u64::from(unpaused);
            assert_eq!(
                (report.admitted(), report.refused()),
                (2 + unpaused, 2 + in_lame_duck)
            );
            assert_eq!(report.in_flight_at_trigger(), 2);
            assert!(!ctl.pause() && !ctl.unpause() && !ctl.is_paused());
            assert_eq!(moves.lock().unwrap().last(), Some(&(Stopping, Stopped)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_idle_in_the_pause_is_drained_at_the_trigger() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    ctl.idle().await;
    let mut drained = task::spawn(ctl.drained());
    assert_pending!(drained.poll());
    ctl.trigger(MANUAL);
    assert_ready!(drained.poll());
    assert!(ctl.shutdown(MANUAL).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_resume_leaves_the_pause_and_an_unpause_the_lame_duck() {
    let ctl = lame_duck();
    ctl.pause();
    ctl.trigger(MANUAL);
    ctl.resume().unwrap();
    assert!(ctl.is_paused() && ctl.try_admit().is_err());
    assert_eq!(ctl.state(), Running);
    ctl.trigger(MANUAL);
    assert!(ctl.unpause());
    assert_eq!(ctl.state(), LameDuck);
    drop(ctl.try_admit().unwrap());
    assert!(ctl.pause(), "a lame duck can be paused");
    assert!(ctl.try_admit().is_err());
    ctl.resume().unwrap();
    assert!(ctl.unpause());
    drop(ctl.try_admit().unwrap());
}

#[tokio::test(start_paused = true)]
async fn force_cuts_what_runs_in_a_pause() {
    let ctl = lame_duck();
    let guard = ctl.track();
    ctl.pause();
    ctl.force();
    assert_eq!(ctl.state(), Draining);
    guard.forced().await;
    drop(guard);
    assert!(ctl.shutdown(MANUAL).await.is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_start_up_may_be_paused_and_goes_on_being_so() {
    let startup = Startup::new(ten_seconds()).unwrap();
    assert!(startup.controller().pause());
    let ctl = startup.finish().await.unwrap();
    assert_eq!((ctl.state(), ctl.is_paused()), (Running, true));
    assert!(ctl.try_admit().is_err());
    assert!(ctl.unpause() && ctl.try_admit().is_ok());
}
