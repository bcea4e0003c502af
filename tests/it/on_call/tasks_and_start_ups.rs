//! Tasks and start-ups.

use tokio::runtime::Runtime;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_job_that_may_fail_does_not_taint_the_shutdown() {
    let ctl = ShutdownController::with_config(lame()).unwrap();
    ctl.trigger(ShutdownReason::Manual);
    let job = Task::new("job", async { Err::<(), _>("one bad job") });
    let _ = ctl.spawn_task(job.on_error(TaskPolicy::Ignore)).await;
    ctl.resume().unwrap();
    tokio::time::sleep(Duration::from_secs(86_400)).await; // a day of service
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
    let runtime = threads(2);
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

/// Runs a program that returns from its start-up with `?`, and ends the runtime.
fn leave_a_startup(runtime: Runtime) {
    async fn program(stopped: Arc<AtomicBool>) -> Result<(), BoxError> {
        let mut startup = Startup::new(ShutdownConfig::default())?;
        startup
            .start("db", async { Ok::<_, BoxError>("pool") }, |_| async move {
                stopped.store(true, Ordering::SeqCst);
            })
            .await?;
        "no number".parse::<u32>()?; // another part of main fails
        startup.finish().await?;
        Ok(())
    }
    let stopped = Arc::new(AtomicBool::new(false));
    assert!(runtime.block_on(program(stopped.clone())).is_err());
    drop(runtime);
    assert!(stopped.load(Ordering::SeqCst), "db was not stopped");
}

/// What `#[tokio::main]` expands to.
#[test]
fn a_startup_that_is_left_by_a_question_mark_stops_what_it_had_started() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    leave_a_startup(builder.enable_all().build().unwrap());
}

#[test]
fn a_startup_that_is_left_so_on_a_current_thread_is_stopped_too() {
    leave_a_startup(one_thread());
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
            drop(jobs); // the last sender: the worker ends
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
        // An occasional job that failed, in a long run.
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
    use tower_lifecycle::store::{FileStore, StateStore};

    let folder = std::env::temp_dir().join(format!("h-rev3-pipe-{}", std::process::id()));
    let store = FileStore::new(&folder).unwrap();
    let lock = folder.join("lock");
    std::fs::remove_file(&lock).unwrap();
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
