//! When the checks of a `HealthService` run, and which of their results are shown.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_lifecycle::health::HealthLayer;
use tower_lifecycle::{HealthService, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::health::{CheckFuture, Counted, cached, db, failed, get, healthy};
use crate::support::shutdown::ms;

// ===== one run at a time =====

/// Each run leaves a thread of the blocking pool behind when its future is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_hangs_in_the_blocking_pool_takes_one_thread_whatever_the_probes_do() {
    let runs = Counted::default();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let health = HealthService::new(ShutdownController::new())
        .check(
            "db",
            runs.check(move |_| {
                let released = Arc::clone(&released);
                async move {
                    let query = move || released.lock().unwrap().recv();
                    let _ = tokio::task::spawn_blocking(query).await?;
                    Ok(())
                }
            }),
        )
        .check_timeout(ms(20));
    for _ in 0..10 {
        // One probe that waits for its result, and one that is dropped before.
        assert_eq!(db(&health).await, failed("no answer within 20ms"));
        let _ = tokio::time::timeout(ms(1), db(&health)).await;
    }
    assert_eq!((runs.begun(), runs.dropped()), (1, 0));

    release.send(()).unwrap();
    let ended = async {
        while runs.ended() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended);
    ended.await.expect("it has its answer");
    drop(release);
    // The service learns of the end a moment after the check itself.
    let runs_anew = async {
        while runs.begun() < 2 {
            let _ = db(&health).await;
        }
    };
    let anew = tokio::time::timeout(Duration::from_secs(20), runs_anew);
    anew.await.expect("the next probe runs it anew");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_failed_at_once_and_not_begun_anew_until_it_ends() {
    let runs = Counted::default();
    let health = HealthService::new(ShutdownController::new()).check("db", runs.takes(ms(60_000)));
    let start = Instant::now();
    let hung = failed("no answer within 1s");
    assert_eq!(db(&health).await, hung);
    assert_eq!(start.elapsed(), ms(1_000));
    for _ in 0..50 {
        // Later probes need not wait: the limit has passed.
        assert_eq!(db(&health).await, hung);
    }
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(1_000)));

    sleep_until(start + ms(59_999)).await;
    assert_eq!(db(&health).await, hung);
    sleep_until(start + ms(60_000)).await;
    tokio::task::yield_now().await;
    assert_eq!((runs.ended(), runs.dropped()), (1, 1));
    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    assert_eq!(start.elapsed(), ms(60_000));
    tokio::task::yield_now().await;
    assert_eq!(runs.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn probes_at_the_same_time_share_a_run_and_later_ones_begin_their_own() {
    let runs = Counted::default();
    let health = HealthService::new(ShutdownController::new()).check("db", runs.takes(ms(100)));
    let (one, two) = (health.clone(), health.clone());
    for round in 1..=3 {
        assert_eq!(tokio::join!(db(&one), db(&two)), (healthy(), healthy()));
        assert_eq!((runs.begun(), runs.ended()), (round, round));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_when_its_probe_is_dropped_and_the_next_probe_joins_it() {
    let runs = Counted::default();
    let health = HealthService::new(ShutdownController::new()).check("db", runs.takes(ms(400)));
    let start = Instant::now();
    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    sleep(ms(100)).await;
    drop(probe);
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(400)));
}

// ===== cached results =====

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
        sleep(ms(1_000)).await; // the second time there is an old result at first
    }
}

/// On several threads, which can meet between the check for a current run and its start.
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
async fn a_probe_that_goes_away_neither_ends_the_run_nor_begins_another() {
    let runs = Counted::default();
    let health = cached(runs.takes(ms(400)));
    let start = Instant::now();
    let mut probe = task::spawn(db(&health));
    assert_pending!(probe.poll());
    sleep(ms(100)).await;
    drop(probe);

    // The next one finds it running.
    sleep(ms(100)).await;
    assert_eq!(db(&health).await, healthy());
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(400)));

    // When no probe waits any more, it completes for later ones.
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
async fn a_check_that_hangs_is_joined_and_its_limit_counts_from_its_beginning() {
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

    // Forever: no age makes it start another run.
    sleep_until(start + ms(100_000)).await;
    assert_eq!(db(&health).await, hung);
    assert_eq!((runs.begun(), start.elapsed()), (1, ms(100_000)));
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
    assert_eq!(hasty, (failed("no answer within 100ms"), ms(1_000)));
    assert_eq!((patient, runs.begun()), (healthy(), 1));
}

/// Real time and threads, because a blocked thread is the point. There are more threads than
/// probes, so that the test fails instead of hanging when each probe blocks one.
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
        let timerless = failed("a check needs a tokio runtime with a timer");
        assert_eq!(runtime.block_on(db(&health)), timerless);
    }
}

// ===== in the background =====

/// The shown result, `age` seconds old.
fn aged(mut shown: Value, age: u64) -> Value {
    shown["age"] = age.into();
    shown
}

/// A service whose critical check runs every ten seconds.
fn background(
    ctl: &ShutdownController,
    check: impl Fn() -> CheckFuture + Send + Sync + 'static,
) -> HealthService {
    HealthService::new(ctl.clone())
        .critical_check("db", check)
        .check_every(ms(10_000))
}

