//! Force.

use super::*;

// P5
#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_is_woken_cut_and_answered() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    assert_pending!(future.poll());
    stage.ctl.trigger(MANUAL);
    settle().await;
    assert!(!future.is_woken());

    stage.ctl.force();
    settle().await;
    assert!(future.is_woken());
    let response = assert_ready_ok!(future.poll());
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = r#"{"error":"service stopped before the request was finished"}"#;
    // No `Retry-After`: the work had begun, and a retry may repeat it.
    assert_eq!(
        headers(&response),
        [
            ("connection", "close"),
            ("content-length", body.len().to_string().as_str()),
            ("content-type", "application/json"),
        ]
    );
    assert_eq!(text(response.into_body()), body);

    let report = stage.ctl.shutdown(MANUAL).await;
    assert!(report.is_forced());
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_drain_deadline_is_cut() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(10))
        .cleanup_reserve(Duration::from_secs(2));
    let stage = Stage::with(ShutdownController::with_config(config).unwrap());
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let handler = tokio::spawn(send(&mut service, stage.request(Plan::Stall)));
    let body = stage.body([Step::Stall]);
    let future = send(&mut service, stage.request(body.into()));
    let body = tokio::spawn(async move {
        let mut body = future.await.unwrap().into_body();
        std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    });

    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(report.duration(), Duration::from_secs(8));
    assert_eq!(report.in_flight_at_force(), 2);
    assert_eq!((report.aborted(), report.abandoned()), (2, 0));
    let response = handler.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.await.unwrap().unwrap().unwrap_err().is::<Forced>());
}

#[tokio::test(start_paused = true)]
async fn the_cut_answer_is_in_the_clients_protocol() {
    /// A request with this method, version and content type, cut before it had a response.
    fn cut(method: Method, version: Version, content_type: &str) -> Response<ResponseBody<Script>> {
        let stage = Stage::new();
        let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
        let mut request = stage.request(Plan::Stall);
        *request.method_mut() = method;
        *request.version_mut() = version;
        let content_type = content_type.parse().unwrap();
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        let mut future = task::spawn(send(&mut service, request));
        assert_pending!(future.poll());
        stage.ctl.force();
        assert_ready_ok!(future.poll())
    }

    let response = cut(Method::GET, Version::HTTP_2, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key(CONNECTION));
    assert!(!response.headers().contains_key(RETRY_AFTER));

    let response = cut(Method::CONNECT, Version::HTTP_11, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[CONNECTION], "close");

    let response = cut(Method::HEAD, Version::HTTP_11, "text/plain");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.body().is_end_stream());

    for content_type in ["application/grpc", "application/grpc-web+proto"] {
        let response = cut(Method::POST, Version::HTTP_2, content_type);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            headers(&response),
            [
                ("content-type", content_type),
                (
                    "grpc-message",
                    "service stopped before the call was finished"
                ),
                ("grpc-status", "14"),
            ]
        );
        assert!(response.body().is_end_stream());
    }
}

// P5: force is checked before the inner future is polled, because a future that is woken anyway
// would be faster than the wake-up.
#[tokio::test(start_paused = true)]
async fn a_handler_that_wakes_itself_is_not_polled_again_after_force() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut future = task::spawn(send(&mut service, stage.request(Plan::Spin)));
    for polls in 1..=3 {
        assert_pending!(future.poll());
        assert!(future.is_woken());
        assert_eq!(stage.polls(), polls);
    }
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.polls(), 3);
}

// P5
#[tokio::test(start_paused = true)]
async fn a_handler_that_has_not_been_polled_is_cut_too() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let body = stage.body([]);
    let mut future = task::spawn(send(&mut service, stage.request(body.into())));
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.polls(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 1);
}

/// A handler whose poll causes the force, and then is pending: the wake-up is over before the waker
/// is registered.
#[tokio::test(start_paused = true)]
async fn force_during_the_first_poll_of_a_handler_cuts_it() {
    let ctl = ShutdownController::new();
    let forcing = ctl.clone();
    let app = service_fn(move |_: Request<String>| {
        let ctl = forcing.clone();
        async move {
            ctl.force();
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    });
    let mut service = DrainLayer::new(ctl.clone()).layer(app);
    let mut future = task::spawn(send(&mut service, request("/")));
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ctl.in_flight(), 0);
}

