//! Connections whose handlers use up tokio's budget of a poll.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower_lifecycle::ShutdownController;

use crate::support::server::{Connector, Server, in_time, start_with, trigger};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Receives so many items that are all there.
async fn receive(Path(count): Path<usize>) -> &'static str {
    let (sender, mut items) = mpsc::unbounded_channel();
    for item in 0..count {
        sender.send(item).unwrap();
    }
    for _ in 0..count {
        items.recv().await.unwrap();
    }
    "ok"
}

fn server(ctl: &ShutdownController) -> (Connector, Server) {
    let app = Router::new().route("/{count}", get(receive));
    start_with(ctl, app, |serve| {
        serve
            .header_read_timeout(SECOND)
            .http2_idle_timeout(2 * SECOND)
    })
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_though_its_handler_was_busy() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    let mut client = connector.http1();
    assert_eq!(client.get("/300").await.text(), "ok");
    let ended = timeout(HOUR, client.io.read(&mut [0])).await;
    assert_eq!(ended.expect("it is still open").unwrap(), 0);
    trigger(&ctl).await;
    server.graceful().await;
}

/// The budget ends at any point of the connection's end.
#[tokio::test(start_paused = true)]
async fn what_a_client_has_sent_is_read_to_the_end_though_its_handler_was_busy() {
    let ctl = ShutdownController::new();
    let (connector, server) = server(&ctl);
    for count in 0..140 {
        let mut client = connector.http1();
        let head = format!("GET /{count} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        client.send(head).await;
        client.send([b'x'; 20 * 1024]).await;
        let answer = client.answer().await;
        assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
        assert_eq!(client.end().await, b"");
        let sent = in_time(client.io.write_all(b"more")).await;
        assert!(sent.is_ok(), "with {count} items: {sent:?}");
    }
    trigger(&ctl).await;
    server.graceful().await;
}
