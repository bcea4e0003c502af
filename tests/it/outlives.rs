//! What outlives its controller: it shares nothing with the controllers that come after it.

use std::future::pending;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController, UpgradeGuard};

type Answer = Result<Response<Empty<Bytes>>, BoxError>;

fn request() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

async fn hello(_: Request<Empty<Bytes>>) -> Answer {
    Ok(Response::default())
}

/// Controllers that are made while the old one's state might be used again.
fn later() -> Vec<ShutdownController> {
    (0..50).map(|_| ShutdownController::new()).collect()
}

fn in_flight(later: &[ShutdownController]) -> u64 {
    later.iter().map(ShutdownController::in_flight).sum()
}

#[tokio::test]
async fn a_service_is_not_counted_by_a_later_controller() {
    let ctl = ShutdownController::new();
    let mut drain = DrainLayer::new(ctl.clone()).layer(service_fn(hello));
    let mut tracking = RequestTrackingLayer::new(ctl.clone()).layer(service_fn(hello));
    drop(ctl);
    for _ in 0..20 {
        let later = later();
        let drained = drain.ready().await.unwrap().call(request());
        let tracked = tracking.ready().await.unwrap().call(request());
        assert_eq!(in_flight(&later), 0);
        let (drained, tracked) = (drained.await.unwrap(), tracked.await.unwrap());
        assert_eq!(in_flight(&later), 0);
        drop((drained, tracked));
        let admitted = |ctl: &ShutdownController| ctl.metrics().admitted;
        assert_eq!(later.iter().map(admitted).sum::<u64>(), 0);
    }
}

#[tokio::test]
async fn a_service_is_not_shut_down_by_a_later_controller() {
    let ctl = ShutdownController::new();
    let mut drain = DrainLayer::new(ctl.clone()).layer(service_fn(hello));
    drop(ctl);
    let response = drain.ready().await.unwrap().call(request()).await.unwrap();
    later().iter().for_each(ShutdownController::force);
    assert_eq!(response.status(), 200);
    let response = drain.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_guard_is_not_counted_or_forced_by_a_later_controller() {
    let ctl = ShutdownController::new();
    let guard = ctl.track();
    drop(ctl);
    let later = later();
    assert_eq!(in_flight(&later), 0);
    later.iter().for_each(ShutdownController::force);
    tokio::select! {
        biased;
        () = guard.forced() => panic!("by another controller"),
        () = tokio::task::yield_now() => {}
    }
    drop(guard);
    let again = self::later();
    assert!(
        again
            .iter()
            .all(|ctl| ctl.in_flight() == 0 && !ctl.is_draining())
    );
}

/// Even if it counts nothing, because its request was not upgraded.
#[tokio::test]
async fn an_upgrade_guard_is_not_forced_by_a_later_controller() {
    let kept = std::sync::Arc::new(std::sync::Mutex::new(None));
    let ctl = ShutdownController::new();
    let keep = |mut request: Request<Empty<Bytes>>| {
        *kept.lock().unwrap() = request.extensions_mut().remove::<UpgradeGuard>();
        hello(request)
    };
    let drain = DrainLayer::new(ctl.clone()).layer(service_fn(keep));
    let upgrade = Request::get("/").header("upgrade", "echo");
    let upgrade = upgrade.body(Empty::new()).unwrap();
    assert_eq!(drain.oneshot(upgrade).await.unwrap().status(), 200);
    drop(ctl);
    later().iter().for_each(ShutdownController::force);
    let guard = kept.lock().unwrap().take().expect("offered");
    tokio::select! {
        biased;
        () = guard.forced() => panic!("by another controller"),
        () = tokio::task::yield_now() => {}
    }
}

/// A request that is forced wakes, and is cut, whatever its layer's services have become.
#[tokio::test]
async fn a_request_is_cut_after_its_service_is_gone() {
    let ctl = ShutdownController::new();
    let stalls = service_fn(|_: Request<Empty<Bytes>>| pending::<Answer>());
    let service = DrainLayer::new(ctl.clone()).layer(stalls);
    let request = tokio::spawn(service.oneshot(request()));
    while ctl.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    ctl.force();
    assert_eq!(request.await.unwrap().unwrap().status(), 503);
}
