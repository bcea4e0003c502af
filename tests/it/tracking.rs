//! `RequestTrackingLayer`: every request is counted, none is refused, none is cut.

use std::task::Poll;

use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::Layer;
use tower_lifecycle::layers::{AnyService, RequestTracking, TrackedBody};
use tower_lifecycle::{LifecycleState, RequestTrackingLayer, ShutdownController, ShutdownReason};
use tower_test::mock;

use crate::support::layers::{
    App, Broken, Plan, Script, Stage, Step, app, dropped_first, frame, headers, send,
};
use crate::support::shutdown::settle;

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn tracked(stage: &Stage) -> RequestTracking<App> {
    RequestTrackingLayer::new(stage.ctl.clone()).layer(app())
}

type Jobs = mock::Spawn<RequestTracking<mock::Mock<u32, u32>, AnyService>>;

fn jobs(ctl: &ShutdownController) -> (Jobs, mock::Handle<u32, u32>) {
    mock::spawn_layer(RequestTrackingLayer::new(ctl.clone()).until_response())
}

#[test]
fn a_request_is_in_flight_from_its_call_to_the_end_of_its_body() {
    let stage = Stage::new();
    let body = stage.body([Step::Data("a")]);
    let mut future = task::spawn(send(&mut tracked(&stage), stage.request(body.into())));
    assert_eq!(stage.ctl.in_flight(), 1);
    let mut body = assert_ready_ok!(future.poll()).into_body();
    assert!(assert_ready!(frame(&mut body)).is_some());
    assert_eq!(stage.ctl.in_flight(), 1);
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[test]
fn until_response_counts_any_service_to_the_end_of_its_response_future() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 0);
    let mut future = task::spawn(service.call(1));
    assert_pending!(future.poll());
    assert_eq!(ctl.in_flight(), 1);
    let (job, respond) = assert_ready!(handle.poll_request()).unwrap();
    respond.send_response(job + 1);
    assert_eq!(assert_ready_ok!(future.poll()), 2);
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_refused_in_any_state() {
    let stage = Stage::new();
    let mut service = tracked(&stage);
    let busy = stage.ctl.track();
    let mut serve = || {
        let response = Response::builder().header("connection", "keep-alive");
        let response = response.body(stage.body([])).unwrap();
        let future = send(&mut service, stage.request(response.into()));
        let response = assert_ready_ok!(task::spawn(future).poll());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(headers(&response), [("connection", "keep-alive")]);
    };
    serve();
    stage.ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(stage.ctl.state(), LifecycleState::Draining);
    serve();
    drop(busy);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(stage.ctl.state(), LifecycleState::Stopped);
    serve();
    assert_eq!(report.refused(), 0);
}

// P3
#[tokio::test(start_paused = true)]
async fn drained_waits_for_what_came_while_draining() {
    let stage = Stage::new();
    let busy = stage.ctl.track();
    let mut drained = task::spawn(stage.ctl.drained());
    stage.ctl.trigger(MANUAL);
    let late = send(&mut tracked(&stage), stage.request(Plan::Stall));
    assert_eq!(stage.ctl.in_flight(), 2);
    drop(busy);
    assert_pending!(drained.poll());
    drop(late);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inners_also_while_draining() {
    let ctl = ShutdownController::new();
    let _busy = ctl.track();
    let (mut service, mut handle) = jobs(&ctl);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    ctl.trigger(MANUAL);
    settle().await;
    assert!(!service.is_woken());
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    handle.send_error(Broken);
    assert!(assert_ready_err!(service.poll_ready()).is::<Broken>());
}

// P5: not cut, but reported.
#[tokio::test(start_paused = true)]
async fn force_neither_wakes_nor_cuts_but_reports_what_is_left_as_abandoned() {
    let stage = Stage::new();
    let mut service = tracked(&stage);
    let mut handler = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    assert_pending!(handler.poll());
    let script = [Step::Wait, Step::Data("a"), Step::Trailers];
    let body = stage.body(script);
    let future = send(&mut service, stage.request(body.into()));
    let mut body = task::spawn(assert_ready_ok!(task::spawn(future).poll()).into_body());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());

    stage.ctl.force();
    let report = stage.ctl.shutdown(MANUAL).await;
    assert!(report.is_forced());
    assert_eq!((report.aborted(), report.abandoned()), (0, 2));

    assert!(!handler.is_woken());
    assert_pending!(handler.poll());
    assert!(!body.is_woken());
    for _ in 0..2 {
        assert!(assert_ready!(frame(&mut *body)).unwrap().is_ok());
    }
    assert!(assert_ready!(frame(&mut *body)).is_none());
    assert_eq!(stage.ctl.in_flight(), 1);
    drop(handler);
    assert_eq!(stage.ctl.in_flight(), 0);
}

