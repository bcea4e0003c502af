//! Admission.

use super::*;

// P1
#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_from_its_call_to_the_end_of_its_body() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 0);

    let mut future = task::spawn(service.call(request("/")));
    assert_eq!(ctl.in_flight(), 1);
    assert_pending!(future.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    let mut response = assert_ready_ok!(future.poll());
    assert_eq!(ctl.in_flight(), 1);
    let data = assert_ready!(frame(response.body_mut())).unwrap().unwrap();
    assert_eq!(data.into_data().unwrap(), "hello");
    assert_eq!(ctl.in_flight(), 0);
}

// P1: nothing is admitted after `trigger` has returned, and admitted requests continue.
#[tokio::test(start_paused = true)]
async fn nothing_is_admitted_from_the_trigger_on_and_what_was_admitted_ends_whole() {
    let ctl = refusing();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    let mut admitted = task::spawn(send(service.get_mut(), request("/admitted")));
    assert_ready_ok!(service.poll_ready());

    ctl.trigger(MANUAL);
    let mut refused = task::spawn(service.call(request("/refused")));
    let refusal = assert_ready_ok!(refused.poll());
    assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ctl.in_flight(), 1);
    settle().await;
    assert_eq!(ctl.state(), LifecycleState::Draining);

    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request.uri(), "/admitted");
    respond.send_response(Response::new(Full::from("whole")));
    let response = assert_ready_ok!(admitted.poll());
    assert_eq!(text(response.into_body()), "whole");
    assert_pending!(handle.poll_request());

    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_lame_duck_still_admits() {
    let ctl = lame_duck();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    let _future = send(service.get_mut(), request("/"));
    assert_eq!(ctl.in_flight(), 1);
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_controller_is_gone_keeps_serving() {
    let service = DrainLayer::new(ShutdownController::new()).layer(hello());
    let mut clone = service.clone();
    drop(service);
    let response = assert_ready_ok!(task::spawn(send(&mut clone, request("/"))).poll());
    assert_eq!(text(response.into_body()), "hello");
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_can_be_reached() {
    let mut service = DrainLayer::new(ShutdownController::new()).layer("inner");
    assert_eq!(*service.get_ref(), "inner");
    *service.get_mut() = "other";
    assert_eq!(service.into_inner(), "other");
}
