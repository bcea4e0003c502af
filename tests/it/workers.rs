//! Workers: fed by requests, and stopped after them, in their own share of the time.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as blocking};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use portable_atomic::AtomicU64;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::future::Wait;
use tower_lifecycle::report::Outcome;
use tower_lifecycle::{
    BoxError, DrainLayer, Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    Startup, Task,
};

use crate::support::runtime::{one_thread, threads};
use crate::support::shutdown::{Dropped, ends, ms, settle, shut_down};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

/// A total of 10 s: 5 s for the drain, 3 s for workers, 2 s for the clean-up.
fn ten_seconds() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(10_000))
        .worker_reserve(ms(3_000))
        .cleanup_reserve(ms(2_000))
}

fn controller() -> ShutdownController {
    ShutdownController::with_config(ten_seconds()).unwrap()
}

/// Spawns a worker that signals when it is told to stop, and then does this.
fn spawn_and_then(
    ctl: &ShutdownController,
    then: impl Future<Output = ()> + Send + 'static,
) -> oneshot::Receiver<Instant> {
    let (told, stopped_at) = oneshot::channel();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        told.send(Instant::now()).unwrap();
        then.await;
    });
    stopped_at
}

/// Shuts down, asserts a graceful end, and checks how long it took.
async fn assert_graceful_in(ctl: &ShutdownController, expected: Duration) {
    let began = Instant::now();
    assert!(shut_down(ctl).await.is_graceful());
    assert_eq!(began.elapsed(), expected);
}

/// Registers a hook that fails if this has not ended yet.
fn look_in_a_hook(ctl: &ShutdownController, gone: Arc<AtomicBool>) {
    ctl.on_shutdown("look", move |_| async move {
        let is_gone = gone.load(Ordering::SeqCst);
        is_gone.then_some(()).ok_or_else(|| "still alive".into())
    })
    .unwrap();
}

// ===== acknowledged jobs are never lost =====

type Jobs = mpsc::UnboundedReceiver<u64>;

/// Does each job as it comes, until the worker is told to stop and the queue is empty.
async fn work_off(mut stop: Wait, mut jobs: Jobs, done: Arc<AtomicU64>) {
    loop {
        tokio::select! {
            biased;
            Some(_) = jobs.recv() => {
                done.fetch_add(1, Ordering::SeqCst);
            }
            () = &mut stop => break,
        }
    }
}

/// Twenty requests, one each 100 ms, each of which enqueues a job and is acknowledged; the shutdown
/// begins in the middle. Returns how many jobs were done, and how many were acknowledged.
async fn done_of_acknowledged(
    spawn: impl FnOnce(&ShutdownController, Jobs, Arc<AtomicU64>),
) -> (u64, u64) {
    let ctl = controller();
    let (queue, jobs) = mpsc::unbounded_channel();
    let done = Arc::new(AtomicU64::new(0));
    spawn(&ctl, jobs, Arc::clone(&done));
    let acknowledged = Arc::new(AtomicU64::new(0));
    for n in 0..20 {
        let (request, queue) = (ctl.track(), queue.clone());
        let acknowledged = Arc::clone(&acknowledged);
        tokio::spawn(async move {
            sleep(ms(100 * n)).await;
            let _ = queue.send(n);
            acknowledged.fetch_add(1, Ordering::SeqCst);
            drop(request);
        });
    }
    sleep(ms(950)).await;
    let report = shut_down(&ctl).await;
    assert!(report.is_graceful(), "{report}");
    (
        done.load(Ordering::SeqCst),
        acknowledged.load(Ordering::SeqCst),
    )
}

#[tokio::test(start_paused = true)]
async fn a_worker_does_all_that_was_acknowledged() {
    let result = done_of_acknowledged(|ctl, jobs, done| {
        ctl.spawn_worker("outbox", |stop| work_off(stop, jobs, done));
    });
    assert_eq!(result.await, (20, 20));
}

