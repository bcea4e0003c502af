//! The effect of a task's end on the shutdown, the report, the exit code and health.

use std::future::{Future, pending};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::controller::TaskPolicy;
use tower_lifecycle::startup::StartupCause;
use tower_lifecycle::{
    BoxError, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    Startup, Task,
};

use TaskPolicy::{Ignore, Note, Shutdown};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

/// How a task ends by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Ends,
    Fails,
    Panics,
}

use How::{Ends, Fails, Panics};

use crate::support::shutdown::ms;

impl How {
    const ALL: [Self; 3] = [Ends, Fails, Panics];

    async fn end(self) -> Result<(), BoxError> {
        match self {
            Ends => Ok(()),
            Fails => Err("connection lost".into()),
            Panics => panic!("as planned"),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Ends => "completed",
            Fails => "failed: connection lost",
            Panics => "panicked: as planned",
        }
    }
}

/// The ways to spawn a task.
fn made(role: &str, future: impl Future<Output = Result<(), BoxError>> + Send + 'static) -> Task {
    match role {
        "task" => Task::new("consumer", future),
        "worker" => Task::worker("consumer", |_stop| future),
        _ => Task::admin("consumer", |_closing| future),
    }
}

const ROLES: [&str; 3] = ["task", "worker", "admin"];

fn with(task: Task, policy: TaskPolicy) -> Task {
    task.on_end(policy).on_error(policy).on_panic(policy)
}

/// Waits for the report of a shutdown that began elsewhere.
async fn shut_down(ctl: &ShutdownController) -> ShutdownReport {
    let over = timeout(Duration::from_secs(3_600), ctl.stopped()).await;
    over.expect("nobody began a shutdown");
    ctl.shutdown(MANUAL).await
}

/// Returns for each task of a report: its name, its outcome, and whether it ended during the
/// shutdown.
fn ends(report: &ShutdownReport) -> Vec<(&str, String, bool)> {
    let tasks = report.tasks().iter();
    let end = |task: &_| {
        let task: &tower_lifecycle::report::TaskReport = task;
        let outcome = task.outcome().to_string();
        (outcome, task.is_in_shutdown())
    };
    tasks
        .map(|task| {
            let (outcome, in_shutdown) = end(task);
            (task.name(), outcome, in_shutdown)
        })
        .collect()
}

#[track_caller]
fn is_bad(report: &ShutdownReport) {
    assert!(!report.is_graceful(), "{report}");
    let code = format!("{:?}", report.exit_code());
    assert_eq!(code, format!("{:?}", std::process::ExitCode::FAILURE));
}

