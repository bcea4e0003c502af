//! The controller and the sequence: order, deadlines, single run, driver, and the report.

use std::future::{pending, poll_fn, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::report::PhaseReport;
use tower_lifecycle::{LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::runtime::{TIMEOUT, threads};
use crate::support::shutdown::{controller, ms, ten_seconds};
use LifecycleState::*;

/// Records every change, with the time since now.
fn record(ctl: &ShutdownController) -> Arc<Mutex<Vec<(LifecycleState, LifecycleState, Duration)>>> {
    let moves = Arc::new(Mutex::new(Vec::new()));
    let start = Instant::now();
    ctl.on_state_change({
        let moves = Arc::clone(&moves);
        move |old, new| moves.lock().unwrap().push((old, new, start.elapsed()))
    });
    moves
}

// ===== order =====

#[tokio::test(start_paused = true)]
async fn a_graceful_shutdown_goes_through_the_states_in_order() {
    let ctl = controller(ten_seconds().lame_duck(ms(3_000)));
    let moves = record(&ctl);
    let guard = ctl.track();
    let report = ctl.shutdown(ShutdownReason::Manual);
    assert_eq!(ctl.state(), LameDuck);
    tokio::spawn(async move {
        guard.draining().await;
        sleep(ms(1_000)).await;
        drop(guard);
    });
    let report = report.await;
    assert_eq!(
        *moves.lock().unwrap(),
        [
            (Running, LameDuck, ms(0)),
            (LameDuck, Draining, ms(3_000)),
            (Draining, Stopping, ms(4_000)),
            (Stopping, Stopped, ms(4_000)),
        ]
    );
    assert!(report.is_graceful());
    assert_eq!(report.duration(), ms(4_000));
    let states: Vec<_> = report.phases().iter().map(PhaseReport::state).collect();
    assert_eq!(states, [LameDuck, Draining, Stopping]);
    assert_eq!((report.admitted(), report.in_flight_at_trigger()), (1, 1));
}

/// A probe of readiness takes the lock of the states, too, so a move may come right when the observers have
/// been notified of the one before.
#[test]
fn observers_are_notified_of_each_move_whatever_else_goes_on() {
    let current: Arc<Mutex<Option<ShutdownController>>> = Arc::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let probe = || {
        let (current, is_over) = (Arc::clone(&current), Arc::clone(&is_over));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                let ctl = current.lock().unwrap().clone();
                for _ in 0..100 {
                    let _ = ctl.as_ref().map(|ctl| (ctl.is_ready(), ctl.notice()));
                }
            }
        }
    };
    let probers = [thread::spawn(probe()), thread::spawn(probe())];
    let runtime = threads(2);
    for _ in 0..3_000 {
        let ctl = runtime.block_on(async { ShutdownController::new() });
        let (moved, moves) = mpsc::channel();
        ctl.on_state_change(move |_, new| moved.send(new).unwrap());
        *current.lock().unwrap() = Some(ctl.clone());
        runtime.block_on(ctl.shutdown(ShutdownReason::Manual));
        let moves: Vec<_> = (0..3)
            .map_while(|_| moves.recv_timeout(TIMEOUT).ok())
            .collect();
        assert_eq!(moves, [Draining, Stopping, Stopped]);
    }
    is_over.store(true, Ordering::Relaxed);
    for prober in probers {
        prober.join().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_of_zero_is_skipped() {
    let ctl = controller(ten_seconds());
    let moves = record(&ctl);
    assert!(ctl.trigger(ShutdownReason::Manual));
    assert!(ctl.is_draining());
    ctl.stopped().await;
    let moves: Vec<_> = moves.lock().unwrap().iter().map(|m| m.1).collect();
    assert_eq!(moves, [Draining, Stopping, Stopped]);
}

#[tokio::test(start_paused = true)]
async fn everything_is_admitted_in_lame_duck_and_nothing_from_draining_on() {
    let ctl = controller(ten_seconds().lame_duck(ms(500)));
    ctl.trigger(ShutdownReason::Manual);
    let admitted = ctl.try_admit().unwrap();
    ctl.draining().await;
    assert_eq!(
        ctl.try_admit().unwrap_err().to_string(),
        "service is shutting down"
    );
    drop(admitted);
    ctl.stopped().await;
    assert!(ctl.try_admit().is_err());
}

#[tokio::test(start_paused = true)]
async fn force_ends_the_lame_duck() {
    let ctl = controller(ten_seconds().lame_duck(ms(5_000)));
    let start = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(100)).await;
    ctl.force();
    assert!(
        ctl.is_draining(),
        "at once, not when the sequence is polled"
    );
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(start.elapsed(), ms(100));
    assert!(report.is_forced() && !report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn observers_may_call_anything_and_a_panic_in_one_is_contained() {
    let ctl = controller(ten_seconds());
    ctl.on_state_change(|_, _| panic!("an observer's own fault"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    ctl.on_state_change({
        let (ctl, seen) = (ctl.clone(), Arc::clone(&seen));
        move |old, new| {
            seen.lock().unwrap().push((old, new));
            ctl.trigger(ShutdownReason::Error);
            ctl.force();
            ctl.on_state_change(|_, _| ());
            let _ = (ctl.in_flight(), ctl.state(), ctl.notice(), ctl.track());
        }
    });
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.reason(), ShutdownReason::Manual);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (Running, Draining),
            (Draining, Stopping),
            (Stopping, Stopped)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_of_the_end_before_those_who_wait_for_it() {
    let ctl = controller(ten_seconds());
    let mut report = task::spawn(ctl.shutdown(ShutdownReason::Manual));
    assert_pending!(report.poll());
    let report = Arc::new(Mutex::new(report));
    let woken = Arc::new(Mutex::new(None));
    ctl.on_state_change({
        let (report, woken) = (Arc::clone(&report), Arc::clone(&woken));
        move |_, new| {
            if new == Stopped {
                *woken.lock().unwrap() = Some(report.lock().unwrap().is_woken());
            }
        }
    });
    ctl.stopped().await;
    assert_eq!(*woken.lock().unwrap(), Some(false));
    assert!(report.lock().unwrap().is_woken());
}

// ===== P3: drained is prompt =====

#[tokio::test(start_paused = true)]
async fn drained_is_woken_by_the_last_guard_without_a_tick() {
    let ctl = controller(ten_seconds());
    let (one, two) = (ctl.track(), ctl.track());
    let mut drained = task::spawn(ctl.drained());
    assert_pending!(drained.poll());
    ctl.trigger(ShutdownReason::Manual);
    drop(one);
    assert!(!drained.is_woken(), "one is left");
    drop(two);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[tokio::test(start_paused = true)]
async fn drained_does_not_come_before_draining() {
    let ctl = controller(ten_seconds().lame_duck(ms(1_000)));
    ctl.trigger(ShutdownReason::Manual);
    let mut drained = task::spawn(ctl.drained());
    assert_pending!(drained.poll(), "nothing is in flight, but all is admitted");
    let start = Instant::now();
    drained.await;
    assert_eq!(start.elapsed(), ms(1_000));
}

#[tokio::test(start_paused = true)]
async fn track_on_a_closed_shard_holds_the_drain() {
    let ctl = controller(ten_seconds());
    let early = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let late = ctl.track();
    assert_eq!(ctl.in_flight(), 2);
    drop(early);
    let mut drained = task::spawn(ctl.drained());
    assert_pending!(drained.poll());
    drop(late);
    assert_ready!(drained.poll());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_tracked_after_drained_is_waited_for_as_long_as_the_server_runs() {
    let ctl = controller(ten_seconds());
    let (start, handle) = (Instant::now(), ctl.clone());
    let server = async move {
        handle.drained().await;
        let late = handle.track();
        tokio::spawn(async move {
            sleep(ms(700)).await;
            drop(late);
        });
    };
    ctl.trigger(ShutdownReason::Manual);
    let report = ctl.run(server).await;
    assert!(report.is_graceful());
    assert_eq!(start.elapsed(), ms(700));
}

// ===== P4: one deadline =====

#[tokio::test(start_paused = true)]
async fn the_drain_ends_at_its_deadline_and_the_clean_up_has_its_reserve() {
    let ctl = controller(ten_seconds().lame_duck(ms(1_000)));
    let (start, moves) = (Instant::now(), record(&ctl));
    let stuck = ctl.track();
    ctl.on_shutdown("asleep", |notice| async move {
        assert_eq!(notice.drain_remaining(), Some(Duration::ZERO));
        pending().await
    })
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(
        start.elapsed(),
        ms(10_000),
        "the whole is kept to the millisecond"
    );
    // The drain deadline is at 8 s; the stuck guard gets another 250 ms from the reserve.
    assert_eq!(moves.lock().unwrap()[2], (Draining, Stopping, ms(8_250)));
    assert!(report.is_forced());
    assert_eq!((report.in_flight_at_force(), report.abandoned()), (1, 1));
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn unwinding_takes_a_quarter_of_a_small_reserve_at_most() {
    let ctl = controller(ten_seconds().cleanup_reserve(ms(100)));
    let (moves, _stuck) = (record(&ctl), ctl.track());
    ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(moves.lock().unwrap()[1], (Draining, Stopping, ms(9_925)));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_forces_at_once_and_still_starts_the_hooks() {
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(Duration::ZERO));
    let start = Instant::now();
    let _stuck = ctl.track();
    ctl.on_shutdown("quick", |_| async { Ok(()) }).unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(start.elapsed() <= ms(5), "took {:?}", start.elapsed());
    assert!(report.is_forced());
    assert!(report.hooks()[0].is_completed(), "{report}");
    assert_eq!(report.hooks()[1].outcome().to_string(), "timed out");
    assert!(report.to_string().contains("forced"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_with_nothing_to_do_is_graceful() {
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(Duration::ZERO));
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_time_beyond_the_clock_is_no_limit() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::MAX)
        .refuse_for(Duration::MAX)
        .progress_interval(Duration::MAX);
    let ctl = controller(config);
    let guard = ctl.track();
    let report = ctl.shutdown(ShutdownReason::Manual);
    let notice = ctl.notice().unwrap();
    assert_eq!(
        (notice.time_remaining(), notice.drain_remaining()),
        (None, None)
    );
    tokio::spawn(async move {
        sleep(Duration::from_secs(365 * 24 * 3_600)).await;
        drop(guard);
    });
    assert!(report.await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn the_notice_says_how_long_there_is() {
    let ctl = controller(ten_seconds());
    assert!(ctl.notice().is_none());
    let _guard = ctl.track();
    ctl.trigger(ShutdownReason::Timeout);
    advance(ms(3_000)).await;
    let notice = ctl.notice().unwrap();
    assert_eq!(notice.reason(), ShutdownReason::Timeout);
    assert_eq!(notice.drain_remaining(), Some(ms(5_000)));
    assert_eq!(notice.time_remaining(), Some(ms(7_000)));
    assert_eq!(
        notice.drain_deadline(),
        Some(notice.triggered_at() + ms(8_000))
    );
    assert_eq!(
        notice.final_deadline(),
        Some(notice.triggered_at() + ms(10_000))
    );
}

#[tokio::test(start_paused = true)]
async fn an_early_force_leaves_the_clean_up_its_reserve_and_not_the_rest_of_the_drain() {
    let ctl = controller(ten_seconds());
    let start = Instant::now();
    let guard = ctl.track();
    tokio::spawn(async move {
        guard.forced().await;
        drop(guard);
    });
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    ctl.force();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(start.elapsed(), ms(2_000));
    assert_eq!((report.aborted(), report.abandoned()), (0, 0));
    assert!(
        report.to_string().contains("1 ended by themselves"),
        "{report}"
    );
}

// ===== P6: once =====

#[tokio::test(start_paused = true)]
async fn any_number_of_callers_get_one_shutdown_and_one_report() {
    let ctl = controller(ten_seconds());
    let runs = Arc::new(Mutex::new(0));
    ctl.on_shutdown("count", {
        let runs = Arc::clone(&runs);
        move |_| async move {
            *runs.lock().unwrap() += 1;
            Ok(())
        }
    })
    .unwrap();
    let first = ctl.shutdown(ShutdownReason::Manual);
    let second = ctl.shutdown(ShutdownReason::Error);
    let run = ctl.run(ready(()));
    assert!(!ctl.trigger(ShutdownReason::Timeout));
    let (first, second, run) = tokio::join!(first, second, run);
    let late = ctl.shutdown(ShutdownReason::Timeout).await;
    for report in [first, second, run, late] {
        assert_eq!(report.reason(), ShutdownReason::Manual);
        assert_eq!(report.hooks().len(), 1);
    }
    assert_eq!(*runs.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_wait_stops_nothing() {
    let ctl = controller(ten_seconds());
    let mut wait = task::spawn(ctl.shutdown(ShutdownReason::Manual));
    assert_pending!(wait.poll());
    drop(wait);
    drop(ctl.stopped());
    assert_eq!(ctl.wait_for(Stopped).await, Stopped);
    assert!(ctl.shutdown(ShutdownReason::Error).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn shutdown_begins_at_the_call() {
    let ctl = controller(ten_seconds());
    let unpolled = ctl.shutdown(ShutdownReason::Manual);
    assert!(ctl.is_draining());
    drop(unpolled);
}

// ===== waiting =====

#[tokio::test(start_paused = true)]
async fn a_wait_resolves_at_or_past_its_state() {
    let ctl = controller(ten_seconds());
    assert_eq!(ctl.wait_for(Initializing).await, Running);
    assert_eq!(ctl.wait_for(Running).await, Running);
    let mut lame_duck = task::spawn(ctl.lame_duck_begun());
    let mut stopping = task::spawn(ctl.wait_for(Stopping));
    let mut forced = task::spawn(ctl.forced());
    assert_pending!(lame_duck.poll());
    assert_pending!(stopping.poll());
    assert_pending!(forced.poll());
    ctl.trigger(ShutdownReason::Manual);
    assert!(lame_duck.is_woken(), "skipped, so draining resolves it");
    assert_ready!(lame_duck.poll());
    ctl.stopped().await;
    assert_eq!(assert_ready!(stopping.poll()), Stopped);
    assert_eq!(
        ctl.wait_for(Failed).await,
        Stopped,
        "it cannot come any more"
    );
    assert!(!forced.is_woken());
    assert_pending!(forced.poll(), "the end was graceful");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_moves_to_another_task_wakes_that_one() {
    let ctl = controller(ten_seconds());
    let mut wait = ctl.draining();
    let mut first = task::spawn(poll_fn(|cx| {
        Poll::Ready(std::pin::Pin::new(&mut wait).poll(cx).is_pending())
    }));
    assert!(assert_ready!(first.poll()));
    let woken = first.is_woken();
    drop(first);
    assert!(!woken);
    let mut second = task::spawn(wait);
    assert_pending!(second.poll());
    ctl.trigger(ShutdownReason::Manual);
    assert!(second.is_woken());
}

#[tokio::test(start_paused = true)]
async fn the_listener_closes_when_draining_begins() {
    let ctl = controller(ten_seconds().lame_duck(ms(700)));
    let (start, guard) = (Instant::now(), ctl.track());
    let stop = ctl.stop_accepting();
    ctl.trigger(ShutdownReason::Manual);
    stop.await;
    assert_eq!(start.elapsed(), ms(700), "something is in flight");
    assert_eq!(ctl.state(), LifecycleState::Draining);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn with_refuse_for_the_listener_stays_open_until_drained_and_for_a_while() {
    let ctl = controller(ten_seconds().refuse_for(ms(300)));
    let start = Instant::now();
    let stop = ctl.stop_accepting();
    let server = tokio::spawn(async move {
        stop.await;
        Instant::now()
    });
    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(
        server.await.unwrap() - start,
        ms(300),
        "nothing was in flight"
    );

    let ctl = controller(ten_seconds().refuse_for(ms(300)));
    let (start, guard) = (Instant::now(), ctl.track());
    let stop = ctl.stop_accepting();
    ctl.trigger(ShutdownReason::Manual);
    tokio::spawn(async move {
        sleep(ms(900)).await;
        drop(guard);
    });
    stop.await;
    assert_eq!(
        start.elapsed(),
        ms(900),
        "something was in flight for longer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_drain_is_not_used_up_by_refusing() {
    let config = ShutdownConfig::default().shutdown_timeout(ms(200));
    let ctl = controller(config.refuse_for(ms(200)));
    let (start, stop) = (Instant::now(), ctl.stop_accepting());
    ctl.trigger(ShutdownReason::Manual);
    let report = ctl.run(stop).await;
    assert_eq!(
        start.elapsed(),
        ms(75),
        "half of 150 ms, though refuse_for is 200 ms"
    );
    assert!(report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn with_refuse_for_the_listener_closes_at_the_drain_deadline_and_soon_after_an_early_force() {
    let ctl = controller(ten_seconds().refuse_for(ms(200)));
    let (start, stuck) = (Instant::now(), ctl.track());
    let stop = ctl.stop_accepting();
    ctl.trigger(ShutdownReason::Manual);
    stop.await;
    assert_eq!(start.elapsed(), ms(8_000));
    drop(stuck);

    let ctl = controller(ten_seconds().refuse_for(ms(200)));
    let (start, _stuck) = (Instant::now(), ctl.track());
    let stop = ctl.stop_accepting();
    ctl.force();
    stop.await;
    assert_eq!(
        start.elapsed(),
        ms(125),
        "late clients are answered for half of the unwinding"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_listener_that_is_not_there() {
    let ctl = controller(ten_seconds().refuse_for(ms(5_000)));
    let start = Instant::now();
    ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// ===== guards without a layer =====

#[tokio::test(start_paused = true)]
async fn a_guard_tells_its_work_of_draining_and_of_force() {
    let ctl = controller(ten_seconds());
    let guard = ctl.try_admit().unwrap();
    let mut draining = task::spawn(guard.draining());
    let mut forced = task::spawn(guard.forced());
    assert_pending!(draining.poll());
    assert_pending!(forced.poll());
    ctl.trigger(ShutdownReason::Manual);
    tokio::task::yield_now().await;
    assert!(draining.is_woken() && !forced.is_woken());
    assert_ready!(draining.poll());
    ctl.force();
    tokio::task::yield_now().await;
    assert!(forced.is_woken());
    assert_ready!(forced.poll());
    assert_ready!(task::spawn(guard.draining()).poll());
}

#[tokio::test(start_paused = true)]
async fn a_guard_may_go_to_another_thread_and_outlive_the_controller() {
    let ctl = controller(ten_seconds());
    let guard = ctl.track();
    drop(ctl);
    std::thread::spawn(move || drop(guard)).join().unwrap();
}

// ===== run =====

#[tokio::test(start_paused = true)]
async fn run_waits_for_the_server_after_the_last_guard() {
    let ctl = controller(ten_seconds());
    let start = Instant::now();
    let stop = ctl.stop_accepting();
    ctl.trigger(ShutdownReason::Manual);
    let report = ctl
        .run(async move {
            stop.await;
            sleep(ms(1_500)).await; // still flushing
        })
        .await;
    assert_eq!(start.elapsed(), ms(1_500));
    assert!(report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_ends_is_dropped_and_reported() {
    let ctl = controller(ten_seconds());
    let start = Instant::now();
    let (alive, gone) = oneshot::channel::<()>();
    ctl.on_shutdown("after the server", move |_| async move {
        // The server holds the other end; it is dropped now or very soon.
        gone.await.unwrap_err();
        Ok(())
    })
    .unwrap();
    ctl.trigger(ShutdownReason::Manual);
    let report = ctl
        .run(async move {
            let _alive = alive;
            pending::<()>().await;
        })
        .await;
    assert_eq!(start.elapsed(), ms(8_250));
    assert_eq!(report.abandoned(), 1);
    assert!(report.hooks()[0].is_completed(), "{report}");
    assert!(report.to_string().contains("1 had not ended"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_by_itself_begins_the_shutdown() {
    let ctl = controller(ten_seconds());
    ctl.on_shutdown("clean up", |_| async { Ok(()) }).unwrap();
    let report = ctl.run(ready(())).await;
    assert_eq!(report.reason(), ShutdownReason::ServerExited);
    assert!(report.is_graceful());
    assert_eq!(report.hooks().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_in_the_report() {
    let ctl = controller(ten_seconds());
    ctl.on_shutdown("clean up", |_| async { Ok(()) }).unwrap();
    let failed = || Err::<(), _>(std::io::Error::other("address in use"));
    let report = ctl.run(ready(failed())).await;
    assert_eq!(report.reason(), ShutdownReason::Error);
    assert!(!report.is_graceful());
    assert_eq!(
        report.server_errors().next().unwrap().to_string(),
        "address in use"
    );
    assert!(report.hooks()[0].is_completed());
}

#[tokio::test(start_paused = true)]
async fn run_takes_what_servers_give() {
    let run = |output| async move { controller(ten_seconds()).run(output).await };
    assert!(run(tokio::spawn(ready(()))).await.is_graceful());

    let panicked = tokio::spawn(async { panic!("the server's own fault") });
    let report = run(panicked).await;
    assert!(
        report
            .server_errors()
            .next()
            .unwrap()
            .to_string()
            .contains("panic")
    );

    let several = async {
        let task = tokio::spawn(async { std::io::Result::Ok(()) });
        tokio::join!(task, ready(Err::<(), _>("the second")), ready(()))
    };
    let report = controller(ten_seconds()).run(several).await;
    assert_eq!(
        report.server_errors().next().unwrap().to_string(),
        "the second"
    );

    let not_send = std::rc::Rc::new(());
    let report = controller(ten_seconds())
        .run(async move { drop(not_send) })
        .await;
    assert!(report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn dropping_run_drops_the_server_and_begins_the_shutdown() {
    let ctl = controller(ten_seconds());
    let (alive, gone) = oneshot::channel::<()>();
    let mut run = task::spawn(ctl.run(async move {
        let _alive = alive;
        pending::<()>().await;
    }));
    assert_pending!(run.poll());
    assert_eq!(ctl.state(), Running);
    drop(run);
    assert!(gone.await.is_err());
    assert!(ctl.is_draining());
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn several_servers_are_all_waited_for() {
    let ctl = controller(ten_seconds());
    let start = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    let (quick, slow) = (ctl.run(ready(())), ctl.run(sleep(ms(600))));
    let (quick, slow) = tokio::join!(quick, slow);
    assert!(quick.is_graceful() && slow.is_graceful());
    assert_eq!(start.elapsed(), ms(600));
}

#[tokio::test(start_paused = true)]
async fn run_after_the_end_gives_the_stored_report() {
    let ctl = controller(ten_seconds());
    ctl.shutdown(ShutdownReason::Manual).await;
    let polled = Arc::new(Mutex::new(false));
    let report = ctl
        .run({
            let polled = Arc::clone(&polled);
            async move { *polled.lock().unwrap() = true }
        })
        .await;
    assert_eq!(report.reason(), ShutdownReason::Manual);
    assert!(!*polled.lock().unwrap(), "dropped, not served");
}

// ===== the driver =====

#[test]
fn a_controller_that_never_saw_a_runtime_is_driven_by_a_thread_of_its_own() {
    let ctl = controller(ten_seconds());
    let (told, thread) = std::sync::mpsc::channel();
    ctl.on_shutdown("which thread", move |_| async move {
        sleep(ms(1)).await; // the thread has a clock
        let thread = std::thread::current();
        told.send(thread.name().map(str::to_owned))
            .map_err(Into::into)
    })
    .unwrap();
    assert!(ctl.trigger(ShutdownReason::Manual));
    let report = tokio_test::block_on(ctl.shutdown(ShutdownReason::Manual));
    assert!(report.is_graceful(), "{report}");
    assert_eq!(thread.recv().unwrap().as_deref(), Some("tower-lifecycle"));
}

#[tokio::test(start_paused = true)]
async fn a_trigger_by_a_foreign_thread_uses_the_paused_clock() {
    let ctl = controller(ten_seconds());
    advance(ms(100_000)).await;
    let (start, _stuck) = (Instant::now(), ctl.track());
    let thread = {
        let ctl = ctl.clone();
        std::thread::spawn(move || {
            ctl.trigger(ShutdownReason::Manual);
            ctl.notice().unwrap().time_remaining()
        })
    };
    assert_eq!(thread.join().unwrap(), Some(ms(10_000)));
    ctl.stopped().await;
    assert_eq!(start.elapsed(), ms(8_250));
}

#[test]
fn those_who_wait_are_told_when_the_runtime_ends_first() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let ctl = first.block_on(async {
        let ctl = ShutdownController::new();
        ctl.on_shutdown("never", |_| async { Ok(()) }).unwrap();
        ctl
    });
    let guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    drop(first);
    let report = runtime().block_on(ctl.shutdown(ShutdownReason::Manual));
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
    assert!(!report.is_graceful());
    assert_eq!(report.hooks()[0].outcome().to_string(), "not started");
    assert_eq!((ctl.state(), report.abandoned()), (Stopped, 1));
    drop(guard);
}

#[test]
fn a_trigger_after_the_runtime_has_ended_is_driven_by_a_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    drop(runtime);
    ctl.on_shutdown("clean up", |_| async { Ok(()) }).unwrap();
    ctl.trigger(ShutdownReason::Manual);
    let report = tokio_test::block_on(ctl.shutdown(ShutdownReason::Manual));
    assert!(report.is_graceful(), "{report}");
    assert!(report.hooks()[0].is_completed());
}

#[test]
fn exit_codes_say_whether_it_was_graceful() {
    let code = |code| format!("{code:?}");
    let graceful = tokio_test::block_on(async {
        ShutdownController::new()
            .shutdown(ShutdownReason::Manual)
            .await
    });
    assert_eq!(
        code(graceful.exit_code()),
        code(std::process::ExitCode::SUCCESS)
    );
    let failed = tokio_test::block_on(async {
        let ctl = ShutdownController::new();
        ctl.on_shutdown("fails", |_| async { Err("no".into()) })
            .unwrap();
        ctl.shutdown(ShutdownReason::Manual).await
    });
    assert_eq!(
        code(failed.exit_code()),
        code(std::process::ExitCode::FAILURE)
    );
}
