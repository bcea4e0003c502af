//! `serve` on a listening socket that is shared, and its drain of the backlog where it is not.

use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    serve,
};

use crate::support::loopback::loopback;
use crate::support::server::{Http1, in_time};

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: usize = 100;

fn app(ctl: &ShutdownController, name: &'static str) -> Router {
    Router::new()
        .route("/", get(async move || name))
        .layer(DrainLayer::new(ctl.clone()))
}

fn start(
    listener: TcpListener,
    ctl: &ShutdownController,
    name: &'static str,
    is_shared: bool,
) -> JoinHandle<ShutdownReport> {
    let server = serve(listener, app(ctl, name), ctl.clone()).shared(is_shared);
    tokio::spawn(server.into_future())
}

/// Two listeners on one socket, as a process and its successor have them.
fn one_socket() -> (TcpListener, TcpListener) {
    let first = std::net::TcpListener::bind(loopback()).unwrap();
    first.set_nonblocking(true).unwrap();
    let second = first.try_clone().unwrap();
    (
        TcpListener::from_std(first).unwrap(),
        TcpListener::from_std(second).unwrap(),
    )
}

/// Connects and sends a request without letting the server run: it waits in the backlog.
fn ask(address: SocketAddr) -> std::net::TcpStream {
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(20 * SECOND)).unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    client
}

/// Returns which server responded to each of them.
async fn answers(clients: Vec<std::net::TcpStream>) -> Vec<String> {
    let reading = tokio::task::spawn_blocking(move || {
        let read = |mut client: std::net::TcpStream| {
            let mut answer = String::new();
            match client.read_to_string(&mut answer) {
                Ok(_) => answer.rsplit("\r\n\r\n").next().unwrap().to_owned(),
                Err(error) => error.to_string(),
            }
        };
        clients.into_iter().map(read).collect()
    });
    in_time(reading).await.unwrap()
}

#[tokio::test]
async fn a_shared_socket_is_left_to_the_successor_at_the_trigger() {
    for lame_duck in [Duration::ZERO, Duration::from_millis(100)] {
        let (first, second) = one_socket();
        let address = first.local_addr().unwrap();
        let config = ShutdownConfig::default().lame_duck(lame_duck);
        let old = ShutdownController::with_config(config).unwrap();
        let server = start(first, &old, "old", true);
        let mut before = Http1::new(tokio::net::TcpStream::connect(address).await.unwrap());
        assert_eq!(before.get("/").await.text(), "old");

        let clients = (0..CLIENTS).map(|_| ask(address)).collect();
        old.trigger(ShutdownReason::Manual);
        let report = in_time(server).await.unwrap();
        assert!(report.is_graceful(), "{report}");
        assert_eq!(report.admitted() + report.refused(), 1, "{report}");

        let new = ShutdownController::new();
        let successor = start(second, &new, "new", true);
        assert_eq!(answers(clients).await, vec!["new"; CLIENTS]);
        new.trigger(ShutdownReason::Manual);
        assert!(in_time(successor).await.unwrap().is_graceful());
    }
}

#[tokio::test]
async fn two_lifecycles_on_one_socket_are_both_reached_one_after_the_other() {
    let (first, second) = one_socket();
    let address = first.local_addr().unwrap();
    for (listener, name) in [(first, "first"), (second, "second")] {
        let ctl = ShutdownController::new();
        let server = start(listener, &ctl, name, true);
        let client = tokio::task::spawn_blocking(move || ask(address));
        let client = in_time(client).await.unwrap();
        assert_eq!(answers(vec![client]).await, [name]);
        ctl.trigger(ShutdownReason::Manual);
        assert!(in_time(server).await.unwrap().is_graceful());
    }
}

#[tokio::test]
async fn a_shared_socket_is_accepted_from_again_after_resume() {
    let (first, _second) = one_socket();
    let address = first.local_addr().unwrap();
    let config = ShutdownConfig::default().lame_duck(10 * SECOND);
    let ctl = ShutdownController::with_config(config).unwrap();
    let server = start(first, &ctl, "old", true);
    let mut before = Http1::new(tokio::net::TcpStream::connect(address).await.unwrap());
    assert_eq!(before.get("/").await.text(), "old");
    for _ in 0..3 {
        let clients: Vec<_> = (0..CLIENTS).map(|_| ask(address)).collect();
        ctl.trigger(ShutdownReason::Manual);
        // Accepted connections are served as before.
        assert_eq!(before.get("/").await.text(), "old");
        sleep(Duration::from_millis(50)).await;
        let mut first = &clients[0];
        first.set_nonblocking(true).unwrap();
        let nothing = first.read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        first.set_nonblocking(false).unwrap();
        ctl.resume().unwrap();
        assert_eq!(answers(clients).await, vec!["old"; CLIENTS]);
        before = Http1::new(tokio::net::TcpStream::connect(address).await.unwrap());
        assert_eq!(before.get("/").await.text(), "old");
    }
    drop(before);
    ctl.force();
    in_time(server).await.unwrap();
    assert_eq!(ctl.state(), LifecycleState::Stopped);
}

/// `shared` is not for this: each has its own backlog, which its server serves before it closes.
#[tokio::test]
async fn sockets_that_share_a_port_serve_their_own_backlogs() {
    let bind = |address: SocketAddr| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        socket.listen(1024).unwrap()
    };
    let first = bind(loopback());
    let address = first.local_addr().unwrap();
    let second = bind(address);
    let (old, new) = (ShutdownController::new(), ShutdownController::new());
    let server = start(first, &old, "served", false);
    let successor = start(second, &new, "served", false);
    sleep(Duration::from_millis(10)).await;
    let clients = (0..CLIENTS).map(|_| ask(address)).collect();
    old.trigger(ShutdownReason::Manual);
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert!(report.late_requests() + report.admitted() > 0, "{report}");
    assert_eq!(answers(clients).await, vec!["served"; CLIENTS]);
    new.trigger(ShutdownReason::Manual);
    assert!(in_time(successor).await.unwrap().is_graceful());
}
