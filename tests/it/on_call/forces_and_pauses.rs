//! Forces and pauses.

use super::*;

#[test]
fn a_force_from_a_start_up_lets_the_stops_run() {
    let runtime = threads(2);
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

/// Code that is not awaited: a start-up error that `select!` drops.
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

/// `ready().await`, then waiting for a job, then `call`: the readiness is from a pause.
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
    // It panics through the subscriber, although the caller did call `poll_ready`.
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

/// `wait_for` and `lame_duck` of a consumer that is notified twice: a resume in between is not
/// lost.
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

/// A cached check that many probes request, whose runtime has ended.
#[test]
fn a_cached_run_that_was_lost_with_its_runtime_is_begun_again() {
    use tower::ServiceExt;
    let make = one_thread;
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
