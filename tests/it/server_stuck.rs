//! Peers that do not read: only the response to an admitted request holds the drain.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::server::{
    self, BIG, Connector, DATA, Frame, Http1, Http2, PING, Server, start,
};

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WINDOW_ZERO: &[u8] = &[0, 4, 0, 0, 0, 0];
/// The capacity of the socket of a peer that does not read.
const SOCKET: usize = 4096;

/// A total of twelve seconds, nine of them for the drain; refuses for half a second.
fn serve() -> (ShutdownController, Connector, Server) {
    let config = ShutdownConfig::default()
        .shutdown_timeout(12 * SECOND)
        .refuse_for(500 * MS);
    let ctl = ShutdownController::with_config(config).unwrap();
    let app: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/big", get(|| async { vec![b'x'; BIG] }))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let (connector, server) = start(&ctl, app);
    (ctl, connector, server)
}

/// Reads the available data, so that a server whose writes are larger than the socket continues.
async fn preface_read(io: &mut DuplexStream) {
    let mut scratch = [0; 64];
    while timeout(20 * MS, io.read(&mut scratch)).await.is_ok() {}
}

/// Sends repeatedly until the server accepts no more.
async fn flood(io: &mut DuplexStream, bytes: &[u8]) {
    let mut sent = 0;
    while timeout(20 * MS, io.write_all(bytes)).await.is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the server goes on reading");
    }
}

/// Shuts down; it must take no longer than refusals, grace and GOAWAYs.
async fn ends_soon(ctl: ShutdownController, server: Server) {
    ctl.trigger(MANUAL);
    let report = server.graceful().await;
    assert!(report.duration() <= 2500 * MS, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_pings_and_never_reads_holds_nothing() {
    for has_been_served in [false, true] {
        let (ctl, connector, server) = serve();
        let mut client = Http2::new(connector.pipe(SOCKET), &[]).await;
        if has_been_served {
            client.send(Frame::get(1, "/")).await;
            assert_eq!(client.answer(1).await.unwrap(), b"hello");
        }
        let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0], &[7; 8][..]].concat();
        flood(&mut client.io, &ping).await;
        ends_soon(ctl, server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_no_window_is_left_for_holds_nothing() {
    let (ctl, connector, server) = serve();
    let mut client = Http2::new(connector.pipe(SOCKET), WINDOW_ZERO).await;
    ctl.trigger(MANUAL);
    sleep(100 * MS).await;
    client.send(Frame::get(1, "/")).await;
    ends_soon(ctl, server).await;
}

/// A refusal in HTTP/1, on a socket that does not take all of it.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_nobody_reads_holds_nothing() {
    let (ctl, connector, server) = serve();
    let mut client = Http1::new(connector.pipe(64));
    assert_eq!(client.get("/").await.text(), "hello");
    ctl.pause();
    client.send(server::get("/")).await;
    sleep(100 * MS).await;
    ends_soon(ctl, server).await;
    drop(client);
}

/// The same after an admitted response, which was read to its last byte.
#[tokio::test(start_paused = true)]
async fn a_refusal_behind_an_answer_that_was_read_holds_nothing() {
    let (ctl, connector, server) = serve();
    let mut io = connector.pipe(64);
    let request = server::get("/big");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    ctl.pause();
    io.write_all(request.as_bytes()).await.unwrap();
    io.read_exact(&mut vec![0; BIG]).await.unwrap();
    sleep(100 * MS).await;
    ends_soon(ctl, server).await;
    drop(io);
}

#[tokio::test(start_paused = true)]
async fn an_admitted_answer_is_waited_for() {
    // With HTTP/1, and with HTTP/2 with a window of zero, and with an open one.
    let (ctl, connector, server) = serve();
    let mut http1 = Http1::new(connector.pipe(SOCKET));
    http1.send(server::get("/big")).await;
    let mut http2 = Http2::new(connector.pipe(SOCKET), WINDOW_ZERO).await;
    http2.send(Frame::get(1, "/")).await;
    let mut open = Http2::new(connector.pipe(SOCKET), &[]).await;
    open.send(Frame::get(1, "/big")).await;
    sleep(100 * MS).await;
    ctl.trigger(MANUAL);
    sleep(8 * SECOND).await;
    assert!(server.is_running());

    let answer = http1.answer().await;
    assert_eq!(answer.body.len(), BIG);
    http2.send(Frame::window(1, 100)).await;
    assert_eq!(http2.answer(1).await.unwrap(), b"hello");
    for _ in 0..2 {
        // The connection's window, and the stream's.
        open.send(Frame::window(0, 1 << 20)).await;
        open.send(Frame::window(1, 1 << 20)).await;
    }
    assert_eq!(open.answer(1).await.unwrap().len(), BIG);
    drop((http1, http2, open));
    let report = server.graceful().await;
    assert!(report.duration() < 9 * SECOND, "{report}");
}

/// Its bytes are in hyper's buffer, and all parts of the response have been dropped.
#[tokio::test(start_paused = true)]
async fn an_admitted_answer_that_is_only_buffered_is_waited_for() {
    let (ctl, connector, server) = serve();
    let mut client = Http2::new(connector.pipe(64), &[]).await;
    preface_read(&mut client.io).await;
    for stream in [1, 3, 5] {
        client.send(Frame::get(stream, "/")).await;
    }
    sleep(100 * MS).await;
    assert_eq!(ctl.in_flight(), 0);
    ctl.trigger(MANUAL);
    sleep(8 * SECOND).await;
    assert!(server.is_running());
    let mut answered = 0;
    while answered < 3 {
        let frame = client.next().await.expect("closed before the answers");
        answered += usize::from(frame.kind == DATA && frame.payload == b"hello");
    }
    drop(client);
    server.graceful().await;
}

/// A client that reads one refusal after another is not stuck, however long that takes in all.
#[tokio::test(start_paused = true)]
async fn refusals_that_are_read_slowly_are_waited_for() {
    let (ctl, connector, server) = serve();
    let mut client = Http2::new(connector.pipe(SOCKET), WINDOW_ZERO).await;
    client.send(Frame::get(1, "/")).await;
    client.send(Frame::window(1, 100)).await;
    assert_eq!(client.answer(1).await.unwrap(), b"hello");
    ctl.trigger(MANUAL);
    sleep(100 * MS).await;
    for stream in [3, 5, 7, 9] {
        client.send(Frame::get(stream, "/")).await;
    }
    for stream in [3, 5, 7, 9] {
        sleep(800 * MS).await;
        client.send(Frame::window(stream, 100)).await;
        loop {
            let frame = client.next().await;
            let frame = frame.unwrap_or_else(|| panic!("closed before the answer on {stream}"));
            if frame.stream == stream && frame.ends() {
                break;
            }
        }
    }
    drop(client);
    server.graceful().await;
}
