//! Exempt paths.

use super::*;

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_served_while_draining_uncounted_and_uncut() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).exempt_paths(["/metrics"]);
    let mut service = layer.layer(app());
    let exempt = |plan: Plan| {
        let mut request = stage.request(plan);
        *request.uri_mut() = "/metrics?all".parse().unwrap();
        request
    };

    stage.ctl.trigger(MANUAL);
    let body = stage.body([Step::Data("a"), Step::Trailers]);
    let mut future = task::spawn(send(&mut service, exempt(body.into())));
    let mut endless = task::spawn(send(&mut service, exempt(Plan::Stall)));
    assert_pending!(endless.poll());
    assert_eq!(stage.ctl.in_flight(), 0);

    stage.ctl.force();
    settle().await;
    assert!(!endless.is_woken());
    assert_pending!(endless.poll());
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(headers(&response), [("connection", "close")]);
    let mut body = response.into_body();
    assert_eq!(body.size_hint().lower(), 1);
    assert!(assert_ready!(frame(&mut body)).unwrap().unwrap().is_data());
    assert!(
        assert_ready!(frame(&mut body))
            .unwrap()
            .unwrap()
            .is_trailers()
    );
    assert!(!body.is_end_stream());
    assert!(assert_ready!(frame(&mut body)).is_none());

    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!(
        (report.admitted(), report.aborted(), report.abandoned()),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_match_exactly() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone())
        .exempt_paths(["/a", "/b"])
        .exempt_paths(["/c"]);
    let mut service = layer.layer(hello());
    ctl.trigger(MANUAL);
    for (path, status) in [
        ("/a", StatusCode::OK),
        ("/b?query", StatusCode::OK),
        ("http://example.com/c", StatusCode::OK),
        ("/", StatusCode::SERVICE_UNAVAILABLE),
        ("/A", StatusCode::SERVICE_UNAVAILABLE),
        ("/a/", StatusCode::SERVICE_UNAVAILABLE),
        ("/a/a", StatusCode::SERVICE_UNAVAILABLE),
        ("/%61", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let response = assert_ready_ok!(task::spawn(send(&mut service, request(path))).poll());
        assert_eq!(response.status(), status, "{path}");
        // Also if the body's length is known.
        assert_eq!(response.headers()["connection"], "close", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_counted_and_cut_as_any_other_until_the_gate_refuses() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).exempt_paths(["/"]);
    let mut future = task::spawn(send(&mut layer.layer(app()), stage.request(Plan::Stall)));
    assert_eq!(stage.ctl.in_flight(), 1);
    assert_pending!(future.poll());
    stage.ctl.force();
    let response = assert_ready_ok!(future.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}