// P5
#[tokio::test(start_paused = true)]
async fn force_waits_shortly_for_what_ends_by_itself() {
    let stage = Stage::new();
    let body = stage.body([Step::Wait]);
    let mut ends = task::spawn(send(&mut tracked(&stage), stage.request(body.into())));
    let mut ends = assert_ready_ok!(ends.poll()).into_body();
    let dropped = send(&mut tracked(&stage), stage.request(Plan::Stall));
    let release = tokio::spawn(async move {
        settle().await;
        while !matches!(frame(&mut ends), Poll::Ready(None)) {}
        drop(dropped);
    });
    stage.ctl.force();
    let report = stage.ctl.shutdown(MANUAL).await;
    release.await.unwrap();
    // Dropping an unfinished request cuts it, no matter who drops it.
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
    assert_eq!(report.in_flight_at_force(), 2);
}

#[test]
fn a_pause_refuses_nothing_here_and_counts_it() {
    let stage = Stage::new();
    stage.ctl.pause();
    let mut service = tracked(&stage);
    let body = stage.body([]);
    let mut future = task::spawn(send(&mut service, stage.request(body.into())));
    let mut idle = task::spawn(stage.ctl.idle());
    assert_pending!(idle.poll());
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!((stage.ctl.in_flight(), stage.ctl.metrics().refused), (1, 0));
    drop(response);
    assert_ready!(idle.poll());
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[test]
fn errors_stay_what_they_are() {
    let stage = Stage::new();
    let mut service = tracked(&stage);
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Fail)));
    assert_eq!(assert_ready_err!(future.poll()), Broken);

    let body = stage.body([Step::Fail]);
    let mut future = task::spawn(send(&mut service, stage.request(body.into())));
    let response: Response<TrackedBody<Script>> = assert_ready_ok!(future.poll());
    let error = assert_ready!(frame(&mut response.into_body())).unwrap();
    assert_eq!(error.unwrap_err(), Broken);
}

// P2
#[test]
fn until_response_leaves_the_body_alone() {
    let stage = Stage::new();
    let layer = RequestTrackingLayer::new(stage.ctl.clone()).until_response();
    let mut service = layer.layer(app());
    let body = stage.body([]);
    let mut future = task::spawn(send(&mut service, stage.request(body.into())));
    let response: Response<Script> = assert_ready_ok!(future.poll());
    assert_eq!(stage.drops(), [dropped_first("future")]);
    assert_eq!(stage.ctl.in_flight(), 0);
    drop(response);
}

// The mock panics when it is called without being ready.
#[test]
#[should_panic(expected = "service not ready")]
fn a_clone_does_not_inherit_readiness() {
    let (mut service, _handle) = jobs(&ShutdownController::new());
    assert_ready_ok!(service.poll_ready());
    drop(service.clone().call(1));
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_controller_is_gone_keeps_serving() {
    let stage = Stage::new();
    let service = RequestTrackingLayer::new(ShutdownController::new()).layer(app());
    let mut clone = service.clone();
    drop(service);
    let body = stage.body([]);
    let future = send::<_, Request<_>>(&mut clone, stage.request(body.into()));
    assert_ready_ok!(task::spawn(future).poll());
}

#[test]
fn the_inner_service_can_be_reached() {
    let mut service = RequestTrackingLayer::new(ShutdownController::new()).layer("inner");
    assert_eq!(*service.get_ref(), "inner");
    *service.get_mut() = "other";
    assert_eq!(service.into_inner(), "other");
}
