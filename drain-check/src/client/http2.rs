//! hyper's HTTP/2 client: some clients share a connection, each has one stream at a time.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::judge::{self, Head, Unanswered};
use super::wire::Traffic;
use super::{Body, Client, Seen};
use crate::chain::chain;
use crate::ledger::{Fate, Unsent};

/// The connection of some clients.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Option<Connection>>>);

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    traffic: Traffic,
}

pub(super) async fn run(mut client: Client, shared: Shared) {
    while !client.has_ended() {
        let began = client.now();
        let mut connection = match shared.connection(&mut client).await {
            Ok(Some(connection)) => connection,
            Ok(None) => continue,
            // Closed before a request could be sent.
            Err(error) => {
                let fate = Fate::NeverSent(Unsent::Closed);
                client.note(began, (fate, Some(chain(&error))));
                client.pause(fate).await;
                continue;
            }
        };
        let began = client.now();
        let seen = exchange(&mut client, &mut connection).await;
        let fate = seen.0;
        client.note(began, seen);
        client.pause(fate).await;
    }
}

impl Shared {
    /// Returns the connection, connected anew if it is closed.
    async fn connection(&self, client: &mut Client) -> hyper::Result<Option<Connection>> {
        let mut kept = self.0.lock().await;
        if let Some(connection) = &*kept {
            let mut connection = connection.clone();
            if connection.sender.ready().await.is_ok() {
                return Ok(Some(connection));
            }
        }
        *kept = None;
        let Some(wire) = client.connect().await else {
            return Ok(None);
        };
        let traffic = wire.traffic();
        let (mut sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(wire)).await?;
        tokio::spawn(driver);
        sender.ready().await?;
        let connection = Connection { sender, traffic };
        *kept = Some(connection.clone());
        Ok(Some(connection))
    }
}

async fn exchange(client: &mut Client, connection: &mut Connection) -> Seen {
    let (limit, work) = (client.job.answer_within, client.work);
    let path = client.next_path();
    let sending = connection.sender.try_send_request(client.request(&path));
    let Ok(sent) = timeout(limit, sending).await else {
        return judge::timed_out(limit);
    };
    let response = match sent {
        Ok(response) => response,
        Err(mut error) => {
            let known = Unanswered {
                was_sent: error.take_message().is_none(),
                // HTTP/2 says with GOAWAY which requests a server has not begun.
                is_reused: false,
                has_bytes: false,
                // A server begins with its settings (RFC 9113 §3.4).
                is_accepted: connection.traffic.received() > 0,
                after: Duration::ZERO,
            };
            return judge::error(work, error.error(), known);
        }
    };
    let (parts, body) = response.into_parts();
    let head = Head::of(parts.status, parts.version, &parts.headers);
    let Ok(collected) = timeout(limit, body.collect()).await else {
        return judge::timed_out(limit);
    };
    let body = collected.map(http_body_util::Collected::to_bytes);
    let job = &client.job;
    let expected = job.expected.get(&path);
    judge::answer(work, &head, body, expected, job.target.is_balancer)
}
