//! `HealthService`: the table of design §6, checks, their cached results, methods; P9.
#![cfg(feature = "health")]
#![allow(clippy::unwrap_used)]

use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_test::{assert_pending, task};
use tower::{Service, ServiceExt};
use tower_lifecycle::{
    BoxError, DrainLayer, HealthService, LifecycleState, ShutdownConfig, ShutdownController,
    ShutdownReason,
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn probe(health: &HealthService, method: Method) -> Response<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri("/health")
        .body(String::new())
        .unwrap();
    health.clone().oneshot(request).await.unwrap()
}

async fn get(health: &HealthService) -> (StatusCode, Value) {
    let response = probe(health, Method::GET).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// The readiness code and text, and the liveness code.
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

/// P9, with no lame duck: whoever is refused finds readiness red already.
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

    // Whatever the order, and beside a failure that is not critical.
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

// ===== cached results =====

/// A check that counts its runs, its ends and its drops, and does in turn what it is told.
#[derive(Clone, Default)]
struct Counted {
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counted {
    /// The check; `run` is told how many runs there were before.
    fn check<Fut>(
        &self,
        run: impl Fn(usize) -> Fut + Send + Sync + 'static,
    ) -> impl Fn() -> CheckFuture + Send + Sync + 'static
    where
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let counted = self.clone();
        move || {
            let run = run(counted.begun.fetch_add(1, Ordering::SeqCst));
            let counted = counted.clone();
            Box::pin(async move {
                let _dropped = CountsDrop(counted.dropped);
                let result = run.await;
                counted.ended.fetch_add(1, Ordering::SeqCst);
                result
            })
        }
    }

    fn takes(&self, time: Duration) -> impl Fn() -> CheckFuture + Send + Sync + 'static {
        self.check(move |_| async move {
            sleep(time).await;
            Ok(())
        })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

type CheckFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A service that shows results again for a second.
fn cached(check: impl Fn() -> CheckFuture + Send + Sync + 'static) -> HealthService {
    HealthService::new(ShutdownController::new())
        .check("db", check)
        .cache_for(ms(1_000))
}

async fn db(health: &HealthService) -> Value {
    get(health).await.1["services"]["db"].clone()
}

fn healthy() -> Value {
    json!({"status": "healthy"})
}

fn failed(error: &str) -> Value {
    json!({"status": "failed", "error": error})
}

#[tokio::test(start_paused = true)]
async fn a_thousand_probes_at_the_same_time_run_a_check_once() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(100)));
    for round in 1..=2 {
        let start = Instant::now();
        let mut probes = JoinSet::new();
        for _ in 0..1_000 {
            let health = health.clone();
            probes.spawn(async move { db(&health).await });
        }
        while let Some(result) = probes.join_next().await {
            assert_eq!(result.unwrap(), healthy());
        }
        assert_eq!(start.elapsed(), ms(100));
        assert_eq!((runs.begun(), runs.ended()), (round, round));
        sleep(ms(1_000)).await; // the second time there is an old result to begin with
    }
}

/// On several threads, where they can meet inside the check for whether there is a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_probes_on_many_threads_run_a_check_once() {
    let runs = Counted::default();
    let released = Arc::new(tokio::sync::Semaphore::new(0));
    let health = cached(runs.check({
        let released = Arc::clone(&released);
        move |_| {
            let released = Arc::clone(&released);
            async move {
                drop(released.acquire_owned().await);
                Ok(())
            }
        }
    }))
    .check_timeout(Duration::from_secs(30))
    .cache_for(Duration::from_secs(3_600));
    let mut probes = JoinSet::new();
    let under_way = Arc::new(AtomicUsize::new(0));
    for _ in 0..1_000 {
        let (health, under_way) = (health.clone(), Arc::clone(&under_way));
        probes.spawn(async move {
            under_way.fetch_add(1, Ordering::SeqCst);
            db(&health).await
        });
    }
    while under_way.load(Ordering::SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    released.add_permits(1);
    while let Some(result) = probes.join_next().await {
        assert_eq!(result.unwrap(), healthy());
    }
    assert_eq!((runs.begun(), runs.ended()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_result_is_shown_again_until_its_age_and_that_counts_from_the_end_of_the_run() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(400)));
    let start = Instant::now();
    assert_eq!(db(&health).await, healthy());
    assert_eq!(start.elapsed(), ms(400));

    sleep_until(start + ms(1_399)).await;
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(1_399)));

    sleep_until(start + ms(1_400)).await;
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (2, ms(1_800)));
}

