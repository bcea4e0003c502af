//! Bad stops.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_bad_stop_harms_only_itself() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "good").await;
    for (name, stop) in [("errs", Stop::Errs), ("panics", Stop::Panics)] {
        log.start_with(&mut startup, name, stop).await;
    }
    let early = |_| -> std::future::Ready<()> { panic!("early") };
    startup
        .start("panics early", async { Ok::<_, BoxError>(()) }, early)
        .await
        .unwrap();
    let hangs = startup.start("hangs", log.up("hangs", 0), log.down(Stop::Hangs));
    hangs.stop_timeout(ms(700)).await.unwrap();
    let error = fail(&mut startup).await;
    assert_eq!(
        timed_outcomes(error.rollback()),
        [
            "hangs: timed out 700ms",
            "panics early: panicked: early 0ns",
            "panics: panicked: scripted: panics panics 0ns",
            "errs: failed: errs does not close 0ns",
            "good: completed 0ns",
        ]
    );
    let Outcome::Failed(cause) = error.rollback()[3].outcome() else {
        panic!("it failed")
    };
    assert_eq!(cause.to_string(), "errs does not close");
    let stops = log.names().split_off(4);
    assert_eq!(stops, ["-hangs", "-panics", "-errs", "-good"]);
}

#[tokio::test(start_paused = true)]
async fn bad_stops_make_a_shutdown_not_graceful() {
    for stop in [Stop::Errs, Stop::Panics, Stop::Hangs] {
        let (mut startup, log) = (startup(), Log::new());
        log.start(&mut startup, "good").await;
        log.start_with(&mut startup, "bad", stop).await;
        let ctl = startup.finish().await.unwrap();
        let report = end(ctl.shutdown(Manual)).await;
        assert!(!report.is_graceful() && !report.is_forced(), "{stop:?}");
        assert_eq!(report.exit_code(), ExitCode::FAILURE);
        assert!(report.services()[1].is_completed());
        assert_eq!(ctl.state(), Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn the_future_of_a_stop_is_dropped_at_its_limit() {
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    let mut startup = startup();
    let stop = move |()| async move {
        let _alive = alive;
        pending::<()>().await
    };
    let start = startup.start("hangs", async { Ok::<_, BoxError>(()) }, stop);
    start.stop_timeout(ms(100)).await.unwrap();
    let since = Instant::now();
    fail(&mut startup).await;
    assert_eq!(since.elapsed(), ms(100));
    assert!(gone.await.is_err(), "it is dropped, not left behind");
}

#[tokio::test(start_paused = true)]
async fn stops_that_hang_leave_the_others_their_share_and_all_keeps_the_deadline() {
    let (mut startup, log) = (startup(), Log::new());
    for name in ["a", "b", "c", "d"] {
        log.start_with(&mut startup, name, Stop::Hangs).await;
    }
    let greedy = startup.start("greedy", log.up("greedy", 0), log.down(Stop::Hangs));
    greedy.stop_timeout(Duration::MAX).await.unwrap();
    let since = Instant::now();
    let error = fail(&mut startup).await;
    // 10 s for five.
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["greedy", "d", "c", "b", "a"].map(|name| format!("{name}: timed out 2s"))
    );
    assert_eq!(since.elapsed(), ms(10_000));
    assert_eq!(startup.controller().state(), Failed);
}

#[tokio::test(start_paused = true)]
async fn what_one_step_leaves_goes_to_the_next() {
    let (mut startup, log) = (startup(), Log::new());
    log.start_with(&mut startup, "a", Stop::Hangs).await;
    log.start_with(&mut startup, "b", Stop::After(1_000)).await;
    let since = Instant::now();
    let error = fail(&mut startup).await;
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["b: completed 1s", "a: timed out 9s"]
    );
    assert_eq!(since.elapsed(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn with_no_time_at_all_each_stop_gets_as_far_as_its_first_wait() {
    let config = ShutdownConfig::default().shutdown_timeout(Duration::ZERO);
    let (mut startup, log) = (Startup::new(config).unwrap(), Log::new());
    for name in ["a", "b", "c"] {
        log.start(&mut startup, name).await;
    }
    let since = Instant::now();
    let error = fail(&mut startup).await;
    assert_eq!(
        outcomes(error.rollback()),
        ["c: completed", "b: completed", "a: completed"]
    );
    assert!(since.elapsed() <= ms(5), "{:?}", since.elapsed());
}

#[test]
fn a_stop_that_blocks_its_thread_is_left_behind() {
    let (release, blocked) = mpsc::channel::<()>();
    let (error, stopped) = in_time(move || {
        let runtime = threads(2);
        let result = runtime.block_on(async {
            let mut startup = startup();
            let stopped = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&stopped);
            let stop = |()| async move {
                count.fetch_add(1, Ordering::SeqCst);
            };
            let start = startup.start("a", async { Ok::<_, BoxError>(()) }, stop);
            start.await.unwrap();
            let stop = move |()| async move { blocked.recv() };
            let start = startup.start("blocks", async { Ok::<_, BoxError>(()) }, stop);
            start.stop_timeout(ms(50)).await.unwrap();
            (fail(&mut startup).await, stopped)
        });
        release.send(()).unwrap();
        result
    });
    assert_eq!(
        outcomes(error.rollback()),
        ["blocks: timed out", "a: completed"]
    );
    assert_eq!(stopped.load(Ordering::SeqCst), 1);
}
