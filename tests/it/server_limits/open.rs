//! A server that is full.

use super::*;

use tokio::time::timeout;

fn start(app: &App, connections: usize) -> (Connector, Server) {
    start_with(&app.ctl, app.routes(), |serve| {
        serve.max_connections(connections)
    })
}

/// Connects and asks.
async fn ask(connector: &Connector) -> Http1<tokio::io::DuplexStream> {
    let mut client = connector.http1();
    client.send(crate::support::server::get("/")).await;
    client
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_a_full_server_waits_until_another_has_left() {
    for (limit, expected) in [(0, 1), (1, 1), (3, 3)] {
        let app = App::new();
        let (connector, server) = start(&app, limit);
        let mut open = Vec::new();
        for _ in 0..expected {
            let mut client = ask(&connector).await;
            assert_eq!(client.answer().await.text(), "ok");
            open.push(client);
        }
        let mut waiting = ask(&connector).await;
        for _ in 0..10 {
            assert!(timeout(SECOND, waiting.answer()).await.is_err());
            // Those who are there are served as ever.
            assert_eq!(open[0].get("/").await.text(), "ok");
        }
        open.pop();
        assert_eq!(waiting.answer().await.text(), "ok");
        assert!(
            timeout(SECOND, ask(&connector).await.answer())
                .await
                .is_err()
        );
        drop((open, waiting));
        app.end(server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_get_their_turn() {
    let app = App::new();
    let (connector, server) = start(&app, 2);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(ask(&connector).await);
    }
    for mut client in clients {
        assert_eq!(client.answer().await.text(), "ok");
    }
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_when_draining_begins_are_served_in_turn() {
    for refuse_for in [Duration::ZERO, 500 * MS] {
        let app = App::with(ShutdownConfig::default().refuse_for(refuse_for));
        let (connector, server) = start(&app, 2);
        let mut idle = [ask(&connector).await, ask(&connector).await];
        for client in &mut idle {
            assert!(!client.answer().await.closes());
        }
        let mut waiting = Vec::new();
        for _ in 0..100 {
            waiting.push(ask(&connector).await);
        }
        let since = trigger(&app.ctl).await;
        // The idle ones are closed, and make room.
        let is_served = refuse_for.is_zero();
        for client in &mut waiting {
            let answer = client.answer().await;
            assert_eq!(answer.status, if is_served { 200 } else { 503 });
            assert!(answer.closes());
        }
        let report = server.graceful().await;
        assert_at(since, refuse_for.max(200 * MS));
        let late = if is_served { 100 } else { 0 };
        assert_eq!(report.late_requests(), late, "{report}");
        assert!(connector.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_does_not_hold_the_drain_for_those_who_wait() {
    let app = App::new();
    let (connector, server) = start(&app, 1);
    let mut busy = connector.http1();
    busy.send(crate::support::server::get("/held")).await;
    app.entered.happened().await;
    let mut waiting = [ask(&connector).await, ask(&connector).await];
    let since = trigger(&app.ctl).await;
    // As long as they would have been served.
    for client in &mut waiting {
        assert_eq!(client.end().await, b"");
        assert_at(since, SECOND);
    }
    assert!(connector.is_closed());
    app.released.happens();
    assert_eq!(busy.answer().await.text(), "at last");
    server.graceful().await;
    assert_at(since, SECOND);
}

#[tokio::test(start_paused = true)]
async fn silent_clients_that_wait_do_not_prolong_the_drain() {
    let app = App::new();
    let (connector, server) = start(&app, 1);
    let silent: Vec<_> = (0..50).map(|_| connector.http1()).collect();
    sleep(SECOND).await;
    let since = trigger(&app.ctl).await;
    server.graceful().await;
    // The first is closed when it is idle, and the second has the grace of a newcomer.
    assert_within(since, SECOND, 2 * SECOND);
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_force_ends_a_full_server_and_those_who_wait() {
    let app = App::new();
    let (connector, server) = start(&app, 1);
    let mut busy = connector.http1();
    busy.send(crate::support::server::get("/held")).await;
    app.entered.happened().await;
    let mut waiting = ask(&connector).await;
    let since = trigger(&app.ctl).await;
    app.ctl.force();
    let report = server.report().await;
    assert!(report.is_forced() && report.abandoned() == 0, "{report}");
    assert_within(since, Duration::ZERO, SECOND);
    waiting.end().await;
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn all_limits_hold_together() {
    let app = App::new();
    let (connector, server) = start_with(&app.ctl, app.routes(), |serve| {
        serve
            .max_connections(2)
            .max_requests_per_connection(3)
            .max_connection_age(2 * SECOND)
            .max_connection_age_grace(10 * SECOND)
    });
    let mut clients = tokio::task::JoinSet::new();
    for nth in 0..20 {
        let mut client = ask(&connector).await;
        clients.spawn(async move {
            assert_eq!(client.answer().await.text(), "ok");
            let mut answers = 1;
            // Half of them leave by their requests, the others by their age.
            let mut stays = nth % 2 == 0;
            while stays {
                answers += 1;
                stays = !client.get("/").await.closes();
            }
            assert_eq!(client.end().await, b"");
            answers
        });
    }
    let answers: Vec<u64> = clients.join_all().await;
    app.ctl.trigger(ShutdownReason::Manual);
    let report = server.graceful().await;
    assert_eq!(report.admitted(), answers.iter().sum::<u64>(), "{report}");
    assert!(answers.contains(&1) && answers.contains(&3), "{answers:?}");
}