#[tokio::test(start_paused = true)]
async fn without_caching_each_probe_runs_the_check_and_takes_it_along_when_dropped() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(100))).cache_for(Duration::ZERO);
    let (one, two) = (health.clone(), health.clone());
    assert_eq!(tokio::join!(db(&one), db(&two)), (healthy(), healthy()));
    assert_eq!((runs.begun(), runs.ended()), (2, 2));

    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    sleep(ms(50)).await;
    drop(probe);
    sleep(ms(1_000)).await;
    assert_eq!((runs.begun(), runs.ended(), runs.dropped()), (3, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_goes_away_neither_ends_the_run_nor_begins_another() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(400)));
    let start = Instant::now();
    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    sleep(ms(100)).await;
    drop(probe);

    // The next one finds it under way.
    sleep(ms(100)).await;
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(400)));

    // With nobody left who waits, it comes to its end for those who ask later.
    sleep(ms(1_000)).await;
    let start = Instant::now();
    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    sleep(ms(100)).await;
    drop(probe);
    sleep(ms(400)).await;
    assert_eq!((runs.begun(), runs.ended()), (2, 2));
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (2, ms(500)));
}

#[tokio::test(start_paused = true)]
async fn a_run_is_dropped_when_the_service_and_all_who_wait_are_gone() {
    let runs = Counted::default();
    let health = cached(runs.check(|_| pending())).check_timeout(Duration::MAX);
    let mut probe = task::spawn(health.clone().oneshot(Request::new(String::new())));
    assert_pending!(probe.poll());
    drop(health);
    sleep(ms(1)).await;
    assert_pending!(probe.poll());
    assert_eq!((runs.begun(), runs.dropped()), (1, 0));
    drop(probe);
    sleep(ms(1)).await;
    assert_eq!(runs.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_joined_and_its_failure_is_cached() {
    let runs = Counted::default();
    let health = cached(runs.check(|_| pending()));
    let start = Instant::now();
    let late = async {
        sleep(ms(600)).await;
        (db(&health).await, start.elapsed())
    };
    let first = async { (db(&health).await, start.elapsed()) };
    let hung = failed("no answer within 1s");
    let (first, late) = tokio::join!(first, late);
    assert_eq!(first, (hung.clone(), ms(1_000)));
    assert_eq!(late, (hung.clone(), ms(1_000)));

    sleep_until(start + ms(1_999)).await;
    assert_eq!(db(&health).await, hung);
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(1_999)));
    sleep_until(start + ms(2_000)).await;
    assert_eq!(db(&health).await, hung);
    assert_eq!((runs.begun(), start.elapsed()), (2, ms(3_000)));
}

#[tokio::test(start_paused = true)]
async fn each_probe_keeps_its_own_limit_while_it_waits_for_anothers_run() {
    let runs = Counted::default();
    let patient = cached(runs.takes(ms(5_000))).check_timeout(ms(10_000));
    let hasty = patient.clone().check_timeout(ms(100));
    let start = Instant::now();
    let hasty = async {
        sleep(ms(1_000)).await;
        (db(&hasty).await, start.elapsed())
    };
    let (patient, hasty) = tokio::join!(db(&patient), hasty);
    assert_eq!(hasty, (failed("no answer within 100ms"), ms(1_102)));
    assert_eq!((patient, runs.begun()), (healthy(), 1));
}

