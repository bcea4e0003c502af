//! The HTTP clients, on their own runtime.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONNECTION, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::ledger::{Ledger, Outcome};

/// A request that a client repeats.
struct Load {
    path: String,
    /// The complete response body.
    expected: String,
    pause: Duration,
    /// Keeps sending after `Connection: close`, until the listener is closed.
    ignores_close: bool,
}

/// Runs all clients to their end. The last one starts after the server has ended.
pub fn run(
    address: SocketAddr,
    stuck: bool,
    ledger: &Arc<Ledger>,
    server_ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut clients = JoinSet::new();
        let loads = (0..140)
            .map(Load::quick)
            .chain((0..60).map(Load::slow))
            .chain((0..40).map(Load::stream))
            .chain(
                ["/stuck", "/endless"]
                    .map(Load::unending)
                    .into_iter()
                    .filter(|_| stuck),
            );
        for load in loads {
            clients.spawn(load.run(address, Arc::clone(ledger)));
        }
        clients.spawn(probe(address, Arc::clone(ledger)));
        while clients.join_next().await.is_some() {}

        // The sender is only dropped, never used.
        let _ = server_ended.await;
        Load::quick(0).run(address, Arc::clone(ledger)).await;
    });
    Ok(())
}

impl Load {
    fn quick(n: u64) -> Self {
        Self {
            path: "/quick".to_owned(),
            expected: "quick\n".to_owned(),
            pause: Duration::from_millis(50 + n % 100),
            ignores_close: true,
        }
    }

    fn slow(n: u64) -> Self {
        let millis = 100 + n * 31;
        Self {
            path: format!("/slow/{millis}"),
            expected: format!("slow, {millis} ms\n"),
            pause: Duration::from_millis(20),
            ignores_close: false,
        }
    }

    fn stream(n: u64) -> Self {
        let lines = 10 + n / 2;
        Self {
            path: format!("/stream/{lines}"),
            expected: (1..=lines).map(|line| format!("line {line}\n")).collect(),
            pause: Duration::from_millis(20),
            ignores_close: false,
        }
    }

    /// No response to this request can be complete.
    fn unending(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            expected: String::new(),
            pause: Duration::ZERO,
            ignores_close: false,
        }
    }

    async fn run(self, address: SocketAddr, ledger: Arc<Ledger>) {
        let client = client();
        let url = format!("http://{address}{}", self.path);
        loop {
            ledger.begin();
            let (outcome, asked_to_leave) = self.send(&client, &url).await;
            let stays =
                matches!(outcome, Outcome::Answered) && (self.ignores_close || !asked_to_leave);
            ledger.end(outcome);
            if !stays {
                return;
            }
            sleep(self.pause).await;
        }
    }

    /// Sends one request. Returns its outcome, and whether the client was asked to leave.
    async fn send(&self, client: &Client, url: &str) -> (Outcome, bool) {
        let response = match client.get(url).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return (Outcome::NeverSent, true),
            Err(error) => return (Outcome::Lost(describe(&error)), true),
        };
        let headers = response.headers();
        let asked_to_leave = headers
            .get(CONNECTION)
            .is_some_and(|value| value == "close");
        let may_be_retried = headers.contains_key(RETRY_AFTER);
        let status = response.status();
        let outcome = match (status, response.text().await) {
            (StatusCode::OK, Ok(text)) if text == self.expected => Outcome::Answered,
            (StatusCode::OK, Err(_)) => Outcome::Cut,
            (StatusCode::SERVICE_UNAVAILABLE, Ok(_)) if may_be_retried => Outcome::Refused,
            (StatusCode::SERVICE_UNAVAILABLE, Ok(_)) => Outcome::Cut,
            (_, Ok(text)) => Outcome::Lost(format!("{}: {status} and {text:?}", self.path)),
            (_, Err(error)) => Outcome::Lost(describe(&error)),
        };
        (outcome, asked_to_leave)
    }
}

/// Polls readiness, as a load balancer does, until it is red or the connection fails.
async fn probe(address: SocketAddr, ledger: Arc<Ledger>) {
    let client = client();
    let url = format!("http://{address}/health");
    while let Ok(response) = client.get(&url).send().await {
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            ledger.red();
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Each client has its own connection, kept alive.
fn client() -> Client {
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(8))
        .build();
    client.expect("a valid configuration")
}

/// Returns the whole chain of errors: the outermost error never names the cause.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
