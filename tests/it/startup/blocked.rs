//! Starts that block or are not polled.

use super::*;

/// A start-up whose shutdown is short, and a runtime for it.
fn soon_over() -> (Runtime, Startup) {
    let runtime = threads(2);
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(1_500))
        .cleanup_reserve(ms(1_300));
    let startup = {
        let _entered = runtime.enter();
        Startup::new(config).unwrap()
    };
    (runtime, startup)
}

/// A start that blocks its thread until it is released, past the end of the rollback.
fn blocked_start() -> (Result<(), StartupError>, u32, StartupError) {
    in_time(|| {
        let (runtime, mut startup) = soon_over();
        let ctl = startup.controller();
        let (entered, blocks) = mpsc::channel();
        let (release, blocked) = mpsc::channel::<()>();
        let (stopped, stops) = mpsc::channel();
        let starting = runtime.spawn(async move {
            let start = async move {
                entered.send(()).unwrap();
                blocked.recv()
            };
            let stop = |()| async move { stopped.send(()).unwrap() };
            let started = startup.start("late", start, stop).await;
            (started, startup.finish().await.unwrap_err())
        });
        blocks.recv().unwrap();
        let report = runtime.block_on(ctl.shutdown(Manual));
        assert_eq!(outcomes(report.services()), ["late: abandoned"]);
        assert_eq!(report.abandoned(), 1, "{report}");
        assert!(stops.try_recv().is_err());
        release.send(()).unwrap();
        let (started, finish) = runtime.block_on(starting).unwrap();
        let mut count = 0;
        // Until the last sender is gone.
        while stops.recv().is_ok() {
            count += 1;
        }
        (started, count, finish)
    })
}

#[test]
fn a_service_that_is_started_after_the_rollback_is_stopped_at_once() {
    let (_, stops, error) = blocked_start();
    assert_eq!(stops, 1);
    assert!(is_triggered(&error), "{error}: {}", error.report());
}

/// Like `a_start_that_ends_in_the_poll_in_which_the_shutdown_is_triggered_gives_the_error`.
#[test]
fn a_service_that_is_started_after_the_rollback_is_not_handed_out() {
    let (started, ..) = blocked_start();
    assert!(is_triggered(&started.unwrap_err()));
}

#[test]
fn a_service_that_is_started_late_outside_the_runtime_is_stopped_as_well() {
    in_time(|| {
        let (runtime, mut startup) = soon_over();
        let ctl = startup.controller();
        let (entered, blocks) = mpsc::channel();
        let (release, blocked) = mpsc::channel::<()>();
        let (stopped, stops) = mpsc::channel();
        let starting = std::thread::spawn(move || {
            let start = async move {
                entered.send(()).unwrap();
                blocked.recv()
            };
            let stop = |()| async move { stopped.send(()).unwrap() };
            let start = startup.start("late", start, stop);
            assert_ready!(task::spawn(start.into_future()).poll()).is_ok()
        });
        blocks.recv().unwrap();
        runtime.block_on(ctl.shutdown(Manual));
        release.send(()).unwrap();
        starting.join().unwrap();
        assert_eq!(stops.iter().count(), 1);
    });
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_drop_panics_holds_up_nobody() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("scripted: the drop panics");
        }
    }
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let starting = tokio::spawn(async move {
        let start = async {
            let _bad = Bad;
            pending::<Result<(), BoxError>>().await
        };
        startup.start("b", start, |()| async {}).await.is_ok()
    });
    sleep(ms(1)).await;
    ctl.trigger(Manual);
    assert!(end(starting).await.unwrap_err().is_panic());
    end(ctl.stopped()).await;
    assert_eq!(log.names(), ["+a", "-a"]);
    assert_eq!(log.entries()[1].1, ms(1));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_waits_until_the_start_is_dropped() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let start = startup.start("b", log.up("b", 60_000), log.down(Stop::After(0)));
    let mut start = task::spawn(start.into_future());
    assert_pending!(start.poll());
    ctl.trigger(Manual);
    sleep(ms(100)).await;
    assert_eq!(log.names(), ["+a"], "`b` may still use it");
    drop(start);
    end(ctl.stopped()).await;
    let stopped = ("-a".to_owned(), ms(100));
    assert_eq!(log.entries().last().unwrap(), &stopped, "woken, at once");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_polls_holds_the_rollback_to_the_drain_deadline_only() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    let since = Instant::now();
    let start = startup.start("b", log.up("b", 0), log.down(Stop::After(0)));
    // Not started: it is not waited for.
    let unbegun = task::spawn(start.into_future());
    drop(unbegun);
    let start = startup.start("c", log.up("c", 5), log.down(Stop::After(0)));
    let mut start = task::spawn(start.into_future());
    assert_pending!(start.poll());
    end(ctl.shutdown(Manual)).await;
    // Work that does not end gets 250 ms more, if it is counted.
    assert!((ms(8_000)..=ms(8_250)).contains(&since.elapsed()));
    assert!(is_triggered(&assert_ready!(start.poll()).unwrap_err()));
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_force_ends_the_wait_for_a_start_that_nobody_polls() {
    let mut startup = startup();
    let (ctl, log, since) = (startup.controller(), Log::new(), Instant::now());
    log.start(&mut startup, "a").await;
    let start = startup.start("b", log.up("b", 5), log.down(Stop::After(0)));
    let mut start = task::spawn(start.into_future());
    assert_pending!(start.poll());
    ctl.trigger(Manual);
    sleep(ms(10)).await;
    ctl.force();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(
        outcomes(report.services()),
        ["b: abandoned", "a: completed"]
    );
    assert!(since.elapsed() <= ms(260), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn work_is_told_of_the_rollback_while_a_start_is_waited_for() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    let guard = ctl.track();
    let mut told = task::spawn(guard.draining());
    assert_pending!(told.poll());
    let start = startup.start("a", log.up("a", 5), log.down(Stop::After(0)));
    let mut start = task::spawn(start.into_future());
    assert_pending!(start.poll());
    ctl.trigger(Manual);
    sleep(ms(1)).await;
    assert!(told.is_woken());
    assert_ready!(told.poll());
}
