//! Dropped futures and start-ups.

use super::*;

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

/// For example one that is dropped after a timeout, and retried.
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

/// As with `#[tokio::main]`, where the runtime ends right afterwards: the rollback has not yet
/// begun.
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
