//! Background tasks, and the notice that tells them to end.

use std::fmt;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::controller::TaskPolicy::Note;
use tower_lifecycle::report::Outcome;
use tower_lifecycle::{
    BoxError, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    Startup, Task,
};

use crate::support::panics::Unspeakable;
use crate::support::runtime::{one_thread, threads};
use crate::support::shutdown::{Dropped, controller, ms, settle, ten_seconds};

const MANUAL: ShutdownReason = ShutdownReason::Manual;
/// The maximum number of bad ends in a report.
const NAMED: usize = 64;

/// A short shutdown, in real time.
fn short() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(400))
        .cleanup_reserve(ms(200))
}

/// Waits, and fails after a time limit.
fn in_time<F: Future>(wait: F) -> F::Output {
    let limit = Duration::from_secs(30);
    let result = one_thread().block_on(async { tokio::time::timeout(limit, wait).await });
    result.expect("it takes for ever")
}

/// Panics. Its type is `()`, which tasks require.
fn panic_as(message: &str) {
    panic!("{message}");
}

/// Returns for each task of a report: its name, its outcome, and whether it ended during the
/// shutdown.
fn ends(report: &ShutdownReport) -> Vec<(String, String, bool)> {
    let tasks = report.tasks().iter();
    tasks
        .map(|task| {
            let outcome = task.outcome().to_string();
            (task.name().to_owned(), outcome, task.is_in_shutdown())
        })
        .collect()
}

