//! `serve`, from its clients' side of the connection: what they get, to the byte and the moment.

use std::convert::Infallible;
use std::future::{Future, IntoFuture, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Router, http};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, serve,
};

use crate::support::server::{
    self, Alive, Answer, BIG, CUT, Connector, DATA, END_STREAM, Event, Frame, GOAWAY, HEADERS,
    Http1, Http2, PING, PREFACE, REFUSED, RST_STREAM, SETTINGS, Server, big, in_time, pipes, start,
    start_with,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NO_ERROR: u32 = 0;
/// The highest stream there can be.
const ALL_STREAMS: u32 = (1 << 31) - 1;
/// What follows the preface.
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

// ===== slow readers =====

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_whole_answer_through_a_drain() {
    for (path, vectored) in [
        ("/big", true),
        ("/big-in-pieces", true),
        ("/big", false),
        ("/big-in-pieces", false),
    ] {
        let ctl = ShutdownController::new();
        let (connector, pipes) = pipes();
        let server = serve(pipes, app(&ctl), ctl.clone());
        let server = Server(tokio::spawn(server.into_future()));
        let (client, io) = duplex(64);
        let life = Alive::default().begin();
        connector.accept(Ok(Watched {
            io,
            vectored,
            _life: life,
        }));
        let mut client = Http1::new(client);
        client.send(server::get(path)).await;
        let mut received = vec![0; 64];
        client.io.read_exact(&mut received).await.unwrap();

        trigger(&ctl).await;
        let mut piece = [0; 64];
        loop {
            sleep(3 * MS).await;
            let count = client.io.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&piece[..count]);
            if received.len() < BIG {
                assert!(server.is_running(), "at {} bytes", received.len());
            }
        }
        // What has been read is an answer like any other.
        let answer = read_again(&received).await;
        assert!(answer.body == big(), "{path}: {} bytes", answer.body.len());
        server.graceful().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_http_2_gets_the_whole_answer_through_a_drain() {
    for (pipe, window) in [(64, 65_535), (64 * 1024, 1_000), (64, 100)] {
        let ctl = ShutdownController::new();
        let (connector, server) = start(&ctl, app(&ctl));
        let io = TokioIo::new(connector.pipe(pipe));
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(window)
                .handshake(io)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("http://test/big").body(Empty::<Bytes>::new());
        let mut answer = sender.send_request(request.unwrap()).await.unwrap();

        trigger(&ctl).await;
        let mut received = Vec::new();
        while let Some(frame) = answer.frame().await {
            received.extend_from_slice(&frame.unwrap().into_data().unwrap());
            // The rest may have been taken by the client, and not be read yet.
            if received.len() + (window as usize) < BIG {
                assert!(server.is_running(), "at {} bytes", received.len());
            }
            sleep(MS).await;
        }
        assert!(received == big(), "{} bytes", received.len());
        server.graceful().await;
        connection.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_under_way_at_the_trigger_ends_whole_and_its_connection_with_it() {
    let ctl = ShutdownController::new();
    let (feed, food) = mpsc::unbounded_channel::<&'static str>();
    let food = Arc::new(std::sync::Mutex::new(Some(food)));
    let fed = get(async move || {
        let food = food.lock().unwrap().take().unwrap();
        Body::from_stream(stream::unfold(food, |mut food| async {
            let bite = food.recv().await?;
            Some((Ok::<_, Infallible>(bite), food))
        }))
    });
    let app = routes()
        .route("/fed", fed)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http1();
    client.send(server::get("/fed")).await;
    feed.send("before, ").unwrap();
    let since = trigger(&ctl).await;
    sleep(5200 * MS).await;
    feed.send("after").unwrap();
    drop(feed);
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.closes()), ("before, after", false));
    // The answer did not say that it is the last, so another request may be on its way.
    assert_eq!(client.end().await, b"");
    assert_at(since, 5400 * MS);
    server.graceful().await;
    assert_at(since, 5400 * MS);
}

// ===== the goodbye of HTTP/2 =====

#[tokio::test(start_paused = true)]
async fn http_2_is_said_goodbye_in_two_steps_and_loses_nothing_that_is_on_its_way() {
    let (ctl, held) = (ShutdownController::new(), Held::new());
    let (connector, server) = start(&ctl, held.app(&ctl));
    let mut client = connector.http2().await;
    client.send(Frame::get(1, "/held")).await;
    held.entered.happened().await;

    trigger(&ctl).await;
    let ping = client.goodbye().await;
    assert_eq!((ping.kind, ping.flags), (PING, 0));

    // Sent before the client knew.
    assert_eq!(client.get(3, "/").await, REFUSED);
    client.send(ping.ack()).await;
    let goodbye = client.next().await.unwrap();
    assert_eq!(goodbye.goaway(), (3, NO_ERROR));

    // Sent although the client knows.
    client.send(Frame::get(5, "/")).await;
    sleep(5 * SECOND).await;
    assert_eq!(ctl.state(), LifecycleState::Draining);
    held.released.happens();
    assert_eq!(client.answer(1).await.unwrap(), b"at last");
    let rest = client.end().await;
    assert!(rest.iter().all(|frame| frame.kind == GOAWAY), "{rest:?}");
    let report = server.graceful().await;
    assert_eq!((report.admitted(), report.refused()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn in_a_lame_duck_http_2_is_still_served_after_the_goodbye() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");

    trigger(&ctl).await;
    let ping = client.goodbye().await;
    assert_eq!(client.get(3, "/").await, "ok");
    client.send(ping.ack()).await;
    let goodbye = client.next().await.unwrap();
    assert_eq!(goodbye.goaway(), (3, NO_ERROR));
    assert_eq!(client.end().await, []);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);

    // Others still come.
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_the_goodbye_is_closed_after_the_grace() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    let working = ctl.track();
    let since = trigger(&ctl).await;

    let frames = client.end().await;
    assert_at(since, 250 * MS + SECOND);
    assert_eq!(frames.len(), 3, "the goodbye and the ping: {frames:?}");
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_flight_ends_whole_though_the_goodbye_is_not_answered() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    // SETTINGS_INITIAL_WINDOW_SIZE: 1,000 bytes.
    let io = connector.pipe(64 * 1024);
    let mut client = Http2::new(io, &[0, 4, 0, 0, 0x03, 0xe8]).await;
    client.send(Frame::window(0, 1 << 20)).await;
    client.send(Frame::get(1, "/big")).await;
    sleep(MS).await;
    trigger(&ctl).await;

    let mut received = Vec::new();
    while received.len() < BIG {
        let frame = client.next().await.unwrap();
        match frame.kind {
            HEADERS => {}
            GOAWAY => panic!("a stream is open"),
            _ => {
                received.extend_from_slice(&frame.payload);
                if received.len() % 1000 == 0 {
                    sleep(30 * MS).await; // 6 s in all
                    client.send(Frame::window(1, 1000)).await;
                }
            }
        }
    }
    let ended = Instant::now();
    assert!(received == big());
    let rest = client.end().await;
    let kinds: Vec<_> = rest.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [GOAWAY, GOAWAY, PING], "{rest:?}");
    assert!(
        ended.elapsed() <= SECOND + 55 * MS,
        "not later than the grace"
    );
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn http_2_accepted_while_draining_is_refused_for_a_while_and_then_said_goodbye() {
    let ctl = refusing();
    let (connector, server) = start(&ctl, app(&ctl));
    let working = ctl.track();
    trigger(&ctl).await;
    sleep(5 * SECOND).await;

    let mut asking = connector.http2().await;
    let mut silent = connector.http2().await;
    let since = Instant::now();
    sleep(500 * MS).await;
    assert_eq!(asking.get(1, "/").await, REFUSED);
    // It may go on to be refused until the grace is over.
    assert_eq!(asking.get(3, "/").await, REFUSED);
    let ping = asking.goodbye().await;
    assert_at(since, SECOND + 50 * MS);
    assert_eq!(asking.get(5, "/").await, REFUSED);
    asking.send(ping.ack()).await;
    assert_eq!(asking.next().await.unwrap().goaway(), (5, NO_ERROR));
    assert_eq!(asking.end().await, []);
    assert_at(since, SECOND + 50 * MS);

    let ping = silent.goodbye().await;
    assert_at(since, SECOND + 50 * MS);
    silent.send(ping.ack()).await;
    assert_eq!(silent.next().await.unwrap().goaway(), (0, NO_ERROR));
    assert_eq!(silent.end().await, []);
    assert_at(since, SECOND + 50 * MS);
    drop(working);
    server.graceful().await;
}

// ===== who has nothing in flight =====

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_when_refusing_is_over() {
    let ctl = with(ShutdownConfig::default().refuse_for(700 * MS));
    let (connector, server) = start(&ctl, app(&ctl));
    let (mut idle, mut asking, mut silent) =
        (connector.http1(), connector.http1(), connector.http1());
    assert!(!idle.get("/").await.closes());
    assert!(!asking.get("/").await.closes());
    let working = ctl.track();
    let since = trigger(&ctl).await;

    sleep(650 * MS).await;
    asking.get("/").await.assert_refused();
    assert_eq!(asking.end().await, b"");
    assert_at(since, 650 * MS);
    assert_eq!(idle.end().await, b"");
    assert_at(since, 700 * MS);
    assert_eq!(silent.end().await, b"");
    assert_at(since, 700 * MS);

    drop(working);
    assert_eq!(server.graceful().await.refused(), 1);
    assert_at(since, 700 * MS);
}

#[tokio::test]
async fn an_idle_socket_is_closed_and_not_reset() {
    let ctl = ShutdownController::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut clients = Vec::new();
    for method in ["GET", "POST"].repeat(10) {
        let mut client = Http1::new(TcpStream::connect(address).await.unwrap());
        let request = format!("{method} / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nab");
        client.send(request).await;
        assert_eq!(client.answer().await.text(), "ok");
        clients.push(client);
    }
    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    for client in &mut clients {
        assert_eq!(client.end().await, b"");
        assert!(since.elapsed() >= 200 * MS, "not before refusing is over");
    }
    drop(clients);
    assert!(in_time(server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_that_keeps_its_side_open_does_not_hold_the_server() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http1();
    let upload = "POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
    client.send(upload).await;
    assert_eq!(client.answer().await.text(), "4");
    let since = trigger(&ctl).await;

    server.graceful().await;
    assert_at(since, 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_is_waited_for_no_longer_than_the_grace() {
    let mut wrong = Vec::new();
    for sent in ["G", "GE", "GET / HTTP/1.1\r\nhost: te", "P", "PRI * HTTP"] {
        for asked_before in [false, true] {
            let ctl = ShutdownController::new();
            let (connector, server) = start(&ctl, app(&ctl));
            let mut client = connector.http1();
            if asked_before {
                client.get("/").await;
            }
            client.send(sent).await;
            let since = trigger(&ctl).await;
            server.graceful().await;
            let took = since.elapsed();
            if took.abs_diff(SECOND) > 5 * MS {
                wrong.push((sent, asked_before, took));
            }
        }
    }
    assert_eq!(wrong, []);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_that_is_completed_within_the_grace_is_answered() {
    for (first, second) in [
        ("GE", "T / HTTP/1.1\r\nhost: test\r\n\r\n"),
        (
            "P",
            "UT / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n",
        ),
    ] {
        let ctl = ShutdownController::new();
        let (connector, server) = start(&ctl, app(&ctl));
        let mut client = connector.http1();
        client.send(first).await;
        trigger(&ctl).await;
        sleep(900 * MS).await;
        client.send(second).await;
        let answer = client.answer().await;
        assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
        assert_eq!(client.end().await, b"");
        server.graceful().await;
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_preface_that_is_completed_within_the_grace_is_http_2() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut pipe = connector.pipe(64 * 1024);
    let (first, rest) = PREFACE.split_at(10);
    pipe.write_all(first.as_bytes()).await.unwrap();
    trigger(&ctl).await;
    sleep(900 * MS).await;
    pipe.write_all(rest.as_bytes()).await.unwrap();
    pipe.write_all(EMPTY_SETTINGS).await.unwrap();
    let mut client = Http2::after_preface(pipe);
    assert_eq!(client.get(1, "/").await, "ok");
    let ping = client.goodbye().await;
    client.send(ping.ack()).await;
    assert_eq!(client.next().await.unwrap().goaway(), (1, NO_ERROR));
    assert_eq!(client.end().await, []);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_head_byte_by_byte_is_closed_after_the_grace() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut pipe = connector.pipe(1024);
    let working = ctl.track();
    pipe.write_all(b"GET /").await.unwrap();
    let since = trigger(&ctl).await;
    let closed = async {
        while pipe.write_all(b"a").await.is_ok() {
            sleep(100 * MS).await;
        }
    };
    in_time(closed).await;
    let took = since.elapsed();
    assert!(took >= 900 * MS && took <= 1200 * MS, "{took:?}");
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_with_the_end_of_the_grace_is_answered_whole_or_not_at_all() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/big"]);
    let (connector, server) = start(&ctl, routes().layer(layer));
    let mut client = Http1::new(connector.pipe(1024));
    client.send("GET /bi").await;
    let working = ctl.track();
    trigger(&ctl).await;
    sleep(1100 * MS).await;

    let completed = client
        .io
        .write_all(b"g HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    if completed.is_ok() {
        let mut received = Vec::new();
        let mut piece = [0; 1024];
        loop {
            sleep(20 * MS).await; // 4 s in all
            match in_time(client.io.read(&mut piece)).await.unwrap() {
                0 => break,
                count => received.extend_from_slice(&piece[..count]),
            }
        }
        let count = received.len();
        assert!(count == 0 || count > BIG, "{count} bytes of it");
    }
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_crosses_the_goodbye_to_the_silent_ends_whole() {
    let (ctl, held) = (ShutdownController::new(), Held::new());
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/held"]);
    let (connector, server) = start(&ctl, held.routes().layer(layer));
    let working = ctl.track();
    trigger(&ctl).await;
    let mut client = connector.http2().await;
    let ping = client.goodbye().await;
    client.send(Frame::get(1, "/held")).await;
    client.send(ping.ack()).await;
    assert_eq!(client.next().await.unwrap().goaway(), (1, NO_ERROR));
    sleep(3 * SECOND).await;
    held.released.happens();
    assert_eq!(client.answer(1).await.unwrap(), b"at last");
    assert_eq!(client.end().await, []);
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_draining_and_says_nothing_is_closed_after_the_grace() {
    let ctl = refusing();
    let (connector, server) = start(&ctl, app(&ctl));
    let working = ctl.track();
    trigger(&ctl).await;
    sleep(5 * SECOND).await;
    let (mut silent, mut asking) = (connector.http1(), connector.http1());
    let since = Instant::now();
    sleep(900 * MS).await;
    asking.get("/").await.assert_refused();
    assert_eq!(asking.end().await, b"");
    assert_at(since, 900 * MS);
    assert_eq!(silent.end().await, b"");
    assert_at(since, SECOND);
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_handshake_is_waited_for_no_longer_than_the_grace() {
    let ctl = refusing();
    let alive = Alive::default();
    let (connector, pipes) = pipes::<DuplexStream>();
    let lives = alive.clone();
    let server = serve(pipes, app(&ctl), ctl.clone()).handshake(move |io| {
        let life = lives.begin();
        async move {
            let _kept = (&io, life);
            pending::<io::Result<DuplexStream>>().await
        }
    });
    let server = Server(tokio::spawn(server.into_future()));
    let mut before = connector.http1();
    let working = ctl.track();
    let since = trigger(&ctl).await;
    assert_eq!(alive.count(), 1);
    assert_eq!(before.end().await, b"");
    assert_at(since, SECOND);

    let mut while_draining = connector.http1();
    let since = Instant::now();
    assert_eq!(while_draining.end().await, b"");
    assert_at(since, SECOND);
    drop(working);
    server.graceful().await;
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_ends_its_handshake_while_draining_has_the_rest_of_the_grace_to_ask() {
    let ctl = ShutdownController::new();
    let (connector, pipes) = pipes::<DuplexStream>();
    let server = serve(pipes, app(&ctl), ctl.clone()).handshake(async |mut io: DuplexStream| {
        io.read_u8().await?;
        Ok(io)
    });
    let server = Server(tokio::spawn(server.into_future()));
    let (mut asking, mut silent) = (connector.http1(), connector.http1());
    let since = trigger(&ctl).await;
    sleep(500 * MS).await;
    asking.send("!").await;
    silent.send("!").await;
    sleep(50 * MS).await; // a round trip
    let answer = asking.get("/").await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(asking.end().await, b"");
    assert_eq!(silent.end().await, b"");
    assert_at(since, SECOND);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_time_limit_and_its_failure_ends_only_its_connection() {
    let ctl = ShutdownController::new();
    let (connector, pipes) = pipes::<DuplexStream>();
    let server = serve(pipes, app(&ctl), ctl.clone())
        .handshake(|mut io: DuplexStream| async move {
            match io.read_u8().await? {
                b'!' => Ok(io),
                b'p' => panic!("a test"),
                _ => Err(io::Error::other("a test")),
            }
        })
        .handshake_timeout(3 * SECOND);
    let server = Server(tokio::spawn(server.into_future()));
    let since = Instant::now();
    let mut late = connector.http1();
    for wrong in ["?", "p"] {
        let mut client = connector.http1();
        client.send(wrong).await;
        assert_eq!(client.end().await, b"");
        assert_at(since, Duration::ZERO);
    }
    assert_eq!(late.end().await, b"");
    assert_at(since, 3 * SECOND);

    let mut client = connector.http1();
    client.send("!").await;
    assert_eq!(client.get("/").await.text(), "ok");
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_who_has_nothing_in_flight_makes_the_shutdown_a_forced_one() {
    let ctl = ShutdownController::new(); // 25 s to drain
    let grace = Duration::from_secs(600);
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| serve.grace(grace));
    let mut half = connector.http1();
    half.send("GET / HT").await;
    let mut half_preface = connector.http1();
    half_preface.send("PRI * HT").await;
    let mut asked = connector.http1();
    asked.get("/").await;
    asked.send("GE").await;
    let mut http2 = connector.http2().await;
    assert_eq!(http2.get(1, "/").await, "ok"); // and does not answer the goodbye
    let _silent_http2 = connector.http2().await;
    let since = trigger(&ctl).await;
    server.graceful().await;
    let took = since.elapsed();
    assert!(took <= Duration::from_millis(18_800), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_grace_ends_with_three_quarters_of_the_drain() {
    let ctl = ShutdownController::new(); // 25 s to drain
    let grace = Duration::from_secs(600);
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| serve.grace(grace));
    let mut half = connector.http1();
    half.send("PRI * HT").await;
    let since = trigger(&ctl).await;
    let mut silent = connector.http1();
    assert_eq!(silent.end().await, b"");
    assert_at(since, Duration::from_millis(18_750));
    assert_eq!(half.end().await, b"");
    assert_at(since, Duration::from_millis(18_750));
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_waited_for_no_longer_than_three_quarters_of_the_drain() {
    // 900 ms to drain.
    let ctl = with(ShutdownConfig::default().shutdown_timeout(1200 * MS));
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    let since = trigger(&ctl).await;
    assert_eq!(client.end().await.len(), 3);
    assert_at(since, 675 * MS);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_a_deadline_ends_when_nothing_is_in_flight() {
    let ctl = with(ShutdownConfig::default().shutdown_timeout(Duration::MAX));
    let (connector, server) = start(&ctl, app(&ctl));
    let mut idle = connector.http1();
    idle.get("/").await;
    let mut half = connector.http1();
    half.send("GE").await;
    let mut http2 = connector.http2().await;
    assert_eq!(http2.get(1, "/").await, "ok");
    let since = trigger(&ctl).await;
    server.graceful().await;
    assert!(since.elapsed() < 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_head_and_a_preface_have_a_time_limit() {
    let ctl = ShutdownController::new();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| {
        serve.header_read_timeout(3 * SECOND)
    });
    for sent in ["", "PRI * HT", "GET / HTTP"] {
        let since = Instant::now();
        let mut client = connector.http1();
        client.send(sent).await;
        client.end().await;
        // A head is looked after four times in its time.
        let late = since.elapsed().checked_sub(3 * SECOND);
        assert!(late.is_some_and(|late| late <= 755 * MS), "{late:?}");
    }
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_without_end_is_none() {
    let ctl = ShutdownController::new();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| {
        serve
            .header_read_timeout(Duration::MAX)
            .handshake_timeout(Duration::MAX)
            .grace(Duration::MAX)
    });
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    let mut http2 = connector.http2().await;
    assert_eq!(http2.get(1, "/").await, "ok");
    trigger(&ctl).await;
    server.graceful().await;
}

// ===== lame duck =====

/// Asks on a hundred connections, again and again, until each is asked to leave; gives when.
async fn hundred_leave(ctl: &ShutdownController, connector: &Connector) -> Vec<Duration> {
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = connector.http1();
        assert!(!client.get("/").await.closes());
        clients.push(client);
    }
    let since = trigger(ctl).await;
    let mut left = Vec::new();
    while !clients.is_empty() && ctl.state() == LifecycleState::LameDuck {
        let mut stay = Vec::new();
        for mut client in clients {
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.text()), (200, "ok"));
            if answer.closes() {
                left.push(since.elapsed());
                assert_eq!(client.end().await, b"");
            } else {
                stay.push(client);
            }
        }
        clients = stay;
        sleep(50 * MS).await;
    }
    assert_eq!(clients.len(), 0);
    left
}

/// They fall evenly on the first ten seconds.
#[track_caller]
fn assert_even(mut moments: Vec<Duration>) {
    moments.sort();
    assert_eq!(moments.len(), 100);
    for (nth, moment) in moments.iter().enumerate() {
        let expected = Duration::from_secs(10) * nth as u32 / 100;
        let difference = moment.abs_diff(expected);
        assert!(difference <= 500 * MS, "the {nth}th at {moment:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn http_1_clients_are_asked_to_leave_evenly_over_the_first_half_of_a_lame_duck() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, routes());
    assert_even(hundred_leave(&ctl, &connector).await);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_asks_everybody_to_leave_at_once_does_not_hinder_that() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, app(&ctl));
    assert_even(hundred_leave(&ctl, &connector).await);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_a_lame_duck_is_served_and_not_asked_to_leave_before_its_moment() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, app(&ctl));
    for _ in 0..10 {
        connector.http1().get("/").await; // so that the first moments are taken
    }
    trigger(&ctl).await;
    let mut asked = 0;
    for _ in 0..40 {
        // The request is there before the connection is looked at.
        let answer = connector.http1().get("/").await;
        assert_eq!((answer.status, answer.text()), (200, "ok"));
        asked += u32::from(answer.closes());
        let mut http2 = connector.http2().await;
        assert_eq!(http2.get(1, "/").await, "ok");
    }
    assert!(asked <= 4, "{asked} of 40 in the first moments");
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_the_second_half_of_a_lame_duck_is_asked_to_leave_by_its_first_answer() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, app(&ctl));
    trigger(&ctl).await;
    sleep(11 * SECOND).await; // every moment has passed
    for _ in 0..20 {
        let mut client = connector.http1();
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.closes()), (200, true));
        assert_eq!(client.end().await, b"");
    }
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_closes_nobody_who_is_idle() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, routes());
    let (mut idle, _silent) = (connector.http1(), connector.http1());
    idle.get("/").await;
    let since = trigger(&ctl).await;
    assert_eq!(idle.end().await, b"");
    assert_at(since, 20 * SECOND + 200 * MS);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn http_2_goodbyes_are_spread_over_the_first_half_of_a_lame_duck() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, app(&ctl));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = connector.http2().await;
        assert_eq!(client.get(1, "/").await, "ok");
        clients.push(client);
    }
    let since = trigger(&ctl).await;
    let mut goodbyes = Vec::new();
    for mut client in clients {
        goodbyes.push(tokio::spawn(async move {
            let ping = client.goodbye().await;
            let said = since.elapsed();
            client.send(ping.ack()).await;
            assert_eq!(client.next().await.unwrap().goaway(), (1, NO_ERROR));
            assert_eq!(client.end().await, []);
            assert!(since.elapsed() < said + 5 * MS);
            said
        }));
    }
    let mut moments = Vec::new();
    for goodbye in goodbyes {
        moments.push(goodbye.await.unwrap());
    }
    assert_even(moments);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn after_resume_nobody_is_asked_to_leave_any_more() {
    let ctl = lame_duck(20 * SECOND);
    let (connector, server) = start(&ctl, routes());
    let mut clients = Vec::new();
    let mut clients_2 = Vec::new();
    for _ in 0..50 {
        let mut client = connector.http1();
        client.get("/").await;
        clients.push(client);
        let mut client = connector.http2().await;
        client.get(1, "/").await;
        clients_2.push(client);
    }
    trigger(&ctl).await;
    sleep(5 * SECOND).await;
    ctl.resume().unwrap();
    sleep(20 * SECOND).await;
    // Those whose moment had come have not asked since, and may stay, too.
    for client in &mut clients {
        assert!(!client.get("/").await.closes());
    }
    let mut stay = 0;
    for client in &mut clients_2 {
        client.send(Frame::get(3, "/")).await;
        let next = client.next().await.unwrap();
        if next.kind == GOAWAY {
            continue; // asked before
        }
        assert_eq!(next.kind, HEADERS);
        stay += 1;
    }
    assert!((20..=30).contains(&stay), "{stay} of 50");
    drop(clients_2);

    // And are asked in the next one.
    let mut others = clients;
    let since = trigger(&ctl).await;
    sleep(10 * SECOND + 100 * MS).await;
    for client in &mut others {
        assert!(client.get("/").await.closes(), "at {:?}", since.elapsed());
    }
    server.graceful().await;
}

// ===== the listener =====

#[test]
fn whoever_waits_in_the_backlog_is_answered() {
    for round in 0..20 {
        let clients = if round == 0 { 1 } else { 100 };
        let ctl = ShutdownController::new();
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(Some(released)));
        let blocks = {
            let ctl = ctl.clone();
            get(async move || {
                ctl.trigger(ShutdownReason::Manual);
                entered.send(()).unwrap();
                let released = released.lock().unwrap().take().unwrap();
                let _ = released.recv(); // blocks the only thread of the server
                "unblocked"
            })
        };
        let routes = routes().route("/block", blocks);
        let app = routes.layer(DrainLayer::new(ctl.clone()));
        let (tell, address) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, app, ctl).await
            })
        });
        let address = address.recv().unwrap();
        let mut first = connect(address);
        write(&mut first, b"GET /block HTTP/1.1\r\nhost: test\r\n\r\n");
        has_entered.recv_timeout(10 * SECOND).unwrap();
        let mut waiting: Vec<_> = (0..clients).map(|_| connect(address)).collect();
        for client in &mut waiting {
            write(client, server::get("/").as_bytes());
        }
        release.send(()).unwrap();

        let text = read(&mut first).unwrap();
        assert!(text.ends_with("unblocked"), "{text}");
        for (nth, client) in waiting.iter_mut().enumerate() {
            let text = read(client).unwrap_or_else(|error| panic!("the {nth}th: {error}"));
            assert!(text.ends_with("\r\n\r\nok"), "the {nth}th: {text:?}");
        }
        let report = server.join().unwrap();
        assert!(report.is_graceful(), "{report}");
        assert_eq!((report.late_requests(), report.refused()), (clients, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_accepting_is_waited_out_longer_and_longer() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let kinds = [
        io::ErrorKind::Other,
        io::ErrorKind::OutOfMemory,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::WouldBlock,
    ];
    let mut since = Instant::now();
    for (errors, millis) in [
        (1, 5),
        (2, 5 + 10),
        (8, 5 + 10 + 20 + 40 + 80 + 160 + 320 + 640),
        (11, 5 + 10 + 20 + 40 + 80 + 160 + 320 + 640 + 3 * 1000),
    ] {
        for nth in 0..errors {
            connector.accept(Err(kinds[nth % kinds.len()].into()));
        }
        // A connection that is accepted begins the count anew.
        assert_eq!(connector.http1().get("/").await.text(), "ok");
        let took = since.elapsed();
        let expected = Duration::from_millis(millis);
        assert!(
            took >= expected && took < expected + 2 * errors as u32 * MS,
            "{took:?}"
        );
        since = Instant::now();
    }
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn what_befell_one_connection_is_passed_over() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let since = Instant::now();
    for kind in [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::Interrupted,
    ] {
        for _ in 0..100 {
            connector.accept(Err(kind.into()));
        }
    }
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    assert_at(since, Duration::ZERO);
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn errors_of_accepting_do_not_hold_a_server_that_drains() {
    for errors in [1, 8, 12] {
        let ctl = ShutdownController::new();
        let (connector, server) = start(&ctl, app(&ctl));
        sleep(MS).await;
        let working = ctl.track();
        let since = trigger(&ctl).await;
        for _ in 0..errors {
            connector.accept(Err(io::ErrorKind::Other.into()));
        }
        if errors == 1 {
            assert_eq!(connector.http1().get("/").await.text(), "ok");
        }
        drop(working);
        server.graceful().await;
        let took = since.elapsed();
        assert!(took <= 60 * MS, "{took:?}");
        assert!(connector.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_while_the_server_waits_out_an_error_is_answered() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    for _ in 0..8 {
        connector.accept(Err(io::ErrorKind::Other.into()));
    }
    sleep(700 * MS).await; // the last pause is from 635 ms to 1,275 ms
    let since = trigger(&ctl).await;
    let mut client = connector.http1();
    assert_eq!(client.get("/").await.text(), "ok");
    assert_at(since, Duration::ZERO);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_behind_one_that_has_gone_is_answered() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    sleep(MS).await;
    ctl.trigger(ShutdownReason::Manual);
    ctl.stop_accepting().await;
    for _ in 0..3 {
        connector.accept(Err(io::ErrorKind::ConnectionAborted.into()));
    }
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    server.graceful().await;
}

// ===== force =====

/// What may be left behind.
#[derive(Clone, Default)]
struct Remains {
    handlers: Alive,
    bodies: Alive,
    apps: Alive,
    sockets: Alive,
    tasks: Alive,
}

impl Remains {
    fn counts(&self) -> [usize; 5] {
        let Self {
            handlers,
            bodies,
            apps,
            sockets,
            tasks,
        } = self;
        [handlers, bodies, apps, sockets, tasks].map(Alive::count)
    }

    /// An application in which nothing ends.
    fn app(&self, ctl: &ShutdownController) -> Router {
        let (handlers, bodies) = (self.handlers.clone(), self.bodies.clone());
        let (tasks, inner) = (self.tasks.clone(), self.handlers.clone());
        let forever = get(async move || {
            let _life = handlers.begin();
            pending::<()>().await
        });
        let torrent = get(async move || {
            let life = bodies.begin();
            Body::from_stream(stream::repeat_with(move || {
                let _life = &life;
                Ok::<_, Infallible>(Bytes::from_static(&[b't'; 16 * 1024]))
            }))
        });
        let upgrades = get(async move |mut request: Request| {
            let upgrade = hyper::upgrade::on(&mut request);
            let life = tasks.begin();
            tokio::spawn(async move {
                let _life = life;
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                io.write_all(b"?").await.unwrap_err();
            });
            switching()
        });
        let waits_for_upgrade = get(async move |mut request: Request| {
            let _life = inner.begin();
            hyper::upgrade::on(&mut request).await.unwrap();
        });
        Router::new()
            .route("/", get(async |State(_): State<Arc<server::Life>>| "ok"))
            .route("/forever", forever)
            .route("/torrent", torrent)
            .route("/large", get(async || Bytes::from(vec![0; 64 << 20])))
            .route("/upgrade", upgrades)
            .route("/waits-for-upgrade", waits_for_upgrade)
            .with_state(Arc::new(self.apps.begin()))
            .layer(DrainLayer::new(ctl.clone()))
    }
}

fn switching() -> Response {
    let headers = [("connection", "upgrade"), ("upgrade", "test")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n";

/// Opens a connection of each kind that does not end by itself.
async fn never_ending<T, F>(mut connect: impl FnMut() -> F) -> Vec<(&'static str, T)>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Future<Output = T>,
{
    let mut clients = Vec::new();
    for path in ["/forever", "/torrent", "/large"] {
        let mut client = Http1::new(connect().await);
        client.send(server::get(path)).await;
        clients.push((path, client.io));
    }
    let mut idle = Http1::new(connect().await);
    assert_eq!(idle.get("/").await.text(), "ok");
    clients.push(("idle", idle.io));
    clients.push(("silent", connect().await));
    let mut half = Http1::new(connect().await);
    half.send("GET / HT").await;
    clients.push(("half a head", half.io));
    let mut upgraded = Http1::new(connect().await);
    upgraded.send(UPGRADE).await;
    assert_eq!(upgraded.answer().await.status, 101);
    clients.push(("upgraded", upgraded.io));
    let mut waits = Http1::new(connect().await);
    waits.send(UPGRADE.replace("/up", "/waits-for-up")).await;
    clients.push(("waits for its upgrade", waits.io));
    let mut streams = Http2::new(connect().await, &[]).await;
    for nth in 0..100 {
        let path = if nth % 10 == 0 {
            "/torrent"
        } else {
            "/forever"
        };
        streams.send(Frame::get(2 * nth + 1, path)).await;
    }
    clients.push(("100 streams", streams.io));
    let idle = Http2::new(connect().await, &[]).await;
    clients.push(("idle HTTP/2", idle.io));
    clients
}

/// All are closed already; what was sent before that is still to be read.
async fn assert_closed<T: tokio::io::AsyncRead + Unpin>(clients: Vec<(&str, T)>) {
    for (name, mut client) in clients {
        let mut piece = vec![0; 64 * 1024];
        let end = async { while client.read(&mut piece).await.is_ok_and(|count| count > 0) {} };
        let ended = timeout(5 * SECOND, end).await;
        assert!(ended.is_ok(), "{name}: still open");
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_forced_server_has_returned_nothing_of_it_is_left() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = serve(pipes, remains.app(&ctl), ctl.clone());
    let server = Server(tokio::spawn(server.into_future()));
    let clients = never_ending(async || watched_pipe(&connector, &remains.sockets)).await;
    sleep(100 * MS).await;
    assert_eq!(remains.counts(), [92, 11, 1, clients.len(), 1]);

    let since = trigger(&ctl).await;
    let report = server.report().await;
    assert!(since.elapsed() <= 25 * SECOND + 250 * MS, "{report}");
    assert_eq!(remains.counts()[..4], [0; 4], "{report}");
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    // The task of the tunnel is the application's own. It is told.
    tokio::task::yield_now().await;
    assert_eq!(remains.tasks.count(), 0);
    assert_closed(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_server_on_sockets_leaves_nothing_behind_in_time() {
    let total = 1600 * MS;
    let config = ShutdownConfig::default().shutdown_timeout(total);
    let (ctl, remains) = (with(config), Remains::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = remains.sockets.clone();
    let server = serve(listener, remains.app(&ctl), ctl.clone()).handshake(move |io| {
        let life = sockets.begin();
        async move {
            Ok(Watched {
                io,
                vectored: false,
                _life: life,
            })
        }
    });
    let server = tokio::spawn(server.into_future());
    let clients = never_ending(async || TcpStream::connect(address).await.unwrap()).await;
    let expected = [92, 11, 1, clients.len(), 1];
    in_time(async {
        while remains.counts() != expected {
            sleep(5 * MS).await;
        }
    })
    .await;

    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    let report = in_time(server).await.unwrap();
    let took = since.elapsed();
    assert_eq!(remains.counts()[..4], [0; 4], "{report}");
    println!("{took:?} of {total:?}");
    assert!(took < total + SECOND, "{took:?}");
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    assert_closed(clients).await;
    assert_eq!(remains.tasks.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_dropped_closes_all_its_connections() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = tokio::spawn(serve(pipes, remains.app(&ctl), ctl.clone()).into_future());
    let mut clients = never_ending(async || watched_pipe(&connector, &remains.sockets)).await;
    sleep(100 * MS).await;
    clients.retain(|(name, _)| *name != "upgraded"); // a test of its own
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    sleep(MS).await;
    let [handlers, bodies, apps, sockets, _] = remains.counts();
    assert_eq!([handlers, bodies, apps, sockets], [0, 0, 0, 0]);
    assert_closed(clients).await;
    ctl.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_dropped_closes_its_tunnels() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = tokio::spawn(serve(pipes, remains.app(&ctl), ctl.clone()).into_future());
    let pipe = watched_pipe(&connector, &remains.sockets);
    let mut client = Http1::new(pipe);
    client.send(UPGRADE).await;
    assert_eq!(client.answer().await.status, 101);
    sleep(MS).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert_closed(vec![("upgraded", client.io)]).await;
    assert_eq!((remains.sockets.count(), remains.tasks.count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_blocked_thread_is_abandoned_and_the_rest_is_closed_in_time() {
    let total = 1600 * MS;
    let ctl = with(ShutdownConfig::default().shutdown_timeout(total));
    let entered = Event::new();
    // Dropped at the end of the test, whatever it is, which unblocks the thread.
    let (_release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let enters = entered.clone();
    let blocks = get(async move || {
        enters.happens();
        let _ = released.lock().unwrap().recv();
    });
    let app = routes()
        .route("/blocks", blocks)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut blocked = connector.http1();
    blocked.send(server::get("/blocks")).await;
    entered.happened().await;
    let mut idle = connector.http1();
    assert_eq!(idle.get("/").await.text(), "ok");

    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(idle.end().await, b"");
    let report = server.report().await;
    let took = since.elapsed();
    println!("{took:?} of {total:?}");
    assert!(took < total + SECOND, "{took:?}");
    // The request, and the server, which waits for its connection.
    assert_eq!((report.aborted(), report.abandoned()), (0, 2), "{report}");
    assert!(report.is_forced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_blocked_stream_does_not_hold_its_connection_open() {
    let total = 1600 * MS;
    let ctl = with(ShutdownConfig::default().shutdown_timeout(total));
    let entered = Event::new();
    let (_release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let enters = entered.clone();
    let blocks = get(async move || {
        enters.happens();
        let _ = released.lock().unwrap().recv();
    });
    let app = routes()
        .route("/blocks", blocks)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    client.send(Frame::get(3, "/blocks")).await;
    entered.happened().await;
    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    client.end().await;
    let report = server.report().await;
    assert!(since.elapsed() < total + SECOND, "{:?}", since.elapsed());
    assert_eq!((report.aborted(), report.abandoned()), (0, 2), "{report}");
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_is_told_before_its_connection_is_closed() {
    for early in [true, false] {
        let (ctl, remains) = (refusing(), Remains::default());
        let (connector, server) = start(&ctl, remains.app(&ctl));
        let mut client = connector.http1();
        client.send(server::get("/forever")).await;
        let mut http2 = connector.http2().await;
        for stream in [1, 3, 5] {
            http2.send(Frame::get(stream, "/forever")).await;
        }
        sleep(100 * MS).await;
        if !early {
            trigger(&ctl).await;
            sleep(SECOND).await;
        }
        let since = Instant::now();
        ctl.force();
        // Who comes only now.
        let mut late = connector.http1();
        late.get("/").await.assert_refused();
        let mut late_2 = connector.http2().await;
        assert_eq!(late_2.get(1, "/").await, REFUSED);

        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (503, CUT));
        assert!(answer.closes());
        assert_eq!(client.end().await, b"");
        let frames = http2.end().await;
        let bodies = frames
            .iter()
            .filter(|frame| frame.payload == CUT.as_bytes());
        assert_eq!(bodies.count(), 3, "{frames:?}");
        let report = server.report().await;
        assert!(since.elapsed() <= 253 * MS, "{:?}", since.elapsed());
        assert!(report.is_forced());
        assert_eq!((report.aborted(), report.abandoned()), (4, 0), "{report}");
        late_2.end().await;
    }
}

// ===== early answers to uploads =====

const UPLOAD: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uploads_before_it_reads_gets_the_refusal_and_no_reset() {
    let ctl = refusing();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let upload = move |chunked: bool| {
        let mut socket = connect(address);
        let mut head = "POST /read HTTP/1.1\r\nhost: test\r\n".to_owned();
        let piece = [b'u'; 64 * 1024];
        if chunked {
            head += "transfer-encoding: chunked\r\n\r\n";
        } else {
            head += &format!("content-length: {UPLOAD}\r\n\r\n");
        }
        write(&mut socket, head.as_bytes());
        for _ in 0..UPLOAD / piece.len() {
            if chunked {
                write(&mut socket, format!("{:x}\r\n", piece.len()).as_bytes());
            }
            write(&mut socket, &piece);
            if chunked {
                write(&mut socket, b"\r\n");
            }
        }
        if chunked {
            write(&mut socket, b"0\r\n\r\n");
        }
        read(&mut socket).unwrap()
    };
    for chunked in [false, true, false, true] {
        let answer = tokio::task::spawn_blocking(move || upload(chunked))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(REFUSED), "{answer}");
    }
    for nth in 0..10 {
        let client = reqwest::Client::builder().no_proxy();
        let client = match nth % 2 {
            0 => client.http1_only(),
            _ => client.http2_prior_knowledge(),
        };
        let client = client.build().unwrap();
        let request = client.post(format!("http://{address}/read"));
        let answer = in_time(request.body(vec![b'u'; UPLOAD]).send())
            .await
            .unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(in_time(answer.text()).await.unwrap(), REFUSED);
    }
    drop(working);
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.refused(), 14);
}

/// A client in the middle of its upload that has its refusal; and when it got that.
async fn refused_uploader(connector: &Connector) -> (DuplexStream, Instant) {
    let mut client = Http1::new(connector.pipe(4 * 1024));
    client
        .send("POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000000\r\n\r\n")
        .await;
    client.answer().await.assert_refused();
    (client.io, Instant::now())
}

/// Sends until the server closes; returns how much it took.
async fn send_until_closed(io: &mut DuplexStream, size: usize, pause: Duration) -> usize {
    let mut sent = 0;
    let sending = async {
        while let Ok(count) = io.write(&vec![b'u'; size]).await {
            sent += count;
            sleep(pause).await;
        }
    };
    in_time(sending).await;
    sent
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_upload_is_read_for_no_longer_than_the_limits() {
    let ctl = refusing();
    let limits = |serve: tower_lifecycle::server::Serve<_, _>| serve.linger(256 * 1024, 3 * SECOND);
    let (connector, server) = start_with(&ctl, app(&ctl), limits);
    let working = ctl.track();
    trigger(&ctl).await;

    let (mut silent, since) = refused_uploader(&connector).await;
    assert_eq!(silent.read(&mut [0; 10]).await.unwrap(), 0, "all is said");
    assert_at(since, Duration::ZERO);
    for _ in 0..2 {
        silent.write_all(&[b'u'; 1024]).await.unwrap();
        sleep(900 * MS).await;
    }
    silent.write_all(&[b'u'; 1024]).await.unwrap();
    sleep(1010 * MS).await;
    silent.write_all(b"u").await.unwrap_err();

    let (mut slow, since) = refused_uploader(&connector).await;
    send_until_closed(&mut slow, 128, 100 * MS).await;
    let took = since.elapsed();
    assert!(took >= 2900 * MS && took <= 3200 * MS, "{took:?}");

    let (mut drips, since) = refused_uploader(&connector).await;
    send_until_closed(&mut drips, 1, 100 * MS).await;
    assert!(since.elapsed() <= 1200 * MS, "{:?}", since.elapsed());

    let (mut fast, since) = refused_uploader(&connector).await;
    let sent = send_until_closed(&mut fast, 4096, MS).await;
    assert!(
        (256 * 1024..300 * 1024).contains(&sent),
        "{sent} in {:?}",
        since.elapsed()
    );

    // Who closes is gone at once.
    let (closing, since) = refused_uploader(&connector).await;
    drop(closing);
    drop(working);
    server.graceful().await;
    assert_at(since, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_upload_has_no_limit_but_its_silence_if_none_is_wanted() {
    let ctl = refusing();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| {
        serve.linger(u64::MAX, Duration::MAX)
    });
    let working = ctl.track();
    trigger(&ctl).await;
    let (mut client, _) = refused_uploader(&connector).await;
    for _ in 0..20 {
        sleep(400 * MS).await;
        client.write_all(&[b'u'; 512]).await.unwrap();
    }
    drop((client, working));
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_upload_is_not_read_without_end_or_at_all_if_so_wanted() {
    let ctl = refusing();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| serve.linger(0, Duration::ZERO));
    let working = ctl.track();
    trigger(&ctl).await;
    let (mut client, since) = refused_uploader(&connector).await;
    send_until_closed(&mut client, 1024, MS).await;
    assert!(since.elapsed() <= 10 * MS);
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_client_of_an_upload_may_take_a_second_to_close() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http1();
    let upload =
        "POST /read HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";
    client.send(upload).await;
    assert_eq!(client.answer().await.text(), "4");
    let since = trigger(&ctl).await;
    // The client takes its time to close.
    server.graceful().await;
    // It said `connection: close`, and whether its upload was read to the end is hyper's secret.
    assert!(since.elapsed() <= SECOND);
}

// ===== upgrades =====

/// Answers 101 and sends back what comes, or says how that failed.
fn echo(ctl: &ShutdownController) -> (Router, mpsc::UnboundedReceiver<io::Result<()>>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let route = get(async move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 1024];
            let result = loop {
                match io.read(&mut piece).await {
                    Ok(0) => break Ok(()),
                    Ok(count) => match io.write_all(&piece[..count]).await {
                        Ok(()) => {}
                        Err(error) => break Err(error),
                    },
                    Err(error) => break Err(error),
                }
            };
            drop(io);
            ended.send(result)
        });
        switching()
    });
    let app = routes()
        .route("/upgrade", route)
        .layer(DrainLayer::new(ctl.clone()));
    (app, ends)
}

async fn upgraded(connector: &Connector) -> Http1<DuplexStream> {
    let mut client = connector.http1();
    // What follows the head at once is the tunnel's, too.
    client.send(format!("{UPGRADE}first")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert!(
        answer.head.contains("\r\nconnection: upgrade\r\n"),
        "{answer:?}"
    );
    assert_echo(&mut client, "", "first").await;
    client
}

async fn assert_echo(client: &mut Http1<DuplexStream>, sent: &str, expected: &str) {
    client.send(sent).await;
    let echo = client.exactly(expected.len()).await;
    assert_eq!(echo, expected.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_tunnel_until_its_client_closes_it() {
    let ctl = ShutdownController::new();
    let (app, mut ends) = echo(&ctl);
    let (connector, server) = start(&ctl, app);
    let mut client = upgraded(&connector).await;
    let since = trigger(&ctl).await;
    sleep(20 * SECOND).await;
    assert_eq!(ctl.state(), LifecycleState::Draining);
    assert_echo(&mut client, "still", "still").await;
    drop(client);
    server.graceful().await;
    assert_at(since, 20 * SECOND);
    ends.recv().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_its_server_ends_is_closed_for_its_client() {
    let ctl = ShutdownController::new();
    let route = get(async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            io.write_all(b"bye").await.unwrap();
            io.shutdown().await.unwrap();
        });
        switching()
    });
    let app = routes()
        .route("/upgrade", route)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http1();
    client.send(UPGRADE).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.end().await, b"bye");
    let since = trigger(&ctl).await;
    server.graceful().await;
    assert_at(since, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_cut_at_the_drain_deadline_and_its_task_told() {
    let ctl = ShutdownController::new();
    let (app, mut ends) = echo(&ctl);
    let (connector, server) = start(&ctl, app);
    let mut client = upgraded(&connector).await;
    let since = trigger(&ctl).await;
    assert_eq!(client.end().await, b"");
    let took = since.elapsed();
    assert!(
        took >= 25 * SECOND && took <= 25 * SECOND + 130 * MS,
        "{took:?}"
    );
    let error = ends.recv().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    assert!(matches!(cause, Some(tower_lifecycle::error::Forced { .. })));
    let report = server.report().await;
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_in_flight() {
    let ctl = ShutdownController::new();
    let (app, _ends) = echo(&ctl);
    let (connector, server) = start(&ctl, app);
    let client = upgraded(&connector).await;
    assert_eq!(ctl.in_flight(), 1);
    drop(client);
    sleep(MS).await;
    assert_eq!(ctl.in_flight(), 0);
    let _client = upgraded(&connector).await;
    trigger(&ctl).await;
    let report = server.report().await;
    assert_eq!(
        (report.in_flight_at_force(), report.aborted()),
        (1, 1),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_being_made_at_the_trigger_is_made() {
    let (ctl, held) = (ShutdownController::new(), Held::new());
    let holds = held.clone();
    let route = get(async move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        holds.entered.happens();
        holds.released.wait().await;
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            io.write_all(b"in the tunnel").await.unwrap();
            sleep(3 * SECOND).await;
        });
        switching()
    });
    let app = routes()
        .route("/upgrade", route)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http1();
    client.send(UPGRADE).await;
    held.entered.happened().await;
    let since = trigger(&ctl).await;
    sleep(2 * SECOND).await;
    held.released.happens();
    let answer = client.answer().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(client.end().await, b"in the tunnel");
    assert_at(since, 5 * SECOND);
    server.graceful().await;
    assert!(
        answer.head.contains("\r\nconnection: upgrade\r\n"),
        "{answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_asked_for_and_not_granted_is_a_request_like_any_other() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http1();
    for _ in 0..2 {
        client.send(UPGRADE.replace("/upgrade", "/")).await;
        assert_eq!(client.answer().await.text(), "ok");
    }
    let since = trigger(&ctl).await;
    assert_eq!(client.end().await, b"");
    assert_at(since, 200 * MS);
    server.graceful().await;
}

/// A server of tunnels that send back what comes, and an open one on HTTP/2.
async fn http2_tunnel(ctl: &ShutdownController) -> (Server, Http2<DuplexStream>) {
    let app = tower::service_fn(async |mut request: http::Request<hyper::body::Incoming>| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = io.read(&mut piece).await {
                io.write_all(&piece[..count]).await.unwrap();
            }
        });
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    let (connector, server) = start(ctl, DrainLayer::new(ctl.clone()).layer(app));
    let mut client = connector.http2().await;
    // :method CONNECT and :authority.
    let connect = b"\x02\x07CONNECT\x01\x08test:123";
    client.send(Frame::new(HEADERS, 4, 1, connect)).await;
    assert_eq!(client.next().await.unwrap().kind, HEADERS);
    client.send(Frame::new(DATA, 0, 1, b"echo")).await;
    assert_eq!(client.next().await.unwrap().payload, b"echo");
    (server, client)
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_tunnel_of_http_2() {
    let ctl = ShutdownController::new();
    let (server, mut client) = http2_tunnel(&ctl).await;
    trigger(&ctl).await;
    sleep(15 * SECOND).await;
    assert_eq!(ctl.state(), LifecycleState::Draining);
    client.send(Frame::new(DATA, END_STREAM, 1, b"echo")).await;
    assert_eq!(client.answer(1).await.unwrap(), b"echo");
    let since = Instant::now();
    let ping = client.goodbye().await;
    client.send(ping.ack()).await;
    assert_eq!(client.next().await.unwrap().goaway(), (1, NO_ERROR));
    client.end().await;
    drop(client);
    server.graceful().await;
    assert_at(since, 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_of_http_2_that_has_ended_holds_nobody() {
    let ctl = ShutdownController::new();
    let (server, mut client) = http2_tunnel(&ctl).await;
    client.send(Frame::new(DATA, END_STREAM, 1, b"")).await;
    assert!(client.next().await.unwrap().ends());
    let since = trigger(&ctl).await;
    // The client does not answer the goodbye.
    server.graceful().await;
    assert!(since.elapsed() <= SECOND + 253 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_switch_of_protocols_that_nobody_takes_holds_nobody() {
    for request in [UPGRADE.to_owned(), server::get("/upgrade")] {
        let ctl = ShutdownController::new();
        let app = Router::new().route("/upgrade", any(async || switching()));
        let (connector, server) = start(&ctl, app.layer(DrainLayer::new(ctl.clone())));
        let mut client = connector.http1();
        client.send(request).await;
        let since = trigger(&ctl).await;
        server.graceful().await;
        assert!(since.elapsed() <= SECOND + 203 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_of_protocols_is_none_on_http_2() {
    let ctl = ShutdownController::new();
    let app = Router::new().route("/upgrade", any(async || switching()));
    let (connector, server) = start(&ctl, app.layer(DrainLayer::new(ctl.clone())));
    let mut client = connector.http2().await;
    client.send(Frame::get(1, "/upgrade")).await;
    let since = trigger(&ctl).await;
    server.graceful().await;
    assert!(since.elapsed() <= SECOND + 253 * MS);
}

// ===== what comes on the wire =====

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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
    // Who wants to close is closed, and who does not is not.
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
                        break; // it has been refused already
                    }
                    sleep(MS).await;
                }
            } else {
                client.send(request).await;
            }
            if request.starts_with("PRI * HTTP/2.0") {
                client.end().await; // hyper says nothing to it
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

    drop(connector.pipe(10)); // says nothing, and is gone
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

// ===== the ledger =====

/// What became of the requests of one client.
#[derive(Debug, Default)]
struct Ledger {
    answered: usize,
    /// Those that may or may not have been served, on a connection that had worked.
    lost: usize,
    /// New connections whose first ones are lost.
    lost_when_new: usize,
}

const REFUSE_FOR: Duration = Duration::from_millis(300);

async fn hammer_http1(address: SocketAddr) -> Ledger {
    let mut ledger = Ledger::default();
    while let Ok(socket) = TcpStream::connect(address).await {
        let mut socket = socket;
        let mut answered_at = std::time::Instant::now();
        for nth in 0.. {
            // After that the server may close at any moment; the machine has been busy.
            if nth > 0 && answered_at.elapsed() > REFUSE_FOR / 4 {
                break;
            }
            let sent = socket.write_all(server::get("/").as_bytes()).await;
            let mut text = Vec::new();
            while sent.is_ok() && !(text.ends_with(b"\r\n\r\nok") || text.ends_with(b"down\"}")) {
                if !socket
                    .read_buf(&mut text)
                    .await
                    .is_ok_and(|count| count > 0)
                {
                    break;
                }
            }
            if !text.ends_with(b"ok") && !text.ends_with(b"}") {
                assert!(
                    text.is_empty(),
                    "a part of an answer: {}",
                    text.escape_ascii()
                );
                match nth {
                    0 => ledger.lost_when_new += 1,
                    _ => ledger.lost += 1,
                }
                break;
            }
            ledger.answered += 1;
            answered_at = std::time::Instant::now();
            if text.windows(19).any(|w| w == b"connection: close\r\n") {
                assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
                break;
            }
        }
    }
    ledger
}

async fn hammer_http2(address: SocketAddr) -> Ledger {
    let mut ledger = Ledger::default();
    while let Ok(socket) = TcpStream::connect(address).await {
        let mut client = Http2::new(socket, &[]).await;
        // Room for all answers: the window of a connection opens no more by itself than a stream's.
        client.send(Frame::window(0, 1 << 30)).await;
        let (mut last, mut next) = (ALL_STREAMS, 1);
        let mut may_ask = true;
        let mut open = std::collections::BTreeSet::new();
        loop {
            while open.len() < 10 && may_ask {
                may_ask = client.try_send(Frame::get(next, "/")).await;
                open.insert(next);
                next += 2;
            }
            match in_time(client.next_of_all()).await {
                Ok(Some(frame)) if frame.kind == GOAWAY => {
                    last = frame.goaway().0;
                    may_ask = false;
                }
                Ok(Some(frame)) if frame.kind == PING => drop(client.try_send(frame.ack()).await),
                Ok(Some(frame)) if frame.ends() => {
                    assert!(open.remove(&frame.stream), "{frame:?}");
                    ledger.answered += 1;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // Those past the last one were not begun, and are safe to be sent again.
        let lost = open.iter().filter(|stream| **stream <= last).count();
        match next {
            1..=21 => ledger.lost_when_new += usize::from(lost > 0),
            _ => ledger.lost += lost,
        }
    }
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_a_server_under_load_is_shut_down() {
    let rounds = 8;
    let mut lost_when_new = 0;
    for round in 0..rounds {
        let config = ShutdownConfig::default();
        let ctl = with(match round % 2 {
            0 => config.refuse_for(REFUSE_FOR),
            _ => config.refuse_for(REFUSE_FOR).lame_duck(100 * MS),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            clients.spawn(hammer_http1(address));
            clients.spawn(hammer_http2(address));
        }
        sleep(30 * MS).await;
        ctl.trigger(ShutdownReason::Manual);
        let report = in_time(server).await.unwrap();
        assert!(report.is_graceful(), "{report}");
        let mut answered = 0;
        for ledger in in_time(clients.join_all()).await {
            assert_eq!(ledger.lost, 0, "{ledger:?}");
            lost_when_new += ledger.lost_when_new;
            answered += ledger.answered;
        }
        let counted = report.admitted() + report.refused();
        assert!(
            counted as usize >= answered && answered > 0,
            "{report} {answered}"
        );
    }
    // Between the last look at the backlog and the close of the listener one may come.
    println!("{lost_when_new} lost in {rounds} rounds");
    assert!(lost_when_new <= rounds, "{lost_when_new}");
}

// ===== settings =====

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
    // Both go on refusing while one of them drains.
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
    // Nobody refuses, and nobody counts; but whoever is answered is asked to leave.
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

// ===== helpers =====

fn routes() -> Router {
    let pieces = || stream::iter(0..).map(|n| big().chunks(999).nth(n).map(Bytes::copy_from_slice));
    let pieces = move || pieces().take_while(|p| std::future::ready(p.is_some()));
    let pieces = move || pieces().map(|piece| Ok::<_, Infallible>(piece.unwrap()));
    Router::new()
        .route("/", any(async || "ok"))
        .route("/read", post(async |body: Bytes| body.len().to_string()))
        .route("/big", get(async || big()))
        .route(
            "/big-in-pieces",
            get(async move || Body::from_stream(pieces())),
        )
        .route("/panic", get(panics))
}

async fn panics() -> &'static str {
    panic!("a test")
}

/// The usual application.
fn app(ctl: &ShutdownController) -> Router {
    routes().layer(DrainLayer::new(ctl.clone()))
}

fn with(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config).unwrap()
}

/// The listener stays open, and what arrives while draining is refused.
fn refusing() -> ShutdownController {
    with(ShutdownConfig::default().refuse_for(200 * MS))
}

fn lame_duck(time: Duration) -> ShutdownController {
    with(
        ShutdownConfig::default()
            .lame_duck(time)
            .shutdown_timeout(2 * time),
    )
}

/// Begins the shutdown, and returns when. A moment later than what was done before: who comes in
/// the same moment is new to the server.
async fn trigger(ctl: &ShutdownController) -> Instant {
    sleep(MS).await;
    assert!(ctl.trigger(ShutdownReason::Manual));
    Instant::now()
}

/// It is now so long after that. The clock is paused, but timers go by whole milliseconds.
#[track_caller]
fn assert_at(since: Instant, expected: Duration) {
    let (now, early) = (since.elapsed(), 3 * MS);
    assert!(
        now + early >= expected && now <= expected + 3 * MS,
        "at {now:?}, not {expected:?}"
    );
}

async fn read_again(bytes: &[u8]) -> Answer {
    let (mut io, other) = duplex(bytes.len());
    io.write_all(bytes).await.unwrap();
    Http1::new(other).answer().await
}

/// A handler that tells when it was entered, and answers when it is released.
#[derive(Clone)]
struct Held {
    entered: Event,
    released: Event,
}

impl Held {
    fn new() -> Self {
        Self {
            entered: Event::new(),
            released: Event::new(),
        }
    }

    fn routes(&self) -> Router {
        let held = self.clone();
        let route = get(move || async move {
            held.entered.happens();
            held.released.wait().await;
            "at last"
        });
        routes().route("/held", route)
    }

    fn app(&self, ctl: &ShutdownController) -> Router {
        self.routes().layer(DrainLayer::new(ctl.clone()))
    }
}

// Blocking sockets, for what has no runtime.

fn connect(address: SocketAddr) -> std::net::TcpStream {
    let socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(20 * SECOND)).unwrap();
    socket
}

fn write(socket: &mut std::net::TcpStream, bytes: &[u8]) {
    std::io::Write::write_all(socket, bytes).unwrap();
}

/// Reads to the end.
fn read(socket: &mut std::net::TcpStream) -> io::Result<String> {
    let mut text = String::new();
    std::io::Read::read_to_string(socket, &mut text)?;
    Ok(text)
}

/// A socket that is counted while it lives.
struct Watched<I> {
    io: I,
    /// Takes several buffers in one write; if not, hyper copies all into one of its own.
    vectored: bool,
    _life: server::Life,
}

/// Connects by a pipe whose other end is counted.
fn watched_pipe(connector: &Connector<Watched<DuplexStream>>, alive: &Alive) -> DuplexStream {
    let (client, io) = duplex(64 * 1024);
    let _life = alive.begin();
    let vectored = false;
    connector.accept(Ok(Watched {
        io,
        vectored,
        _life,
    }));
    client
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
