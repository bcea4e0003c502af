//! Connections that become old.

use super::*;

/// Between the announcement and the rest of the goodbye, and for a client that is idle when it becomes old.
const GOODBYE: Duration = Duration::from_millis(250);

/// Without the limit, idle connections would live on.
fn start(app: &App) -> (Connector, Server) {
    start_with(&app.ctl, app.routes(), |serve| {
        serve
            .max_connection_age(AGE)
            .header_read_timeout(Duration::MAX)
    })
}

fn start_with_grace(app: &App) -> (Connector, Server) {
    start_with(&app.ctl, app.routes(), |serve| {
        serve
            .max_connection_age(AGE)
            .max_connection_age_grace(GRACE)
    })
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_becomes_old() {
    let app = App::new();
    let (connector, server) = start_with(&app.ctl, app.routes(), |serve| serve);
    let (mut http1, mut http2) = (connector.http1(), connector.http2().await);
    for nth in 0..400 {
        assert!(!http1.get("/").await.closes());
        assert_eq!(http2.get(2 * nth + 1, "/").await, "ok");
        sleep(25 * SECOND).await;
    }
    drop((http1, http2));
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_now_and_then_is_told_in_an_answer() {
    for pause in [10 * MS, SECOND, PATIENCE - 100 * MS] {
        let app = App::new();
        let (connector, server) = start(&app);
        let (mut client, since) = (connector.http1(), Instant::now());
        loop {
            // A request is never lost: this fails if there is no answer.
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.text()), (200, "ok"));
            if answer.closes() {
                break;
            }
            sleep(pause).await;
        }
        assert_within(since, AGE, OLDEST + pause);
        assert_eq!(client.end().await, b"");
        assert_within(since, AGE, OLDEST + pause);
        app.end(server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_closed() {
    for has_asked in [false, true] {
        let app = App::new();
        let (connector, server) = start(&app);
        // In the middle of a head it is not idle, however slowly that comes.
        let mut slow = connector.http1();
        let (mut client, since) = (connector.http1(), Instant::now());
        if has_asked {
            assert!(!client.get("/").await.closes());
        }
        slow.send("GET / HTTP/1.1\r\nhost:").await;
        assert_eq!(client.end().await, b"");
        assert_within(since, AGE + PATIENCE, OLDEST + PATIENCE);
        sleep(100 * SECOND).await;
        slow.send(" test\r\n\r\n").await;
        let answer = slow.answer().await;
        assert!(answer.status == 200 && answer.closes(), "{answer:?}");
        app.end(server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_answered_in_full() {
    let app = App::new();
    let (connector, server) = start(&app);
    let (mut http1, mut http2) = (connector.http1(), connector.http2().await);
    http1.send(crate::support::server::get("/held")).await;
    http2.send(Frame::get(1, "/held")).await;
    sleep(1_000 * SECOND).await;
    app.released.happens();
    app.released.happens();
    let answer = http1.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "at last"));
    assert!(answer.closes(), "{answer:?}");
    assert_eq!(http1.end().await, b"");
    let ping = http2.goodbye().await;
    assert_eq!(http2.answer(1).await.unwrap(), b"at last");
    http2.send(ping.ack()).await;
    assert_eq!(http2.next().await.unwrap().goaway(), (1, 0));
    assert_eq!(http2.end().await, []);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_client_is_told_and_what_crosses_that_is_served() {
    for has_asked in [false, true] {
        let app = App::new();
        let (connector, server) = start(&app);
        let (mut client, since) = (connector.http2().await, Instant::now());
        if has_asked {
            assert_eq!(client.get(1, "/").await, "ok");
        }
        let ping = client.goodbye().await;
        assert_within(since, AGE, OLDEST + GOODBYE);
        // The client has sent this before it has read the goodbye.
        assert_eq!(client.get(3, "/").await, "ok");
        client.send(ping.ack()).await;
        assert_eq!(client.next().await.unwrap().goaway(), (3, 0));
        assert_eq!(client.end().await, []);
        app.end(server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_goaway_waits_for_the_end_of_a_stream() {
    let app = App::new();
    let (connector, server) = start(&app);
    let (mut client, since) = (connector.http2().await, Instant::now());
    client.send(Frame::get(1, "/held")).await;
    sleep(OLDEST + 500 * MS).await;
    app.released.happens();
    let frame = client.next().await.unwrap();
    assert_eq!(frame.kind, HEADERS, "{frame:?}");
    assert!(client.next().await.unwrap().ends());
    client.goodbye().await;
    assert_at(since, OLDEST + 550 * MS);
    // A client that does not respond to it has the grace of a connection, twice.
    client.end().await;
    assert_within(since, OLDEST, OLDEST + 3 * SECOND);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_pauses_is_told_after_five_seconds() {
    let app = App::new();
    let (connector, server) = start(&app);
    let (mut client, since) = (connector.http2().await, Instant::now());
    let mut stream = 1;
    client.send(Frame::get(stream, "/held")).await;
    let announced = loop {
        // The next one is sent before the last has ended.
        client.send(Frame::get(stream + 2, "/held")).await;
        sleep(100 * MS).await;
        app.released.happens();
        let frame = client.next().await.unwrap();
        if frame.kind == GOAWAY {
            break since.elapsed();
        }
        assert_eq!((frame.kind, frame.stream), (HEADERS, stream));
        assert!(client.next().await.unwrap().ends());
        stream += 2;
    };
    assert!(announced >= AGE + PATIENCE, "{announced:?}");
    assert!(announced <= OLDEST + PATIENCE + 200 * MS, "{announced:?}");
    // Those that are open are answered.
    app.released.happens();
    let frames = client.end().await;
    let ended: Vec<_> = frames
        .iter()
        .filter(|f| f.ends())
        .map(|f| f.stream)
        .collect();
    assert_eq!(ended, [stream, stream + 2], "{frames:?}");
    app.end(server).await;
}

/// When the connections of one server become old, which were opened together, in order.
async fn ages(count: usize) -> Vec<Duration> {
    let app = App::new();
    let (connector, server) = start(&app);
    let since = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..count {
        let mut client = connector.http1();
        clients.spawn(async move {
            assert_eq!(client.end().await, b"");
            since.elapsed() - PATIENCE
        });
    }
    let mut ages = clients.join_all().await;
    app.end(server).await;
    ages.sort();
    ages
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_opened_together_end_one_after_another() {
    const COUNT: usize = 40;
    let ages = ages(COUNT).await;
    assert!(
        ages[0] >= AGE && ages[COUNT - 1] <= OLDEST + 3 * MS,
        "{ages:?}"
    );
    // Evenly: between the bounds there is nowhere a gap of more than three parts.
    let part = (OLDEST - AGE) / COUNT as u32;
    let bounds = std::iter::once(&AGE).chain(&ages).chain([&OLDEST]);
    let bounds: Vec<_> = bounds.collect();
    for pair in bounds.windows(2) {
        assert!(pair[1].saturating_sub(*pair[0]) <= 3 * part, "{ages:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn servers_that_were_started_together_end_their_connections_at_different_times() {
    let mut firsts = Vec::new();
    for _ in 0..5 {
        firsts.extend(ages(1).await);
    }
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn the_grace_cuts_what_is_still_under_way() {
    let app = App::new();
    let (connector, server) = start_with_grace(&app);
    let since = Instant::now();
    let (mut http1, mut http2) = (connector.http1(), connector.http2().await);
    http1.send(crate::support::server::get("/held")).await;
    http2.send(Frame::get(1, "/held")).await;
    app.entered.happened().await;
    app.entered.happened().await;
    http2.goodbye().await;
    assert_within(since, AGE + PATIENCE, OLDEST + PATIENCE + GOODBYE);
    assert_eq!(app.alive.count(), 2);
    let first = async {
        assert_eq!(http1.end().await, b"");
        assert_within(since, AGE + GRACE, OLDEST + GRACE);
    };
    let second = async {
        http2.end().await;
        assert_within(since, AGE + GRACE, OLDEST + GRACE);
    };
    tokio::join!(first, second);
    sleep(2 * SECOND).await;
    assert_eq!(app.alive.count(), 0);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn with_no_grace_at_all_an_http2_client_is_still_told() {
    let app = App::new();
    let (connector, server) = start_with(&app.ctl, app.routes(), |serve| {
        serve
            .max_connection_age(AGE)
            .max_connection_age_grace(Duration::ZERO)
    });
    let (mut client, since) = (connector.http2().await, Instant::now());
    client.send(Frame::get(1, "/held")).await;
    let frame = client.next().await.unwrap();
    assert_eq!(frame.goaway(), ((1 << 31) - 1, 0));
    assert_within(since, AGE, OLDEST);
    client.end().await;
    assert_within(since, AGE, OLDEST + SECOND);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn no_age_is_too_long_or_too_short() {
    for (age, grace) in [
        (Duration::MAX, Duration::MAX),
        (Duration::MAX, Duration::ZERO),
        (AGE, Duration::MAX),
    ] {
        let app = App::new();
        let (connector, server) = start_with(&app.ctl, app.routes(), |serve| {
            serve
                .max_connection_age(age)
                .max_connection_age_grace(grace)
        });
        let mut client = connector.http1();
        assert!(!client.get("/").await.closes());
        drop(client);
        app.end(server).await;
    }
    let app = App::new();
    let (connector, server) = start_with(&app.ctl, app.routes(), |serve| {
        serve.max_connection_age(Duration::ZERO)
    });
    let mut client = connector.http1();
    // The first request may have been under way before the server has looked.
    assert!(client.get("/").await.closes() || client.get("/").await.closes());
    assert_eq!(client.end().await, b"");
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    client.goodbye().await;
    drop(client);
    app.end(server).await;
}

// ===== with a shutdown =====

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_told_in_a_lame_duck_and_also_after_it_is_called_off() {
    let config = ShutdownConfig::default()
        .lame_duck(1_000 * SECOND)
        .shutdown_timeout(2_000 * SECOND);
    let app = App::with(config);
    let (connector, server) = start(&app);
    let (mut early, mut late) = (connector.http1(), connector.http1());
    let mut http2 = connector.http2().await;
    http2.send(Frame::get(1, "/held")).await;
    early.send(crate::support::server::get("/held")).await;
    // Such a response has no `Connection: close`, so its connection lives on.
    late.send(crate::support::server::get("/held")).await;
    sleep(MS).await;
    app.ctl.trigger(ShutdownReason::Manual);
    sleep(OLDEST + PATIENCE + GOODBYE).await;
    assert_eq!(app.ctl.state(), LifecycleState::LameDuck);
    for _ in 0..3 {
        app.released.happens();
    }
    assert!(early.answer().await.closes());
    app.ctl.resume().unwrap();
    assert!(late.answer().await.closes());
    http2.goodbye().await;
    assert_eq!(http2.answer(1).await.unwrap(), b"at last");
    app.ctl.force();
    server.report().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_has_its_own_times() {
    let config = ShutdownConfig::default().shutdown_timeout(400 * SECOND);
    let app = App::with(config);
    let (connector, server) = start_with_grace(&app);
    let since = Instant::now();
    let (mut http1, mut http2) = (connector.http1(), connector.http2().await);
    http1.send(crate::support::server::get("/held")).await;
    http2.send(Frame::get(1, "/held")).await;
    // One is old already, and has been told.
    sleep(OLDEST + PATIENCE + GOODBYE).await;
    trigger(&app.ctl).await;
    sleep(100 * SECOND).await;
    assert_eq!(app.alive.count(), 2, "neither is cut");
    app.released.happens();
    app.released.happens();
    let answer = http1.answer().await;
    assert!(answer.closes() && answer.text() == "at last", "{answer:?}");
    let ping = http2.goodbye().await;
    http2.send(ping.ack()).await;
    assert_eq!(http2.answer(1).await.unwrap(), b"at last");
    http2.end().await;
    server.graceful().await;
    assert_within(since, 140 * SECOND, 152 * SECOND);
}
