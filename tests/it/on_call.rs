//! What may go wrong at three in the morning: foreign code that panics where nobody expects it, ends
//! that race, and reports that mislead. A reviewer wrote most of these as proofs of bugs.

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::time::timeout;
use tower_lifecycle::controller::*;
use tower_lifecycle::startup::*;
use tower_lifecycle::store::*;
use tower_lifecycle::{error::*, *};

use crate::support::log::listen;

fn lame() -> ShutdownConfig {
    ShutdownConfig::default().lame_duck(Duration::from_secs(5))
}

/// As of a guard that spawns its clean-up when it is dropped: it needs a runtime.
struct SpawnsOnDrop;

impl Drop for SpawnsOnDrop {
    fn drop(&mut self) {
        drop(tokio::spawn(async {}));
    }
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("drop")
        }
    }
}

fn ends(ctl: &ShutdownController) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(3), ctl.stopped()).await.is_ok() })
}

#[test]
fn a_hook_that_cannot_be_dropped_without_a_runtime_does_not_keep_the_end_away() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(200));
    let ctl = runtime.block_on(async { ShutdownController::with_config(config).unwrap() });
    let guard = SpawnsOnDrop;
    ctl.on_shutdown("flush", move |_| async move {
        drop(guard);
        Ok(())
    })
    .unwrap();
    // The only worker is blocked past the deadline: the watching thread gives up, outside a runtime.
    runtime.block_on(async {
        ctl.trigger(ShutdownReason::Manual);
        std::thread::sleep(Duration::from_millis(600));
    });
    assert!(ends(&ctl), "state {}, waiters wait for ever", ctl.state());
}

#[test]
fn a_runtime_that_ends_with_a_bad_drop_does_not_keep_the_end_away() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    let guard = PanicsOnDrop;
    ctl.on_shutdown("flush", move |_| async move {
        drop(guard);
        Ok(())
    })
    .unwrap();
    ctl.trigger(ShutdownReason::Manual);
    drop(runtime);
    assert!(ends(&ctl), "state {}, waiters wait for ever", ctl.state());
}

#[tokio::test]
async fn an_observer_whose_drop_panics_does_not_keep_the_end_away() {
    let ctl = ShutdownController::new();
    let guard = PanicsOnDrop;
    ctl.on_state_change(move |_, _| {
        let _ = &guard;
    });
    let begun = std::time::Instant::now();
    // `timeout` polls once more at its end, when the milestone is there: what counts is the wake-up.
    let _ = timeout(Duration::from_secs(3), ctl.shutdown(ShutdownReason::Manual)).await;
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "never woken; state {}",
        ctl.state()
    );
}

/// A subscriber that panics at one message, as one does whose output is a closed pipe.
struct Panics(&'static str);

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{value:?} ");
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if !self.0.is_empty() && message.0.contains(self.0) {
            panic!("failed printing to stderr: Broken pipe");
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_log_that_panics_at_the_last_line_does_not_keep_the_end_away() {
    let _logs = listen(Panics("shutdown complete"));
    let ctl = ShutdownController::new();
    let ended = timeout(Duration::from_secs(3), ctl.shutdown(ShutdownReason::Manual)).await;
    assert!(
        ended.is_ok(),
        "state {}, waiters wait for ever",
        ctl.state()
    );
}

#[derive(Debug)]
struct Outer(Inner);
#[derive(Debug)]
struct Inner;
impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}
impl fmt::Display for Inner {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}
impl Error for Inner {}
impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[derive(Debug)]
struct Source;
impl fmt::Display for Source {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("cannot be shown")
    }
}
impl Error for Source {}
#[derive(Debug)]
struct Top(Source);
impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("top")
    }
}
impl Error for Top {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn an_error_whose_source_cannot_be_shown_harms_only_its_hook() {
    let _logs = listen(Panics("")); // formats every field
    let ctl = ShutdownController::new();
    let ran = Arc::new(AtomicBool::new(false));
    ctl.on_shutdown("bad", |_| async { Err(Top(Source).into()) })
        .unwrap();
    let flag = ran.clone();
    ctl.add_hook(
        Hook::new("good", move |_| async move {
            flag.store(true, Ordering::SeqCst);
            Ok(())
        })
        .phase(1),
    )
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(
        ran.load(Ordering::SeqCst),
        "the good hook did not run; reason {}",
        report.reason()
    );
}

#[tokio::test]
async fn a_report_can_be_printed_whatever_the_errors_are() {
    let ctl = ShutdownController::new();
    ctl.on_shutdown("bad", |_| async { Err(Outer(Inner).into()) })
        .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| report.to_string()));
    assert!(text.is_ok());
}

