//! Lame duck.

use super::*;

/// Sends requests on a hundred connections until each is asked to close. Returns the times.
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

/// They are spread evenly over the first ten seconds.
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
        // The request arrives before the connection is checked.
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
    // Connections whose moment had come have not sent since, and may also stay.
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

    // They are asked in the next lame duck.
    let mut others = clients;
    let since = trigger(&ctl).await;
    sleep(10 * SECOND + 100 * MS).await;
    for client in &mut others {
        assert!(client.get("/").await.closes(), "at {:?}", since.elapsed());
    }
    server.graceful().await;
}