// P5: 3 GB were sent after a force that was checked only when the inner body was pending.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_at_its_end_is_not_cut() {
    let stage = Stage::new();
    let mut body = respond(&stage, stage.exact_body([]));
    stage.ctl.force();
    assert!(body.is_end_stream());
    assert!(assert_ready!(frame(&mut body)).is_none());
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_ready_ends_with_an_error_at_force() {
    let stage = Stage::new();
    let mut body = respond(&stage, stage.body([Step::Flood]));
    for _ in 0..3 {
        assert!(assert_ready!(frame(&mut body)).is_some_and(|frame| frame.is_ok()));
    }
    let polls = stage.polls();
    stage.ctl.force();
    assert!(!body.is_end_stream());
    assert!(is_cut(&mut body));
    assert_eq!(stage.polls(), polls);
    assert_eq!(stage.ctl.in_flight(), 0);
    assert!(assert_ready!(frame(&mut body)).is_none());
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_pending_is_woken_and_ends_with_an_error_at_force() {
    let stage = Stage::new();
    let body = respond(&stage, stage.body([Step::Data("a"), Step::Stall]));
    let mut body = task::spawn(body);
    assert!(assert_ready!(body.enter(|cx, body| body.poll_frame(cx))).is_some());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());
    stage.ctl.trigger(MANUAL);
    settle().await;
    assert!(!body.is_woken());
    stage.ctl.force();
    settle().await;
    assert!(body.is_woken());
    assert!(is_cut(&mut *body));
    assert_eq!(stage.ctl.in_flight(), 0);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// P5: the registered waker moves from the future to the body, and follows the task.
#[tokio::test(start_paused = true)]
async fn force_wakes_the_task_that_polled_last() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let future = send(&mut service, stage.request(Plan::Stall));
    let mut moved = Box::pin(future);
    let (mut before, mut after) = (task::spawn(()), task::spawn(()));
    assert!(before.enter(|cx, _| moved.as_mut().poll(cx)).is_pending());
    assert!(after.enter(|cx, _| moved.as_mut().poll(cx)).is_pending());

    let (mock, mut handle) = mock::pair::<Request<String>, Response<Script>>();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(mock);
    let mut handler = task::spawn(send(&mut service, request("/")));
    assert_pending!(handler.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(stage.body([Step::Stall])));
    let response = assert_ready_ok!(handler.poll());
    let mut body = task::spawn(response.into_body());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());

    stage.ctl.force();
    settle().await;
    assert_eq!((before.is_woken(), after.is_woken()), (false, true));
    assert!(!handler.is_woken());
    assert!(body.is_woken());
    assert!(is_cut(&mut *body));
}

// P5
#[tokio::test(start_paused = true)]
async fn every_cut_is_counted_and_what_ended_by_itself_is_not() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut handlers: Vec<_> = (0..300)
        .map(|_| task::spawn(send(&mut service, stage.request(Plan::Stall))))
        .collect();
    for handler in &mut handlers {
        assert_pending!(handler.poll());
    }
    let mut bodies: Vec<_> = (0..200)
        .map(|_| task::spawn(respond(&stage, stage.body([Step::Wait, Step::Stall]))))
        .collect();
    for body in &mut bodies {
        assert!(body.enter(|cx, body| body.poll_frame(cx)).is_pending());
    }
    let ends = stage.ctl.track();
    assert_eq!(stage.ctl.in_flight(), 501);

    stage.ctl.force();
    settle().await;
    drop(ends);
    // It did not end by itself, so this is also a cut.
    drop(handlers.pop());
    drop(bodies.pop());
    for handler in &mut handlers {
        assert!(handler.is_woken());
        assert_ready_ok!(handler.poll());
    }
    for body in &mut bodies {
        assert!(body.is_woken());
        assert!(is_cut(&mut **body));
    }
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(report.in_flight_at_force(), 501);
    assert_eq!((report.aborted(), report.abandoned()), (500, 0));
}

// P5
#[tokio::test(start_paused = true)]
async fn what_does_not_let_itself_be_cut_is_reported_abandoned() {
    let stage = Stage::new();
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    // It is not polled, as if its thread were blocked.
    let stuck = send(&mut service, stage.request(Plan::Stall));
    stage.ctl.force();
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (0, 1));
    assert_eq!(report.duration(), Duration::from_millis(250));
    drop(stuck);
    assert_eq!(stage.ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_around_tracking_counts_twice_and_cuts_both() {
    let stage = Stage::new();
    let tracking = RequestTrackingLayer::new(stage.ctl.clone()).layer(app());
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(tracking);
    let mut handler = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    let body = stage.body([Step::Flood]);
    let future = send(&mut service, stage.request(body.into()));
    let mut body = assert_ready_ok!(task::spawn(future).poll()).into_body();
    assert_pending!(handler.poll());
    assert_eq!(stage.ctl.in_flight(), 4);

    stage.ctl.force();
    assert_ready_ok!(handler.poll());
    assert!(is_cut(&mut body));
    assert_eq!(stage.ctl.in_flight(), 0);
    assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 4);
}
