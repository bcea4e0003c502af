//! Clients that connect at the moment when a server closes its listener.

use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, yield_now};
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, serve};

use crate::support::loopback::loopback;

const ROUNDS: usize = 20;
const CLIENTS: usize = 16;
/// Less than the second after which a client retransmits.
const TIMEOUT: Duration = Duration::from_millis(500);
const NOT_THERE: [ErrorKind; 2] = [ErrorKind::ConnectionRefused, ErrorKind::TimedOut];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_is_reset_that_connects_as_the_listener_closes() {
    // A busy server: other work runs between the last accept and the close.
    let mut others = JoinSet::new();
    for _ in 0..20 {
        others.spawn(async {
            loop {
                let until = Instant::now() + Duration::from_micros(100);
                while Instant::now() < until {}
                yield_now().await;
            }
        });
    }
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let ctl = ShutdownController::new();
        let app = Router::new()
            .route("/", get(async || "served"))
            .layer(DrainLayer::new(ctl.clone()))
            .with_state(());
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
        let clients = [(); CLIENTS].map(|()| std::thread::spawn(move || until_refused(address)));
        // Gives them time to start.
        tokio::time::sleep(Duration::from_millis(20)).await;
        ctl.trigger(ShutdownReason::Manual);
        assert!(server.await.unwrap().is_graceful());
        for client in clients {
            lost += client.join().unwrap();
        }
    }
    assert_eq!(lost, 0);
}

/// Sends requests, each on a new connection at a random moment. Returns how many were lost.
fn until_refused(server: SocketAddr) -> usize {
    let mut lost = 0;
    loop {
        let pause = RandomState::new().hash_one(0) % 4000;
        std::thread::sleep(Duration::from_micros(pause));
        match TcpStream::connect_timeout(&server, TIMEOUT) {
            Ok(connection) => lost += usize::from(!is_served(connection)),
            // The second is for clients that the kernel ignores.
            Err(error) if NOT_THERE.contains(&error.kind()) => return lost,
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_served(mut connection: TcpStream) -> bool {
    let mut answer = String::new();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let sent = connection.write_all(request);
    let read = sent.and_then(|()| connection.read_to_string(&mut answer));
    read.is_ok() && answer.ends_with("served")
}