#[tokio::test]
async fn a_hook_that_is_never_run_and_panics_in_its_drop_harms_only_itself() {
    let ctl = ShutdownController::new();
    let clone = ctl.clone();
    ctl.on_shutdown("first", |_| async move {
        clone.force(); // as by the second and third signal
        clone.force();
        pending().await
    })
    .unwrap();
    let guard = PanicsOnDrop;
    ctl.add_hook(
        Hook::new("never run", move |_| async move {
            drop(guard);
            Ok(())
        })
        .phase(1),
    )
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.reason(), ShutdownReason::Manual, "{report}");
}

#[derive(Debug)]
struct Asks(ShutdownController);
impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} services", self.0.metrics().startup_services_tracked)
    }
}
impl Error for Asks {}

#[test]
fn an_error_that_asks_the_controller_does_not_deadlock_health() {
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
            let ctl = startup.controller();
            let clone = ctl.clone();
            startup
                .start("db", async { Ok::<_, BoxError>(1) }, |_| async move {
                    Err::<(), _>(Asks(clone))
                })
                .await
                .unwrap();
            startup.finish().await.unwrap();
            ctl.shutdown(ShutdownReason::Manual).await;
            let health = HealthService::new(ctl.clone());
            let response =
                tower::ServiceExt::oneshot(health, http::Request::new(String::new())).await;
            done.send(response.unwrap().status().as_u16()).unwrap();
        });
    });
    let status = waits.recv_timeout(Duration::from_secs(3));
    assert!(status.is_ok(), "health is locked for ever");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_fail_does_not_taint_the_shutdown() {
    let ctl = ShutdownController::with_config(lame()).unwrap();
    ctl.trigger(ShutdownReason::Manual);
    let job = Task::new("job", async { Err::<(), _>("one bad job") });
    let _ = ctl.spawn_task(job.on_error(TaskPolicy::Ignore)).await;
    ctl.resume().unwrap();
    tokio::time::sleep(Duration::from_secs(86_400)).await; // a day of good service
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful(), "{report}");
}

#[tokio::test]
async fn the_refusal_to_resume_is_true_in_a_rollback() {
    let startup = Startup::new(lame()).unwrap();
    let ctl = startup.controller();
    ctl.trigger(ShutdownReason::Manual);
    let error = ctl.resume().unwrap_err().to_string();
    assert!(
        !error.contains("there is no shutdown to call off"),
        "{error}"
    );
}

