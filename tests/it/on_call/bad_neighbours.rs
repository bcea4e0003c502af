//! Bad neighbours.

use super::*;

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
    let runtime = one_thread();
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

/// The runtime ends at any moment of a shutdown: all waiters are woken.
#[test]
fn stress_of_runtimes_that_end() {
    let waits = one_thread();
    let mut odd = Vec::new();
    for round in 0..600u64 {
        let runtime = threads(2);
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
    assert_none(&odd);
}

/// "Cuts admitted work now … The clean-up gets its reserve": one `force` while running, with
/// nothing in flight, must not cut the clean-up that it starts.
#[test]
fn one_force_while_running_does_not_cut_the_clean_up() {
    let runtime = threads(2);
    let mut cut = Vec::new();
    for round in 0..3000 {
        let ctl = runtime.block_on(async { ShutdownController::new() });
        ctl.on_shutdown("flush", |_| async {
            tokio::task::yield_now().await; // any await
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

/// The same without luck: an observer of the change makes the window as wide as needed.
#[test]
fn one_force_while_running_does_not_cut_the_clean_up_whoever_is_told() {
    let runtime = threads(2);
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

/// A panic of one waiter's waker does not lose the wake-up of another.
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
