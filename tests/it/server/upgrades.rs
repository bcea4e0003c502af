//! Upgrades.

use super::*;

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
    let (connector, server) = start(&ctl, app_with(&ctl, "/upgrade", route));
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
    let (connector, server) = start(&ctl, app_with(&ctl, "/upgrade", route));
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

/// A server of echoing tunnels, and an open tunnel over HTTP/2.
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
    // The client does not acknowledge the PING.
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
