//! A step that fails.

use super::*;

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
    // The error's text includes the cause's, so the chain continues after it.
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
