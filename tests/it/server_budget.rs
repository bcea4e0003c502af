//! Connections whose handlers use up tokio's budget of a poll.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower_lifecycle::ShutdownController;

use crate::support::server::{Connector, Server, start_with, trigger};

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