#[test]
fn wait_for_gives_a_state_that_is_at_or_past_the_one_waited_for() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let wrong = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let ctl = ShutdownController::with_config(lame()).unwrap();
        let (waiter, count) = (ctl.clone(), wrong.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let over = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            while !over.load(Ordering::Relaxed) {
                let mut wait = waiter.wait_for(LifecycleState::LameDuck);
                if let std::task::Poll::Ready(state) = std::pin::Pin::new(&mut wait).poll(&mut cx) {
                    if state < LifecycleState::LameDuck {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        for _ in 0..3000 {
            ctl.trigger(ShutdownReason::Manual);
            let _ = ctl.resume();
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
}

#[test]
fn a_startup_that_is_left_by_a_question_mark_stops_what_it_had_started() {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    async fn program() -> Result<(), BoxError> {
        let mut startup = Startup::new(ShutdownConfig::default())?;
        startup
            .start("db", async { Ok::<_, BoxError>("pool") }, |_| async {
                STOPPED.store(true, Ordering::SeqCst);
            })
            .await?;
        "no number".parse::<u32>()?; // some other part of main fails
        startup.finish().await?;
        Ok(())
    }
    // What `#[tokio::main]` makes of it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(runtime.block_on(program()).is_err());
    drop(runtime);
    assert!(STOPPED.load(Ordering::SeqCst), "db was not stopped");
}

#[test]
fn a_startup_that_is_left_so_on_a_current_thread_is_stopped_too() {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    async fn program() -> Result<(), BoxError> {
        let mut startup = Startup::new(ShutdownConfig::default())?;
        startup
            .start("db", async { Ok::<_, BoxError>("pool") }, |_| async {
                STOPPED.store(true, Ordering::SeqCst);
            })
            .await?;
        "no number".parse::<u32>()?;
        startup.finish().await?;
        Ok(())
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(runtime.block_on(program()).is_err());
    drop(runtime);
    assert!(STOPPED.load(Ordering::SeqCst), "db was not stopped");
}

#[tokio::test(start_paused = true)]
async fn a_rollback_holds_no_clone_of_what_it_stops() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let worker = step(
        "worker",
        async {
            let (jobs, mut queue) = tokio::sync::mpsc::channel::<u8>(8);
            let worker = tokio::spawn(async move { while queue.recv().await.is_some() {} });
            Ok::<_, BoxError>((jobs, Arc::new(Mutex::new(Some(worker)))))
        },
        |(jobs, worker)| async move {
            drop(jobs); // the last: the worker ends
            let worker = worker.lock().unwrap().take();
            worker.unwrap().await
        },
    );
    let other = step(
        "other",
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err::<u8, _>("refused")
        },
        |_| async {},
    );
    let error = startup.start_all((worker, other)).await.unwrap_err();
    assert!(error.rollback()[0].is_completed(), "{}", error.report());
}

#[tokio::test]
async fn metrics_track_nothing_after_a_rollback() {
    // Section 16: rollback_startup leaves `startup_services_tracked` at 0.
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    startup
        .start("db", async { Ok::<_, BoxError>(1) }, |_| async {})
        .await
        .unwrap();
    let _ = startup
        .start("x", async { Err::<(), _>("no") }, |_| async {})
        .await;
    assert_eq!(ctl.metrics().startup_services_tracked, 0);
}

#[tokio::test]
async fn two_hooks_that_panic_in_their_drops_do_not_abort_the_process() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("drop")
        }
    }
    let ctl = ShutdownController::new();
    let clone = ctl.clone();
    ctl.on_shutdown("first", |_| async move {
        clone.force();
        clone.force();
        pending().await
    })
    .unwrap();
    for name in ["second", "third"] {
        let bad = Bad;
        ctl.add_hook(
            Hook::new(name, move |_| async move {
                drop(bad);
                Ok(())
            })
            .phase(1),
        )
        .unwrap();
    }
    let _ = ctl.shutdown(ShutdownReason::Manual).await;
}

#[tokio::test]
async fn a_task_that_fails_while_shutting_down_is_never_graceful() {
    let ctl = ShutdownController::new();
    for _ in 0..64 {
        // A job now and then that failed, in a long life.
        let job = Task::new("job", async { Err::<(), _>("bad job") });
        let _ = ctl.spawn_task(job.on_error(TaskPolicy::Ignore)).await;
    }
    let told = ctl.triggered();
    drop(ctl.spawn("outbox", async move {
        told.await;
        Err::<(), _>("could not be flushed")
    }));
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(!report.is_graceful(), "graceful, though `outbox` failed");
    assert_eq!(report.tasks()[0].name(), "outbox");
}

#[cfg(unix)]
#[tokio::test]
async fn a_lock_that_is_a_pipe_is_an_error() {
    let folder = std::env::temp_dir().join(format!("h-rev3-pipe-{}", std::process::id()));
    let store = FileStore::new(&folder).unwrap();
    let lock = folder.join("lock");
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let saved = timeout(Duration::from_secs(2), store.save("queue", "x".into())).await;
    drop(
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&lock)
            .unwrap(),
    );
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(saved.is_ok(), "hangs, and so does the end of the runtime");
}

