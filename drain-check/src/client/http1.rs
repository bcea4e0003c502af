//! hyper's HTTP/1 client: one kept connection, whose bytes are counted.

use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::judge::{self, Head, Unanswered};
use super::wire::Bytes;
use super::{Body, Client, Seen, ended};
use crate::ledger::Work;

struct Connection {
    sender: SendRequest<Body>,
    bytes: Bytes,
    is_reused: bool,
}

pub async fn run(mut client: Client) {
    let mut kept: Option<Connection> = None;
    while !client.has_ended() {
        // It may have been closed since its last answer.
        let is_open = match &mut kept {
            Some(connection) => connection.sender.ready().await.is_ok(),
            None => false,
        };
        if !is_open {
            kept = connect(&mut client).await;
        }
        let Some(connection) = &mut kept else {
            continue;
        };
        let began = client.now();
        let path = client.next_path();
        let Some((seen, stays)) = exchange(&mut client, connection, &path).await else {
            return;
        };
        let fate = seen.0;
        client.note(began, seen);
        if !stays {
            kept = None;
        }
        client.pause(fate).await;
    }
}

async fn connect(client: &mut Client) -> Option<Connection> {
    let wire = client.connect().await?;
    let bytes = wire.bytes();
    let (sender, driver) = handshake(TokioIo::new(wire)).await.ok()?;
    tokio::spawn(driver);
    Some(Connection {
        sender,
        bytes,
        is_reused: false,
    })
}

/// Sends a request. Returns its fate and whether the connection stays, or `None` if this client ends
/// a stream by itself.
async fn exchange(
    client: &mut Client,
    connection: &mut Connection,
    path: &str,
) -> Option<(Seen, bool)> {
    let (limit, work) = (client.job.answer_within, client.work);
    let before = (connection.bytes.sent(), connection.bytes.received());
    let sent_at = Instant::now();
    let sending = connection.sender.try_send_request(client.request(path));
    let Ok(sent) = timeout(limit, sending).await else {
        return Some((judge::timed_out(limit), false));
    };
    let response = match sent {
        Ok(response) => response,
        Err(mut error) => {
            let is_back = error.take_message().is_some();
            let known = Unanswered {
                was_sent: !is_back || connection.bytes.sent() > before.0,
                is_reused: connection.is_reused,
                has_bytes: connection.bytes.received() > before.1,
                is_accepted: connection.is_reused || connection.bytes.received() > 0,
                after: sent_at.elapsed(),
            };
            return Some((judge::error(work, error.error(), known), false));
        }
    };
    connection.is_reused = true;
    let (parts, body) = response.into_parts();
    let head = Head::of(parts.status, parts.version, &parts.headers);
    let body = if work == Work::Events {
        events(client, body).await?
    } else {
        match timeout(limit, body.collect()).await {
            Ok(collected) => collected.map(http_body_util::Collected::to_bytes),
            Err(_) => return Some((judge::timed_out(limit), false)),
        }
    };
    let job = &client.job;
    let expected = job.expected.get(path);
    let stays = body.is_ok() && !head.closes;
    let seen = judge::answer(work, &head, body, expected, job.target.is_balancer);
    Some((seen, stays))
}

/// Reads an event stream to its end. Returns `None` if this client ends it.
async fn events(client: &mut Client, mut body: Incoming) -> Option<hyper::Result<bytes::Bytes>> {
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Ok(bytes::Bytes::new())),
            },
            () = ended(&mut client.end) => return None,
        }
    }
}
