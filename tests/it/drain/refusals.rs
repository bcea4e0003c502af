//! Refusals.

use super::*;

#[tokio::test(start_paused = true)]
async fn http1_is_refused_with_503_retry_after_and_close() {
    for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11] {
        for method in [Method::GET, Method::POST, Method::CONNECT] {
            let mut request = request("/");
            *request.version_mut() = version;
            *request.method_mut() = method;
            let response = refuse(draining(), request);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(
                headers(&response),
                [
                    ("connection", "close"),
                    ("content-length", "36"),
                    ("content-type", "application/json"),
                    ("retry-after", "1"),
                ]
            );
            let body = response.into_body();
            assert!(!body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(36));
            assert_eq!(text(body), REFUSED);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http2_is_refused_without_a_connection_header() {
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let mut request = request("/");
        *request.version_mut() = version;
        let response = refuse(draining(), request);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(CONNECTION));
        assert_eq!(text(response.into_body()), REFUSED);
    }
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_head_is_at_its_end_from_the_start() {
    let mut request = request("/");
    *request.method_mut() = Method::HEAD;
    let response = refuse(draining(), request);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    let body = response.into_body();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(text(body), "");
}

#[tokio::test(start_paused = true)]
async fn grpc_is_refused_with_trailers_only() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+my-own",
        "application/grpc;charset=utf-8",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text;charset=utf-8",
        "Application/gRPC+Proto",
    ] {
        let response = refuse(draining(), grpc(content_type));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            headers(&response),
            [
                ("content-type", content_type),
                ("grpc-message", "service is shutting down"),
                ("grpc-status", "14"),
            ]
        );
        assert!(response.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_web_over_http1_is_told_to_close_too() {
    let mut request = grpc("application/grpc-web+proto");
    *request.version_mut() = Version::HTTP_11;
    let response = refuse(draining(), request);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()[CONNECTION], "close");
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_like_grpc_is_refused_as_http() {
    for content_type in [
        "application/grpcurl",
        "application/grp",
        "text/application/grpc",
        "application/json",
        "",
    ] {
        let response = refuse(draining(), grpc(content_type));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("grpc-status"));
        assert_eq!(text(response.into_body()), REFUSED);
    }
}

#[tokio::test(start_paused = true)]
async fn any_method_path_and_header_is_refused() {
    let long = format!("/{}", "x".repeat(10_000));
    for (method, uri) in [
        ("OPTIONS", "*"),
        ("CONNECT", "example.com:443"),
        ("BREW", "http://example.com/pot?milk"),
        ("POST", long.as_str()),
    ] {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header("expect", "100-continue")
            .header(CONTENT_TYPE, &b"\xff\xfe"[..]);
        let response = refuse(
            draining().exempt_paths(["/healthz"]),
            request.body(String::new()).unwrap(),
        );
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_configurations_unless_the_layer_has_its_own() {
    let config = refusing().config().clone();
    let config = config.retry_after(Duration::from_millis(7_001));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.trigger(MANUAL);
    let layer = DrainLayer::new(ctl);
    let response = refuse(layer.clone(), request("/"));
    assert_eq!(response.headers()[RETRY_AFTER], "8");
    let response = refuse(layer.retry_after(Duration::from_secs(30)), request("/"));
    assert_eq!(response.headers()[RETRY_AFTER], "30");
}

#[tokio::test(start_paused = true)]
async fn refuse_with_replaces_the_answer_to_every_protocol() {
    let layer = draining().refuse_with(|parts| {
        let sorry = format!("not now: {} {}", parts.method, parts.uri.path());
        let mut response = Response::new(Bytes::from(sorry));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    });

    let response = refuse(layer.clone(), request("/tea"));
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(headers(&response), [("connection", "close")]);
    assert_eq!(text(response.into_body()), "not now: GET /tea");

    let response = refuse(layer.clone(), grpc("application/grpc"));
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(headers(&response), []);

    let mut head = request("/tea");
    *head.method_mut() = Method::HEAD;
    assert!(refuse(layer, head).body().is_end_stream());
}