/// Everything at once, and each life has to end.
#[test]
fn stress_of_everything_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let config = || {
        ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(10))
            .refuse_for(Duration::ZERO)
    };
    let mut odd = Vec::new();
    for round in 0..400u64 {
        let lame = Duration::from_micros(if round % 3 == 0 { 0 } else { 700 });
        let ctl = runtime
            .block_on(async { ShutdownController::with_config(config().lame_duck(lame)).unwrap() });
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let ctl = ctl.clone();
                let runtime = runtime.handle().clone();
                scope.spawn(move || {
                    let _in = runtime.enter();
                    let mut seed = round * 977 + thread * 31 + 1;
                    for _ in 0..30 {
                        seed = seed
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        match (seed >> 33) % 9 {
                            0 => drop(ctl.pause()),
                            1 => drop(ctl.unpause()),
                            2 => drop(ctl.trigger(ShutdownReason::Manual)),
                            3 | 4 => drop(ctl.resume()),
                            5 => drop(ctl.idle()),
                            6 => {
                                let guard = ctl.try_admit();
                                let told = ctl.triggered();
                                drop(ctl.spawn("t", async move {
                                    let _ = guard;
                                    told.await;
                                }));
                            }
                            7 => drop(ctl.track()),
                            _ if round % 5 == 0 => ctl.force(),
                            _ => std::thread::yield_now(),
                        }
                    }
                });
            }
        });
        let begun = std::time::Instant::now();
        let report = runtime.block_on(async {
            timeout(
                Duration::from_secs(20),
                ctl.shutdown(ShutdownReason::Manual),
            )
            .await
        });
        let took = begun.elapsed();
        match report {
            Ok(report) if took < Duration::from_secs(9) => {
                if report.reason() == ShutdownReason::Interrupted {
                    odd.push(format!("{round}: {report}"));
                }
                let idle =
                    runtime.block_on(async { timeout(Duration::from_secs(1), ctl.idle()).await });
                if idle.is_err() || ctl.state() != LifecycleState::Stopped {
                    odd.push(format!("{round}: idle or state"));
                }
            }
            Ok(report) => odd.push(format!("{round}: {took:?} {report}")),
            Err(_) => odd.push(format!("{round}: hangs in {}", ctl.state())),
        }
    }
    assert!(
        odd.is_empty(),
        "{} odd: {:#?}",
        odd.len(),
        &odd[..odd.len().min(6)]
    );
}

/// Starts, ends, forces and drops at once: nothing hangs, and what started is stopped once.
#[test]
fn stress_of_start_ups() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let mut odd = Vec::new();
    for round in 0..1500u64 {
        let started = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(AtomicUsize::new(0));
        let config = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(400));
        let mut startup = runtime.block_on(async { Startup::new(config).unwrap() });
        let ctl = startup.controller();
        let (begun, ended) = (started.clone(), stopped.clone());
        let clone = ctl.clone();
        let bother = std::thread::spawn(move || {
            for _ in 0..(round % 50) * 20 {
                std::hint::spin_loop()
            }
            match round % 4 {
                0 => {
                    clone.trigger(ShutdownReason::Manual);
                }
                1 => clone.force(),
                2 => {
                    clone.trigger(ShutdownReason::Manual);
                    clone.force();
                    clone.force();
                }
                _ => {
                    clone.pause();
                    clone.unpause();
                }
            }
        });
        let task = runtime.spawn(async move {
            for step in 0..3 {
                let (begun, ended) = (begun.clone(), ended.clone());
                startup
                    .start(
                        format!("s{step}"),
                        async move {
                            tokio::task::yield_now().await;
                            begun.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, BoxError>(())
                        },
                        move |()| async move {
                            ended.fetch_add(1, Ordering::SeqCst);
                        },
                    )
                    .await?;
            }
            if round % 7 == 0 {
                return Ok(());
            } // dropped
            startup.finish().await.map(drop)
        });
        let result = runtime.block_on(async { timeout(Duration::from_secs(5), task).await });
        bother.join().unwrap();
        let report = runtime.block_on(async {
            timeout(Duration::from_secs(5), ctl.shutdown(ShutdownReason::Manual)).await
        });
        if result.is_err() || report.is_err() {
            odd.push(format!("{round}: hangs, {result:?} {report:?}"));
            continue;
        }
        std::thread::sleep(Duration::from_micros(200));
        let (a, b) = (
            started.load(Ordering::SeqCst),
            stopped.load(Ordering::SeqCst),
        );
        let report = report.unwrap();
        let reported = report
            .services()
            .iter()
            .filter(|s| s.is_completed())
            .count();
        if (a != b && round % 4 != 2 && (round % 4 != 1 || round % 7 != 0))
            || b > a
            || (reported != b && round % 4 != 2 && round % 4 != 1)
        {
            odd.push(format!(
                "{round}: started {a}, stopped {b}, reported {reported}: {report}"
            ));
        }
        if report.duration() > Duration::from_millis(300) {
            odd.push(format!("{round}: slow {report}"));
        }
    }
    assert!(
        odd.is_empty(),
        "{} odd: {:#?}",
        odd.len(),
        &odd[..odd.len().min(6)]
    );
}

