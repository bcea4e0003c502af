//! What the servers have in common: three routes, a port, and a signal.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub fn port() -> u16 {
    std::env::var("PORT").unwrap().parse().unwrap()
}

pub fn address() -> SocketAddr {
    ([127, 0, 0, 1], port()).into()
}

pub async fn listener() -> TcpListener {
    TcpListener::bind(address()).await.unwrap()
}

pub async fn terminated() {
    signal(SignalKind::terminate()).unwrap().recv().await;
}

pub fn app() -> Router {
    Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .route("/u", post(async |body: Bytes| body.len().to_string()))
}

pub async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(200)).await;
    "slow\n"
}
