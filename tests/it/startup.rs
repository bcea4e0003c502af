//! P8: a start-up that fails leaves nothing behind; one that succeeds is stopped in reverse order.

use std::error::Error;
use std::future::{IntoFuture, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::report::{Outcome, ServiceReport};
use tower_lifecycle::startup::{StartupCause, StartupError, Step, step};
use tower_lifecycle::{BoxError, Hook, LifecycleState, ShutdownConfig, ShutdownReason, Startup};

use crate::support::log::Lines;
use crate::support::runtime::{in_time, one_thread, threads};
use crate::support::startup::{
    Log, Name, Stop, ms, outcomes, startup, ten_seconds, timed_outcomes,
};
use LifecycleState::{Failed, Initializing, Running, Starting, Stopped};
use ShutdownReason::Manual;

/// Waits for an end that must come, at most for an hour of the paused clock.
async fn end<F: IntoFuture>(future: F) -> F::Output {
    timeout(Duration::from_secs(3_600), future.into_future())
        .await
        .expect("it never ends")
}

async fn fail(startup: &mut Startup) -> StartupError {
    let start = async { Err::<(), _>("connection refused") };
    // Its own stop would be in the list of the rollback.
    let error = end(startup.start("broken", start, |()| async {})).await;
    error.unwrap_err()
}

fn is_triggered(error: &StartupError) -> bool {
    matches!(error.cause(), StartupCause::Triggered(Manual)) && error.step().is_none()
}

// ===== a start-up that succeeds =====

#[tokio::test(start_paused = true)]
async fn an_empty_start_up_goes_through_the_states() {
    let (startup, log) = (startup(), Log::new());
    log.observe(&startup);
    assert_eq!(startup.controller().state(), Initializing);
    let ctl = startup.finish().await.unwrap();
    assert_eq!(ctl.state(), Running);
    assert_eq!(
        log.names(),
        ["initializing -> starting", "starting -> running"]
    );
    let report = end(ctl.shutdown(Manual)).await;
    assert!(report.is_graceful() && report.services().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_config_that_cannot_be_is_an_error() {
    let config = ten_seconds().lame_duck(ms(60_000));
    assert!(Startup::new(config).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_started_is_stopped_in_reverse_order_by_the_shutdown() {
    let (mut startup, log) = (startup(), Log::new());
    log.observe(&startup);
    for name in ["a", "b"] {
        let started = startup.start(name, log.up(name, 100), log.down(Stop::After(10)));
        assert_eq!(started.await.unwrap(), name);
        assert_eq!(startup.controller().state(), Starting);
    }
    log.start(&mut startup, "c").await;
    let ctl = startup.finish().await.unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    let expected = [
        ("initializing -> starting", 0),
        ("+a", 100),
        ("+b", 200),
        ("+c", 200),
        ("starting -> running", 200),
        ("running -> draining", 200),
        ("draining -> stopping", 200),
        ("-c", 200),
        ("-b", 200),
        ("-a", 210),
        ("stopping -> stopped", 220),
    ];
    let expected = expected.map(|(what, at)| (what.to_owned(), ms(at)));
    assert_eq!(log.entries(), expected);
    assert_eq!(
        timed_outcomes(report.services()),
        ["c: completed 0ns", "b: completed 10ms", "a: completed 10ms"]
    );
    assert!(report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn the_services_of_one_step_start_and_stop_at_the_same_time() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "first").await;
    let cache = step("cache", log.up("cache", 300), log.down(Stop::After(50)));
    let port = step("port", async { Ok::<_, BoxError>(80) }, |_| async {});
    let queue = step("queue", log.up("queue", 200), log.down(Stop::After(100)));
    let started = startup.start_all((cache, port, queue)).await.unwrap();
    assert_eq!(started, ("cache", 80, "queue"));
    let steps = ["x", "y"].map(|name| step(name, log.up(name, 7), log.down(Stop::After(7))));
    let started = startup.start_all(Vec::from(steps)).await.unwrap();
    assert_eq!(started, ["x", "y"]);
    let nothing = Vec::<Step<'_, ()>>::new();
    assert!(startup.start_all(nothing).await.unwrap().is_empty());
    let ctl = startup.finish().await.unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    let expected = [
        ("+first", 0),
        ("+queue", 200),
        ("+cache", 300),
        ("+x", 307),
        ("+y", 307),
        ("-y", 307),
        ("-x", 307),
        ("-queue", 314),
        ("-cache", 314),
        ("-first", 414),
    ];
    let expected = expected.map(|(what, at)| (what.to_owned(), ms(at)));
    assert_eq!(log.entries(), expected);
    assert_eq!(
        outcomes(report.services()),
        [
            "y: completed",
            "x: completed",
            "queue: completed",
            "port: completed",
            "cache: completed",
            "first: completed"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_may_borrow_and_its_future_may_be_sent() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    let url = String::from("postgres://localhost");
    let mut startup = startup();
    let start = async { Ok::<_, BoxError>(url.len()) };
    let length = is_send(startup.start("borrows", start, |_| async {}).into_future());
    assert_eq!(length.await.unwrap(), url.len());
    let start = async { Ok::<_, BoxError>(url.as_str().to_owned()) };
    let step = step("borrows too", start, |_| async {});
    assert_eq!(is_send(startup.start_all((step,))).await.unwrap().0, url);

    // All of it in a task of its own.
    let started = tokio::spawn(async move {
        let start = async { Ok::<_, BoxError>(1) };
        let one = startup.start("spawned", start, |_| async {}).await?;
        Ok::<_, StartupError>((one, startup.finish().await?))
    });
    let (one, ctl) = started.await.unwrap().unwrap();
    assert_eq!((one, ctl.state()), (1, Running));
}

// ===== a step that fails =====

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_rolls_back_in_reverse_order() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.observe(&startup);
    ctl.on_shutdown("hook", |_| async {
        panic!("hooks do not run in a rollback")
    })
    .unwrap();
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::After(100)).await;
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "no server");
    let error = startup
        .start(
            "c",
            async { Err::<Name, _>(refused) },
            log.down(Stop::After(0)),
        )
        .await
        .unwrap_err();
    assert_eq!(
        log.names(),
        [
            "initializing -> starting",
            "+a",
            "+b",
            "-b",
            "-a",
            "starting -> failed"
        ]
    );
    assert_eq!(error.step(), Some("c"));
    assert_eq!(error.to_string(), "start-up failed at `c`: no server");
    let StartupCause::Failed(cause) = error.cause() else {
        panic!("{:?}", error.cause());
    };
    let cause = cause.downcast_ref::<io::Error>();
    assert_eq!(cause.unwrap().kind(), io::ErrorKind::ConnectionRefused);
    // The text of the cause is in ours, so the chain goes on behind it.
    assert!(error.source().is_none());
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["b: completed 100ms", "a: completed 0ns"]
    );
    assert_eq!(ctl.state(), Failed);
    let report = error.report();
    assert_eq!(report.exit_code(), ExitCode::FAILURE);
    assert_eq!(report.reason(), ShutdownReason::Error);
    assert!(!report.is_graceful() && !report.is_forced());
    assert_eq!(report.hooks()[0].outcome().to_string(), "not started");
    let states: Vec<_> = report.phases().iter().map(|p| p.state()).collect();
    assert_eq!((states, report.duration()), (vec![Starting], ms(100)));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_fails_by_its_message() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let start = async { panic!("at the {}", "disk") };
    let error = startup
        .start::<Name, BoxError, _, _, _>("b", start, log.down(Stop::After(0)))
        .await
        .unwrap_err();
    assert_eq!(error.step(), Some("b"));
    assert!(matches!(error.cause(), StartupCause::Panicked(text) if text == "at the disk"));
    assert!(error.source().is_none());
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_fails_at_its_limit_and_not_before() {
    let (mut startup, log) = (startup(), Log::new());
    let start = startup.start("in time", log.up("in time", 499), log.down(Stop::After(0)));
    start.timeout(ms(500)).await.unwrap();
    let start = startup.start("late", log.up("late", 501), log.down(Stop::After(0)));
    let error = end(start.timeout(ms(500))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "start-up failed at `late`: not started within 500ms"
    );
    assert!(matches!(error.cause(), StartupCause::TimedOut(limit) if *limit == ms(500)));
    assert_eq!(
        log.entries(),
        [
            ("+in time".to_owned(), ms(499)),
            ("-in time".to_owned(), ms(999))
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_lets_a_start_that_need_not_wait_succeed() {
    let (mut startup, log) = (startup(), Log::new());
    let start = startup.start("quick", log.up("quick", 0), log.down(Stop::After(0)));
    start.timeout(Duration::ZERO).await.unwrap();
    let start = startup.start("endless", log.up("endless", 5), log.down(Stop::After(0)));
    start.timeout(Duration::MAX).await.unwrap();
    assert_eq!(log.names(), ["+quick", "+endless"]);
    startup.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_one_drops_the_starts_beside_it_and_stops_those_that_were_done() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let done = step("done", log.up("done", 10), log.down(Stop::After(0)));
    let slow = step("slow", log.up("slow", 30), log.down(Stop::After(0)));
    let broken = async {
        sleep(ms(20)).await;
        Err::<Name, _>("broken")
    };
    let broken = step("broken", broken, log.down(Stop::After(0)));
    let late = step("late", log.up("late", 9_000), log.down(Stop::After(0))).timeout(ms(40));
    let error = end(startup.start_all((slow, done, late, broken)))
        .await
        .unwrap_err();
    assert_eq!(error.step(), Some("broken"));
    sleep(ms(20_000)).await;
    assert_eq!(log.names(), ["+a", "+done", "-done", "-a"]);
    assert_eq!(
        outcomes(error.rollback()),
        ["done: completed", "a: completed"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_panics_is_a_start_that_panics() {
    struct Unclonable;
    impl Clone for Unclonable {
        fn clone(&self) -> Self {
            panic!("not to be cloned")
        }
    }
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let start = async { Ok::<_, BoxError>(Unclonable) };
    let error = startup
        .start("b", start, |_| async {})
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.step(), Some("b"));
    assert!(matches!(error.cause(), StartupCause::Panicked(text) if text == "not to be cloned"));
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_shown_is_a_start_that_panics() {
    #[derive(Debug)]
    struct Unshowable;
    impl std::fmt::Display for Unshowable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("not to be shown")
        }
    }
    impl Error for Unshowable {}
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let start = async { Err::<Name, _>(Unshowable) };
    let error = startup.start("b", start, |_| async {}).await.unwrap_err();
    assert!(matches!(error.cause(), StartupCause::Panicked(text) if text == "not to be shown"));
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_an_error() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let again = startup.start("a", log.up("again", 0), log.down(Stop::After(0)));
    let error = end(again).await.unwrap_err();
    assert_eq!(error.step(), Some("a"));
    assert!(matches!(error.cause(), StartupCause::Duplicate));
    assert_eq!(log.names(), ["+a", "-a"], "the second is not even begun");
}

#[tokio::test(start_paused = true)]
async fn two_of_one_step_cannot_have_one_name() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let steps = ["b", "c", "b"].map(|name| step(name, log.up(name, 0), log.down(Stop::Hangs)));
    let error = end(startup.start_all(Vec::from(steps))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "start-up failed at `b`: another service has this name"
    );
    assert_eq!(log.names(), ["+a", "-a"], "none of them is begun");
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_failure_gives_the_same_error_at_once() {
    let (mut startup, log) = (startup(), Log::new());
    log.start_with(&mut startup, "a", Stop::Errs).await;
    let first = fail(&mut startup).await;
    let since = Instant::now();
    let second = startup
        .start("b", log.up("b", 0), log.down(Stop::After(0)))
        .await
        .unwrap_err();
    let step = step("c", log.up("c", 0), log.down(Stop::After(0)));
    let third = startup.start_all((step,)).await.unwrap_err();
    let last = startup.finish().await.unwrap_err();
    for error in [second, third, last] {
        assert_eq!(error.to_string(), first.to_string());
        assert_eq!(outcomes(error.rollback()), outcomes(first.rollback()));
    }
    assert_eq!(since.elapsed(), Duration::ZERO);
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn another_start_up_may_follow_one_that_failed() {
    let log = Log::new();
    for _ in 0..2 {
        let mut startup = startup();
        log.start(&mut startup, "a").await;
        fail(&mut startup).await;
    }
    let mut startup = startup();
    log.start(&mut startup, "a").await;
    let ctl = startup.finish().await.unwrap();
    assert_eq!(ctl.state(), Running);
    assert!(end(ctl.shutdown(Manual)).await.is_graceful());
    assert_eq!(log.names(), ["+a", "-a", "+a", "-a", "+a", "-a"]);
}

// ===== bad stops =====

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

// ===== a shutdown that is triggered meanwhile =====

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
    // What is in flight has 250 ms to unwind.
    assert_eq!(since.elapsed(), ms(300));
}

/// On real threads: the trigger falls anywhere between, in and after the steps.
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

/// It is stopped as all the others are, so it must not be handed out as if it were there.
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

// ===== futures and start-ups that are dropped =====

#[tokio::test(start_paused = true)]
async fn dropping_a_start_drops_no_more_than_it() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let done = step("done", log.up("done", 20), log.down(Stop::After(0)));
    let slow = step("slow", log.up("slow", 60), log.down(Stop::After(0)));
    let dropped = timeout(ms(40), startup.start_all((slow, done))).await;
    assert!(dropped.is_err());
    assert_eq!(startup.controller().state(), Starting);
    log.start(&mut startup, "b").await;
    let ctl = startup.finish().await.unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(log.names(), ["+a", "+done", "+b", "-b", "-done", "-a"]);
    assert_eq!(
        report.services().len(),
        3,
        "nobody stopped what was dropped"
    );
    assert!(report.is_graceful());
}

/// Such as one that was given up after a time, and is tried again.
#[tokio::test(start_paused = true)]
async fn a_start_that_was_dropped_may_be_tried_again_by_its_name() {
    let (mut startup, log) = (startup(), Log::new());
    let slow = startup.start("a", log.up("a", 1_000), log.down(Stop::After(0)));
    assert!(timeout(ms(10), slow).await.is_err());
    let again = startup.start("a", log.up("a", 10), log.down(Stop::After(0)));
    assert_eq!(end(again).await.unwrap(), "a");
    let ctl = startup.finish().await.unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(log.names(), ["+a", "-a"]);
    assert_eq!(outcomes(report.services()), ["a: completed"]);
}

#[tokio::test(start_paused = true)]
async fn dropping_what_waits_for_the_rollback_does_not_stop_it() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::After(500)).await;
    let broken = async { Err::<Name, _>("broken") };
    let start = startup.start("c", broken, log.down(Stop::After(0)));
    assert!(timeout(ms(10), start).await.is_err());
    drop(startup);
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(log.names(), ["+a", "+b", "-b", "-a"]);
    assert_eq!(
        outcomes(report.services()),
        ["b: completed", "a: completed"]
    );
    assert_eq!(ctl.state(), Failed);
    assert!(report.to_string().contains("failed at `c`: broken"));
}

#[tokio::test(start_paused = true)]
async fn dropping_finish_before_its_first_poll_rolls_back() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    drop(startup.finish());
    end(ctl.stopped()).await;
    assert_eq!(ctl.state(), Failed);
    assert_eq!(log.names(), ["+a", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_up_that_is_dropped_is_noticed_and_rolled_back() {
    let (mut startup, log, lines) = (startup(), Log::new(), Lines::default());
    let _listening = lines.listen();
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    log.start(&mut startup, "b").await;
    drop(startup);
    let report = end(ctl.shutdown(Manual)).await;
    let errors = lines.containing("ERROR");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("the `Startup` was dropped before `finish`"));
    assert_eq!(log.names(), ["+a", "+b", "-b", "-a"]);
    assert_eq!(ctl.state(), Failed);
    assert_eq!(report.exit_code(), ExitCode::FAILURE);
    assert!(report.to_string().contains("dropped before `finish`"));
}

#[tokio::test(start_paused = true)]
async fn a_start_up_that_is_finished_or_has_failed_may_be_dropped() {
    let lines = Lines::default();
    let _listening = lines.listen();
    let ctl = startup().finish().await.unwrap();
    assert_eq!(ctl.state(), Running);
    let triggered = startup();
    triggered.controller().trigger(Manual);
    drop(triggered);
    assert_eq!(lines.containing("ERROR"), Vec::<String>::new());
    let mut failed = startup();
    fail(&mut failed).await;
    drop(failed);
    assert_eq!(lines.containing("ERROR").len(), 1, "the failure alone");
}

#[test]
fn a_start_up_may_be_dropped_after_its_runtime_has_ended() {
    let (names, state) = in_time(|| {
        let runtime = one_thread();
        let log = Log::new();
        let startup = runtime.block_on(async {
            let mut startup = startup();
            log.start(&mut startup, "a").await;
            log.start(&mut startup, "b").await;
            startup
        });
        drop(runtime);
        let ctl = startup.controller();
        drop(startup);
        let report = one_thread().block_on(ctl.shutdown(Manual));
        assert_eq!(
            outcomes(report.services()),
            ["b: completed", "a: completed"]
        );
        (log.names(), ctl.state())
    });
    assert_eq!(names, ["+a", "+b", "-b", "-a"]);
    assert_eq!(state, Failed);
}

#[test]
fn a_start_up_needs_no_runtime_to_be_rolled_back() {
    in_time(|| {
        let (mut startup, log) = (startup(), Log::new());
        let ctl = startup.controller();
        let start = startup.start("a", log.up("a", 0), log.down(Stop::After(1)));
        assert_ready!(task::spawn(start.into_future()).poll()).unwrap();
        drop(startup);
        let mut stopped = task::spawn(ctl.stopped());
        while stopped.poll().is_pending() {
            std::thread::yield_now();
        }
        assert_eq!(log.names(), ["+a", "-a"]);
        assert_eq!(ctl.state(), Failed);
    });
}

#[test]
fn a_panic_of_main_rolls_back() {
    in_time(|| {
        let runtime = one_thread();
        let log = Log::new();
        let ctl = Mutex::new(None);
        let main = async {
            let mut startup = startup();
            *ctl.lock().unwrap() = Some(startup.controller());
            log.start(&mut startup, "a").await;
            panic!("scripted: main panics");
        };
        assert!(catch_unwind(AssertUnwindSafe(|| runtime.block_on(main))).is_err());
        let ctl = ctl.into_inner().unwrap().unwrap();
        let report = runtime.block_on(ctl.shutdown(Manual));
        assert_eq!(outcomes(report.services()), ["a: completed"]);
        assert_eq!((ctl.state(), log.names().len()), (Failed, 2));
    });
}

/// As with `#[tokio::main]`, where the runtime goes right after: the rollback has not yet begun.
#[test]
fn a_start_up_that_is_dropped_right_before_its_runtime_is_rolled_back() {
    in_time(|| {
        let log = Log::new();
        let ctl = one_thread().block_on(async {
            let mut startup = startup();
            log.start(&mut startup, "a").await;
            startup.controller()
        });
        let report = one_thread().block_on(ctl.shutdown(Manual));
        assert_eq!(ctl.state(), Failed);
        assert_eq!(outcomes(report.services()), ["a: completed"]);
        assert_eq!(log.names(), ["+a", "-a"]);
    });
}

#[test]
fn a_rollback_goes_on_in_a_thread_when_its_runtime_ends_in_the_middle() {
    in_time(|| {
        let (driving, log) = (threads(2), Log::new());
        let (hangs, told) = mpsc::channel();
        let startup = {
            let _entered = driving.enter();
            startup()
        };
        let ctl = startup.controller();
        let other = threads(2);
        let starting = other.spawn({
            let log = log.clone();
            async move {
                let mut startup = startup;
                log.start(&mut startup, "a").await;
                let stop = |_| async move {
                    hangs.send(()).unwrap();
                    pending::<()>().await
                };
                let start = startup.start("b", async { Ok::<_, BoxError>(()) }, stop);
                start.await.unwrap();
                fail(&mut startup).await
            }
        });
        told.recv().unwrap();
        drop(driving);
        let error = other.block_on(starting).unwrap();
        assert_eq!(error.step(), Some("broken"));
        assert_eq!(outcomes(error.rollback()), ["b: cut", "a: completed"]);
        assert_eq!(error.report().reason(), ShutdownReason::Error);
        assert_eq!(ctl.state(), Failed);
        assert_eq!(log.names(), ["+a", "-a"]);
    });
}

#[test]
fn the_cause_is_that_of_the_trigger_when_the_runtime_ends_in_a_rollback() {
    in_time(|| {
        let (driving, log) = (threads(2), Log::new());
        let (hangs, told) = mpsc::channel();
        let mut startup = {
            let _entered = driving.enter();
            startup()
        };
        let ctl = startup.controller();
        let stop = |_| async move {
            hangs.send(()).unwrap();
            pending::<()>().await
        };
        let start = startup.start("a", log.up("a", 0), stop);
        assert_ready!(task::spawn(start.into_future()).poll()).unwrap();
        ctl.trigger(Manual);
        told.recv().unwrap();
        drop(driving);
        let error = one_thread().block_on(startup.finish()).unwrap_err();
        assert_eq!(error.report().reason(), Manual);
        assert_eq!(outcomes(error.rollback()), ["a: cut"]);
        assert!(is_triggered(&error), "{error}");
    });
}

// ===== starts that block or are not polled =====

/// A start that blocks its thread until it is let go, past the end of the rollback.
fn blocked_start() -> (Result<(), StartupError>, u32, StartupError) {
    in_time(|| {
        let runtime = threads(2);
        let config = ShutdownConfig::default()
            .shutdown_timeout(ms(1_500))
            .cleanup_reserve(ms(1_300));
        let mut startup = {
            let _entered = runtime.enter();
            Startup::new(config).unwrap()
        };
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

/// As `a_start_that_ends_in_the_poll_in_which_the_shutdown_is_triggered_gives_the_error`.
#[test]
fn a_service_that_is_started_after_the_rollback_is_not_handed_out() {
    let (started, ..) = blocked_start();
    assert!(is_triggered(&started.unwrap_err()));
}

#[test]
fn a_service_that_is_started_late_outside_the_runtime_is_stopped_as_well() {
    in_time(|| {
        let runtime = threads(2);
        let config = ten_seconds()
            .shutdown_timeout(ms(1_500))
            .cleanup_reserve(ms(1_300));
        let mut startup = {
            let _entered = runtime.enter();
            Startup::new(config).unwrap()
        };
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
    // Not even begun: it is not waited for.
    let unbegun = task::spawn(start.into_future());
    drop(unbegun);
    let start = startup.start("c", log.up("c", 5), log.down(Stop::After(0)));
    let mut start = task::spawn(start.into_future());
    assert_pending!(start.poll());
    end(ctl.shutdown(Manual)).await;
    // Those that cannot be had have 250 ms more, if they are counted as work.
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

// ===== work that was let in =====

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
    // 2 s from the force on, of which 250 ms were given to what is stuck.
    assert_eq!(timed_outcomes(error.rollback()), ["a: timed out 1.75s"]);
    assert_eq!(log.entries()[1].1, ms(250));
}

// ===== those who wait =====

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
    // It is polled, and holds its post.
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

// ===== the shutdown of what was started =====

#[tokio::test(start_paused = true)]
async fn services_stop_after_the_hooks_which_leave_them_their_share() {
    let (mut startup, log) = (startup(), Log::new());
    for name in ["a", "b"] {
        log.start_with(&mut startup, name, Stop::Hangs).await;
    }
    let ctl = startup.finish().await.unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    ctl.add_hook(Hook::new("hangs too", |_| pending()).phase(1))
        .unwrap();
    let since = Instant::now();
    let report = end(ctl.shutdown(Manual)).await;
    // 10 s for two phases of hooks and one of services, which share theirs.
    let hooks: Vec<_> = report.hooks().iter().map(|h| h.duration()).collect();
    let share = ms(3_333)..=ms(3_334);
    assert!(hooks.iter().all(|took| share.contains(took)), "{hooks:?}");
    let half = ms(1_666)..=ms(1_667);
    let services: Vec<_> = report
        .services()
        .iter()
        .map(ServiceReport::duration)
        .collect();
    assert!(
        services.iter().all(|took| half.contains(took)),
        "{services:?}"
    );
    assert_eq!(
        outcomes(report.services()),
        ["b: timed out", "a: timed out"]
    );
    assert!(since.elapsed() <= ms(10_005), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_services_hooks_have_all_of_the_time() {
    let ctl = startup().finish().await.unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(report.hooks()[0].duration(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn services_are_stopped_after_a_hook_that_is_slow() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let ctl = startup.finish().await.unwrap();
    let noted = log.clone();
    ctl.on_shutdown("slow", |_| async move {
        sleep(ms(3_000)).await;
        noted.note("hook");
        Ok(())
    })
    .unwrap();
    assert!(end(ctl.shutdown(Manual)).await.is_graceful());
    assert_eq!(log.names(), ["+a", "hook", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn services_have_the_reserve_after_a_forced_drain() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::Hangs).await;
    let ctl = startup.finish().await.unwrap();
    let _stuck = ctl.track();
    let since = Instant::now();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(log.entries()[2], ("-b".to_owned(), ms(8_250)));
    assert_eq!(
        timed_outcomes(report.services()),
        ["b: timed out 875ms", "a: completed 0ns"]
    );
    assert!(since.elapsed() <= ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn a_force_while_stopping_cuts_what_remains() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let hanging = step("b", log.up("b", 0), log.down(Stop::Hangs));
    let beside = step("c", log.up("c", 0), log.down(Stop::After(100)));
    startup.start_all((hanging, beside)).await.unwrap();
    let ctl = startup.finish().await.unwrap();
    let since = Instant::now();
    ctl.trigger(Manual);
    sleep(ms(300)).await;
    ctl.force();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(
        timed_outcomes(report.services()),
        ["c: completed 100ms", "b: cut 300ms", "a: not started 0ns"]
    );
    assert_eq!(since.elapsed(), ms(300));
    assert_eq!(log.names(), ["+a", "+b", "+c", "-c", "-b"]);
}

#[tokio::test(start_paused = true)]
async fn a_force_while_a_rollback_stops_cuts_what_remains() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::Hangs).await;
    let since = Instant::now();
    tokio::spawn(async move {
        ctl.triggered().await;
        sleep(ms(300)).await;
        ctl.force();
    });
    let error = fail(&mut startup).await;
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["b: cut 300ms", "a: not started 0ns"]
    );
    assert_eq!(since.elapsed(), ms(300));
    assert!(error.report().is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_force_while_a_rollback_stops_is_told_to_what_began_meanwhile() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start_with(&mut startup, "a", Stop::Hangs).await;
    ctl.trigger(Manual);
    sleep(ms(300)).await;
    let late = ctl.track();
    let told = tokio::spawn(async move { late.forced().await });
    sleep(ms(1)).await;
    ctl.force();
    end(told).await.unwrap();
    end(ctl.stopped()).await;
}
