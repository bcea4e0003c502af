//! hyper's HTTP/1 client: one kept connection, whose bytes are counted.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::judge::{self, Head, Unanswered};
use super::wire::{Traffic, Wire};
use super::{Body, Client, Seen, ended};
use crate::ledger::Work;

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    traffic: Traffic,
    is_reused: bool,
}

impl Connection {
    /// Connects to a server.
    ///
    /// # Errors
    ///
    /// If nobody accepts the connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(Wire::connect(address).await?).await
    }

    async fn over(wire: Wire) -> io::Result<Self> {
        let traffic = wire.traffic();
        let (sender, driver) = handshake(TokioIo::new(wire))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(driver);
        Ok(Self {
            sender,
            traffic,
            is_reused: false,
        })
    }

    /// Returns what it has received and sent.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Waits until the last answer is read. Returns `false` if the connection is closed.
    pub async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request, and waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// The fate of a request without an answer.
    pub async fn send(
        &mut self,
        request: Request<Body>,
        work: Work,
        within: Duration,
    ) -> Result<Response<Incoming>, Seen> {
        let before = (self.traffic.sent(), self.traffic.received());
        let sent_at = Instant::now();
        let Ok(sent) = timeout(within, self.sender.try_send_request(request)).await else {
            return Err(judge::timed_out(within));
        };
        let sent = sent.map_err(|mut error| {
            let is_back = error.take_message().is_some();
            let known = Unanswered {
                was_sent: !is_back || self.traffic.sent() > before.0,
                is_reused: self.is_reused,
                has_bytes: self.traffic.received() > before.1,
                is_accepted: self.is_reused || self.traffic.received() > 0,
                after: sent_at.elapsed(),
            };
            judge::error(work, error.error(), known)
        });
        self.is_reused = true;
        sent
    }
}

pub(super) async fn run(mut client: Client) {
    let mut kept: Option<Connection> = None;
    while !client.has_ended() {
        // It may have been closed since its last answer.
        let is_open = match &mut kept {
            Some(connection) => connection.is_open().await,
            None => false,
        };
        if !is_open {
            kept = match client.connect().await {
                Some(wire) => Connection::over(wire).await.ok(),
                None => None,
            };
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

/// Sends a request. Returns its fate and whether the connection stays, or `None` if this client ends
/// a stream by itself.
async fn exchange(
    client: &mut Client,
    connection: &mut Connection,
    path: &str,
) -> Option<(Seen, bool)> {
    let (limit, work) = (client.job.answer_within, client.work);
    let response = match connection.send(client.request(path), work, limit).await {
        Ok(response) => response,
        Err(seen) => return Some((seen, false)),
    };
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