#[tokio::test(start_paused = true)]
async fn background_checks_run_at_their_period_and_probes_only_read() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(400)));
    sleep(ms(60_000)).await;
    assert_eq!(runs.begun(), 0, "nobody has asked yet");

    let start = Instant::now();
    assert_eq!(db(&health).await, healthy());
    assert_eq!(start.elapsed(), ms(400), "the first probe waits");
    for second in 1..=35 {
        sleep_until(start + ms(second * 1_000 + 500)).await;
        for _ in 0..10 {
            assert_eq!(db(&health.clone()).await, aged(healthy(), second % 10));
        }
        assert_eq!(runs.begun(), 1 + second as usize / 10);
    }
    assert_eq!(start.elapsed(), ms(35_500), "no probe has waited");
}

#[tokio::test(start_paused = true)]
async fn while_a_background_check_runs_the_last_result_is_shown_until_the_limit() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(
        &ctl,
        runs.check(|run| async move {
            if run != 1 {
                return Err("no connection".into());
            }
            sleep(ms(25_000)).await;
            Ok(())
        }),
    );
    let start = Instant::now();
    let red = async |health: &HealthService| {
        let (code, body) = get(health).await;
        assert_eq!((code.as_u16(), &body["status"]), (503, &json!("unhealthy")));
        body["services"]["db"].clone()
    };
    assert_eq!(red(&health).await, failed("no connection"));
    sleep_until(start + ms(10_500)).await;
    assert_eq!(red(&health).await, aged(failed("no connection"), 10));
    sleep_until(start + ms(11_000)).await;
    for _ in 0..3 {
        assert_eq!(red(&health).await, failed("no answer within 1s"));
    }
    // The second run ends; no run began in the two periods before.
    sleep_until(start + ms(34_999)).await;
    assert_eq!(red(&health).await, failed("no answer within 1s"));
    assert_eq!(runs.begun(), 2);
    sleep_until(start + ms(36_500)).await;
    assert_eq!(db(&health).await, aged(healthy(), 1));
    sleep_until(start + ms(40_500)).await;
    assert_eq!(red(&health).await, aged(failed("no connection"), 0));
    assert_eq!(start.elapsed(), ms(40_500), "no probe has waited");
}

#[tokio::test(start_paused = true)]
async fn before_the_first_result_a_background_check_counts_as_failed() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(3_000)));
    let start = Instant::now();
    let mut probes = JoinSet::new();
    for _ in 0..10 {
        let health = health.clone();
        probes.spawn(async move { get(&health).await });
    }
    while let Some(probe) = probes.join_next().await {
        let (code, body) = probe.unwrap();
        assert_eq!((code.as_u16(), &body["status"]), (503, &json!("unhealthy")));
    }
    assert_eq!(start.elapsed(), ms(1_000));
    sleep_until(start + ms(3_001)).await;
    assert_eq!(get(&health).await.0, 200);
    assert_eq!(runs.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn background_checks_end_with_the_service_and_when_draining_begins() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(0)));
    let clone = health.clone().version("2");
    assert_eq!(db(&health).await, healthy());
    drop(health);
    sleep(ms(20_500)).await;
    assert_eq!(runs.begun(), 3, "a clone is there");
    drop(clone);
    sleep(ms(60_000)).await;
    assert_eq!(runs.begun(), 3);

    let config = ShutdownConfig::default().lame_duck(ms(25_000));
    let ctl = ShutdownController::with_config(config.shutdown_timeout(ms(100_000))).unwrap();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(0)));
    assert_eq!(db(&health).await, healthy());
    let _working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    ctl.draining().await;
    // A lame duck may be cancelled.
    assert_eq!(runs.begun(), 3);
    sleep(ms(30_000)).await;
    assert_eq!(runs.begun(), 3);
    assert_eq!(get(&health).await.1["status"], "draining");
}

#[test]
fn background_checks_go_on_in_another_runtime_when_theirs_has_ended() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(1)));
    assert_eq!(runtime().block_on(db(&health)), healthy());
    let second = runtime();
    assert_eq!(second.block_on(db(&health)), aged(healthy(), 0));
    second.block_on(async {
        let second_run = async {
            while runs.ended() < 2 {
                tokio::task::yield_now().await;
            }
        };
        let run = tokio::time::timeout(Duration::from_secs(20), second_run);
        run.await.expect("it is run at once in the new runtime");
    });
}

#[tokio::test(start_paused = true)]
async fn the_layer_in_front_of_a_service_runs_checks_in_the_background_too() {
    let ctl = ShutdownController::new();
    let runs = Counted::default();
    let health = background(&ctl, runs.takes(ms(0)));
    let layer = HealthLayer::from(health);
    let service = layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let probe = |path: &str| {
        service
            .clone()
            .oneshot(Request::get(path).body(String::new()).unwrap())
    };
    assert_eq!(probe("/livez").await.unwrap().status(), 200);
    assert_eq!(runs.begun(), 0);
    for _ in 0..5 {
        assert_eq!(probe("/readyz").await.unwrap().status(), 200);
    }
    sleep(ms(20_500)).await;
    assert_eq!(runs.begun(), 3);
}
