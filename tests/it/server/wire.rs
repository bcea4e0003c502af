//! The bytes on the wire.

use super::*;

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_their_order() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http1();
    let upload = "POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
    client
        .send([&server::get("/"), upload, &server::get("/big")].concat())
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    assert_eq!(client.answer().await.text(), "4");
    assert!(client.answer().await.body == big());
    trigger(&ctl).await;
    client.send(server::get("/").repeat(3)).await;
    let answer = client.answer().await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(client.end().await, b"");
    server.graceful().await;
}

#[tokio::test]
async fn pipelined_requests_after_the_last_answer_do_not_reset_the_connection() {
    let ctl = refusing();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    for count in [2, 10_000, 40_000] {
        let socket = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let writes = tokio::spawn(async move {
            let requests = server::get("/").repeat(count);
            let _ = write.write_all(requests.as_bytes()).await;
            write
        });
        let _write = in_time(writes).await.unwrap();
        let mut text = String::new();
        in_time(read.read_to_string(&mut text)).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 503 ") && text.ends_with(REFUSED),
            "{text}"
        );
    }
    drop(working);
    assert!(in_time(server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn http_1_is_spoken_in_all_its_forms() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    // A client that asks to close is closed, others are not.
    for (request, status, body, stays) in [
        (
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
            200,
            "ok",
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", 200, "ok", false),
        (
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
            200,
            "ok",
            true,
        ),
        ("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n", 200, "", true),
        (
            "PUT / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n",
            200,
            "ok",
            true,
        ),
        (
            "POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nab",
            200,
            "2",
            true,
        ),
        ("PATCH / HTTP/1.1\r\nhost: test\r\n\r\n", 200, "ok", true),
        ("PROPFIND / HTTP/1.1\r\nhost: test\r\n\r\n", 200, "ok", true),
        ("PRI / HTTP/1.1\r\nhost: test\r\n\r\n", 200, "ok", true),
        ("GET /none HTTP/1.1\r\nhost: test\r\n\r\n", 404, "", true),
        ("\0\x01\x02\r\n\r\n", 400, "", false),
        ("PRI * HTTX/2.0\r\n\r\nSM\r\n\r\n", 400, "", false),
        ("PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", 400, "", false),
    ] {
        for slowly in [false, true] {
            println!("{request:?}, slowly: {slowly}");
            let mut client = connector.http1();
            if slowly {
                for byte in request.bytes() {
                    if client.io.write_all(&[byte]).await.is_err() {
                        break; // it has already been refused
                    }
                    sleep(MS).await;
                }
            } else {
                client.send(request).await;
            }
            if request.starts_with("PRI * HTTP/2.0") {
                client.end().await; // hyper sends nothing to it
                continue;
            }
            let method = request.split(' ').next().unwrap();
            let answer = client.answer_to(method).await;
            assert_eq!(
                (answer.status, answer.text()),
                (status, body),
                "{request:?}"
            );
            if stays {
                assert_eq!(client.get("/").await.text(), "ok", "{request:?}");
            } else {
                assert_eq!(client.end().await, b"", "{request:?}");
            }
        }
    }
    let mut client = connector.http1();
    client.send("POST /read HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("body").await;
    assert_eq!(client.answer().await.text(), "4");

    drop(connector.pipe(10)); // sends nothing, and is gone
    let mut gone = connector.http1();
    gone.send("PRI * HT").await;
    drop(gone);
    trigger(&ctl).await;
    client.send("POST /read HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("body").await;
    let answer = client.answer().await;
    assert!(answer.closes() && answer.text() == "4", "{answer:?}");
    assert_eq!(client.end().await, b"");
    drop(client);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn trailers_are_passed_on() {
    let ctl = ShutdownController::new();
    let route = get(async || {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = [
            http_body::Frame::data(Bytes::from_static(b"data")),
            http_body::Frame::trailers(trailers),
        ];
        let frames = stream::iter(frames.map(Ok::<_, Infallible>));
        Body::new(http_body_util::StreamBody::new(frames))
    });
    let app = Router::new().route("/", route);
    let (connector, server) = start(&ctl, app.layer(DrainLayer::new(ctl.clone())));
    let mut client = connector.http2().await;
    client.send(Frame::get(1, "/")).await;
    for expected in [(HEADERS, false), (DATA, false), (HEADERS, true)] {
        let frame = client.next().await.unwrap();
        assert_eq!((frame.kind, frame.ends()), expected, "{frame:?}");
    }
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn http_2_is_told_by_its_preface_however_slowly_it_comes() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    for size in 1..=PREFACE.len() {
        let mut pipe = connector.pipe(1024);
        for piece in PREFACE.as_bytes().chunks(size) {
            pipe.write_all(piece).await.unwrap();
            sleep(MS).await;
        }
        pipe.write_all(EMPTY_SETTINGS).await.unwrap();
        let mut client = Http2::after_preface(pipe);
        assert_eq!(client.get(1, "/").await, "ok");
    }
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_harms_its_own_connection_or_stream_only() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut other = connector.http1();
    assert_eq!(other.get("/").await.text(), "ok");
    let mut client = connector.http1();
    client.send(server::get("/panic")).await;
    assert_eq!(client.end().await, b"");

    let mut http2 = connector.http2().await;
    http2.send(Frame::get(1, "/big")).await; // its window is smaller than that
    http2.send(Frame::get(3, "/panic")).await;
    let reset = loop {
        let frame = http2.next().await.unwrap();
        if frame.stream == 3 {
            break frame;
        }
    };
    assert_eq!(reset.kind, RST_STREAM);
    http2.send(Frame::get(5, "/none")).await;
    while http2.next().await.unwrap().stream != 5 {}
    assert_eq!(other.get("/").await.text(), "ok");
    drop(http2);
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_harms_its_own_connection_or_stream_only() {
    let ctl = ShutdownController::new();
    let app =
        tower::service_fn(async |request: http::Request<hyper::body::Incoming>| {
            match request.uri().path() {
                "/" => Ok(http::Response::new(Body::from("ok"))),
                _ => Err(io::Error::other("a test")),
            }
        });
    let (connector, server) = start(&ctl, DrainLayer::new(ctl.clone()).layer(app));
    let mut client = connector.http1();
    assert_eq!(client.get("/").await.text(), "ok");
    client.send(server::get("/fails")).await;
    assert_eq!(client.end().await, b"");
    let mut http2 = connector.http2().await;
    http2.send(Frame::get(1, "/fails")).await;
    assert_eq!(http2.answer(1).await, None);
    assert_eq!(http2.get(3, "/").await, "ok");
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_is_waited_for_and_then_refused_for() {
    let ctl = ShutdownController::new();
    let app =
        tower::limit::ConcurrencyLimit::new(routes().into_service::<hyper::body::Incoming>(), 1);
    let app = tower::ServiceBuilder::new()
        .layer(DrainLayer::new(ctl.clone()))
        .service(app);
    let (connector, server) = start(&ctl, app);
    let mut large = Http1::new(connector.pipe(64));
    large.send(server::get("/big")).await;
    let mut http2 = connector.http2().await;
    assert_eq!(http2.get(1, "/").await, "ok");
    trigger(&ctl).await;
    drop(large);
    server.graceful().await;
}
