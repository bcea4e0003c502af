//! Settings.

use super::*;

#[cfg(unix)]
#[tokio::test]
async fn a_unix_listener_is_served() {
    let ctl = ShutdownController::new();
    let directory = std::env::temp_dir().join(format!("tower-lifecycle-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let peer = |peer: &tokio::net::unix::SocketAddr| peer.is_unnamed();
    let app = routes().route(
        "/peer",
        get(async |Extension(peer): Extension<bool>| peer.to_string()),
    );
    let server = serve(
        listener,
        app.layer(DrainLayer::new(ctl.clone())),
        ctl.clone(),
    );
    let server = tokio::spawn(server.extension(peer).into_future());
    let mut client = Http1::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.get("/peer").await.text(), "true");
    ctl.trigger(ShutdownReason::Manual);
    let answer = client.get("/").await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(client.end().await, b"");
    assert!(in_time(server).await.unwrap().is_graceful());
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(start_paused = true)]
async fn several_servers_share_one_shutdown() {
    let (ctl, held) = (refusing(), Held::new());
    let (first, first_server) = start(&ctl, held.app(&ctl));
    let (second, second_server) = start(&ctl, app(&ctl));
    let mut client = first.http1();
    client.send(server::get("/held")).await;
    held.entered.happened().await;
    let mut idle = second.http1();
    assert_eq!(idle.get("/").await.text(), "ok");
    let since = trigger(&ctl).await;
    sleep(5 * SECOND).await;
    // Both keep refusing while one of them drains.
    first.http1().get("/").await.assert_refused();
    second.http1().get("/").await.assert_refused();
    held.released.happens();
    assert_eq!(client.answer().await.text(), "at last");
    let report = first_server.graceful().await;
    assert_eq!((report.admitted(), report.refused()), (2, 2));
    assert_eq!(second_server.graceful().await.admitted(), 2);
    assert_at(since, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn every_request_is_given_the_extensions() {
    let ctl = ShutdownController::new();
    let show = get(
        async |Extension(n): Extension<u32>, Extension(s): Extension<String>| format!("{n} {s}"),
    );
    let app = Router::new()
        .route("/", show)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start_with(&ctl, app, |serve| {
        serve
            .extension(|peer: &u32| *peer)
            .extension(|peer| format!("the {peer}th"))
    });
    let mut first = connector.http1();
    assert_eq!(first.get("/").await.text(), "1 the 1th");
    assert_eq!(first.get("/").await.text(), "1 the 1th");
    let mut second = connector.http2().await;
    assert_eq!(second.get(1, "/").await, "2 the 2th");
    assert_eq!(second.get(3, "/").await, "2 the 2th");
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn hypers_own_settings_can_be_changed() {
    let ctl = ShutdownController::new();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| {
        serve
            .http1(|builder| {
                builder.max_headers(9);
            })
            .http1(|builder| {
                builder.max_headers(2);
            })
            .http2(|builder| {
                builder.max_concurrent_streams(9);
            })
            .http2(|builder| {
                builder.max_concurrent_streams(3);
            })
    });
    let mut client = connector.http1();
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\na: 1\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\na: 1\r\nb: 2\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 431);

    let mut http2 = connector.http2().await;
    let settings = in_time(http2.next_of_all()).await.unwrap().unwrap();
    assert_eq!(settings.kind, SETTINGS);
    let streams = [0, 3, 0, 0, 0, 3]; // SETTINGS_MAX_CONCURRENT_STREAMS
    assert!(
        settings.payload.chunks(6).any(|setting| setting == streams),
        "{settings:?}"
    );
    drop(http2);
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn an_application_without_a_layer_is_drained_too() {
    let ctl = ShutdownController::new();
    let held = Held::new();
    let (connector, server) = start(&ctl, held.routes());
    let mut busy = connector.http1();
    busy.send(server::get("/held")).await;
    held.entered.happened().await;
    let mut idle = connector.http1();
    assert!(!idle.get("/").await.closes());
    trigger(&ctl).await;
    sleep(MS).await;
    // Without a layer nothing is refused or counted, but responses still ask clients to close.
    let answer = idle.get("/").await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(idle.end().await, b"");
    sleep(5 * SECOND).await;
    assert!(server.is_running());
    held.released.happens();
    let answer = busy.answer().await;
    assert!(answer.closes() && answer.text() == "at last", "{answer:?}");
    assert_eq!(busy.end().await, b"");
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_draining_is_asked_to_leave_by_the_first_answer() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, routes());
    let working = ctl.track();
    trigger(&ctl).await;
    let mut client = connector.http1();
    let answer = client.get("/").await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(client.end().await, b"");
    drop(working);
    server.graceful().await;
}