/// The reason for workers: a task that ends with the notice loses the jobs that come afterwards.
#[tokio::test(start_paused = true)]
async fn a_plain_task_that_ends_when_draining_begins_loses_some() {
    let result = done_of_acknowledged(|ctl, jobs, done| {
        let draining = ctl.draining();
        ctl.spawn("outbox", work_off(draining, jobs, done));
    });
    assert_eq!(result.await, (10, 20));
}

/// The same with requests through a layer: half of them before the trigger, and half of them late.
/// Each takes 300 ms, enqueues its job, and gets a response.
async fn done_of_answered(
    spawn: impl FnOnce(&ShutdownController, Jobs, Arc<AtomicU64>),
) -> (u64, u64) {
    let ctl = controller();
    let (queue, jobs) = mpsc::unbounded_channel();
    let done = Arc::new(AtomicU64::new(0));
    spawn(&ctl, jobs, Arc::clone(&done));
    let enqueue = move |_: Request<Empty<Bytes>>| {
        let queue = queue.clone();
        async move {
            sleep(ms(300)).await;
            let accepted = match queue.send(1) {
                Ok(()) => StatusCode::ACCEPTED,
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = accepted;
            Ok::<_, Infallible>(response)
        }
    };
    let app = DrainLayer::new(ctl.clone()).layer(service_fn(enqueue));
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let app = app.clone();
            tokio::spawn(async move {
                sleep(ms(90 * n)).await;
                let answer = app.oneshot(Request::new(Empty::new())).await.unwrap();
                answer.status() == StatusCode::ACCEPTED
            })
        })
        .collect();
    sleep(ms(890)).await;
    let report = shut_down(&ctl).await;
    assert_eq!(report.late_requests(), 10, "{report}");
    let mut accepted = 0;
    for client in clients {
        accepted += u64::from(client.await.unwrap());
    }
    (done.load(Ordering::SeqCst), accepted)
}

#[tokio::test(start_paused = true)]
async fn a_worker_does_what_late_requests_have_enqueued() {
    let result = done_of_answered(|ctl, jobs, done| {
        ctl.spawn_worker("outbox", |stop| work_off(stop, jobs, done));
    });
    assert_eq!(result.await, (20, 20));
}

// ===== the time of the notice =====

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn entries(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn workers_stop_after_requests_servers_and_tasks_and_before_the_hooks() {
    let (ctl, log) = (controller(), Log::default());
    let noted = log.clone();
    let worker = ctl.clone();
    ctl.spawn_worker("outbox", move |stop| async move {
        stop.await;
        assert_eq!(worker.state(), LifecycleState::Draining);
        noted.note("told to stop");
        sleep(ms(300)).await;
        noted.note("worker ended");
    });
    let (noted, draining) = (log.clone(), ctl.draining());
    ctl.spawn("task", async move {
        draining.await;
        sleep(ms(200)).await;
        noted.note("task ended");
    });
    let (noted, request) = (log.clone(), ctl.track());
    tokio::spawn(async move {
        sleep(ms(100)).await;
        noted.note("request ended");
        drop(request);
    });
    let (noted, stop) = (log.clone(), ctl.stop_accepting());
    let server = async move {
        stop.await;
        sleep(ms(250)).await;
        noted.note("server ended");
    };
    let noted = log.clone();
    ctl.on_shutdown("hook", move |_| async move {
        noted.note("hook");
        Ok(())
    })
    .unwrap();
    settle().await;

    let began = Instant::now();
    ctl.trigger(MANUAL);
    let report = ctl.run(server).await;
    assert_eq!(
        log.entries(),
        [
            "request ended",
            "task ended",
            "server ended",
            "told to stop",
            "worker ended",
            "hook"
        ]
    );
    assert_eq!(began.elapsed(), ms(550));
    assert_eq!(report.phases()[0].duration(), ms(550), "of the drain");
    assert!(report.is_graceful(), "{report}");
}

/// It ignores the notice, and might feed a worker as long as it is polled.
#[tokio::test(start_paused = true)]
async fn a_server_that_has_to_be_dropped_is_gone_when_workers_are_told() {
    let ctl = controller();
    let (dropped, is_dropped) = Dropped::new();
    let (told, mut was_gone) = oneshot::channel();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        told.send(is_dropped.load(Ordering::SeqCst)).unwrap();
    });
    let run = ctl.run(async move {
        let _dropped = dropped;
        pending::<()>().await
    });
    let run = tokio::spawn(run);
    settle().await;
    let began = Instant::now();
    ctl.force();
    let report = run.await.unwrap();
    assert!(was_gone.try_recv().unwrap(), "told before");
    assert_eq!(began.elapsed(), ms(250), "it was waited for shortly");
    assert!(report.is_forced());
}

