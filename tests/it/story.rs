//! The original story (STORY-CORE-005, LocalZure): its acceptance criteria, what its implementation
//! does right, and each of its defects, which must not occur here.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::report::Outcome;
use tower_lifecycle::startup::{StartupCause, step};
use tower_lifecycle::store::{MemoryStore, StateStore};
use tower_lifecycle::{
    BoxError, DrainLayer, HealthService, Hook, LifecycleState, ShutdownConfig, ShutdownController,
    ShutdownReason, ShutdownReport, Startup,
};

use crate::support::shutdown::{controller, hook_outcomes};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn config() -> ShutdownConfig {
    ShutdownConfig::default().late_for(Duration::ZERO)
}

/// Requests the health. Returns the status and the body.
async fn health(ctl: &ShutdownController) -> (StatusCode, Value) {
    let health = HealthService::new(ctl.clone()).version("0.1.0");
    let response = health.oneshot(Request::new(String::new())).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

// ===== acceptance criteria =====

// AC1, a signal begins the shutdown, is in `process/alone.rs`: it needs a separate process.

/// AC2: notify the services of the shutdown, with the remaining time.
#[tokio::test(start_paused = true)]
async fn ac2_services_hooks_and_tasks_are_told_with_figures() {
    let config = config()
        .shutdown_timeout(secs(40))
        .cleanup_reserve(secs(10));
    let mut startup = Startup::new(config.lame_duck(secs(5))).unwrap();
    let ctl = startup.controller();
    let log = Log::default();
    let service = {
        let (log, triggered) = (log.clone(), ctl.triggered());
        async move {
            tokio::spawn(async move {
                let notice = triggered.await;
                let (drain, total) = (notice.drain_remaining(), notice.time_remaining());
                log.add(format!("service: {} {drain:?} {total:?}", notice.reason()));
            });
            Ok::<_, BoxError>(())
        }
    };
    startup
        .start("outbox", service, |()| async {})
        .await
        .unwrap();
    let hook_log = log.clone();
    ctl.on_shutdown("flush", |notice| async move {
        hook_log.add(format!(
            "hook: {} {:?}",
            notice.reason(),
            notice.time_remaining()
        ));
        Ok(())
    })
    .unwrap();
    let (task_log, triggered) = (log.clone(), ctl.triggered());
    ctl.spawn("poller", async move {
        let notice = triggered.await;
        sleep(secs(8)).await;
        task_log.add(format!("task: {:?}", notice.drain_remaining()));
    });
    startup.finish().await.unwrap();

    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful(), "{report}");
    assert_eq!(
        log.events(),
        [
            "service: manual Some(30s) Some(40s)",
            "task: Some(22s)",
            "hook: manual Some(32s)",
        ]
    );
}

/// AC3: requests in flight complete, new ones are refused.
#[tokio::test(start_paused = true)]
async fn ac3_requests_in_flight_complete() {
    let ctl = controller(config());
    let app = DrainLayer::new(ctl.clone()).layer(service_fn(|_: Request<String>| async {
        sleep(secs(3)).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
    }));
    let admitted = tokio::spawn(app.clone().oneshot(Request::new(String::new())));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let ended = ctl.shutdown(ShutdownReason::Manual);

    let refused = app.oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(refused.status(), 503);
    let response = admitted.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(ctl.in_flight(), 1, "the body is not at its end");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "done");
    assert!(ended.await.is_graceful());
    assert_eq!(began.elapsed(), secs(3));
}

