//! Admitted work.

use super::*;

#[tokio::test(start_paused = true)]
async fn requests_and_tasks_are_waited_for_before_anything_is_stopped() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let request = ctl.try_admit().unwrap();
    let noted = log.clone();
    let outbox = ctl.spawn("outbox", async move {
        sleep(ms(2_000)).await;
        noted.note("outbox");
    });
    let noted = log.clone();
    tokio::spawn(async move {
        request.draining().await;
        sleep(ms(1_000)).await;
        noted.note("request");
    });
    let error = fail(&mut startup).await;
    assert_eq!(log.names(), ["+a", "request", "outbox", "-a"]);
    assert_eq!(log.entries()[3].1, ms(2_000));
    assert!(!error.report().is_forced());
    assert_eq!(error.report().in_flight_at_trigger(), 1);
    outbox.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_and_tasks_are_cut_at_the_drain_deadline_of_a_rollback() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start_with(&mut startup, "a", Stop::Hangs).await;
    log.start_with(&mut startup, "b", Stop::Hangs).await;
    let request = ctl.try_admit().unwrap();
    tokio::spawn(async move { request.forced().await });
    let task = ctl.spawn("outbox", pending::<()>());
    let since = Instant::now();
    let error = fail(&mut startup).await;
    assert!(error.report().is_forced());
    assert!(task.await.unwrap_err().is_cancelled());
    let tasks: Vec<_> = error.report().tasks().iter().map(|t| t.name()).collect();
    assert_eq!(tasks, ["outbox"]);
    assert_eq!(log.entries()[2], ("-b".to_owned(), ms(8_000)));
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["b: timed out 1s", "a: timed out 1s"]
    );
    assert_eq!(since.elapsed(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn after_an_early_force_a_rollback_has_the_reserve_only() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start_with(&mut startup, "a", Stop::Hangs).await;
    let _stuck = ctl.track();
    ctl.force();
    let error = end(startup.finish()).await.unwrap_err();
    // 2 s from the force on, of which stuck work gets 250 ms.
    assert_eq!(timed_outcomes(error.rollback()), ["a: timed out 1.75s"]);
    assert_eq!(log.entries()[1].1, ms(250));
}
