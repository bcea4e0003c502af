//! Waiters.

use super::*;

#[tokio::test(start_paused = true)]
async fn everybody_who_waits_is_told_of_a_failed_start_up() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start_with(&mut startup, "a", Stop::After(10)).await;
    let stop = ctl.stop_accepting();
    let served = tokio::spawn(ctl.run(stop));
    let states = [
        Running,
        LifecycleState::Draining,
        LifecycleState::Stopping,
        Stopped,
        Failed,
    ];
    let states = states.map(|state| tokio::spawn(ctl.wait_for(state)));
    let waits = [
        ctl.lame_duck_begun(),
        ctl.draining(),
        ctl.drained(),
        ctl.stopped(),
        ctl.idle(),
    ];
    let waits = waits.map(tokio::spawn);
    let triggered = tokio::spawn(ctl.triggered());
    let error = fail(&mut startup).await;
    let report = end(served).await.unwrap();
    assert_eq!(report.exit_code(), ExitCode::FAILURE);
    assert_eq!(report.to_string(), error.report().to_string());
    assert!(report.to_string().contains("start-up rolled back"));
    assert_eq!(
        end(triggered).await.unwrap().reason(),
        ShutdownReason::Error
    );
    for state in states {
        let state = end(state).await.unwrap();
        assert!(matches!(state, Starting | Failed), "{state}");
    }
    for wait in waits {
        end(wait).await.unwrap();
    }
    let late = end(ctl.shutdown(Manual)).await;
    assert_eq!(late.to_string(), report.to_string());
    assert_eq!(
        end(ctl.run(pending::<()>())).await.exit_code(),
        ExitCode::FAILURE
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_end_keeps_no_rollback_from_ending() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let served = tokio::spawn(ctl.run(pending::<()>()));
    // It is polled, and holds its permit.
    sleep(ms(1)).await;
    let since = Instant::now();
    let error = fail(&mut startup).await;
    assert_eq!(outcomes(error.rollback()), ["a: completed"]);
    assert_eq!(since.elapsed(), ms(8_250));
    assert_eq!(end(served).await.unwrap().abandoned(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_during_the_start_up_rolls_it_back() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    tokio::spawn(ctl.run(async { Err::<(), _>("address in use") }));
    let start = startup.start("b", log.up("b", 60_000), log.down(Stop::After(0)));
    let error = end(start).await.unwrap_err();
    assert!(matches!(
        error.cause(),
        StartupCause::Triggered(ShutdownReason::Error)
    ));
    let errors: Vec<_> = error
        .report()
        .server_errors()
        .map(|e| e.to_string())
        .collect();
    assert_eq!(errors, ["address in use"]);
    assert_eq!(log.names(), ["+a", "-a"]);
}