/// AC4: important state is saved.
#[tokio::test(start_paused = true)]
async fn ac4_state_is_kept_over_a_restart() {
    let store = MemoryStore::new();
    let log = Log::default();
    for run in 0..3 {
        let mut startup = Startup::new(config()).unwrap();
        let ctl = startup.controller();
        let before = store.load("queue").await.unwrap();
        let queue = before.map_or(0, |state| state[0]);
        assert_eq!(queue, run);
        let stop_log = log.clone();
        let stop = |_| async move { stop_log.add("service stopped") };
        let queue = startup.start("queue", async move { Ok::<_, BoxError>(queue) }, stop);
        let queue = queue.await.unwrap();
        let (save_log, hook_log) = (log.clone(), log.clone());
        ctl.persist("queue", store.clone(), move || async move {
            save_log.add("saved");
            Ok(vec![queue + 1])
        })
        .unwrap();
        ctl.on_shutdown("flush", |_| async move {
            hook_log.add("hook");
            Ok(())
        })
        .unwrap();
        let ctl = startup.finish().await.unwrap();
        let _stuck = ctl.track();
        // Also after a forced drain.
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert!(report.is_forced());
        assert!(
            report.hooks().iter().all(|hook| hook.is_completed()),
            "{report}"
        );
        assert!(report.saves()[0].is_completed(), "{report}");
    }
    let each = ["hook", "service stopped", "saved"];
    assert_eq!(log.events(), [each, each, each].concat());
}

/// An invalid key is reported when it is registered, not while stopping.
#[tokio::test]
async fn ac4_a_bad_key_is_an_error_that_names_it_and_the_place() {
    let ctl = controller(config());
    let error = ctl
        .persist("../queue", MemoryStore::new(), || async { Ok("state") })
        .unwrap_err();
    assert!(!error.is_late() && !error.is_duplicate());
    let text = error.to_string();
    assert!(
        text.contains("../queue") && text.contains(file!()),
        "{text}"
    );
    assert_eq!(ctl.metrics().hooks, 0);
}

/// AC5: the timeout can be configured, by file, environment and code; default 30 s.
#[tokio::test(start_paused = true)]
async fn ac5_the_timeout_is_configurable() {
    assert_eq!(ShutdownConfig::default().shutdown_timeout, secs(30));
    let file: ShutdownConfig = serde_json::from_value(json!({ "shutdown_timeout": 45.0 })).unwrap();
    assert_eq!(file.shutdown_timeout, secs(45));
    let environment = ShutdownConfig::from_env("STORY_CORE_005").unwrap();
    let config = file.merge(environment); // which sets nothing
    assert_eq!(config.shutdown_timeout, secs(45));
    let cli = ShutdownConfig::default().shutdown_timeout(secs(60));
    let ctl = controller(config.merge(cli));

    let _stuck = ctl.track();
    let began = Instant::now();
    ctl.on_shutdown("hang", |_| pending()).unwrap();
    ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(began.elapsed().as_secs(), 60);

    for bad in [json!(-1), json!("abc"), json!("-5s"), json!(null)] {
        let file = json!({ "shutdown_timeout": bad });
        let error = serde_json::from_value::<ShutdownConfig>(file).unwrap_err();
        assert!(error.to_string().contains("shutdown_timeout"), "{error}");
    }
}

