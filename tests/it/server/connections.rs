//! The list of open connections: what each is doing, for whoever waits for a drain.

use tower_lifecycle::controller::{ConnectionItem, ConnectionStage};

use super::*;
use crate::support::log::Lines;

/// Returns the stage of the connection that was accepted as the `number`th.
#[track_caller]
fn stage(ctl: &ShutdownController, number: u32) -> ConnectionStage {
    let now = ctl.in_flight_now();
    let found = (now.connection_items.iter()).find(|item| *item.peer == *number.to_string());
    found.unwrap_or_else(|| panic!("{now:?}")).stage
}

#[tokio::test(start_paused = true)]
async fn each_connection_is_listed_with_its_stage_until_it_is_closed() {
    let (ctl, held) = (ShutdownController::new(), Held::new());
    let upgrade = get(async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { TokioIo::new(upgrade.await.unwrap()).read_u8().await });
        switching()
    });
    let routes = held.routes().route("/upgrade", upgrade);
    let app = routes.layer(DrainLayer::new(ctl.clone()));
    let (connector, pipes) = pipes();
    let server = serve(pipes, app, ctl.clone()).handshake(async |mut io: DuplexStream| {
        io.read_u8().await?;
        Ok::<_, io::Error>(io)
    });
    let server = Server(tokio::spawn(server.into_future()));

    let mut first = connector.http1();
    sleep(MS).await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Handshake);
    first.send("!").await;
    sleep(MS).await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Idle);
    first.send("GET /held HT").await;
    sleep(MS).await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Head);
    first.send("TP/1.1\r\nhost: test\r\n\r\n").await;
    held.entered.happened().await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Busy);
    held.released.happens();
    assert_eq!(first.answer().await.status, 200);
    sleep(MS).await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Idle);
    // Its answer needs no body, and the connection is closed after it.
    first
        .send("POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 9\r\n\r\n")
        .await;
    assert_eq!(first.answer().await.status, 200);
    sleep(MS).await;
    assert_eq!(stage(&ctl, 1), ConnectionStage::Closing);
    drop(first);

    let mut stalled = Http1::new(connector.pipe(1024));
    stalled.send(format!("!{}", server::get("/big"))).await;
    sleep(MS).await;
    assert_eq!(stage(&ctl, 2), ConnectionStage::Stalled);
    drop(stalled);

    let mut tunnel = connector.http1();
    tunnel.send(format!("!{UPGRADE}")).await;
    assert_eq!(tunnel.answer().await.status, 101);
    sleep(MS).await;
    assert_eq!(stage(&ctl, 3), ConnectionStage::Tunnel);
    drop(tunnel);

    let mut http2 = connector.pipe(64 * 1024);
    http2.write_u8(b'!').await.unwrap();
    let mut http2 = Http2::new(http2, &[]).await;
    sleep(MS).await;
    assert_eq!(stage(&ctl, 4), ConnectionStage::Idle);
    http2.send(Frame::get(1, "/held")).await;
    held.entered.happened().await;
    assert_eq!(stage(&ctl, 4), ConnectionStage::Busy);
    drop(http2);
    held.released.happens();

    sleep(MS).await;
    let now = ctl.in_flight_now();
    assert_eq!((now.connections, &*now.connection_items), (0, &[][..]));
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_that_are_not_idle_come_first_and_the_rest_is_cut_off() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let _idle: Vec<_> = (0..1_200).map(|_| connector.pipe(64)).collect();
    sleep(SECOND).await;
    let mut half = connector.http1();
    half.send("GET / HT").await;
    sleep(SECOND).await;
    let mut other = connector.http1();
    other.send("GET / HT").await;
    sleep(SECOND).await;

    let now = ctl.in_flight_now();
    assert_eq!(now.connections, 1_202);
    assert_eq!(now.connection_items.len(), 1_000);
    let shown =
        |items: &[ConnectionItem]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first = shown(&now.connection_items[..2]);
    assert_eq!(first, ["1201 (head, 2.0s)", "1202 (head, 1.0s)"]);
    let rest = &now.connection_items[2..];
    let is_idle = |item: &ConnectionItem| item.stage == ConnectionStage::Idle;
    assert!(rest.iter().all(is_idle));
    assert!(rest.iter().all(|item| item.age >= 3 * SECOND));
    assert_eq!(ConnectionStage::Head.name(), "head");
    drop((half, other));
    ctl.trigger(ShutdownReason::Manual);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_names_the_connections_that_a_drain_waits_for_if_no_work_has_a_name() {
    let lines = Lines::default();
    let _listening = lines.listen();
    let config = ShutdownConfig::default().progress_interval(SECOND);
    let ctl = controller(config);
    let (connector, server) = start(&ctl, app(&ctl));
    let mut stalled = Http1::new(connector.pipe(1024));
    stalled.send(server::get("/big")).await;
    sleep(MS).await;
    trigger(&ctl).await;
    sleep(1500 * MS).await;
    let job = ctl.track_named("import");
    sleep(SECOND).await;
    drop(job);
    let answer = stalled.answer().await;
    assert_eq!(answer.body, big());
    server.graceful().await;

    let told = lines.containing("still draining");
    let oldest = ["oldest=\"1 (stalled, 1.0s)\"", "oldest=\"import (500"];
    assert_eq!(told.len(), oldest.len(), "{told:?}");
    for (told, oldest) in told.iter().zip(oldest) {
        assert!(told.contains(oldest), "{told}");
    }
}