/// Real time, and threads, since a blocked one is the point; there are more of them than probes, so
/// that this fails and does not hang when each probe blocks one.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_check_that_blocks_its_thread_hangs_no_probe_and_blocks_no_second_thread() {
    let runs = Counted::default();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let health = cached(runs.check(move |_| {
        let _ = released.lock().unwrap().recv();
        async { Ok(()) }
    }))
    .check_timeout(ms(20))
    .cache_for(Duration::from_secs(3_600));
    let test = async {
        for _ in 0..5 {
            assert_eq!(db(&health).await, failed("no answer within 20ms"));
        }
        assert_eq!(runs.begun(), 1);

        release.send(()).unwrap();
        while db(&health).await != healthy() {
            tokio::task::yield_now().await;
        }
        assert_eq!(runs.begun(), 1);
    };
    tokio::time::timeout(Duration::from_secs(30), test)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_are_cached_until_a_run_recovers() {
    let runs = Counted::default();
    let health = cached(runs.check(|run| async move {
        match run {
            0 => Err("no connection".into()),
            1 => panic!("the check's own fault"),
            _ => Ok(()),
        }
    }));
    let expected = [failed("no connection"), failed("panicked"), healthy()];
    for (run, expected) in expected.into_iter().enumerate() {
        for _ in 0..3 {
            assert_eq!(db(&health).await, expected);
            assert_eq!(runs.begun(), run + 1);
        }
        sleep(ms(1_000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clones_share_results_also_after_further_setters_and_a_new_check_has_its_own() {
    let (runs, others) = (Counted::default(), Counted::default());
    let health = cached(runs.takes(ms(10)));
    let cloned = health.clone();
    let with_more = health
        .clone()
        .version("2")
        .check("cache", others.takes(ms(10)));
    assert_eq!(db(&health).await, healthy());
    assert_eq!(db(&cloned).await, healthy());
    assert_eq!(db(&with_more).await, healthy());
    assert_eq!((runs.begun(), others.begun()), (1, 1));

    let replaced = health.clone().check("db", others.takes(ms(10)));
    assert_eq!(db(&replaced).await, healthy());
    assert_eq!((runs.begun(), others.begun()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn red_readiness_shows_no_cached_results() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = HealthService::new(ctl.clone())
        .check("db", runs.takes(ms(10)))
        .cache_for(Duration::MAX);
    assert_eq!(db(&health).await, healthy());
    let _guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let (code, body) = get(&health).await;
    assert_eq!((code.as_u16(), &body["services"]), (503, &json!({})));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

#[test]
fn a_run_that_was_lost_with_its_runtime_fails_and_the_next_probe_begins_another() {
    let runs = Counted::default();
    let health = cached(runs.check(|run| async move {
        match run {
            0 => pending().await,
            _ => Ok(()),
        }
    }));
    let first = runtime();
    let mut probe = task::spawn(db(&health));
    first.block_on(async {
        assert_pending!(probe.poll());
        tokio::task::yield_now().await;
    });
    drop(first);
    assert_eq!((runs.begun(), runs.dropped()), (1, 1));
    assert!(probe.is_woken());
    let lost = failed("the runtime of the check has ended");
    assert_eq!(tokio_test::block_on(probe), lost);

    assert_eq!(runtime().block_on(db(&health)), healthy());
    assert_eq!(runs.begun(), 2);
}

#[test]
fn outside_a_runtime_a_cached_result_is_shown_and_no_failure_is_cached() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(1))).cache_for(Duration::MAX);
    let outside = failed("a check needs a tokio runtime");
    assert_eq!(
        task::spawn(db(&health)).poll(),
        std::task::Poll::Ready(outside)
    );
    assert_eq!(runtime().block_on(db(&health)), healthy());
    assert_eq!(
        task::spawn(db(&health)).poll(),
        std::task::Poll::Ready(healthy())
    );
    assert_eq!(runs.begun(), 1);
}

#[test]
fn in_a_runtime_without_a_timer_checks_show_as_failed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let health = cached(Counted::default().takes(ms(1)));
    for health in [health.clone(), health.cache_for(Duration::ZERO)] {
        assert_eq!(runtime.block_on(db(&health)), failed("panicked"));
    }
}
