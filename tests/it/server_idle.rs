//! Connections that send no request, never complete one, or send useless frames.

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};

use crate::support::runtime::{in_time, paused};
use crate::support::server::{
    ACK, Connector, DATA, Frame, GOAWAY, HEADERS, PING, SETTINGS, Server, start_with,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// For the first request, and between two requests.
const FIRST: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(20);

fn server(ctl: &ShutdownController) -> (Connector, Server) {
    let app = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/never", get(pending::<()>))
        .layer(DrainLayer::new(ctl.clone()));
    start_with(ctl, app, |serve| {
        serve.header_read_timeout(FIRST).http2_idle_timeout(IDLE)
    })
}

/// A time limit is checked four times.
#[track_caller]
fn assert_over(limit: Duration, since: Instant) {
    let late = since.elapsed().checked_sub(limit);
    let slack = limit / 4 + 1_100 * MS; // a client that does not respond also has the grace
    assert!(
        late.is_some_and(|late| late <= slack),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_for_nothing_has_the_time_of_a_head() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let unended = Frame::new(HEADERS, 0, 1, &Frame::get(1, "/").payload);
    for sent in [None, Some(unended)] {
        let since = Instant::now();
        let mut client = connector.http2().await;
        if let Some(frame) = sent {
            client.send(frame).await;
        }
        // It acknowledges nothing: no other frame may come between the parts of a header block.
        let mut frames = Vec::new();
        while let Some(frame) = client.next_of_all().await.unwrap() {
            frames.push(frame);
        }
        assert_over(FIRST, since);
        assert!(
            frames.iter().any(|frame| frame.kind == GOAWAY),
            "{frames:?}"
        );
    }
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_head_begins_with_its_connection_and_not_with_its_first_byte() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    for first_byte in ["G", "P"] {
        let since = Instant::now();
        let mut client = connector.http1();
        sleep(FIRST - 100 * MS).await;
        client.send(first_byte).await;
        assert_eq!(client.end().await, b"");
        let took = since.elapsed();
        assert!(took >= FIRST && took <= FIRST * 5 / 4 + 10 * MS, "{took:?}");
    }
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_is_told_to_go_whatever_it_pings() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    let since = Instant::now();
    loop {
        sleep(SECOND).await;
        client.try_send(Frame::new(PING, 0, 0, &[7; 8])).await;
        match client.next().await {
            Some(frame) if frame.kind == PING && frame.flags == ACK => {}
            Some(frame) => break assert_eq!(frame.kind, GOAWAY, "{frame:?}"),
            None => panic!("closed without a goodbye"),
        }
        assert!(since.elapsed() < 2 * IDLE, "never told");
    }
    assert_over(IDLE, since);
    client.end().await;
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crosses_the_goodbye_of_an_idle_connection_is_served() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    let goodbye = client.next().await.unwrap();
    assert_eq!(goodbye.kind, GOAWAY);
    let ping = client.next().await.unwrap();
    assert_eq!((ping.kind, ping.flags), (PING, 0));
    assert_eq!(client.get(3, "/").await, "ok");
    client.send(Frame::new(PING, ACK, 0, &ping.payload)).await;
    client.end().await;
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_an_answer_or_asks_now_and_then_stays() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let mut waits = connector.http2().await;
    waits.send(Frame::get(1, "/never")).await;
    let mut asks = connector.http2().await;
    for nth in 0..5 {
        assert_eq!(asks.get(1 + 2 * nth, "/").await, "ok");
        sleep(IDLE * 3 / 4).await;
    }
    assert!(
        timeout(SECOND, waits.next()).await.is_err(),
        "it is let alone"
    );
    ctl.force();
    assert_eq!(server.report().await.aborted(), 1);
}

/// Sends until the server closes. Returns how many bytes it has accepted.
async fn flood(io: &mut DuplexStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(Ok(count)) = timeout(10 * SECOND, io.write(bytes)).await {
        sent += count;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn after_an_error_no_more_is_read_than_a_client_can_have_on_its_way() {
    const LIMIT: usize = (1 << 20) + 256 * 1024;
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);

    let mut http1 = connector.http1();
    http1.send("no HTTP at all\r\n\r\n").await;
    let sent = flood(&mut http1.io, &[b'x'; 16 * 1024]).await;
    assert!(sent < LIMIT, "{sent}");

    let mut http2 = connector.http2().await;
    // A frame that is invalid on this stream (RFC 9113 §6.5).
    http2.send(Frame::new(SETTINGS, 0, 1, b"")).await;
    let empty = [0, 0, 0, DATA, 0, 0, 0, 0, 1].repeat(1000);
    let sent = flood(&mut http2.io, &empty).await;
    assert!(sent < LIMIT, "{sent}");

    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pings_after_an_error_holds_a_drain_for_the_grace_at_most() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let mut client = connector.http2().await;
    client.send(Frame::new(SETTINGS, 0, 1, b"")).await;
    let pings = tokio::spawn(async move {
        while client.try_send(Frame::new(PING, 0, 0, &[7; 8])).await {
            sleep(400 * MS).await;
        }
    });
    sleep(100 * MS).await;
    let since = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
    assert!(since.elapsed() <= SECOND, "{:?}", since.elapsed());
    pings.await.unwrap();
}

/// A limit of zero elapses whenever it is checked.
#[test]
fn a_limit_of_zero_does_not_block_the_thread_during_a_request() {
    let answer = in_time(|| {
        paused().block_on(async {
            let ctl = ShutdownController::new();
            let slow = async || {
                sleep(10 * SECOND).await;
                "ok"
            };
            let app = Router::new().route("/slow", get(slow));
            let app = app.layer(DrainLayer::new(ctl.clone()));
            let (connector, _server) = start_with(&ctl, app, |serve| {
                serve
                    .header_read_timeout(FIRST)
                    .http2_idle_timeout(Duration::ZERO)
            });
            let mut client = connector.http2().await;
            client.get(1, "/slow").await
        })
    });
    assert_eq!(answer, "ok");
}