#[tokio::test(start_paused = true)]
async fn workers_are_told_at_the_same_time_and_all_are_waited_for() {
    let ctl = controller();
    for time in [200, 500, 300] {
        ctl.spawn_worker("same name", move |stop| async move {
            stop.await;
            sleep(ms(time)).await;
        });
    }
    assert_eq!(ctl.metrics().tasks, 3);
    settle().await;
    assert_graceful_in(&ctl, ms(500)).await;
    assert_eq!(ctl.metrics().tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_spawns_is_waited_for_as_long() {
    let ctl = controller();
    let other = ctl.clone();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        other.spawn("last mail", sleep(ms(700)));
    });
    settle().await;
    assert_graceful_in(&ctl, ms(700)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_spawns_is_cut_with_it() {
    for force in [false, true] {
        let ctl = controller();
        let other = ctl.clone();
        ctl.spawn_worker("outbox", |stop| async move {
            stop.await;
            other.spawn("hangs", pending::<()>());
        });
        settle().await;
        let began = Instant::now();
        ctl.trigger(MANUAL);
        sleep(ms(10)).await;
        if force {
            ctl.force();
        }
        let report = shut_down(&ctl).await;
        assert_eq!(began.elapsed(), if force { ms(10) } else { ms(8_000) });
        assert_eq!(ends(&report), ["hangs: cut"]);
        assert_eq!(report.abandoned(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_that_is_called_off_does_not_stop_a_worker() {
    let config = ten_seconds().lame_duck(ms(1_000));
    let ctl = ShutdownController::with_config(config).unwrap();
    let worker = ctl.spawn_worker("outbox", |stop| stop);
    ctl.trigger(MANUAL);
    settle().await;
    ctl.resume().unwrap();
    settle().await;
    assert!(!worker.is_finished());
    assert!(shut_down(&ctl).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn the_rollback_of_a_start_up_stops_workers_before_the_services() {
    let (mut startup, log) = (Startup::new(ten_seconds()).unwrap(), Log::default());
    let noted = log.clone();
    let start = async { Ok::<_, BoxError>(()) };
    startup
        .start("database", start, move |()| async move {
            noted.note("database")
        })
        .await
        .unwrap();
    let ctl = startup.controller();
    let noted = log.clone();
    ctl.spawn_worker("outbox", move |stop| async move {
        stop.await;
        sleep(ms(100)).await;
        noted.note("outbox");
    });
    let error = startup.fail("no port").await;
    assert_eq!(log.entries(), ["outbox", "database"]);
    assert!(error.report().tasks().is_empty());
}

// ===== their share of the time =====

#[tokio::test(start_paused = true)]
async fn the_share_is_kept_from_the_requests_only_if_a_worker_is_there() {
    let ctl = controller();
    ctl.trigger(MANUAL);
    let drain = ctl.notice().unwrap().drain_remaining();
    assert_eq!(drain, Some(ms(8_000)), "without a worker");

    let ctl = controller();
    ctl.spawn_worker("outbox", |stop| stop);
    ctl.trigger(MANUAL);
    let notice = ctl.notice().unwrap();
    assert_eq!(notice.drain_remaining(), Some(ms(5_000)));
    assert_eq!(notice.time_remaining(), Some(ms(10_000)));

    let ctl = controller();
    let worker = ctl.spawn_worker("outbox", |_stop| pending::<()>());
    worker.abort();
    settle().await;
    ctl.trigger(MANUAL);
    let drain = ctl.notice().unwrap().drain_remaining();
    assert_eq!(drain, Some(ms(8_000)), "it was gone by then");
}

#[tokio::test(start_paused = true)]
async fn what_requests_leave_of_their_time_is_the_workers() {
    let ctl = controller();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        sleep(ms(7_900)).await;
    });
    settle().await;
    assert_graceful_in(&ctl, ms(7_900)).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_is_cut_at_the_end_of_its_share_before_the_hooks() {
    let ctl = controller();
    let (dropped, is_dropped) = Dropped::new();
    let worker = ctl.spawn_worker("outbox", |_stop| async move {
        let _dropped = dropped;
        pending::<()>().await
    });
    look_in_a_hook(&ctl, is_dropped);
    settle().await;
    let began = Instant::now();
    let report = shut_down(&ctl).await;
    assert_eq!(began.elapsed(), ms(8_000));
    assert_eq!(ends(&report), ["outbox: cut"]);
    assert!(report.hooks()[0].is_completed(), "{report}");
    assert!(!report.is_graceful());
    assert!(!report.is_forced(), "no request was cut");
    assert_eq!(report.abandoned(), 0);
    assert!(worker.await.unwrap_err().is_cancelled());
}

/// Requests, workers and hooks that hang: each has its own share, within the total.
#[tokio::test(start_paused = true)]
async fn the_total_holds_when_everything_hangs() {
    for lame_duck in [0, 2_000] {
        let config = ten_seconds().lame_duck(ms(lame_duck));
        let ctl = ShutdownController::with_config(config).unwrap();
        let request = ctl.track();
        let mut stopped_at = spawn_and_then(&ctl, pending());
        ctl.spawn("task", pending::<()>());
        let (told, mut hook_at) = oneshot::channel();
        ctl.on_shutdown("hangs", |_| async move {
            told.send(Instant::now()).unwrap();
            pending().await
        })
        .unwrap();
        settle().await;

        let began = Instant::now();
        let forced = ctl.forced();
        let cut_at = tokio::spawn(async move {
            forced.await;
            let at = Instant::now();
            drop(request);
            at
        });
        let report = shut_down(&ctl).await;
        assert_eq!(cut_at.await.unwrap() - began, ms(5_000));
        assert_eq!(stopped_at.try_recv().unwrap() - began, ms(5_000));
        assert_eq!(hook_at.try_recv().unwrap() - began, ms(8_000));
        assert_eq!(began.elapsed(), ms(10_000));
        assert_eq!(ends(&report), ["task: cut", "outbox: cut"]);
        assert!(matches!(report.hooks()[0].outcome(), Outcome::TimedOut));
        assert!(report.is_forced());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cut_takes_from_the_workers_share_and_not_from_the_total() {
    let ctl = controller();
    let _stuck = ctl.track(); // ignores the force
    let mut stopped_at = spawn_and_then(&ctl, pending());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    settle().await;
    let began = Instant::now();
    let report = shut_down(&ctl).await;
    assert_eq!(stopped_at.try_recv().unwrap() - began, ms(5_250));
    assert_eq!(report.phases()[0].duration(), ms(8_000));
    assert_eq!(began.elapsed(), ms(10_000));
    assert_eq!(report.abandoned(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_no_time_at_all_a_worker_gets_as_far_as_its_first_wait() {
    let config = ShutdownConfig::default().shutdown_timeout(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    let mut stopped_at = spawn_and_then(&ctl, pending());
    yield_now().await;
    let report = shut_down(&ctl).await;
    stopped_at.try_recv().unwrap();
    assert_eq!(ends(&report), ["outbox: cut"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_total_a_worker_has_as_long_as_it_likes() {
    let config = ShutdownConfig::default().shutdown_timeout(Duration::MAX);
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        sleep(Duration::from_secs(3_000)).await;
    });
    settle().await;
    assert!(shut_down(&ctl).await.is_graceful());
}

// ===== force =====

#[tokio::test(start_paused = true)]
async fn a_force_cuts_requests_and_leaves_workers_their_share() {
    let ctl = controller();
    let request = ctl.track();
    let mut stopped_at = spawn_and_then(&ctl, async { sleep(ms(2_900)).await });
    ctl.spawn("task", pending::<()>());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    settle().await;
    ctl.trigger(MANUAL);
    sleep(ms(1_000)).await;
    let forced = Instant::now();
    ctl.force();
    drop(request);
    let report = shut_down(&ctl).await;
    assert_eq!(stopped_at.try_recv().unwrap(), forced);
    assert_eq!(ends(&report), ["task: cut"], "the worker was not");
    // The clean-up has its reserve, counted from the workers' end.
    assert_eq!(forced.elapsed(), ms(2_900 + 2_000));
}

#[tokio::test(start_paused = true)]
async fn after_an_early_force_a_worker_that_hangs_has_its_reserve_and_no_more() {
    let ctl = controller();
    ctl.spawn_worker("outbox", |_stop| pending::<()>());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    settle().await;
    let began = Instant::now();
    ctl.force();
    let report = shut_down(&ctl).await;
    assert_eq!(began.elapsed(), ms(3_000 + 2_000));
    assert_eq!(ends(&report), ["outbox: cut"]);
}

#[tokio::test(start_paused = true)]
async fn a_late_force_leaves_workers_what_the_total_has() {
    let ctl = controller();
    let request = ctl.track();
    let mut stopped_at = spawn_and_then(&ctl, pending());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    settle().await;
    let began = Instant::now();
    ctl.trigger(MANUAL);
    sleep(ms(4_990)).await;
    ctl.force();
    drop(request);
    shut_down(&ctl).await;
    assert_eq!(stopped_at.try_recv().unwrap() - began, ms(4_990));
    // The drain saves 10 ms; from then on the workers have 3 s, and the clean-up 2 s.
    assert_eq!(began.elapsed(), ms(9_990));
}

#[tokio::test(start_paused = true)]
async fn a_force_while_workers_stop_cuts_them_and_leaves_the_clean_up_its_reserve() {
    for forced_before in [false, true] {
        let ctl = controller();
        ctl.spawn_worker("outbox", |_stop| pending::<()>());
        ctl.add_hook(Hook::new("slow", |_| async {
            sleep(ms(1_900)).await;
            Ok(())
        }))
        .unwrap();
        settle().await;
        ctl.trigger(MANUAL);
        if forced_before {
            ctl.force();
        }
        sleep(ms(100)).await;
        let forced = Instant::now();
        ctl.force();
        let report = shut_down(&ctl).await;
        assert_eq!(forced.elapsed(), ms(1_900));
        assert_eq!(ends(&report), ["outbox: cut"]);
        assert!(report.hooks()[0].is_completed(), "{report}");
        assert!(report.is_forced());
    }
}

#[tokio::test(start_paused = true)]
async fn a_force_after_that_cuts_the_clean_up() {
    let ctl = controller();
    ctl.spawn_worker("outbox", |_stop| pending::<()>());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    settle().await;
    let began = Instant::now();
    ctl.force();
    sleep(ms(100)).await;
    ctl.force();
    sleep(ms(100)).await;
    ctl.force();
    let report = shut_down(&ctl).await;
    assert!(began.elapsed() < ms(210), "{:?}", began.elapsed());
    assert!(matches!(report.hooks()[0].outcome(), Outcome::Cut));
}

// ===== hanging tasks, and late tasks =====

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_spawned_while_draining_is_stopped_like_the_others() {
    let ctl = controller();
    let request = ctl.track();
    ctl.trigger(MANUAL);
    let worker = ctl.spawn_worker("late", |stop| async move {
        stop.await;
        sleep(ms(500)).await;
    });
    settle().await;
    assert!(!worker.is_finished());
    drop(request);
    assert_graceful_in(&ctl, ms(500)).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_spawned_while_stopping_is_cut_before_its_first_poll() {
    let ctl = controller();
    let other = ctl.clone();
    ctl.on_shutdown("spawn", |_| async move {
        let late = other.spawn_worker("late", |stop| async move {
            stop.await;
            panic!("it was polled");
        });
        assert!(late.await.unwrap_err().is_cancelled());
        Ok(())
    })
    .unwrap();
    let report = shut_down(&ctl).await;
    assert_eq!(ends(&report), ["late: cut"]);
    assert!(report.hooks()[0].is_completed(), "{report}");
}

#[test]
fn a_worker_that_blocks_its_thread_is_abandoned_and_counted() {
    let runtime = threads(3);
    let (release, blocked) = blocking::channel::<()>();
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(600))
        .worker_reserve(ms(200))
        .cleanup_reserve(ms(200));
    let report = runtime.block_on(async {
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.spawn_task(Task::worker("outbox", |stop| async move {
            stop.await;
            let _ = blocked.recv();
        }));
        ctl.shutdown(MANUAL).await
    });
    assert_eq!(ends(&report), ["outbox: abandoned"]);
    assert_eq!(report.abandoned(), 1);
    drop(release);
}

/// A worker's spawned task is cut with it, and gone before the hooks.
#[test]
fn a_task_of_a_worker_is_gone_before_the_clean_up() {
    /// Takes a while to drop.
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(ms(20));
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let runtime = threads(2);
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(2_200))
        .worker_reserve(ms(200))
        .cleanup_reserve(ms(2_000));
    let report = runtime.block_on(async {
        let ctl = ShutdownController::with_config(config).unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let (other, slow) = (ctl.clone(), Slow(Arc::clone(&gone)));
        ctl.spawn_worker("outbox", |stop| async move {
            stop.await;
            other.spawn("last mail", async move {
                let _slow = slow;
                pending::<()>().await
            });
        });
        look_in_a_hook(&ctl, gone);
        ctl.shutdown(MANUAL).await
    });
    assert_eq!(ends(&report), ["last mail: cut"]);
    assert!(report.hooks()[0].is_completed(), "{report}");
}

#[test]
fn workers_go_with_the_driving_runtime_when_it_ends_meanwhile() {
    let runtime = one_thread();
    let (dropped, is_dropped) = Dropped::new();
    let ctl = runtime.block_on(async {
        let ctl = controller();
        let (told, was_told) = oneshot::channel();
        ctl.spawn_worker("outbox", |stop| async move {
            let _dropped = dropped;
            stop.await;
            told.send(()).unwrap();
            pending::<()>().await
        });
        ctl.trigger(MANUAL);
        was_told.await.unwrap();
        ctl
    });
    drop(runtime);
    assert!(is_dropped.load(Ordering::SeqCst));
    let report = one_thread().block_on(ctl.shutdown(MANUAL));
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
}

/// Forces when it is woken for the first time after it was armed.
struct Forces {
    ctl: ShutdownController,
    is_armed: AtomicBool,
}

impl Wake for Forces {
    fn wake(self: Arc<Self>) {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            self.ctl.force();
        }
    }
}

/// Servers that are left are dropped in between, which wakes their tasks.
#[tokio::test(start_paused = true)]
async fn a_force_between_the_drain_and_the_stop_of_the_workers_is_not_lost() {
    let ctl = controller();
    drop(ctl.spawn_worker("hangs", |_stop| pending::<()>()));
    let forces = Arc::new(Forces {
        ctl: ctl.clone(),
        is_armed: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&forces));
    let mut cx = Context::from_waker(&waker);
    let mut run = pin!(ctl.run(ctl.stop_accepting()));
    assert!(run.as_mut().poll(&mut cx).is_pending());
    ctl.trigger(MANUAL);
    assert!(run.as_mut().poll(&mut cx).is_pending()); // the server has ended
    forces.is_armed.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let report = shut_down(&ctl).await;
    assert!(report.is_forced(), "{report}");
    assert!(begun.elapsed() <= ms(3_100), "the reserve: {report}");
}
