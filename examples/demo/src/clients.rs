//! The other side: real HTTP clients, with a runtime of their own.

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

/// What a client asks for, again and again.
struct Errand {
    path: String,
    /// What the whole answer is.
    expected: String,
    pause: Duration,
    /// It comes back although it was asked to leave, until nobody listens any more.
    stubborn: bool,
}

/// Runs all clients to their end, one of which comes only after the server's.
pub fn run(
    address: SocketAddr,
    stuck: bool,
    ledger: &Arc<Ledger>,
    server_ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut clients = JoinSet::new();
        let errands = (0..140)
            .map(Errand::quick)
            .chain((0..60).map(Errand::slow))
            .chain((0..40).map(Errand::stream))
            .chain(
                ["/stuck", "/endless"]
                    .map(Errand::hopeless)
                    .into_iter()
                    .filter(|_| stuck),
            );
        for errand in errands {
            clients.spawn(errand.run(address, Arc::clone(ledger)));
        }
        clients.spawn(probe(address, Arc::clone(ledger)));
        while clients.join_next().await.is_some() {}

        // The sender only ever drops its end.
        let _ = server_ended.await;
        Errand::quick(0).run(address, Arc::clone(ledger)).await;
    });
    Ok(())
}

impl Errand {
    fn quick(n: u64) -> Self {
        Self {
            path: "/quick".to_owned(),
            expected: "quick\n".to_owned(),
            pause: Duration::from_millis(50 + n % 100),
            stubborn: true,
        }
    }

    fn slow(n: u64) -> Self {
        let millis = 100 + n * 31;
        Self {
            path: format!("/slow/{millis}"),
            expected: format!("slow, {millis} ms\n"),
            pause: Duration::from_millis(20),
            stubborn: false,
        }
    }

    fn stream(n: u64) -> Self {
        let lines = 10 + n / 2;
        Self {
            path: format!("/stream/{lines}"),
            expected: (1..=lines).map(|line| format!("line {line}\n")).collect(),
            pause: Duration::from_millis(20),
            stubborn: false,
        }
    }

    /// There is no end of it that could be right.
    fn hopeless(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            expected: String::new(),
            pause: Duration::ZERO,
            stubborn: false,
        }
    }

    async fn run(self, address: SocketAddr, ledger: Arc<Ledger>) {
        let client = client();
        let url = format!("http://{address}{}", self.path);
        loop {
            ledger.begin();
            let (outcome, asked_to_leave) = self.send(&client, &url).await;
            let stays = matches!(outcome, Outcome::Answered) && (self.stubborn || !asked_to_leave);
            ledger.end(outcome);
            if !stays {
                return;
            }
            sleep(self.pause).await;
        }
    }

    /// Sends one request, and tells what became of it and whether the client was asked to leave.
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

/// Asks for the readiness, as a load balancer does, until it is red or nobody answers.
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
    client.expect("nothing in it that could fail")
}

/// The whole chain: what a client of HTTP says first is never what happened.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
