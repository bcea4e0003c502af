//! `metrics()`: every figure, from start to end.

use std::convert::Infallible;
use std::future::{pending, ready};

use tokio::time::sleep;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::controller::Metrics;
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

use crate::support::shutdown::ms;
use LifecycleState::*;

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn config() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(12_500))
        .lame_duck(ms(1_000))
}

/// The figures about requests.
fn requests(metrics: &Metrics) -> [u64; 5] {
    let m = metrics;
    [m.in_flight, m.admitted, m.refused, m.aborted, m.abandoned]
}

#[tokio::test(start_paused = true)]
async fn every_figure_is_right_through_a_life() {
    let mut startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    let fresh = ctl.metrics();
    assert_eq!((fresh.state, fresh.paused), (Initializing, false));
    assert_eq!(requests(&fresh), [0; 5]);
    assert_eq!((fresh.tasks, fresh.hooks), (0, 0));
    assert_eq!(fresh.startup_services_tracked, 0);
    assert_eq!(fresh.signal_received, None);
    assert_eq!(fresh.shutdown_timeout, ms(12_500));

    for name in ["database", "cache"] {
        let start = startup.start(name, ready(Ok::<_, Infallible>(())), |()| ready(()));
        start.await.unwrap();
        assert_eq!(ctl.metrics().state, Starting);
    }
    assert_eq!(ctl.metrics().startup_services_tracked, 2);
    let ctl = startup.finish().await.unwrap();
    assert_eq!(ctl.metrics().state, Running);

    ctl.on_shutdown("one", |_| ready(Ok(()))).unwrap();
    let seen = ctl.clone();
    let (in_hook, metrics_in_hook) = std::sync::mpsc::channel();
    ctl.on_shutdown(
        "two",
        move |_| async move { Ok(in_hook.send(seen.metrics())?) },
    )
    .unwrap();
    assert_eq!(ctl.metrics().hooks, 2);
    let task = ctl.spawn("outbox", pending::<()>());
    assert_eq!(ctl.metrics().tasks, 1);
    task.abort();
    sleep(ms(1)).await;
    assert_eq!(ctl.metrics().tasks, 0);

    // One that is cut in its handler, one that cannot be cut, and one that completes.
    let mut service = DrainLayer::new(ctl.clone())
        .reject_with_error()
        .layer(service_fn(|()| pending::<Result<(), Infallible>>()));
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let mut cut = task::spawn(service.call(()));
    assert_pending!(cut.poll());
    let stuck = ctl.track();
    drop(ctl.try_admit().unwrap());
    assert_eq!(requests(&ctl.metrics()), [2, 3, 0, 0, 0]);

    ctl.pause();
    assert!(ctl.try_admit().is_err());
    drop(ctl.track());
    let paused = ctl.metrics();
    assert_eq!((paused.state, paused.paused), (Running, true));
    assert_eq!(requests(&paused), [2, 4, 1, 0, 0]);
    ctl.unpause();
    assert!(!ctl.metrics().paused);

    ctl.trigger(MANUAL);
    assert_eq!(ctl.metrics().state, LameDuck);
    ctl.resume().unwrap();
    assert_eq!((ctl.metrics().state, ctl.metrics().hooks), (Running, 2));
    ctl.trigger(MANUAL);
    ctl.draining().await;
    assert_eq!(ctl.metrics().state, Draining);
    assert!(ctl.try_admit().is_err());
    assert!(!ctl.metrics().paused);
    ctl.force();
    let ended = task::spawn(async { cut.await.is_err() });
    assert!(ended.await);
    assert_eq!(
        requests(&ctl.metrics()),
        [1, 4, 2, 1, 0],
        "abandoned is known at the end"
    );

    ctl.stopped().await;
    let in_hook = metrics_in_hook.recv().unwrap();
    assert_eq!((in_hook.state, in_hook.hooks), (Stopping, 0));
    let last = ctl.metrics();
    assert_eq!(last.state, Stopped);
    assert_eq!(requests(&last), [1, 4, 2, 1, 1]);
    assert_eq!((last.tasks, last.hooks), (0, 0));
    assert_eq!(last.startup_services_tracked, 0, "stopped");
    assert_eq!(last.signal_received, None);
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!((report.admitted(), report.refused()), (4, 2));
    assert_eq!((report.aborted(), report.abandoned()), (1, 1));
    drop(stuck);
    assert_eq!(requests(&ctl.metrics()), [0, 4, 2, 1, 1]);
}

#[tokio::test]
async fn nothing_is_tracked_after_a_rollback() {
    let mut startup = Startup::new(config()).unwrap();
    let ctl = startup.controller();
    let start = startup.start("one", ready(Ok::<_, &str>(())), |()| ready(()));
    start.await.unwrap();
    assert_eq!(ctl.metrics().startup_services_tracked, 1);
    let start = startup.start("two", ready(Err::<(), _>("no")), |()| ready(()));
    assert!(start.await.is_err());
    assert_eq!(ctl.metrics().startup_services_tracked, 0);
    assert_eq!(ctl.metrics().state, Failed);
}

#[test]
fn the_uptime_is_the_time_since_the_controller_was_made() {
    let before = std::time::Instant::now();
    let ctl = ShutdownController::new();
    let made = std::time::Instant::now();
    std::thread::sleep(ms(20));
    let least = made.elapsed();
    let uptime = ctl.metrics().uptime;
    assert!(least <= uptime && uptime <= before.elapsed(), "{uptime:?}");
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn the_snapshot_can_be_exported() {
    let ctl = ShutdownController::with_config(config()).unwrap();
    let _request = ctl.try_admit().unwrap();
    ctl.spawn("outbox", pending::<()>());
    ctl.on_shutdown("hook", |_| ready(Ok(()))).unwrap();
    ctl.pause();
    let _ = ctl.try_admit();
    ctl.trigger(MANUAL);
    let mut json = serde_json::to_value(ctl.metrics()).unwrap();
    let uptime = json.as_object_mut().unwrap().remove("uptime").unwrap();
    assert!((0.0..60.0).contains(&uptime.as_f64().unwrap()));
    let expected = serde_json::json!({
        "state": "lame_duck",
        "paused": true,
        "in_flight_requests": 1,
        "admitted": 1,
        "refused": 1,
        "lame_duck_end": null,
        "lame_duck_lasted": null,
        "late_arrivals": 0,
        "late_requests": 0,
        "aborted": 0,
        "abandoned": 0,
        "upgrades": 0,
        "streams": 0,
        "tasks": 1,
        "hooks": 1,
        "startup_services_tracked": 0,
        "signal_received": null,
        "shutdown_timeout": 12.5,
    });
    assert_eq!(json, expected);
}
