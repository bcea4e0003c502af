//! Connections that have had their last request.

use super::*;

fn start(app: &App, requests: u64) -> (Connector, Server) {
    start_with(&app.ctl, app.routes(), |serve| {
        serve.max_requests_per_connection(requests)
    })
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_of_http1_says_close() {
    for (limit, expected) in [(0, 1), (1, 1), (2, 2), (100, 100)] {
        let app = App::new();
        let (connector, server) = start(&app, limit);
        for _ in 0..2 {
            let mut client = connector.http1();
            for nth in 1..=expected {
                let answer = client.get("/").await;
                assert_eq!((answer.text(), answer.closes()), ("ok", nth == expected));
            }
            assert_eq!(client.end().await, b"");
        }
        app.end(server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_not_reached_changes_nothing() {
    let app = App::new();
    let (connector, server) = start(&app, u64::MAX);
    let (mut http1, mut http2) = (connector.http1(), connector.http2().await);
    for nth in 0..1_000 {
        assert!(!http1.get("/").await.closes());
        assert_eq!(http2.get(2 * nth + 1, "/").await, "ok");
    }
    drop((http1, http2));
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_pipelined_after_the_last_request_is_not_begun() {
    let app = App::new();
    let (connector, server) = start(&app, 2);
    let mut client = connector.http1();
    client
        .send(crate::support::server::get("/").repeat(5))
        .await;
    assert!(!client.answer().await.closes());
    assert!(client.answer().await.closes());
    assert_eq!(client.end().await, b"");
    app.ctl.trigger(ShutdownReason::Manual);
    assert_eq!(server.graceful().await.admitted(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_goaway_follows_the_last_answer_of_http2() {
    let app = App::new();
    let (connector, server) = start(&app, 3);
    let (mut client, since) = (connector.http2().await, Instant::now());
    assert_eq!(client.get(1, "/").await, "ok");
    client.send(Frame::get(3, "/held")).await;
    client.send(Frame::get(5, "/")).await;
    // The limit is reached, and this crosses the goodbye.
    sleep(SECOND).await;
    client.send(Frame::get(7, "/")).await;
    for stream in [5, 7] {
        let head = client.next().await.unwrap();
        assert_eq!((head.kind, head.stream), (HEADERS, stream));
        assert!(client.next().await.unwrap().ends());
    }
    app.released.happens();
    assert_eq!(client.next().await.unwrap().kind, HEADERS);
    assert!(client.next().await.unwrap().ends());
    let ping = client.goodbye().await;
    assert_at(since, SECOND + 50 * MS);
    assert_eq!(client.get(9, "/").await, "ok");
    client.send(ping.ack()).await;
    assert_eq!(client.next().await.unwrap().goaway(), (9, 0));
    assert_eq!(client.end().await, []);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_delays_the_goaway_by_five_seconds() {
    let app = App::new();
    let (connector, server) = start(&app, 1);
    let (mut client, since) = (connector.http2().await, Instant::now());
    client.send(Frame::get(1, "/held")).await;
    let ping = client.goodbye().await;
    assert_at(since, PATIENCE + 50 * MS);
    client.send(ping.ack()).await;
    sleep(1_000 * SECOND).await;
    app.released.happens();
    assert_eq!(client.next().await.unwrap().goaway(), (1, 0));
    assert_eq!(client.answer(1).await.unwrap(), b"at last");
    assert_eq!(client.end().await, []);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_in_a_lame_duck_and_after_it_is_called_off() {
    let config = ShutdownConfig::default()
        .lame_duck(1_000 * SECOND)
        .shutdown_timeout(2_000 * SECOND);
    let app = App::with(config);
    let (connector, server) = start(&app, 2);
    let mut clients: Vec<Http1<_>> = (0..10).map(|_| connector.http1()).collect();
    for client in &mut clients {
        assert!(!client.get("/").await.closes());
    }
    // Who is second is not asked by the lame duck for a long time.
    app.ctl.trigger(ShutdownReason::Manual);
    sleep(MS).await;
    for client in &mut clients[1..4] {
        assert!(client.get("/").await.closes());
        assert_eq!(client.end().await, b"");
    }
    for client in &mut clients[5..7] {
        client.send(crate::support::server::get("/held")).await;
    }
    sleep(MS).await;
    app.ctl.resume().unwrap();
    sleep(MS).await;
    app.released.happens();
    app.released.happens();
    for client in &mut clients[5..7] {
        assert!(client.answer().await.closes());
    }
    for client in &mut clients[8..] {
        assert!(client.get("/").await.closes());
    }
    app.ctl.force();
    server.report().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_connection_that_is_being_left() {
    let app = App::new();
    let (connector, server) = start(&app, 1);
    let mut http2: Http2<_> = connector.http2().await;
    http2.send(Frame::get(1, "/held")).await;
    sleep(10 * SECOND).await;
    let ping = http2.goodbye().await;
    http2.send(ping.ack()).await;
    let since = trigger(&app.ctl).await;
    sleep(SECOND).await;
    app.released.happens();
    assert_eq!(http2.next().await.unwrap().goaway(), (1, 0));
    assert_eq!(http2.answer(1).await.unwrap(), b"at last");
    assert_eq!(http2.end().await, []);
    drop(http2);
    server.graceful().await;
    assert_at(since, SECOND);
}
