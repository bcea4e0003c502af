//! The same on sockets, with clients of others.

use super::*;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tower_lifecycle::server::Serve;
use tower_lifecycle::{ShutdownReport, serve};

use crate::support::sockets::{Protocol, client};

const TASKS: usize = 20;
const REQUESTS: usize = 100;

struct Sockets {
    app: App,
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    server: JoinHandle<ShutdownReport>,
}

impl Sockets {
    async fn start(
        set: impl FnOnce(Serve<TcpListener, Router>) -> Serve<TcpListener, Router>,
    ) -> Self {
        let app = App::new();
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let server = set(serve(listener, app.routes(), app.ctl.clone()))
            .extension(move |_| count.fetch_add(1, Ordering::Relaxed));
        Self {
            app,
            address,
            accepted,
            server: tokio::spawn(server.into_future()),
        }
    }

    /// Sends requests from many tasks; returns those that were not answered as they should.
    async fn load(&self, client: &reqwest::Client) -> Vec<String> {
        let url = format!("http://{}/", self.address);
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (client, url) = (client.clone(), url.clone());
            tasks.spawn(async move {
                let mut failures = Vec::new();
                for _ in 0..REQUESTS {
                    match client.get(&url).send().await {
                        Ok(response) if response.status() == 200 => {
                            match response.text().await.as_deref() {
                                Ok("ok") => {}
                                other => failures.push(format!("{other:?}")),
                            }
                        }
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            });
        }
        in_time(tasks.join_all()).await.concat()
    }

    async fn end(self) -> ShutdownReport {
        self.app.ctl.trigger(ShutdownReason::Manual);
        let report = in_time(self.server).await.unwrap();
        assert!(report.is_graceful(), "{report}");
        report
    }
}

#[tokio::test]
async fn reqwest_loses_no_request_by_a_limit_of_requests() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let sockets = Sockets::start(|serve| serve.max_requests_per_connection(10)).await;
        let client = client(protocol);
        assert_eq!(sockets.load(&client).await, [""; 0]);
        let accepted = sockets.accepted.load(Ordering::Relaxed);
        // Requests that cross a GOAWAY are served on the old connection.
        let least = match protocol {
            Protocol::Http1 => TASKS * REQUESTS / 10,
            Protocol::Http2 => 2,
        };
        assert!(accepted >= least, "{accepted} connections");
        drop(client);
        assert_eq!(sockets.end().await.admitted(), (TASKS * REQUESTS) as u64);
    }
}

#[tokio::test]
async fn reqwest_loses_no_request_by_the_age() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let sockets = Sockets::start(|serve| serve.max_connection_age(20 * MS)).await;
        let client = client(protocol);
        for _ in 0..5 {
            assert_eq!(sockets.load(&client).await, [""; 0]);
        }
        let accepted = sockets.accepted.load(Ordering::Relaxed);
        assert!(accepted > 1, "{accepted} connections");
        drop(client);
        sockets.end().await;
    }
}

#[tokio::test]
async fn a_full_server_serves_the_backlog_of_its_socket() {
    let sockets = Sockets::start(|serve| serve.max_connections(3)).await;
    // Each connection is closed after its request.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0);
    let client = client.no_proxy().build().unwrap();
    assert_eq!(sockets.load(&client).await, [""; 0]);
    sockets.end().await;
}

#[tokio::test]
async fn a_full_server_serves_its_backlog_when_draining_begins() {
    let sockets = Sockets::start(|serve| serve.max_connections(2)).await;
    let connect = || async {
        let stream = tokio::net::TcpStream::connect(sockets.address).await;
        let mut client = Http1::new(stream.unwrap());
        client.send(crate::support::server::get("/")).await;
        client
    };
    let mut idle = [connect().await, connect().await];
    for client in &mut idle {
        assert!(!client.answer().await.closes());
    }
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(connect().await);
    }
    sockets.app.ctl.trigger(ShutdownReason::Manual);
    for client in &mut waiting {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.closes()), (200, true));
    }
    drop((idle, waiting));
    assert_eq!(sockets.end().await.late_requests(), 50);
}
