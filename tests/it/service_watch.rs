//! A watched service: if it ends before its stop, it has failed.

use std::future::{Future, pending, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::controller::TaskPolicy;
use tower_lifecycle::startup::{StartupCause, step};
use tower_lifecycle::{
    BoxError, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    Startup,
};

use crate::support::shutdown::{Dropped, ends, ms};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn startup() -> Startup {
    Startup::new(ShutdownConfig::default()).unwrap()
}

async fn shut_down(ctl: &ShutdownController) -> ShutdownReport {
    let over = timeout(Duration::from_secs(3_600), ctl.stopped()).await;
    over.expect("nobody began a shutdown");
    ctl.shutdown(MANUAL).await
}

/// A service whose loop ends on request, in different ways.
#[derive(Clone)]
struct Service {
    kill: watch::Sender<Option<&'static str>>,
}

impl Service {
    fn new() -> Self {
        Self {
            kill: watch::Sender::new(None),
        }
    }

    async fn start(self) -> Result<Self, BoxError> {
        Ok(self)
    }

    async fn ended(self) -> Result<(), BoxError> {
        let mut kill = self.kill.subscribe();
        let how = *kill.wait_for(Option::is_some).await.unwrap();
        match how {
            Some("end") => Ok(()),
            Some("panic") => panic!("as planned"),
            _ => Err("connection lost".into()),
        }
    }

    fn die(&self, how: &'static str) {
        self.kill.send_replace(Some(how));
    }
}

/// A start-up with one watched service.
async fn watched() -> (Startup, Service) {
    let mut startup = startup();
    let service = Service::new();
    startup
        .start("broker", service.clone().start(), |_| async {})
        .watch(Service::ended)
        .await
        .unwrap();
    (startup, service)
}

const DEATHS: [(&str, &str, ShutdownReason); 3] = [
    ("end", "completed", ShutdownReason::TaskEnded),
    ("error", "failed: connection lost", ShutdownReason::Error),
    ("panic", "panicked: as planned", ShutdownReason::Error),
];

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_begins_the_shutdown_and_is_stopped_by_it() {
    for (how, outcome, reason) in DEATHS {
        let (startup, service) = watched().await;
        let ctl = startup.finish().await.unwrap();
        sleep(ms(10)).await;
        assert_eq!(ctl.state(), LifecycleState::Running);
        service.die(how);
        let report = shut_down(&ctl).await;
        assert_eq!(report.reason(), reason);
        assert_eq!(ends(&report), [format!("broker: {outcome}")]);
        assert!(!report.tasks()[0].is_in_shutdown());
        assert!(report.services()[0].is_completed());
        assert!(!report.is_graceful());
    }
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_for_every_death() {
    for (how, outcome, _) in DEATHS {
        for policy in [TaskPolicy::Note, TaskPolicy::Ignore] {
            let mut startup = startup();
            let service = Service::new();
            let broker = step("broker", service.clone().start(), |_| async {});
            let broker = broker.watch(Service::ended).watch_policy(policy);
            startup.start_all((broker,)).await.unwrap();
            let ctl = startup.finish().await.unwrap();
            service.die(how);
            sleep(ms(1)).await;
            assert_eq!(ctl.state(), LifecycleState::Running);
            let report = ctl.shutdown(MANUAL).await;
            let is_noted = policy == TaskPolicy::Note;
            assert_eq!(report.is_graceful(), !is_noted, "{report}");
            let expected = format!("broker: {outcome}");
            let expected = is_noted.then_some(expected);
            assert_eq!(ends(&report), Vec::from_iter(expected));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn once_its_stop_has_begun_a_service_may_end_in_any_way() {
    for (how, ..) in DEATHS {
        let mut startup = startup();
        let service = Service::new();
        let stop = move |service: Service| async move {
            service.die(how);
            sleep(ms(10)).await;
        };
        startup
            .start("broker", service.start(), stop)
            .watch(Service::ended)
            .await
            .unwrap();
        let ctl = startup.finish().await.unwrap();
        let report = ctl.shutdown(MANUAL).await;
        assert!(report.is_graceful(), "{how}: {report}");
    }
}

#[tokio::test(start_paused = true)]
async fn between_the_trigger_and_its_stop_only_an_end_without_an_error_is_in_order() {
    for (how, outcome, _) in DEATHS {
        let (startup, service) = watched().await;
        let ctl = startup.finish().await.unwrap();
        let request = ctl.track();
        ctl.trigger(MANUAL);
        sleep(ms(1)).await;
        service.die(how);
        sleep(ms(1)).await;
        drop(request);
        let report = ctl.shutdown(MANUAL).await;
        assert_eq!(report.is_graceful(), how == "end", "{how}: {report}");
        if how != "end" {
            assert_eq!(ends(&report), [format!("broker: {outcome}")]);
            assert!(report.tasks()[0].is_in_shutdown());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_is_watched_and_it_is_dropped_after_the_stop() {
    for stop_hangs in [false, true] {
        let mut startup = startup();
        let (dropped, gone) = Dropped::new();
        let seen = Arc::clone(&gone);
        let stop = move |_| async move {
            if stop_hangs {
                pending::<()>().await;
            }
            sleep(ms(10)).await;
            let is_polled_still = !seen.load(Ordering::SeqCst);
            is_polled_still.then_some(()).ok_or("gone too early")
        };
        startup
            .start("broker", ready(Ok::<_, BoxError>(1)), stop)
            .stop_timeout(ms(100))
            .watch(|_| async move {
                let _dropped = dropped;
                pending::<()>().await
            })
            .await
            .unwrap();
        let ctl = startup.finish().await.unwrap();
        let began = Instant::now();
        let report = ctl.shutdown(MANUAL).await;
        assert!(began.elapsed() <= ms(102), "{:?}", began.elapsed());
        assert_eq!(report.is_graceful(), !stop_hangs, "{report}");
        assert!(report.tasks().is_empty());
        sleep(ms(1)).await;
        assert!(gone.load(Ordering::SeqCst), "it lives on");
        assert_eq!(ctl.metrics().tasks, 0, "it is no task of anybody");
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_while_others_are_being_started_rolls_the_start_up_back() {
    let (mut startup, service) = watched().await;
    tokio::spawn(async move {
        sleep(ms(100)).await;
        service.die("error");
    });
    let hangs = pending::<Result<(), BoxError>>();
    let error = startup.start("database", hangs, |()| async {}).await;
    let error = error.unwrap_err();
    assert!(matches!(
        error.cause(),
        StartupCause::Triggered(ShutdownReason::Error)
    ));
    assert_eq!(error.rollback()[0].name(), "broker");
    assert_eq!(ends(error.report()), ["broker: failed: connection lost"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_dead_from_the_start_is_noticed() {
    let mut startup = startup();
    startup
        .start("broker", ready(Ok::<_, BoxError>(1)), |_| async {})
        .watch(|_| ready(Err::<(), _>("stillborn")))
        .await
        .unwrap();
    let ctl = startup.controller();
    drop(startup.finish().await);
    let report = shut_down(&ctl).await;
    assert_eq!(ends(&report), ["broker: failed: stillborn"]);
}

#[test]
fn without_a_runtime_a_watched_start_fails_and_is_stopped_again() {
    let (stopped, told) = oneshot::channel();
    let mut startup = startup();
    let ctl = startup.controller();
    let start = ready(Ok::<_, BoxError>(1));
    let mut starting = std::pin::pin!(
        startup
            .start("broker", start, |_| async {
                assert!(stopped.send(()).is_ok())
            })
            .watch(|_| pending::<()>())
            .into_future()
    );
    let mut cx = Context::from_waker(Waker::noop());
    let error = loop {
        if let Poll::Ready(result) = starting.as_mut().poll(&mut cx) {
            break result.unwrap_err();
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("needs a tokio runtime"));
    assert_eq!(error.step(), Some("broker"));
    told.blocking_recv().unwrap();
    assert_eq!(ctl.state(), LifecycleState::Failed);
}

#[cfg(feature = "health")]
#[tokio::test(start_paused = true)]
async fn health_shows_the_death_in_place_of_the_service() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    let mut startup = startup();
    let service = Service::new();
    startup
        .start("broker", service.clone().start(), |_| async {})
        .watch(Service::ended)
        .watch_policy(TaskPolicy::Note)
        .await
        .unwrap();
    let ctl = startup.finish().await.unwrap();
    let probe = async || {
        let health = tower_lifecycle::HealthService::new(ctl.clone());
        let response = health.oneshot(http::Request::new(())).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (code, body["status"].clone(), body["services"].clone())
    };
    let services = serde_json::json!({"broker": {"status": "healthy"}});
    assert_eq!(probe().await, (200, "healthy".into(), services));
    service.die("error");
    sleep(ms(1)).await;
    let services = serde_json::json!({
        "broker": {"status": "failed", "error": "connection lost"}
    });
    assert_eq!(probe().await, (200, "degraded".into(), services));
}