/// AC6: work that exceeds the timeout is forced, and that is reported.
#[tokio::test(start_paused = true)]
async fn ac6_what_exceeds_the_timeout_is_cut() {
    let ctl = controller(config());
    let app = DrainLayer::new(ctl.clone()).layer(service_fn(|_: Request<String>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let admitted = tokio::spawn(app.oneshot(Request::new(String::new())));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(began.elapsed(), secs(25), "the reserve was not needed");
    assert!(report.is_forced() && !report.is_graceful());
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
    assert_eq!(admitted.await.unwrap().unwrap().status(), 503);
    assert_eq!(ctl.state(), LifecycleState::Stopped);
}

/// AC7: a failed start-up is rolled back.
#[tokio::test(start_paused = true)]
async fn ac7_a_failed_start_up_stops_what_was_started() {
    let log = Log::default();
    let mut startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    for name in ["config", "database", "docker"] {
        let log = log.clone();
        let stop = move |()| async move { log.add(format!("{name} stopped")) };
        startup
            .start(name, async { Ok::<_, BoxError>(()) }, stop)
            .await
            .unwrap();
    }
    let fails = async { Err::<(), _>("port in use") };
    let error = startup
        .start("blob", fails, |()| async {})
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "start-up failed at `blob`: port in use");
    assert_eq!(
        log.events(),
        ["docker stopped", "database stopped", "config stopped"]
    );
    assert_eq!(ctl.state(), LifecycleState::Failed);
    assert_eq!(error.rollback().len(), 3);
}

// ===== what the original does right =====

#[test]
fn states_and_reasons_have_the_original_names() {
    use LifecycleState::*;
    let names = [
        Initializing,
        Starting,
        Running,
        Draining,
        Stopping,
        Stopped,
        Failed,
    ]
    .map(LifecycleState::name);
    assert_eq!(
        names,
        [
            "initializing",
            "starting",
            "running",
            "draining",
            "stopping",
            "stopped",
            "failed"
        ]
    );
    let reasons = [
        ShutdownReason::Signal("SIGINT"),
        ShutdownReason::Manual,
        ShutdownReason::Error,
        ShutdownReason::Timeout,
    ]
    .map(|reason| reason.to_string());
    assert_eq!(reasons, ["signal SIGINT", "manual", "error", "timeout"]);
}

/// Callbacks run after the change, in the order of registration, and a failing one does not stop
/// the others.
#[tokio::test(start_paused = true)]
async fn state_callbacks_are_told_of_each_move_in_order() {
    let startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    let log = Log::default();
    for observer in ["a", "b"] {
        let (log, ctl2) = (log.clone(), ctl.clone());
        ctl.on_state_change(move |old, new| {
            assert_eq!(
                ctl2.state().max(new),
                ctl2.state(),
                "told before it was made"
            );
            log.add(format!("{observer}: {old} -> {new}"));
            assert_ne!(observer, "a", "panics each time");
        });
    }
    startup.finish().await.unwrap();
    ctl.shutdown(ShutdownReason::Manual).await;
    let moves = [
        "initializing -> starting",
        "starting -> running",
        "running -> draining",
        "draining -> stopping",
        "stopping -> stopped",
    ];
    let expected: Vec<_> = moves
        .iter()
        .flat_map(|told| [format!("a: {told}"), format!("b: {told}")])
        .collect();
    assert_eq!(log.events(), expected);
}

#[tokio::test(start_paused = true)]
async fn with_nothing_in_flight_the_drain_is_over_at_once() {
    let ctl = controller(config());
    let began = Instant::now();
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_times_out_or_fails_stops_no_other() {
    let ctl = controller(config());
    let log = Log::default();
    ctl.add_hook(Hook::new("hang", |_| pending()).phase(1))
        .unwrap();
    ctl.add_hook(Hook::new("fail", |_| async { Err("disk full".into()) }).phase(2))
        .unwrap();
    let last = log.clone();
    ctl.add_hook(
        Hook::new("last", |_| async move {
            last.add("ran");
            Ok(())
        })
        .phase(3),
    )
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let outcomes = hook_outcomes(&report);
    assert_eq!(outcomes, ["timed out", "failed: disk full", "completed"]);
    assert_eq!(log.events(), ["ran"]);
    assert!(!report.is_graceful());
}

/// Rollback: in reverse; an error of one stop is recorded and the next one runs, and a retry is
/// allowed.
#[tokio::test(start_paused = true)]
async fn a_rollback_goes_on_after_an_error_and_allows_a_retry() {
    let log = Log::default();
    for attempt in 0..2 {
        let mut startup = Startup::new(config()).unwrap();
        for name in ["a", "b", "c"] {
            let log = log.clone();
            let stop = move |()| async move {
                log.add(format!("{name}{attempt}"));
                match name {
                    "b" => Err("busy"),
                    _ => Ok(()),
                }
            };
            startup
                .start(name, async { Ok::<_, BoxError>(()) }, stop)
                .await
                .unwrap();
        }
        if attempt == 0 {
            let fails = async { Err::<(), _>("no") };
            let error = startup.start("d", fails, |()| async {}).await.unwrap_err();
            let rollback: Vec<_> = error
                .rollback()
                .iter()
                .map(|s| s.outcome().to_string())
                .collect();
            assert_eq!(rollback, ["completed", "failed: busy", "completed"]);
        } else {
            let ctl = startup.finish().await.unwrap();
            assert_eq!(ctl.state(), LifecycleState::Running);
            ctl.shutdown(ShutdownReason::Manual).await;
        }
    }
    assert_eq!(log.events(), ["c0", "b0", "a0", "c1", "b1", "a1"]);
}

#[tokio::test(start_paused = true)]
async fn metrics_have_the_original_fields() {
    let mut startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    startup
        .start("db", async { Ok::<_, BoxError>(()) }, |()| async {})
        .await
        .unwrap();
    startup.finish().await.unwrap();
    let _request = ctl.track();
    let metrics = serde_json::to_value(ctl.metrics()).unwrap();
    assert_eq!(metrics["state"], "running");
    assert_eq!(metrics["in_flight_requests"], 1);
    assert_eq!(metrics["shutdown_timeout"], 30.0);
    assert_eq!(metrics["signal_received"], Value::Null);
    assert_eq!(metrics["startup_services_tracked"], 1);
}

/// The statuses and the body of `/health`, in the original's order of precedence.
#[tokio::test(start_paused = true)]
async fn health_has_the_original_statuses_and_fields() {
    let mut startup = Startup::new(config().lame_duck(secs(1))).unwrap();
    let ctl = startup.controller();
    let status = |(code, body): (StatusCode, Value)| (code.as_u16(), body["status"].to_string());
    assert_eq!(status(health(&ctl).await), (503, "\"starting\"".to_owned()));
    startup
        .start("db", async { Ok::<_, BoxError>(()) }, |()| async {})
        .await
        .unwrap();
    startup.finish().await.unwrap();
    assert_eq!(status(health(&ctl).await), (200, "\"healthy\"".to_owned()));

    let failing = HealthService::new(ctl.clone()).check("cache", || async { Err("gone".into()) });
    let response = failing.oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], "degraded");
    let services = json!({
        "db": { "status": "healthy" },
        "cache": { "status": "failed", "error": "gone" },
    });
    assert_eq!(body["services"], services);

    let requests = [ctl.track(), ctl.track(), ctl.track()];
    ctl.trigger(ShutdownReason::Manual);
    let (code, body) = health(&ctl).await;
    assert_eq!(code, 503);
    let fields: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    let mut expected = [
        "status",
        "version",
        "services",
        "uptime",
        "in_flight_requests",
        "timestamp",
    ];
    expected.sort_unstable(); // as `Value` sorts them
    assert_eq!(fields, expected);
    assert_eq!(body["status"], "draining");
    assert_eq!(body["version"], "0.1.0");
    assert_eq!(body["in_flight_requests"], 3);
    assert_eq!(body["services"], json!({ "db": { "status": "healthy" } }));
    drop(requests);
    ctl.stopped().await;
    let (_, body) = health(&ctl).await;
    assert_eq!(body["services"], json!({ "db": { "status": "stopped" } }));
}

