//! Paused.

use super::*;

fn paused() -> DrainLayer {
    let ctl = ShutdownController::new();
    ctl.pause();
    DrainLayer::new(ctl)
}

const PAUSED: &str = r#"{"error":"service is paused"}"#;

#[tokio::test(start_paused = true)]
async fn a_paused_service_refuses_in_the_protocol_of_the_client_and_says_so() {
    let response = refuse(paused(), request("/"));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        headers(&response),
        [
            ("connection", "close"),
            ("content-length", "29"),
            ("content-type", "application/json"),
            ("retry-after", "1"),
        ]
    );
    assert_eq!(text(response.into_body()), PAUSED);

    let mut http2 = request("/");
    *http2.version_mut() = Version::HTTP_2;
    let response = refuse(paused(), http2);
    assert!(!response.headers().contains_key(CONNECTION));
    assert_eq!(text(response.into_body()), PAUSED);

    let response = refuse(paused(), grpc("application/grpc"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        headers(&response),
        [
            ("content-type", "application/grpc"),
            ("grpc-message", "service is paused"),
            ("grpc-status", "14"),
        ]
    );
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_paused_service_refuses_any_job_with_an_error_that_says_so() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).reject_with_error();
    let (mut service, mut handle) = mock::spawn_layer::<u32, u32, _>(layer);
    handle.allow(0);
    for is_paused in [true, false] {
        if is_paused {
            ctl.pause();
        } else {
            ctl.trigger(MANUAL);
        }
        assert_ready_ok!(service.poll_ready());
        let error = assert_ready_err!(task::spawn(service.call(1)).poll());
        let refused = error.downcast_ref::<ShuttingDown>().unwrap();
        assert_eq!(refused.is_paused(), is_paused);
    }
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.metrics().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_admitted_before_a_pause_ends_whole_and_exempt_paths_are_served_in_it() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    let mut admitted = task::spawn(send(service.get_mut(), request("/")));
    ctl.pause();
    let mut exempt = task::spawn(send(service.get_mut(), request("/exempt")));
    let mut refused = task::spawn(send(service.get_mut(), request("/other")));
    assert_eq!(text(assert_ready_ok!(refused.poll()).into_body()), PAUSED);
    assert_eq!(ctl.in_flight(), 1);
    let mut idle = task::spawn(ctl.idle());
    for (call, path) in [(&mut admitted, "/"), (&mut exempt, "/exempt")] {
        assert_pending!(call.poll());
        let (request, respond) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(request.uri().path(), path);
        respond.send_response(Response::new(Full::from("whole")));
    }
    let response = assert_ready_ok!(admitted.poll());
    assert!(
        !response.headers().contains_key(CONNECTION),
        "nobody is to leave"
    );
    assert_pending!(idle.poll());
    assert_eq!(text(response.into_body()), "whole");
    assert_ready!(idle.poll());
    let response = assert_ready_ok!(exempt.poll());
    assert!(!response.headers().contains_key(CONNECTION), "nor here");
    assert_eq!(text(response.into_body()), "whole");
    assert_eq!((ctl.metrics().admitted, ctl.metrics().refused), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_woken_by_a_pause_and_served_after_it() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    for _ in 0..3 {
        assert_pending!(service.poll_ready());
        ctl.pause();
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        let refused = assert_ready_ok!(task::spawn(service.call(request("/"))).poll());
        assert_eq!(text(refused.into_body()), PAUSED);
        ctl.unpause();
        assert_pending!(service.poll_ready());
    }
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    let _call = service.call(request("/served"));
    let (request, _) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!((request.uri().path(), ctl.in_flight()), ("/served", 1));
}

/// It was ready to be refused: when it calls, the reason for the refusal is gone.
#[tokio::test(start_paused = true)]
async fn who_was_ready_to_be_refused_by_a_pause_is_told_of_it_also_after_its_end() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    ctl.pause();
    assert_ready_ok!(service.poll_ready());
    ctl.unpause();
    let refused = assert_ready_ok!(task::spawn(service.call(request("/"))).poll());
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(refused.into_body()), PAUSED);
}

#[tokio::test(start_paused = true)]
async fn a_response_after_a_resume_does_not_ask_to_leave() {
    let ctl = lame_duck();
    let mut service = DrainLayer::new(ctl.clone()).layer(hello());
    let mut asks_to_leave = || {
        let response = assert_ready_ok!(task::spawn(send(&mut service, request("/"))).poll());
        response.headers().contains_key(CONNECTION)
    };
    assert!(!asks_to_leave());
    ctl.trigger(MANUAL);
    assert!(asks_to_leave());
    ctl.resume().unwrap();
    assert!(!asks_to_leave());
}