// ===== before the shutdown =====

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_or_panics_begins_the_shutdown() {
    for how in [Fails, Panics] {
        let ctl = ShutdownController::new();
        ctl.spawn("consumer", async move {
            sleep(ms(10)).await;
            how.end().await
        });
        let report = shut_down(&ctl).await;
        assert_eq!(report.reason(), ShutdownReason::Error);
        assert_eq!(ends(&report), [("consumer", how.text().into(), false)]);
        is_bad(&report);
        let text = report.to_string();
        assert!(text.contains("drained, with errors"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_task_may_end_and_all_others_may_not() {
    for role in ROLES {
        let ctl = ShutdownController::new();
        let task = ctl.spawn_task(made(role, Ends.end()));
        task.await.unwrap();
        if role == "task" {
            assert_eq!(ctl.state(), LifecycleState::Running);
            assert!(ctl.shutdown(MANUAL).await.is_graceful());
            continue;
        }
        let report = shut_down(&ctl).await;
        assert_eq!(report.reason(), ShutdownReason::TaskEnded);
        assert_eq!(ends(&report), [("consumer", "completed".into(), false)]);
        let text = report.to_string();
        assert!(text.contains("(reason: task ended)"), "{text}");
        assert!(text.contains("`consumer`: ended by itself after"), "{text}");
        is_bad(&report);
    }
}

#[tokio::test(start_paused = true)]
async fn each_policy_is_kept_for_each_end_of_each_kind() {
    for role in ROLES {
        for how in How::ALL {
            for policy in [Shutdown, Note, Ignore] {
                let ctl = ShutdownController::new();
                let task = with(made(role, how.end()), policy);
                let _ = ctl.spawn_task(task).await;
                sleep(ms(1)).await;

                let began = ctl.notice().map(|notice| notice.reason());
                let expected = match how {
                    _ if policy != Shutdown => None,
                    Ends => Some(ShutdownReason::TaskEnded),
                    _ => Some(ShutdownReason::Error),
                };
                assert_eq!(began, expected, "{role} {how:?} {policy:?}");

                let report = ctl.shutdown(MANUAL).await;
                if policy == Ignore {
                    assert!(report.is_graceful(), "{role} {how:?}: {report}");
                    assert!(report.tasks().is_empty());
                } else {
                    assert_eq!(ends(&report), [("consumer", how.text().into(), false)]);
                    is_bad(&report);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_setter_is_for_its_own_end() {
    let set = [Task::on_end, Task::on_error, Task::on_panic];
    for (index, how) in How::ALL.into_iter().enumerate() {
        for (other, set) in set.into_iter().enumerate() {
            let ctl = ShutdownController::new();
            let task = with(Task::new("consumer", how.end()), Ignore);
            let _ = ctl.spawn_task(set(task, Note)).await;
            let report = ctl.shutdown(MANUAL).await;
            assert_eq!(report.is_graceful(), index != other, "{how:?}: {report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_task_held_is_gone_when_its_end_is_known() {
    for how in [Fails, Panics] {
        let ctl = ShutdownController::new();
        let held = std::sync::Arc::new(());
        let weak = std::sync::Arc::downgrade(&held);
        let (told, seen) = oneshot::channel();
        let told = std::sync::Mutex::new(Some((told, weak)));
        ctl.on_state_change(move |_, _| {
            if let Some((told, weak)) = told.lock().unwrap().take() {
                told.send(weak.upgrade().is_none()).unwrap();
            }
        });
        ctl.spawn("consumer", async move {
            let _held = held;
            how.end().await
        });
        assert!(seen.await.unwrap(), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_ends_a_server_that_is_run() {
    let ctl = ShutdownController::new();
    let stop = ctl.stop_accepting();
    ctl.spawn("consumer", Fails.end());
    let report = timeout(ms(100), ctl.run(stop)).await.unwrap();
    assert_eq!(report.reason(), ShutdownReason::Error);
    is_bad(&report);
}

// ===== during the shutdown =====

#[tokio::test(start_paused = true)]
async fn an_end_after_the_trigger_is_as_it_should_be_and_an_error_is_not() {
    for role in ROLES {
        for how in How::ALL {
            let ctl = ShutdownController::new();
            let triggered = ctl.triggered();
            let future = async move {
                triggered.await;
                how.end().await
            };
            ctl.spawn_task(with(made(role, future), Shutdown));
            sleep(ms(1)).await;
            let report = ctl.shutdown(MANUAL).await;
            assert_eq!(report.reason(), MANUAL);
            if how == Ends {
                assert!(report.is_graceful(), "{role}: {report}");
            } else {
                assert_eq!(ends(&report), [("consumer", how.text().into(), true)]);
                is_bad(&report);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_its_owner_aborts_means_nothing() {
    for role in ROLES {
        let ctl = ShutdownController::new();
        let task = ctl.spawn_task(with(made(role, pending()), Shutdown));
        sleep(ms(1)).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(ctl.state(), LifecycleState::Running);
        assert!(ctl.shutdown(MANUAL).await.is_graceful());
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_while_starting_up_rolls_that_back() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    ctl.spawn("consumer", async {
        sleep(ms(100)).await;
        Fails.end().await
    });
    let began = Instant::now();
    let start = pending::<Result<(), BoxError>>();
    let error = startup.start("database", start, |()| async {}).await;
    let error = error.unwrap_err();
    assert_eq!(began.elapsed(), ms(100));
    assert!(matches!(
        error.cause(),
        StartupCause::Triggered(ShutdownReason::Error)
    ));
    assert_eq!(
        ends(error.report()),
        [("consumer", Fails.text().into(), false)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_a_task_has_begun_can_be_called_off_and_is_reported_later() {
    let config = ShutdownConfig::default().lame_duck(ms(1_000));
    let ctl = ShutdownController::with_config(config).unwrap();
    let _ = ctl.spawn("consumer", Fails.end()).await;
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    ctl.resume().unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(ends(&report), [("consumer", Fails.text().into(), false)]);
    is_bad(&report);
}

// ===== health =====

#[cfg(feature = "health")]
mod health {
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tower::ServiceExt;
    use tower_lifecycle::HealthService;

    use super::*;

    /// Returns the code, the status and the services of a probe.
    pub(super) async fn probe(ctl: &ShutdownController) -> (u16, String, Value) {
        let health = HealthService::new(ctl.clone());
        let response = health.oneshot(Request::new(())).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        let status = body["status"].as_str().unwrap().to_owned();
        (code, status, body["services"].take())
    }

    #[tokio::test(start_paused = true)]
    async fn running_tasks_are_healthy_and_are_shown_once_for_each_name() {
        let ctl = ShutdownController::new();
        for name in ["outbox", "poller", "poller"] {
            ctl.spawn(name, pending::<()>());
        }
        ctl.spawn_worker("mail", |stop| stop);
        ctl.spawn_admin("admin", |closing| closing);
        let services = json!({
            "admin": {"status": "healthy"},
            "mail": {"status": "healthy"},
            "outbox": {"status": "healthy"},
            "poller": {"status": "healthy"},
        });
        assert_eq!(probe(&ctl).await, (200, "healthy".into(), services));
    }

    #[tokio::test(start_paused = true)]
    async fn a_noted_end_degrades_readiness_until_a_task_of_the_name_runs_again() {
        let shown = [
            (Ends, json!({"status": "stopped"})),
            (
                Fails,
                json!({"status": "failed", "error": "connection lost"}),
            ),
            (Panics, json!({"status": "failed", "error": Panics.text()})),
        ];
        for (how, shown) in shown {
            let ctl = ShutdownController::new();
            let older = ctl.spawn("consumer", pending::<()>());
            let task = with(Task::new("consumer", how.end()), Note);
            let _ = ctl.spawn_task(task).await;
            let services = json!({ "consumer": shown });
            let degraded = (200, "degraded".to_owned(), services);
            assert_eq!(probe(&ctl).await, degraded);
            older.abort();
            sleep(ms(1)).await;
            assert_eq!(probe(&ctl).await, degraded, "it was there before");

            ctl.spawn("another", pending::<()>()).abort();
            sleep(ms(1)).await;
            assert_eq!(probe(&ctl).await, degraded, "of another name");

            let again = ctl.spawn("consumer", sleep(ms(10)));
            let services = json!({"consumer": {"status": "healthy"}});
            assert_eq!(probe(&ctl).await, (200, "healthy".into(), services));
            again.await.unwrap();
            assert_eq!(probe(&ctl).await, (200, "healthy".into(), json!({})));
            is_bad(&ctl.shutdown(MANUAL).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ignored_end_leaves_nothing() {
        for how in How::ALL {
            let ctl = ShutdownController::new();
            let _ = ctl
                .spawn_task(with(Task::new("consumer", how.end()), Ignore))
                .await;
            assert_eq!(probe(&ctl).await, (200, "healthy".into(), json!({})));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_begins_the_shutdown_is_shown_meanwhile() {
        let ctl = ShutdownController::new();
        let _request = ctl.track();
        let _ = ctl.spawn("consumer", Fails.end()).await;
        let services = json!({"consumer": {"status": "failed", "error": "connection lost"}});
        assert_eq!(probe(&ctl).await, (503, "draining".into(), services));
    }

    #[tokio::test(start_paused = true)]
    async fn a_critical_check_counts_more_than_a_dead_task() {
        let ctl = ShutdownController::new();
        let task = with(Task::new("consumer", Fails.end()), Note);
        let _ = ctl.spawn_task(task).await;
        let health = HealthService::new(ctl.clone())
            .critical_check("db", || async { Err("no connection".into()) });
        let response = health.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 503);
    }

    #[tokio::test(start_paused = true)]
    async fn very_many_dead_names_do_not_fill_the_memory() {
        let ctl = ShutdownController::new();
        for n in 0..200 {
            let task = with(Task::new(n.to_string(), Fails.end()), Note);
            let _ = ctl.spawn_task(task).await;
        }
        let (_, status, services) = probe(&ctl).await;
        assert_eq!(status, "degraded");
        assert_eq!(services.as_object().unwrap().len(), 64);
    }
}