#[tokio::test]
async fn a_panic_beside_a_server_is_not_the_server_s() {
    let ctl = ShutdownController::new();
    let clone = ctl.clone();
    let _ = tokio::spawn(async move {
        let _run = clone.run(pending::<()>()); // healthy
        panic!("of something else in this task");
    })
    .await;
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let errors: Vec<_> = report
        .server_errors()
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_hook_that_completed_is_reported_so_whatever_its_neighbour_does() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(200));
    let report = runtime.block_on(async {
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.on_shutdown("good", |_| async {
            DONE.store(true, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        ctl.on_shutdown("blocks", |_| async {
            std::thread::sleep(Duration::from_millis(600));
            Ok(())
        })
        .unwrap();
        ctl.shutdown(ShutdownReason::Manual).await
    });
    assert!(DONE.load(Ordering::SeqCst));
    assert!(report.hooks()[0].is_completed(), "{report}");
}

#[tokio::test]
async fn health_does_not_say_starting_while_a_start_up_is_rolled_back() {
    let startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    let _busy = ctl.track();
    ctl.trigger(ShutdownReason::Signal("SIGTERM"));
    tokio::task::yield_now().await;
    let health = HealthService::new(ctl.clone());
    let response = tower::ServiceExt::oneshot(health, http::Request::new(String::new()))
        .await
        .unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    ctl.force();
    assert!(!body.contains(r#""status":"starting""#), "{body}");
}

#[tokio::test]
async fn what_was_not_forced_is_not_cut_by_force() {
    let ctl = ShutdownController::new();
    let clone = ctl.clone();
    ctl.on_shutdown("hook", |_| async move {
        drop(clone.spawn("log it", async {}));
        Ok(())
    })
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(!report.is_forced());
    assert!(!report.to_string().contains("cut by force"), "{report}");
}

#[tokio::test]
async fn a_stop_closure_that_panics_harms_only_itself() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    startup
        .start("first", async { Ok::<_, BoxError>(1) }, |_| async {})
        .await
        .unwrap();
    startup
        .start("second", async { Ok::<_, BoxError>(1) }, |n| {
            assert_eq!(n, 2);
            async {}
        })
        .await
        .unwrap();
    startup.finish().await.unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.services()[1].is_completed(), "{report}");
}

#[tokio::test]
async fn a_clone_that_panics_does_not_leave_its_service_running() {
    struct Service(Arc<AtomicBool>);
    impl Clone for Service {
        fn clone(&self) -> Self {
            panic!("clone")
        }
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let _ = startup
        .start(
            "s",
            async move { Ok::<_, BoxError>(Service(flag)) },
            |s| async move {
                s.0.store(true, Ordering::SeqCst);
            },
        )
        .await;
    assert!(stopped.load(Ordering::SeqCst));
}

/// The runtime ends at any moment of a shutdown: whoever waits is told.
#[test]
fn stress_of_runtimes_that_end() {
    let waits = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut odd = Vec::new();
    for round in 0..600u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(2))
            .lame_duck(Duration::from_micros((round % 3) * 100));
        let ctl = runtime.block_on(async {
            let mut startup = Startup::new(config).unwrap();
            let ctl = startup.controller();
            for name in ["a", "b"] {
                startup
                    .start(name, async { Ok::<_, BoxError>(()) }, |()| {
                        tokio::time::sleep(Duration::from_micros(300))
                    })
                    .await
                    .unwrap();
            }
            ctl.on_shutdown("h", |_| async {
                tokio::time::sleep(Duration::from_micros(300)).await;
                Ok(())
            })
            .unwrap();
            if round % 4 == 0 {
                drop(startup)
            } else {
                startup.finish().await.unwrap();
            }
            ctl
        });
        let clone = ctl.clone();
        runtime.spawn(clone.run(pending::<()>()));
        let other = ctl.clone();
        let thread = std::thread::spawn(move || {
            other.trigger(ShutdownReason::Manual);
            if round % 2 == 0 {
                let _ = other.resume();
                other.trigger(ShutdownReason::Manual);
            }
            if round % 5 == 0 {
                other.force();
            }
        });
        for _ in 0..(round % 60) * 200 {
            std::hint::spin_loop()
        }
        if round % 2 == 0 {
            drop(runtime)
        } else {
            runtime.shutdown_background()
        }
        thread.join().unwrap();
        let begun = std::time::Instant::now();
        let ended = waits.block_on(async {
            timeout(Duration::from_secs(6), ctl.shutdown(ShutdownReason::Manual)).await
        });
        if ended.is_err() || begun.elapsed() > Duration::from_millis(2500) {
            odd.push(format!(
                "{round}: {:?} {} {ended:?}",
                begun.elapsed(),
                ctl.state()
            ));
        }
    }
    assert!(
        odd.is_empty(),
        "{} odd: {:#?}",
        odd.len(),
        &odd[..odd.len().min(6)]
    );
}

/// "Cuts admitted work now … The clean-up gets its reserve": one `force` while running, with nothing in
/// flight, must not cut the clean-up that it has begun itself.
#[test]
fn one_force_while_running_does_not_cut_the_clean_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut cut = Vec::new();
    for round in 0..3000 {
        let ctl = runtime.block_on(async { ShutdownController::new() });
        ctl.on_shutdown("flush", |_| async {
            tokio::task::yield_now().await; // any wait
            Ok(())
        })
        .unwrap();
        ctl.force();
        let report = runtime.block_on(ctl.shutdown(ShutdownReason::Manual));
        if !report.hooks()[0].is_completed() {
            cut.push(format!("{round}: {report}"));
        }
    }
    assert!(cut.is_empty(), "{} of 3000: {}", cut.len(), cut[0]);
}

