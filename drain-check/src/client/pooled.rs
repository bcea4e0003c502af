//! reqwest, with the pool and the retries that most programs have.

use std::error::Error;
use std::time::Instant;

use reqwest::Client as Reqwest;

use super::Client;
use super::judge::{self, Head, Unanswered};
use crate::chain::chain;
use crate::ledger::{Fate, Sender, Unsent};

pub(super) async fn run(mut client: Client) {
    let builder = Reqwest::builder()
        .no_proxy()
        .timeout(client.job.answer_within);
    let builder = match client.sender {
        Sender::Reqwest2 => builder.http2_prior_knowledge(),
        _ => builder.http1_only(),
    };
    let reqwest = builder.build().expect("a valid configuration");
    let addresses = client.job.target.addresses.clone();
    // Whether the pool has a connection, as far as one can know from here.
    let mut is_pooled = false;
    let mut instance = client.turn;
    while !client.has_ended() {
        let path = client.next_path();
        let url = match addresses.as_slice() {
            [_] => client.job.target.url("http", &path),
            several => format!("http://{}{path}", several[instance % several.len()]),
        };
        let began = client.now();
        let sent_at = Instant::now();
        let seen = match reqwest.get(url).send().await {
            Ok(response) => {
                let head = Head::of(response.status(), response.version(), response.headers());
                let body = response.bytes().await;
                is_pooled = body.is_ok() && !head.closes;
                let job = &client.job;
                let expected = job.expected.get(&path);
                judge::answer(client.work, &head, body, expected, job.target.is_balancer)
            }
            Err(error) if error.is_timeout() => judge::timed_out(client.job.answer_within),
            Err(error) if error.is_connect() => {
                (Fate::NeverSent(Unsent::Refused), Some(chain(&error)))
            }
            Err(error) => {
                let known = Unanswered {
                    was_sent: !was_canceled(&error),
                    is_reused: is_pooled && client.sender == Sender::Reqwest1,
                    has_bytes: false,
                    is_accepted: is_pooled,
                    after: sent_at.elapsed(),
                };
                judge::error(client.work, &error, known)
            }
        };
        let fate = seen.0;
        if fate != Fate::Answered {
            is_pooled = false;
            instance += 1;
        }
        client.note(began, seen);
        client.pause(fate).await;
    }
}

/// Returns whether the request was still in the client when its connection ended.
fn was_canceled(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_canceled();
        }
        source = cause.source();
    }
    false
}
