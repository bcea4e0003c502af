//! `serve` as the quick start has it: without the feature `http2`. Small, since it is built for that alone.
#![cfg(all(feature = "server", not(feature = "http2")))]
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, ShutdownReport, serve};

#[path = "support"]
mod support {
    pub mod loopback;
}

use support::loopback::loopback;

/// Fails the test if `future` takes too long.
async fn in_time<F: Future>(future: F) -> F::Output {
    let output = timeout(Duration::from_secs(30), future).await;
    output.expect("it should not take this long")
}

async fn start(ctl: &ShutdownController) -> (SocketAddr, JoinHandle<ShutdownReport>) {
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(DrainLayer::new(ctl.clone()));
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    (address, server)
}

/// Sends `bytes`, and returns all that is answered until the connection is closed.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    in_time(client.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_kept_connection_is_served_and_closed_by_the_shutdown() {
    let ctl = ShutdownController::new();
    let (address, server) = start(&ctl).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..3 {
        let answer = client.get(format!("http://{address}/")).send().await;
        assert_eq!(answer.unwrap().text().await.unwrap(), "hello");
    }
    ctl.trigger(ShutdownReason::Manual);
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.admitted(), 3);
}

#[tokio::test]
async fn a_client_that_begins_with_http_2_is_disconnected_and_others_are_served() {
    let ctl = ShutdownController::new();
    let (address, server) = start(&ctl).await;
    let answer = exchange(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(answer, "");
    let request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let answer = exchange(address, request).await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    ctl.trigger(ShutdownReason::Manual);
    assert!(in_time(server).await.unwrap().is_graceful());
}