/// The same without luck: whoever is told of the move makes the window as wide as it takes.
#[test]
fn one_force_while_running_does_not_cut_the_clean_up_whoever_is_told() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    let work = Mutex::new(Some(ctl.track()));
    ctl.on_state_change(move |_, new| {
        if new == LifecycleState::Draining {
            work.lock().unwrap().take(); // ends at once, as it should
            std::thread::sleep(Duration::from_millis(20)); // and writes a line to a slow log
        }
    });
    ctl.on_shutdown("flush", |_| async {
        tokio::time::sleep(Duration::from_millis(100)).await; // of a reserve of 5 s
        Ok(())
    })
    .unwrap();
    ctl.force();
    let report = runtime.block_on(ctl.shutdown(ShutdownReason::Manual));
    assert!(report.hooks()[0].is_completed(), "{report}");
}

fn denied() -> BoxError {
    #[derive(Debug)]
    struct Cannot(std::io::Error);
    impl fmt::Display for Cannot {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot open the queue")
        }
    }
    impl Error for Cannot {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    Cannot(std::io::Error::from(std::io::ErrorKind::PermissionDenied)).into()
}

#[tokio::test]
async fn the_report_of_a_start_up_says_the_root_of_the_failure() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let error = startup
        .start("queue", async { Err::<(), _>(denied()) }, |()| async {})
        .await
        .unwrap_err();
    let report = error.report().to_string();
    assert!(report.contains("permission denied"), "{report}");
}

#[tokio::test]
async fn the_report_of_a_server_says_the_root_of_the_failure() {
    let ctl = ShutdownController::new();
    let report = ctl.run(async { Err::<(), _>(denied()) }).await.to_string();
    assert!(report.contains("permission denied"), "{report}");
}

/// The wake-up of one waiter is not lost by the panic of another's waker.
#[tokio::test]
async fn a_waker_that_panics_does_not_lose_the_wake_ups_of_others() {
    struct Bad;
    impl std::task::Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("waker")
        }
    }
    let ctl = ShutdownController::new();
    let mut bad = ctl.draining();
    let waker = std::task::Waker::from(Arc::new(Bad));
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(std::pin::Pin::new(&mut bad).poll(&mut cx).is_pending());
    let mut good = tokio_test::task::spawn(ctl.draining());
    assert!(good.poll().is_pending());
    let clone = ctl.clone();
    let _ = std::thread::spawn(move || clone.trigger(ShutdownReason::Manual)).join();
    assert!(good.is_woken(), "the state is {}", ctl.state());
}