// ===== defects of the original =====

/// The original did not count a second holder of the same id.
#[tokio::test(start_paused = true)]
async fn no_two_requests_are_taken_for_one() {
    let ctl = controller(config());
    let (one, two) = (ctl.try_admit().unwrap(), ctl.try_admit().unwrap());
    let ended = ctl.shutdown(ShutdownReason::Manual);
    drop(one);
    assert_eq!(ctl.in_flight(), 1);
    tokio::spawn(async move {
        sleep(secs(2)).await;
        drop(two);
    });
    let began = Instant::now();
    ended.await;
    assert_eq!(began.elapsed(), secs(2));
}

/// In the original, a runtime that was stopped and restarted was `running` with a closed gate.
#[tokio::test(start_paused = true)]
async fn running_is_never_said_behind_a_closed_gate() {
    let ctl = controller(config().lame_duck(secs(5)));
    ctl.trigger(ShutdownReason::Manual);
    ctl.resume().unwrap();
    assert_eq!(ctl.state(), LifecycleState::Running);
    drop(ctl.try_admit().expect("running"));

    ctl.shutdown(ShutdownReason::Manual).await;
    assert!(ctl.resume().is_err() && !ctl.unpause());
    assert!(ctl.try_admit().is_err());
    assert_eq!(ctl.state(), LifecycleState::Stopped);

    let again = Startup::new(config()).unwrap().finish().await.unwrap();
    assert_eq!(again.state(), LifecycleState::Running);
    assert!(again.try_admit().is_ok());
}

