//! Peers with nothing in flight.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_when_refusing_is_over() {
    let ctl = controller(ShutdownConfig::default().refuse_for(700 * MS));
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
    let listener = TcpListener::bind(loopback()).await.unwrap();
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
    assert_eq!(http2.get(1, "/").await, "ok"); // and does not acknowledge the PING
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
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(1200 * MS));
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
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(Duration::MAX));
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
        // A head's time limit is checked four times.
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