#[test]
fn a_force_from_a_start_up_lets_the_stops_run() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut bad = Vec::new();
    for round in 0..2000 {
        let mut startup =
            runtime.block_on(async { Startup::new(ShutdownConfig::default()).unwrap() });
        let ctl = startup.controller();
        runtime.block_on(async {
            startup
                .start("db", async { Ok::<_, BoxError>(1) }, |_| {
                    tokio::task::yield_now()
                })
                .await
                .unwrap();
        });
        ctl.force();
        let report = runtime.block_on(ctl.shutdown(ShutdownReason::Manual));
        if !report.services()[0].is_completed() {
            bad.push(format!("{round}: {report}"));
        }
    }
    assert!(bad.is_empty(), "{} of 2000: {}", bad.len(), bad[0]);
}

/// What is not awaited: a start-up error that is dropped by `select!`.
#[tokio::test(start_paused = true)]
async fn a_rollback_that_nobody_waits_for_goes_on() {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    startup
        .start("a", async { Ok::<_, BoxError>(1) }, |_| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            STOPPED.store(true, Ordering::SeqCst);
        })
        .await
        .unwrap();
    {
        let start = startup.start("b", async { Err::<(), _>("no") }, |()| async {});
        let _ = timeout(Duration::from_millis(10), start).await;
    }
    ctl.stopped().await;
    assert!(STOPPED.load(Ordering::SeqCst));
}

/// `ready().await`, then wait for a job, then `call`: readiness that was given during a pause.
#[tokio::test]
async fn a_service_that_was_ready_in_a_pause_does_not_say_afterwards_that_it_shuts_down() {
    use tower::{Service, ServiceExt};
    let ctl = ShutdownController::new();
    let mut jobs = tower::ServiceBuilder::new()
        .layer(DrainLayer::new(ctl.clone()).reject_with_error())
        .service_fn(|job: u32| async move { Ok::<_, BoxError>(job) });
    ctl.pause();
    let ready = jobs.ready().await.unwrap();
    ctl.unpause();
    match ready.call(1).await {
        Ok(_) => {}
        Err(error) => assert!(
            error
                .downcast_ref::<ShuttingDown>()
                .is_none_or(|refused| refused.is_paused()),
            "running, ready, and refused: {error}"
        ),
    }
}

#[tokio::test]
async fn over_http_it_says_so_too_and_accuses_nobody() {
    use tower::{Service, ServiceExt};
    let _logs = listen(Panics("called before it was ready"));
    let ctl = ShutdownController::new();
    let mut app = tower::ServiceBuilder::new()
        .layer(DrainLayer::new(ctl.clone()))
        .service_fn(|_: http::Request<String>| async move {
            Ok::<_, BoxError>(http::Response::new(
                http_body_util::Full::<bytes::Bytes>::default(),
            ))
        });
    ctl.pause();
    let ready = app.ready().await.unwrap();
    ctl.unpause();
    // It panics by the subscriber: the caller did call `poll_ready`.
    let response = ready.call(http::Request::new(String::new())).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    assert!(
        !String::from_utf8_lossy(&body).contains("shutting down"),
        "{body:?}"
    );
}

/// `wait_for` and `lame_duck` of a consumer that is told twice: a resume in between is not lost.
#[tokio::test(start_paused = true)]
async fn a_task_that_was_told_of_a_shutdown_that_is_off_can_be_told_of_the_next() {
    let ctl = ShutdownController::with_config(lame()).unwrap();
    let clone = ctl.clone();
    let told = tokio::spawn(async move {
        let one = clone.triggered().await.triggered_at();
        while clone.notice().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let two = clone.triggered().await.triggered_at();
        two > one
    });
    ctl.trigger(ShutdownReason::Manual);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ctl.resume().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    ctl.trigger(ShutdownReason::Manual);
    assert!(
        timeout(Duration::from_secs(100), told)
            .await
            .unwrap()
            .unwrap()
    );
}

/// A check that is asked for by many, in a cache, whose runtime has ended.
#[test]
fn a_cached_run_that_was_lost_with_its_runtime_is_begun_again() {
    use tower::ServiceExt;
    let make = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let ctl = ShutdownController::new();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let health = HealthService::new(ctl)
        .check("db", move || {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    pending::<()>().await
                }
                Ok(())
            }
        })
        .cache_for(Duration::from_secs(60));
    let runtime = make();
    runtime.block_on(async {
        let _ = timeout(
            Duration::from_millis(20),
            health.clone().oneshot(http::Request::new(String::new())),
        )
        .await;
    });
    drop(runtime);
    let response = make()
        .block_on(health.oneshot(http::Request::new(String::new())))
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(ran.load(Ordering::SeqCst), 2);
}