/// In the original, every state could follow every other.
#[tokio::test(start_paused = true)]
async fn no_call_makes_an_illegal_move() {
    let ctl = controller(config());
    let log = Log::default();
    let told = log.clone();
    ctl.on_state_change(move |old, new| told.add(format!("{old} -> {new}")));
    let calls = |ctl: &ShutdownController| {
        let _ = (ctl.resume(), ctl.pause(), ctl.unpause());
        ctl.trigger(ShutdownReason::Timeout);
        ctl.force();
    };
    calls(&ctl);
    calls(&ctl);
    ctl.stopped().await;
    calls(&ctl);
    assert_eq!(
        log.events(),
        [
            "running -> draining",
            "draining -> stopping",
            "stopping -> stopped"
        ]
    );
}

/// The original polled the drain every half second.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_drain_is_noticed_at_once() {
    let ctl = controller(config());
    let request = ctl.track();
    tokio::spawn(async move {
        sleep(millis(10)).await;
        drop(request);
    });
    let began = Instant::now();
    ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(began.elapsed(), millis(10));
}

/// The original cancelled hooks before their first step after a forced drain.
#[tokio::test(start_paused = true)]
async fn hooks_have_their_reserve_after_a_forced_drain() {
    let ctl = controller(config());
    let _stuck = ctl.track();
    ctl.on_shutdown("flush", |_| async {
        sleep(secs(4)).await;
        Ok(())
    })
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_forced());
    assert!(report.hooks()[0].is_completed(), "{report}");
}

/// In the original, a timeout of zero failed with nothing in flight, and ran no hook.
#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_still_begins_the_hooks() {
    let ctl = controller(config().shutdown_timeout(Duration::ZERO));
    let log = Log::default();
    let ran = log.clone();
    ctl.on_shutdown("flush", |_| async move {
        ran.add("flushed");
        Ok(())
    })
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(log.events(), ["flushed"]);
    assert!(report.is_graceful(), "{report}");
}

/// In the original, each hook had remaining / N, and unused time was lost.
#[tokio::test(start_paused = true)]
async fn what_one_hook_leaves_is_there_for_the_next() {
    let ctl = controller(
        config()
            .shutdown_timeout(secs(12))
            .cleanup_reserve(secs(12)),
    );
    for (phase, took) in [(1, 1), (2, 1), (3, 9)] {
        let hook = Hook::new(format!("hook {phase}"), move |_| async move {
            sleep(secs(took)).await; // the last one takes longer than a third
            Ok(())
        });
        ctl.add_hook(hook.phase(phase)).unwrap();
    }
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful(), "{report}");
}

/// In the original, a blocking callback exceeded its time, and that counted as success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_blocks_its_thread_is_told_of() {
    let ctl = controller(config());
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let hook = Hook::new("block", move |_| async move {
        sleep(millis(10)).await; // so that the thread that drives the timers wakes it
        let _ = blocked.recv();
        Ok(())
    });
    ctl.add_hook(hook.timeout(millis(100))).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(
        matches!(report.hooks()[0].outcome(), Outcome::TimedOut),
        "{report}"
    );
    assert!(!report.is_graceful());
    drop(release);
}

/// In the original, two concurrent shutdowns ran all callbacks twice.
#[tokio::test(start_paused = true)]
async fn two_shutdowns_at_once_are_one() {
    let ctl = controller(config());
    let log = Log::default();
    let ran = log.clone();
    ctl.on_shutdown("flush", |notice| async move {
        ran.add(notice.reason().to_string());
        Ok(())
    })
    .unwrap();
    let (one, two) = tokio::join!(
        ctl.shutdown(ShutdownReason::Timeout),
        ctl.shutdown(ShutdownReason::Manual)
    );
    assert_eq!(log.events(), ["timeout"]);
    let reasons = [one, two].map(|report: ShutdownReport| report.reason());
    assert_eq!(reasons, [ShutdownReason::Timeout; 2]);
}

