//! HTTP/2's GOAWAY.

use super::*;

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

    // Sent before the client saw the GOAWAY.
    assert_eq!(client.get(3, "/").await, REFUSED);
    client.send(ping.ack()).await;
    let goodbye = client.next().await.unwrap();
    assert_eq!(goodbye.goaway(), (3, NO_ERROR));

    // Sent although the client saw the GOAWAY.
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

    // Other clients still connect.
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
    // It may keep being refused until the grace is over.
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