fn end(name: &str, outcome: &str, in_shutdown: bool) -> (String, String, bool) {
    (name.to_owned(), outcome.to_owned(), in_shutdown)
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

// ===== counted separately, and waited for =====

#[tokio::test(start_paused = true)]
async fn a_task_is_counted_apart_from_requests() {
    let ctl = controller(ten_seconds());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = ctl.spawn("outbox", stopped);
    let figures = || {
        let metrics = ctl.metrics();
        (metrics.tasks, metrics.in_flight, metrics.admitted)
    };
    assert_eq!(figures(), (1, 0, 0));
    assert_eq!(ctl.in_flight(), 0);
    ctl.spawn("second", pending::<()>()).abort();
    assert_eq!(figures(), (2, 0, 0));
    settle().await;
    assert_eq!(figures(), (1, 0, 0));

    ctl.trigger(MANUAL);
    ctl.drained().await;
    assert_eq!((ctl.state(), figures().0), (LifecycleState::Draining, 1));
    stop.send(()).unwrap();
    task.await.unwrap();
    assert_eq!(figures(), (0, 0, 0));
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful(), "{report}");
    assert_eq!((report.admitted(), report.in_flight_at_trigger()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_drain_is_over_when_the_last_task_has_ended() {
    let ctl = controller(ten_seconds());
    for (name, time) in [("quick", 300), ("slow", 700), ("slow", 500)] {
        let draining = ctl.draining();
        ctl.spawn(name, async move {
            draining.await;
            sleep(ms(time)).await;
        });
    }
    let start = Instant::now();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(700));
    assert!(
        report.is_graceful() && report.tasks().is_empty(),
        "{report}"
    );
    assert_eq!(report.phases()[0].duration(), ms(700));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_spawned_while_draining_is_waited_for_too() {
    let ctl = controller(ten_seconds());
    let start = Instant::now();
    let other = ctl.clone();
    ctl.spawn("first", async move {
        other.triggered().await;
        other.spawn("second", sleep(ms(900)));
    });
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(900));
    assert!(report.is_graceful(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_request_and_a_task_are_both_waited_for() {
    let ctl = controller(ten_seconds());
    for (guard_lives, task_lives) in [(200, 600), (600, 200)] {
        let ctl = controller(ctl.config().clone());
        let guard = ctl.track();
        tokio::spawn(async move {
            sleep(ms(guard_lives)).await;
            drop(guard);
        });
        ctl.spawn("task", sleep(ms(task_lives)));
        let start = Instant::now();
        assert!(ctl.shutdown(MANUAL).await.is_graceful());
        assert_eq!(start.elapsed(), ms(600));
    }
}

// ===== cut =====

#[tokio::test(start_paused = true)]
async fn at_the_drain_deadline_a_task_is_dropped_before_the_hooks_and_named() {
    let ctl = controller(ten_seconds());
    let (dropped, is_dropped) = Dropped::new();
    let task = ctl.spawn("outbox", async move {
        let _dropped = dropped;
        pending::<()>().await
    });
    ctl.on_shutdown("look", {
        let is_dropped = Arc::clone(&is_dropped);
        move |_| ready(is(&is_dropped).then_some(()).ok_or("still alive".into()))
    })
    .unwrap();
    settle().await;

    let start = Instant::now();
    ctl.trigger(MANUAL);
    advance(ms(7_999)).await;
    yield_now().await;
    assert!(!is(&is_dropped), "before the deadline");
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(8_000));
    assert_eq!(ends(&report), [end("outbox", "cut", true)]);
    assert!(matches!(report.tasks()[0].outcome(), Outcome::Cut));
    assert!(report.hooks()[0].is_completed(), "{report}");
    assert!(report.is_forced() && !report.is_graceful());
    assert_eq!((report.aborted(), report.abandoned()), (0, 0));
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(report.to_string().contains("`outbox`: cut after"));
}

#[tokio::test(start_paused = true)]
async fn force_cuts_every_task_at_once() {
    let ctl = controller(ten_seconds());
    for _ in 0..10 {
        ctl.spawn("same name", pending::<()>());
    }
    let start = Instant::now();
    ctl.trigger(MANUAL);
    ctl.force();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(ends(&report), vec![end("same name", "cut", true); 10]);
    assert_eq!((ctl.metrics().tasks, report.abandoned()), (0, 0));
}

#[test]
fn a_task_that_blocks_its_thread_is_abandoned_and_counted() {
    let runtime = threads(3);
    let (release, blocked) = mpsc::channel::<()>();
    let (report, ctl) = runtime.block_on(async {
        let ctl = controller(short());
        let (runs, told) = oneshot::channel();
        ctl.spawn("blocks", async move {
            runs.send(()).unwrap();
            let _ = blocked.recv();
        });
        ctl.spawn("waits", pending::<()>());
        told.await.unwrap();
        (ctl.shutdown(MANUAL).await, ctl)
    });
    let mut ends = ends(&report);
    ends.sort();
    assert_eq!(
        ends,
        [end("blocks", "abandoned", true), end("waits", "cut", true)]
    );
    assert_eq!(report.reason(), MANUAL);
    assert_eq!((report.abandoned(), ctl.metrics().abandoned), (1, 1));
    assert!(report.is_forced() && !report.is_graceful());
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_spawned_too_late_is_cut_before_its_first_poll() {
    let ctl = controller(ten_seconds());
    let spawn_late = |ctl: &ShutdownController, name: &str| {
        let (dropped, is_dropped) = Dropped::new();
        let late = ctl.spawn(name, async move {
            let _dropped = dropped;
            panic_as("it was polled");
        });
        (late, is_dropped)
    };
    let (results, late) = mpsc::channel();
    ctl.on_shutdown("spawn", {
        let ctl = ctl.clone();
        move |_| async move {
            let (late, is_dropped) = spawn_late(&ctl, "while stopping");
            let is_dropped = is(&is_dropped);
            results.send((is_dropped, late.await.unwrap_err().is_cancelled()))?;
            Ok(())
        }
    })
    .unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(late.recv().unwrap(), (true, true));
    assert_eq!(ends(&report), [end("while stopping", "cut", true)]);
    assert!(!report.is_graceful() && !report.is_forced());
    assert_eq!(report.abandoned(), 0);

    let (late, is_dropped) = spawn_late(&ctl, "after the end");
    assert!(is(&is_dropped));
    assert!(late.await.unwrap_err().is_cancelled());
    assert_eq!(ctl.metrics().tasks, 0);
}

// The runtime that drives the shutdown does not run, so only `force` acts here.
#[test]
fn a_task_that_is_spawned_after_a_force_is_never_polled() {
    let driving = one_thread();
    let ctl = driving.block_on(async { controller(ten_seconds()) });
    ctl.force();
    let polled = Arc::new(AtomicBool::new(false));
    one_thread().block_on(async {
        let flag = Arc::clone(&polled);
        let late = ctl.spawn("late", async move { flag.store(true, Ordering::SeqCst) });
        assert!(late.await.unwrap_err().is_cancelled());
    });
    assert!(!is(&polled));
    let report = driving.block_on(ctl.shutdown(MANUAL));
    assert_eq!(ends(&report), [end("late", "cut", true)]);
}

// Its runtime does not run: a task that was never polled cannot block anything.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_cut_before_its_first_poll_is_not_abandoned() {
    let ctl = controller(ten_seconds());
    let idle = threads(1);
    let (release, blocked) = mpsc::channel::<()>();
    idle.spawn(async move { blocked.recv().is_ok() });
    ctl.on_shutdown("spawn", {
        let (ctl, idle) = (ctl.clone(), idle.handle().clone());
        move |_| async move {
            let _entered = idle.enter();
            drop(ctl.spawn("late", pending::<()>()));
            Ok(())
        }
    })
    .unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(ends(&report), [end("late", "cut", true)]);
    assert_eq!(report.abandoned(), 0);
    drop(release);
    idle.shutdown_background();
}

// ===== bad ends =====

#[tokio::test(start_paused = true)]
async fn a_bad_end_before_the_shutdown_is_reported_and_makes_it_not_graceful() {
    let ctl = controller(ten_seconds());
    let panics = Task::new("panics", async { panic_as("as planned") });
    let panicked = ctl.spawn_task(panics.on_panic(Note));
    assert!(panicked.await.unwrap_err().is_panic());
    let fails = async { Err::<(), _>("disk full") };
    let fails = Task::new("fails", fails).on_error(Note);
    ctl.spawn_task(fails).await.unwrap();
    ctl.spawn("fine", async { Ok::<_, BoxError>(()) })
        .await
        .unwrap();
    assert_eq!(ctl.metrics().tasks, 0);

    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(
        ends(&report),
        [
            end("panics", "panicked: as planned", false),
            end("fails", "failed: disk full", false),
        ]
    );
    assert!(!report.is_graceful());
    assert!(
        report
            .to_string()
            .contains("`fails`: failed: disk full after")
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_end_during_the_shutdown_makes_it_not_graceful() {
    for panics in [true, false] {
        for lame_duck in [ms(0), ms(500)] {
            let ctl = controller(ten_seconds().lame_duck(lame_duck));
            let triggered = ctl.triggered();
            ctl.spawn("bad", async move {
                triggered.await;
                assert!(!panics, "as planned");
                Err::<(), _>("as planned")
            });
            let report = ctl.shutdown(MANUAL).await;
            let outcome = if panics {
                "panicked: as planned"
            } else {
                "failed: as planned"
            };
            assert_eq!(ends(&report), [end("bad", outcome, true)]);
            assert!(!report.is_graceful() && !report.is_forced());
            assert!(report.to_string().contains("drained, with errors"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_end_in_a_shutdown_that_was_called_off_is_not_of_the_next_one() {
    let ctl = controller(ten_seconds().lame_duck(ms(500)));
    let triggered = ctl.triggered();
    ctl.spawn("bad", async move {
        triggered.await;
        Err::<(), _>("as planned")
    });
    ctl.trigger(MANUAL);
    settle().await;
    ctl.resume().unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(ends(&report), [end("bad", "failed: as planned", false)]);
    assert!(!report.is_graceful(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_shown_harms_only_its_task() {
    let ctl = controller(ten_seconds());
    let task = ctl.spawn("bad", ready(Err::<(), _>(Unspeakable)));
    assert!(task.await.unwrap_err().is_panic());
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(ends(&report), [end("bad", "panicked: unspeakable", false)]);
}

#[tokio::test(start_paused = true)]
async fn what_its_owner_aborts_is_not_reported_and_not_waited_for() {
    let ctl = controller(ten_seconds());
    let task = ctl.spawn("aborted", pending::<()>());
    settle().await;
    let start = Instant::now();
    ctl.trigger(MANUAL);
    settle().await;
    task.abort();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(1));
    assert!(
        report.is_graceful() && report.tasks().is_empty(),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_very_many_bad_ends_the_first_are_named_and_the_rest_is_counted() {
    let ctl = controller(ten_seconds());
    for n in 0..NAMED + 36 {
        let fails = async { Err::<(), _>("as planned") };
        let fails = Task::new(n.to_string(), fails).on_error(Note);
        ctl.spawn_task(fails).await.unwrap();
    }
    let report = ctl.shutdown(MANUAL).await;
    let names: Vec<_> = report.tasks().iter().map(|t| t.name().to_owned()).collect();
    let first: Vec<_> = (0..NAMED).map(|n| n.to_string()).collect();
    assert_eq!(names, first);
    assert!(
        report.to_string().contains("36 more did not end well"),
        "{report}"
    );
    assert!(!report.is_graceful());
}

// ===== leaks =====

/// An error that holds `T`, to show whether the report is dropped.
struct Holding<T>(#[allow(dead_code)] T);

impl<T> fmt::Debug for Holding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holding")
    }
}

impl<T> fmt::Display for Holding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("holding")
    }
}

impl<T> std::error::Error for Holding<T> {}

#[test]
fn tasks_that_hold_the_controller_do_not_keep_it_alive_after_the_end() {
    let alive = Arc::new(());
    let runtime = one_thread();
    runtime.block_on(async {
        let ctl = controller(ten_seconds());
        for cut in [false, true] {
            let (held, stop) = (ctl.clone(), ctl.draining());
            let alive = Arc::clone(&alive);
            ctl.spawn("holds", async move {
                let _held = (held, alive);
                stop.await;
                if cut {
                    pending::<()>().await;
                }
            });
        }
        // The core holds the report, and the report holds the error.
        let error = Holding(Arc::clone(&alive));
        let fails = Task::new("fails", ready(Err::<(), _>(error)));
        ctl.spawn_task(fails.on_error(Note)).await.unwrap();
        assert_eq!(Arc::strong_count(&alive), 4);
        ctl.trigger(MANUAL);
        settle_real().await;
        ctl.force();
        let report = ctl.shutdown(MANUAL).await;
        assert_eq!(report.tasks().len(), 2);
    });
    // The runtime still exists: nothing may depend on its end.
    runtime.block_on(settle_real());
    wait_until(|| Arc::strong_count(&alive) == 1);
}

async fn settle_real() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// Polls a condition that another thread will set without signalling.
fn wait_until(holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        thread::yield_now();
    }
}

#[test]
fn tasks_that_hold_the_controller_go_with_their_runtime() {
    let alive = Arc::new(());
    let runtime = one_thread();
    runtime.block_on(async {
        let ctl = ShutdownController::new();
        let held = (ctl.clone(), Arc::clone(&alive));
        ctl.spawn("holds", async move {
            let _held = held;
            pending::<()>().await
        });
        let error = Holding(Arc::clone(&alive));
        ctl.spawn("fails", ready(Err::<(), _>(error)))
            .await
            .unwrap();
    });
    drop(runtime);
    // The failure began a shutdown: its watchdog and log threads end, too.
    wait_until(|| Arc::strong_count(&alive) == 1);
}

// ===== the runtime =====

#[test]
fn a_foreign_thread_spawns_on_the_runtime_of_the_controller() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("the controller's")
        .enable_all()
        .build()
        .unwrap();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    let (ran, told) = mpsc::channel();
    let spawn = || {
        let task = ctl.spawn("task", async move {
            ran.send(thread::current().name().map(str::to_owned))
                .unwrap();
            sleep(ms(1)).await;
        });
        in_time(task).unwrap();
    };
    thread::scope(|scope| scope.spawn(spawn).join().unwrap());
    assert_eq!(told.recv().unwrap().unwrap(), "the controller's");
    assert!(in_time(ctl.shutdown(MANUAL)).is_graceful());
}

#[test]
fn a_task_runs_on_the_runtime_of_its_caller_if_there_is_one() {
    let others = one_thread();
    let ctl = others.block_on(async { controller(short()) });
    let ran = one_thread().block_on(async { ctl.spawn("task", async {}).await.is_ok() });
    assert!(ran, "the other runtime does not run");
}

#[test]
fn spawning_without_any_runtime_panics_and_counts_nothing() {
    let ctl = ShutdownController::new();
    let (dropped, is_dropped) = Dropped::new();
    let spawn = AssertUnwindSafe(|| {
        ctl.spawn("task", async move {
            let _dropped = dropped;
        })
    });
    assert!(catch_unwind(spawn).is_err());
    assert!(is(&is_dropped));
    assert_eq!(ctl.metrics().tasks, 0);
    let report = in_time(ctl.shutdown(MANUAL));
    assert!(
        report.is_graceful() && report.tasks().is_empty(),
        "{report}"
    );
}

#[test]
fn a_task_whose_runtime_ends_is_not_waited_for() {
    let ctl = one_thread().block_on(async { controller(ten_seconds()) });
    let other = one_thread();
    let task = {
        let _entered = other.enter();
        ctl.spawn("task", pending::<()>())
    };
    assert_eq!(ctl.metrics().tasks, 1);
    drop(other);
    assert_eq!(ctl.metrics().tasks, 0);
    assert!(in_time(task).unwrap_err().is_cancelled());
    let began = Instant::now();
    let report = in_time(ctl.shutdown(MANUAL));
    assert!(
        report.is_graceful() && report.tasks().is_empty(),
        "{report}"
    );
    assert!(began.elapsed() < ms(8_000));
}

#[test]
fn a_task_for_a_runtime_that_has_ended_is_dropped_at_once() {
    let ctl = one_thread().block_on(async { controller(ten_seconds()) });
    let (dropped, is_dropped) = Dropped::new();
    let task = ctl.spawn("task", async move {
        let _dropped = dropped;
        pending::<()>().await
    });
    assert!(is(&is_dropped));
    assert_eq!(ctl.metrics().tasks, 0);
    assert!(in_time(task).unwrap_err().is_cancelled());
    assert!(in_time(ctl.shutdown(MANUAL)).is_graceful());
}

#[test]
fn tasks_go_with_the_driving_runtime_when_it_ends_while_draining() {
    let runtime = one_thread();
    let ctl = runtime.block_on(async {
        let ctl = controller(ten_seconds());
        ctl.spawn("outbox", pending::<()>());
        ctl.trigger(MANUAL);
        settle_real().await;
        ctl
    });
    drop(runtime);
    let report = in_time(ctl.shutdown(MANUAL));
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
    assert_eq!((report.is_graceful(), ctl.metrics().tasks), (false, 0));
}

// ===== start-up =====

#[tokio::test(start_paused = true)]
async fn the_rollback_of_a_start_up_waits_for_tasks_and_cuts_them() {
    let startup = Startup::new(ten_seconds()).unwrap();
    let ctl = startup.controller();
    let triggered = ctl.triggered();
    let good = ctl.spawn("good", async move {
        triggered.await;
        sleep(ms(300)).await;
    });
    ctl.spawn("bad", pending::<()>());
    settle().await;
    let start = Instant::now();
    drop(startup);
    good.await.unwrap();
    assert_eq!(
        (start.elapsed(), ctl.state()),
        (ms(300), LifecycleState::Initializing)
    );
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(8_000));
    assert_eq!(ctl.state(), LifecycleState::Failed);
    assert_eq!(ends(&report), [end("bad", "cut", true)]);
}

// ===== the notice =====

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_why_and_until_when() {
    let ctl = controller(ten_seconds().lame_duck(ms(3_000)));
    let mut early = [task::spawn(ctl.triggered()), task::spawn(ctl.triggered())];
    for waiter in &mut early {
        assert_pending!(waiter.poll());
    }
    let began = Instant::now();
    ctl.trigger(ShutdownReason::Timeout);
    assert!(early.iter().all(|waiter| waiter.is_woken()));
    advance(ms(1_000)).await;
    let late = task::spawn(ctl.triggered());
    for mut waiter in early.into_iter().chain([late]) {
        let notice = assert_ready!(waiter.poll());
        assert_eq!(notice.reason(), ShutdownReason::Timeout);
        assert_eq!(notice.triggered_at(), began);
        assert_eq!(notice.drain_deadline(), Some(began + ms(8_000)));
        assert_eq!(notice.final_deadline(), Some(began + ms(10_000)));
        assert_eq!(notice.drain_remaining(), Some(ms(7_000)));
        assert_eq!(notice.time_remaining(), Some(ms(9_000)));
    }
    ctl.stopped().await;
    let notice = assert_ready!(task::spawn(ctl.triggered()).poll());
    assert_eq!(notice.triggered_at(), began, "after the end, too");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_thread_is_told_by_the_paused_clock() {
    let ctl = controller(ten_seconds());
    let waiters = [ctl.triggered(), ctl.triggered()];
    let threads = waiters.map(|triggered| {
        thread::spawn(move || {
            let notice = in_time(triggered);
            (notice.drain_remaining(), notice.time_remaining())
        })
    });
    // An hour on this clock, and no time on a thread's own.
    advance(Duration::from_secs(3_600)).await;
    let _busy = ctl.track();
    ctl.trigger(MANUAL);
    advance(ms(2_000)).await;
    for thread in threads {
        let (drain, all) = thread.join().unwrap();
        // One of them may have checked before the clock was advanced.
        assert!(
            [Some(ms(6_000)), Some(ms(8_000))].contains(&drain),
            "{drain:?}"
        );
        assert_eq!(all.unwrap() - drain.unwrap(), ms(2_000));
    }
}

#[tokio::test(start_paused = true)]
async fn the_rollback_of_a_start_up_is_announced_too() {
    let startup = Startup::new(ten_seconds()).unwrap();
    let ctl = startup.controller();
    let mut triggered = task::spawn(ctl.triggered());
    assert_pending!(triggered.poll());
    let began = Instant::now();
    drop(startup);
    assert!(triggered.is_woken());
    let notice = assert_ready!(triggered.poll());
    assert_eq!(notice.reason(), ShutdownReason::Error);
    assert_eq!(notice.drain_deadline(), Some(began + ms(8_000)));
    assert_eq!(notice.final_deadline(), Some(began + ms(10_000)));
}
