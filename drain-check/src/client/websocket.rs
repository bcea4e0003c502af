//! tungstenite: a WebSocket that sends a message now and then, until the server closes it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::judge::{self, Head, Unanswered};
use super::wire::Wire;
use super::{Client, Expected, Seen, ended};
use crate::chain::chain;
use crate::ledger::{Fate, Loss};
use crate::target::Target;

/// Between two messages.
const PERIOD: Duration = Duration::from_millis(50);

pub(super) async fn run(mut client: Client) {
    while !client.has_ended() {
        let Some(wire) = client.connect().await else {
            continue;
        };
        let began = client.now();
        let traffic = wire.traffic();
        let path = client.next_path();
        let url = client.job.target.url("ws", &path);
        let limit = client.job.answer_within;
        let seen = match timeout(limit, client_async(url, wire)).await {
            Ok(Ok((socket, _))) => match session(&mut client, socket).await {
                Some(seen) => seen,
                None => return,
            },
            Ok(Err(Error::Http(response))) => {
                let head = Head::of(response.status(), response.version(), response.headers());
                let expected = Expected::usual(http::StatusCode::SWITCHING_PROTOCOLS, None);
                let body = Ok::<_, Error>(bytes::Bytes::new());
                let is_balancer = client.job.target.is_balancer;
                judge::answer(client.work, &head, body, Some(&expected), is_balancer)
            }
            Ok(Err(error)) => {
                let known = Unanswered {
                    was_sent: traffic.sent() > 0,
                    is_reused: false,
                    has_bytes: traffic.received() > 0,
                    is_accepted: traffic.received() > 0,
                    after: Duration::ZERO,
                };
                judge::error(client.work, &error, known)
            }
            Err(_) => judge::timed_out(limit),
        };
        let fate = seen.0;
        client.note(began, seen);
        client.pause(fate).await;
    }
}

/// Opens a WebSocket, or returns what is in the way.
pub(crate) async fn open_once(target: &Target, path: &str, within: Duration) -> Result<(), String> {
    let wire = Wire::connect(target.addresses[0]).await;
    let wire = wire.map_err(|error| error.to_string())?;
    match timeout(within, client_async(target.url("ws", path), wire)).await {
        Ok(opened) => opened.map(drop).map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", within.as_secs_f64())),
    }
}

/// Returns how the server ended it, or `None` if this client did.
async fn session(client: &mut Client, mut socket: WebSocketStream<Wire>) -> Option<Seen> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let cut = |seen| Some((Fate::Lost(Loss::WebSocket), Some(seen)));
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Close(_))) => {
                    // Answers the close frame, and waits for the end of the connection.
                    let _ = timeout(PERIOD, socket.next()).await;
                    return Some((Fate::Answered, None));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return cut(chain(&error)),
                None => return cut("closed without a close frame".to_owned()),
            },
            _ = ticks.tick() => {
                // The next read says more about an error.
                let _ = socket.send(Message::text("drain-check")).await;
            }
            () = ended(&mut client.end) => {
                let _ = socket.close(None).await;
                return None;
            }
        }
    }
}