/// In the original, a cancellation from a callback left the state at `stopping` forever.
#[tokio::test(start_paused = true)]
async fn a_hook_that_is_cancelled_or_panics_does_not_leave_stopping() {
    let ctl = controller(config());
    ctl.on_shutdown("cancelled", |_| async {
        let task = tokio::spawn(pending::<()>());
        task.abort();
        Ok(task.await?)
    })
    .unwrap();
    ctl.on_shutdown("panics", |_| async { panic!("in a hook") })
        .unwrap();
    let waiter = tokio::spawn(ctl.shutdown(ShutdownReason::Manual));
    tokio::task::yield_now().await;
    waiter.abort(); // nor does a waiter that is cancelled
    ctl.stopped().await;
    assert_eq!(ctl.state(), LifecycleState::Stopped);
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let outcomes = hook_outcomes(&report);
    assert!(outcomes[0].starts_with("failed: "), "{outcomes:?}");
    assert_eq!(outcomes[1], "panicked: in a hook");
    assert!(!report.is_graceful(), "there, an error counted as success");
}

/// In the original, `/health` was healthy while stopping, and 200 after it.
#[tokio::test(start_paused = true)]
async fn health_is_red_while_stopping_and_after() {
    let ctl = controller(config());
    let log = Log::default();
    let (asked, hook_ctl) = (log.clone(), ctl.clone());
    ctl.on_shutdown("ask", |_| async move {
        let (code, body) = health(&hook_ctl).await;
        asked.add(format!("{code} {}", body["status"]));
        Ok(())
    })
    .unwrap();
    ctl.shutdown(ShutdownReason::Manual).await;
    let (code, body) = health(&ctl).await;
    log.add(format!("{code} {}", body["status"]));
    assert_eq!(
        log.events(),
        [
            "503 Service Unavailable \"stopping\"",
            "503 Service Unavailable \"stopped\""
        ]
    );
}

/// The original did not record what was started, so the rollback did nothing. It also had no time
/// limit and did not report errors.
#[tokio::test(start_paused = true)]
async fn a_rollback_really_runs_within_a_limit_and_tells_of_it() {
    let mut startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    let log = Log::default();
    let stopped = log.clone();
    let stop = move |()| async move { stopped.add("a stopped") };
    startup
        .start("a", async { Ok::<_, BoxError>(()) }, stop)
        .await
        .unwrap();
    startup
        .start("b", async { Ok::<_, BoxError>(()) }, |()| pending::<()>())
        .await
        .unwrap();
    let began = Instant::now();
    let error = startup
        .start_all((
            step("c", pending::<Result<(), BoxError>>(), |()| async {}).timeout(secs(1)),
            step("d", async { Ok::<_, BoxError>(()) }, |()| async {
                panic!("in d")
            }),
        ))
        .await
        .unwrap_err();
    assert!(matches!(error.cause(), StartupCause::TimedOut(limit) if *limit == secs(1)));
    assert!(began.elapsed() <= secs(31));
    let rollback: Vec<_> = error
        .rollback()
        .iter()
        .map(|s| (s.name(), s.outcome().to_string()))
        .collect();
    assert_eq!(
        rollback,
        [
            ("d", "panicked: in d".to_owned()),
            ("b", "timed out".to_owned()),
            ("a", "completed".to_owned())
        ]
    );
    assert_eq!(log.events(), ["a stopped"]);
    assert_eq!(ctl.state(), LifecycleState::Failed);
    assert_eq!(health(&ctl).await.0, 503);
}

/// In the original, a request was over when its response object was made; and the refusal had
/// neither `Retry-After` nor `Connection: close`.
#[tokio::test(start_paused = true)]
async fn a_request_ends_with_its_body_and_a_refusal_says_when_to_come_again() {
    let ctl = controller(config());
    let app = DrainLayer::new(ctl.clone()).layer(service_fn(|_: Request<String>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("body")))
    }));
    let response = app
        .clone()
        .oneshot(Request::new(String::new()))
        .await
        .unwrap();
    assert_eq!(ctl.in_flight(), 1);
    ctl.trigger(ShutdownReason::Manual);
    let refused = app.oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["connection"], "close");
    drop(response);
    assert_eq!(ctl.in_flight(), 0);
}
