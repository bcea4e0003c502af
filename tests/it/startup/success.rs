//! A start-up that succeeds.

use super::*;

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

    // All of it in a separate task.
    let started = tokio::spawn(async move {
        let start = async { Ok::<_, BoxError>(1) };
        let one = startup.start("spawned", start, |_| async {}).await?;
        Ok::<_, StartupError>((one, startup.finish().await?))
    });
    let (one, ctl) = started.await.unwrap().unwrap();
    assert_eq!((one, ctl.state()), (1, Running));
}
