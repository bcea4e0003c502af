//! `HealthService`: the states, checks, methods; P9.

use std::future::pending;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};
use tower_lifecycle::{
    DrainLayer, HealthService, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::support::health::{get, probe};
use crate::support::shutdown::ms;

/// Returns the readiness code and text, and the liveness code.
async fn both(ctl: &ShutdownController) -> (u16, String, u16) {
    let (code, body) = get(&HealthService::new(ctl.clone())).await;
    let status = body["status"].as_str().unwrap().to_owned();
    let (liveness, _) = get(&HealthService::new(ctl.clone()).liveness()).await;
    (code.as_u16(), status, liveness.as_u16())
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_states_and_liveness_stays_green_until_the_end() {
    let config = ShutdownConfig::default().lame_duck(ms(1_000));
    let ctl = ShutdownController::with_config(config).unwrap();
    assert_eq!(both(&ctl).await, (200, "healthy".into(), 200));

    let guard = ctl.track();
    ctl.on_shutdown("slow", |_| async {
        sleep(ms(500)).await;
        Ok(())
    })
    .unwrap();
    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    assert_eq!(both(&ctl).await, (503, "draining".into(), 200));

    ctl.draining().await;
    assert_eq!(both(&ctl).await, (503, "draining".into(), 200));

    drop(guard);
    ctl.wait_for(LifecycleState::Stopping).await;
    assert_eq!(both(&ctl).await, (503, "stopping".into(), 200));

    ctl.stopped().await;
    assert_eq!(both(&ctl).await, (503, "stopped".into(), 503));
}

/// P9, without a lame duck: when a request is refused, readiness is already red.
#[test]
fn readiness_is_red_no_later_than_the_first_refusal() {
    for _ in 0..200 {
        let ctl = ShutdownController::new();
        let client = {
            let ctl = ctl.clone();
            std::thread::spawn(move || {
                while ctl.try_admit().is_ok() {
                    std::hint::spin_loop();
                }
                tokio_test::block_on(both(&ctl))
            })
        };
        ctl.trigger(ShutdownReason::Manual);
        let (readiness, _, _) = client.join().unwrap();
        assert_eq!(readiness, 503);
        tokio_test::block_on(ctl.stopped());
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_has_the_fields_of_the_contract_in_their_order() {
    let ctl = ShutdownController::new();
    let _guards = (ctl.track(), ctl.track());
    let health = HealthService::new(ctl).version("1.4.2");
    let response = probe(&health, Method::GET).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    let (known, timestamp) = text.split_once(r#""timestamp":""#).unwrap();
    assert_eq!(
        known,
        r#"{"status":"healthy","version":"1.4.2","services":{},"uptime":0,"in_flight_requests":2,"#
    );
    let timestamp = timestamp.strip_suffix("\"}").unwrap();
    assert_eq!(timestamp.len(), "2025-01-15T10:30:00Z".len());
    assert!(humantime::parse_rfc3339(timestamp).is_ok(), "{timestamp}");
}

#[tokio::test(start_paused = true)]
async fn head_has_the_head_of_get_and_other_methods_are_not_allowed() {
    let health = HealthService::new(ShutdownController::new());
    let length = probe(&health, Method::GET).await.headers()["content-length"].clone();
    let head = probe(&health, Method::HEAD).await;
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &length)
    );
    assert!(
        head.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    for method in [
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
    ] {
        let response = probe(&health, method).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}

#[tokio::test(start_paused = true)]
async fn checks_run_at_the_same_time_and_a_bad_one_shows_as_failed() {
    let health = HealthService::new(ShutdownController::new())
        .check("good", || async {
            sleep(ms(400)).await;
            Ok(())
        })
        .check("bad", || async {
            sleep(ms(400)).await;
            Err("no route to \"host\"".into())
        })
        .check("hangs", pending)
        .check("panics", || async { panic!("the check's own fault") });
    let start = Instant::now();
    let (code, body) = get(&health).await;
    assert_eq!(
        start.elapsed(),
        ms(1_000),
        "the limit of the one that hangs"
    );
    assert_eq!((code.as_u16(), &body["status"]), (200, &json!("degraded")));
    assert_eq!(
        body["services"],
        json!({
            "good": {"status": "healthy"},
            "bad": {"status": "failed", "error": "no route to \"host\""},
            "hangs": {"status": "failed", "error": "no answer within 1s"},
            "panics": {"status": "failed", "error": "panicked"},
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_critical_check_that_fails_turns_readiness_red_and_liveness_not() {
    let ctl = ShutdownController::new();
    let bad = || async { Err("down".into()) };
    let health = HealthService::new(ctl)
        .check("cache", bad)
        .critical_check("db", || async { Ok(()) });
    let (code, body) = get(&health).await;
    assert_eq!((code.as_u16(), &body["status"]), (200, &json!("degraded")));

    // In any order, and together with a failure that is not critical.
    for health in [
        health.clone().critical_check("queue", bad),
        health.clone().critical_check("cache", bad),
        health.critical_check("queue", bad).check("audit", bad),
    ] {
        let (code, body) = get(&health).await;
        assert_eq!((code.as_u16(), &body["status"]), (503, &json!("unhealthy")));
        assert_eq!(body["services"]["db"], json!({"status": "healthy"}));
        assert_eq!(get(&health.liveness()).await.0, StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_critical_check_is_red_too_when_it_hangs_or_panics() {
    let health = HealthService::new(ShutdownController::new());
    let hangs = health.clone().critical_check("db", pending);
    let panics = health.critical_check("db", || async { panic!("the check's own fault") });
    for (health, error) in [(hangs, "no answer within 1s"), (panics, "panicked")] {
        let (code, body) = get(&health).await;
        assert_eq!((code.as_u16(), &body["status"]), (503, &json!("unhealthy")));
        assert_eq!(body["services"]["db"]["error"], error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_check_of_the_same_name_replaces_the_earlier_of_either_kind() {
    let health = HealthService::new(ShutdownController::new());
    let bad = |text: &'static str| move || async move { Err(text.into()) };
    for (health, code) in [
        (
            health
                .clone()
                .critical_check("db", bad("1"))
                .check("db", bad("2")),
            200,
        ),
        (
            health
                .clone()
                .check("db", bad("1"))
                .critical_check("db", bad("2")),
            503,
        ),
        (
            health.clone().check("db", bad("1")).check("db", bad("2")),
            200,
        ),
    ] {
        let (status, body) = get(&health).await;
        assert_eq!(status.as_u16(), code);
        let failed = json!({"db": {"status": "failed", "error": "2"}});
        assert_eq!(body["services"], failed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_check_can_be_set_and_checks_are_run_anew_each_time() {
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let health = HealthService::new(ShutdownController::new())
        .check_timeout(ms(50))
        .check("second time slow", {
            let runs = std::sync::Arc::clone(&runs);
            move || {
                let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                async move {
                    sleep(ms(60) * run as u32).await;
                    Ok(())
                }
            }
        });
    assert_eq!(get(&health).await.1["status"], "healthy");
    let (code, body) = get(&health).await;
    assert_eq!((code.as_u16(), &body["status"]), (200, &json!("degraded")));
}

#[tokio::test(start_paused = true)]
async fn liveness_and_red_readiness_run_no_checks() {
    let ctl = ShutdownController::new();
    let check = || async { panic!("not to be run") };
    let liveness = HealthService::new(ctl.clone())
        .check("db", check)
        .liveness();
    assert_eq!(get(&liveness).await.1["services"], json!({}));
    ctl.shutdown(ShutdownReason::Manual).await;
    let readiness = HealthService::new(ctl).check("db", check);
    assert_eq!(get(&readiness).await.1["services"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_begins_while_checks_run_turns_the_answer_red() {
    let ctl = ShutdownController::new();
    let health = HealthService::new(ctl.clone()).check("db", move || {
        let ctl = ctl.clone();
        async move {
            ctl.trigger(ShutdownReason::Manual);
            Ok(())
        }
    });
    assert_eq!(get(&health).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn outside_a_runtime_it_answers_and_a_check_shows_as_failed() {
    use std::task::{Context, Poll, Waker};

    let mut health = HealthService::new(ShutdownController::new()).check("db", || async { Ok(()) });
    let mut future = std::pin::pin!(health.call(Request::new(String::new())));
    let Poll::Ready(Ok(response)) = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("nothing to wait for")
    };
    assert_eq!(response.status(), StatusCode::OK);
    let body = tokio_test::block_on(response.into_body().collect()).unwrap();
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    assert_eq!(
        body["services"]["db"]["error"],
        "a check needs a tokio runtime"
    );
}

#[tokio::test(start_paused = true)]
async fn behind_an_exempt_path_it_answers_while_draining() {
    for late_for in [Duration::ZERO, Duration::from_secs(1)] {
        let config = ShutdownConfig::default().late_for(late_for);
        let ctl = ShutdownController::with_config(config).unwrap();
        let app = tower::ServiceBuilder::new()
            .layer(DrainLayer::new(ctl.clone()).exempt_paths(["/health"]))
            .service(HealthService::new(ctl.clone()));
        let _guard = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        let request = Request::get("/health").body(String::new()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(ctl.in_flight(), 1, "it is not counted");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], "draining");
    }
}
