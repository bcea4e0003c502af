//! Runtimes that end while a start-up is rolled back.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::sleep;
use tower_lifecycle::{BoxError, ShutdownConfig, ShutdownReason, Startup};

use crate::support::runtime::{in_time, one_thread, threads};
use crate::support::shutdown::ms;

/// Leaves a start-up as `?` in `main` does, with tasks that are waiting and would end by themselves.
fn leave(runtime: Runtime, total: Duration) {
    runtime.block_on(async {
        let config = ShutdownConfig::default().shutdown_timeout(total);
        let startup = Startup::new(config).unwrap();
        let ctl = startup.controller();
        // Several: which of them the runtime drops before the driver depends on their ids.
        for _ in 0..8 {
            let draining = ctl.draining();
            let task = ctl.spawn("poller", async move {
                draining.await;
                sleep(ms(50)).await;
            });
            drop(task);
        }
        let guard = ctl.track();
        tokio::spawn(async move {
            let _guard = guard;
            pending::<()>().await
        });
        tokio::task::yield_now().await;
        drop(startup);
    });
    drop(runtime);
}

/// That runtime runs nothing any more, so nothing of it can end by itself.
#[test]
fn the_end_of_a_runtime_does_not_wait_for_tasks_that_it_runs_no_more() {
    in_time(|| {
        for runtime in [one_thread(), threads(1), threads(2)] {
            let begun = Instant::now();
            leave(runtime, Duration::from_secs(20));
            assert!(begun.elapsed() < Duration::from_secs(5));
            leave(one_thread(), Duration::MAX);
        }
    });
}

/// As if `main` returned while the start-up is in a task.
#[test]
fn the_end_of_a_runtime_waits_for_the_rollback_of_a_start_up_that_it_drops() {
    for runtime in [threads(2), one_thread()] {
        let stopped = Arc::new(AtomicBool::new(false));
        let (flag, (up, is_up)) = (Arc::clone(&stopped), mpsc::channel());
        let start = async move {
            let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
            let stop = |()| async move {
                sleep(ms(50)).await;
                flag.store(true, Ordering::SeqCst);
            };
            let start = async { Ok::<_, BoxError>(()) };
            startup.start("db", start, stop).await.unwrap();
            up.send(()).unwrap();
            pending::<()>().await // the next step
        };
        runtime.spawn(start);
        while is_up.try_recv().is_err() {
            runtime.block_on(tokio::task::yield_now());
        }
        drop(runtime);
        assert!(stopped.load(Ordering::SeqCst));
    }
}

#[test]
fn a_service_that_is_started_after_an_interrupted_rollback_is_stopped() {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    one_thread().block_on(async {
        let config = ShutdownConfig::default().shutdown_timeout(ms(100));
        let mut startup = Startup::new(config).unwrap();
        let ctl = startup.controller();
        let (in_start, in_stop) = (ctl.clone(), ctl.clone());
        let start = async move {
            in_start.trigger(ShutdownReason::Manual);
            // Blocks the runtime until the rollback has been given up.
            while !in_start.state().is_terminal() {
                thread::sleep(ms(1));
            }
            Ok::<_, BoxError>(())
        };
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        let stop = |()| async move {
            let _ctl = in_stop;
            sleep(ms(10)).await;
            flag.store(true, Ordering::SeqCst);
            let _ = ended.send(());
        };
        startup.start("db", start, stop).await.unwrap_err();
        let _ = tokio::time::timeout(Duration::from_secs(10), has_ended).await;
    });
    assert!(stopped.load(Ordering::SeqCst));
}
