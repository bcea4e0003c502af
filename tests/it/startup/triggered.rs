//! A shutdown that is triggered during the start-up.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_trigger_before_the_first_step_starts_nothing() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    assert!(ctl.trigger(Manual));
    assert!(ctl.try_admit().is_err(), "nothing is let in any more");
    let start = startup.start("a", log.up("a", 0), log.down(Stop::After(0)));
    let error = end(start).await.unwrap_err();
    assert!(is_triggered(&error));
    assert_eq!(
        error.to_string(),
        "start-up ended: a shutdown was triggered (reason: manual)"
    );
    assert_eq!((log.names().len(), error.rollback().len()), (0, 0));
    assert_eq!(ctl.state(), Failed);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_during_a_step_drops_its_start_and_stops_the_others() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    tokio::spawn(async move {
        sleep(ms(50)).await;
        ctl.trigger(ShutdownReason::Signal("SIGTERM"));
    });
    let done = step("done", log.up("done", 20), log.down(Stop::After(0)));
    let slow = step("slow", log.up("slow", 60), log.down(Stop::After(0)));
    let error = end(startup.start_all((slow, done))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "start-up ended: a shutdown was triggered (reason: signal SIGTERM)"
    );
    assert_eq!(error.report().reason(), ShutdownReason::Signal("SIGTERM"));
    assert_eq!(log.names(), ["+a", "+done", "-done", "-a"]);
    assert_eq!(log.entries()[2].1, ms(50), "at once");
    assert!(error.report().is_graceful());
    assert_eq!(error.exit_code(), ExitCode::SUCCESS);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_whose_rollback_goes_wrong_or_is_forced_is_a_failure() {
    for stop in [Stop::Errs, Stop::Panics, Stop::Hangs, Stop::After(500)] {
        let (mut startup, log) = (startup(), Log::new());
        let ctl = startup.controller();
        log.start_with(&mut startup, "bad", stop).await;
        ctl.trigger(ShutdownReason::Signal("SIGTERM"));
        if matches!(stop, Stop::After(_)) {
            ctl.force();
        }
        let error = end(startup.finish()).await.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::FAILURE, "{stop:?}");
        assert!(!error.report().is_graceful(), "{stop:?}");
        assert_eq!(ctl.state(), Failed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trigger_by_an_error_is_a_failure() {
    let startup = startup();
    startup.controller().trigger(ShutdownReason::Error);
    let error = end(startup.finish()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "start-up failed: a shutdown was triggered (reason: error)"
    );
    assert_eq!(error.exit_code(), ExitCode::FAILURE);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_between_steps_rolls_back_at_once() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(
        log.names(),
        ["+a", "-a"],
        "without waiting for the next step"
    );
    assert_eq!(ctl.state(), Failed);
    let start = startup.start("b", log.up("b", 0), log.down(Stop::After(0)));
    let error = start.await.unwrap_err();
    assert!(is_triggered(&error));
    assert_eq!(outcomes(error.rollback()), outcomes(report.services()));
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_before_finish_is_its_error() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.observe(&startup);
    log.start_with(&mut startup, "a", Stop::After(100)).await;
    ctl.trigger(Manual);
    let error = end(startup.finish()).await.unwrap_err();
    assert!(is_triggered(&error));
    assert_eq!(outcomes(error.rollback()), ["a: completed"]);
    assert_eq!(ctl.state(), Failed);
    assert_eq!(log.names().last().unwrap(), "starting -> failed");
}

#[tokio::test(start_paused = true)]
async fn a_force_during_a_step_rolls_back_as_well() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let _stuck = ctl.track();
    let since = Instant::now();
    tokio::spawn({
        let ctl = ctl.clone();
        async move {
            sleep(ms(50)).await;
            ctl.force();
        }
    });
    let start = startup.start("b", log.up("b", 60_000), log.down(Stop::After(0)));
    let error = end(start).await.unwrap_err();
    assert!(is_triggered(&error) && error.report().is_forced());
    assert_eq!(error.report().abandoned(), 1);
    assert_eq!(outcomes(error.rollback()), ["a: completed"]);
    // Work in flight has 250 ms to end.
    assert_eq!(since.elapsed(), ms(300));
}

/// On real threads: the trigger comes at any point between, in and after the steps.
#[test]
fn no_race_with_a_trigger_loses_or_doubles_a_stop() {
    in_time(|| {
        let runtime = threads(2);
        for round in 0..400_u32 {
            let log = Log::new();
            let mut startup = {
                let _entered = runtime.enter();
                startup()
            };
            let ctl = startup.controller();
            let starting = runtime.spawn({
                let log = log.clone();
                async move {
                    for name in ["a", "b", "c", "d"] {
                        let start = startup.start(name, log.up(name, 0), log.down(Stop::After(0)));
                        start.await?;
                        tokio::task::yield_now().await;
                    }
                    startup.finish().await
                }
            });
            (0..round * 20).for_each(|_| std::hint::spin_loop());
            let report = runtime.block_on(ctl.shutdown(Manual));
            let outcome = runtime.block_on(starting).unwrap();
            assert_eq!(outcome.is_ok(), ctl.state() == Stopped, "round {round}");
            let (up, down): (Vec<_>, Vec<_>) = log
                .names()
                .into_iter()
                .partition(|name| name.starts_with('+'));
            let up: Vec<_> = up.iter().map(|name| &name[1..]).collect();
            let down: Vec<_> = down.iter().rev().map(|name| &name[1..]).collect();
            assert_eq!(up, down, "round {round}");
            assert_eq!(up.len(), report.services().len());
            assert!(up.len() == 4 || outcome.is_err());
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_start_that_triggers_the_shutdown_itself_is_rolled_back() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let start = async { Err::<Name, _>(ctl.shutdown(Manual).await.to_string()) };
    let error = end(startup.start("b", start, log.down(Stop::After(0))))
        .await
        .unwrap_err();
    assert!(is_triggered(&error));
    assert_eq!(log.names(), ["+a", "-a"]);
}

/// It is stopped like all others, so it must not be returned as if it were running.
#[tokio::test(start_paused = true)]
async fn a_start_that_ends_in_the_poll_in_which_the_shutdown_is_triggered_gives_the_error() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    let start = async {
        ctl.trigger(Manual);
        log.up("a", 0).await
    };
    let error = end(startup.start("a", start, log.down(Stop::After(0))))
        .await
        .unwrap_err();
    assert!(is_triggered(&error));
    assert_eq!(log.names(), ["+a", "-a"]);
    assert_eq!(outcomes(error.rollback()), ["a: completed"]);
}

#[tokio::test(start_paused = true)]
async fn no_lame_duck_is_waited_for_in_a_rollback() {
    let config = ten_seconds().lame_duck(ms(5_000));
    let (mut startup, log) = (Startup::new(config).unwrap(), Log::new());
    log.start(&mut startup, "a").await;
    let since = Instant::now();
    fail(&mut startup).await;
    assert_eq!(since.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_cannot_be_called_off() {
    let (mut startup, log) = (startup(), Log::new());
    log.start_with(&mut startup, "a", Stop::After(100)).await;
    let ctl = startup.controller();
    ctl.trigger(Manual);
    assert!(ctl.resume().is_err());
    assert!(end(startup.finish()).await.is_err());
    assert_eq!(ctl.state(), Failed);
}
