//! Decides the fate of a request by what its client saw.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};

use super::{Expected, Seen};
use crate::chain::chain;
use crate::ledger::{Fate, Loss, Refusal, Unsent, Work};

/// How long after it was sent a request may have met the close of its idle connection. A later close
/// is one of a connection in use.
const CROSSING: Duration = Duration::from_millis(50);

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// Whether it has `Retry-After`.
    pub may_be_retried: bool,
    /// Whether the connection is closed after it.
    pub closes: bool,
}

impl Head {
    /// Reads the head of an answer.
    pub fn of(status: StatusCode, version: Version, headers: &HeaderMap) -> Self {
        let closes = version < Version::HTTP_2
            && headers.get_all(header::CONNECTION).iter().any(|value| {
                let value = value.to_str().unwrap_or_default();
                value
                    .split(',')
                    .any(|token| token.trim().eq_ignore_ascii_case("close"))
            });
        Self {
            status,
            may_be_retried: headers.contains_key(header::RETRY_AFTER),
            closes,
        }
    }

    /// Judges the status. Returns `None` if the body decides.
    fn judge(&self, expected: StatusCode, is_balancer: bool) -> Option<Seen> {
        let status = self.status;
        // A balancer's own 503 means that it has found nobody.
        let closes = self.closes && !is_balancer;
        let fate = match status {
            status if status == expected => return None,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
                if self.may_be_retried =>
            {
                Fate::Refused(Refusal::Later)
            }
            StatusCode::SERVICE_UNAVAILABLE if closes => Fate::Refused(Refusal::Closing),
            StatusCode::SERVICE_UNAVAILABLE => Fate::Lost(Loss::Unavailable),
            status if status.as_u16() >= 400 => Fate::Lost(Loss::Status(status.as_u16())),
            _ => return None,
        };
        Some((fate, Some(status.to_string())))
    }
}

/// Judges an answer, with its whole body or the error in which it ends.
pub fn answer<E: Error>(
    work: Work,
    head: &Head,
    body: Result<Bytes, E>,
    expected: Option<&Expected>,
    is_balancer: bool,
) -> Seen {
    let status = expected.map_or(StatusCode::OK, |expected| expected.status);
    let judged = head.judge(status, is_balancer);
    if let Some(seen) = judged.filter(|_| body.is_ok()) {
        return seen;
    }
    let is_exact = expected.is_some_and(|expected| expected.is_exact);
    let wanted = expected.and_then(|expected| expected.body.as_ref());
    match (body, wanted) {
        // A body without a length ends with its connection, also too early.
        (Ok(body), Some(wanted)) if body.len() < wanted.len() && wanted.starts_with(&body) => {
            let seen = format!("{status} and {} of {} bytes", body.len(), wanted.len());
            (Fate::Lost(Loss::Truncated), Some(seen))
        }
        (Ok(body), Some(wanted)) if is_exact && (body != wanted || head.status != status) => {
            let begin = body[..body.len().min(100)].escape_ascii();
            let seen = format!("{} and {} bytes: {begin}", head.status, body.len());
            (Fate::Lost(Loss::Content), Some(seen))
        }
        (Ok(_), _) => (Fate::Answered, None),
        (Err(error), _) => {
            let loss = match work {
                Work::Events => Loss::Events,
                _ => Loss::Truncated,
            };
            let seen = format!("{}, then {}", head.status, chain(&error));
            (Fate::Lost(loss), Some(seen))
        }
    }
}

/// What is known of an HTTP/1 request without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Unanswered {
    /// Whether a byte of it was written.
    pub was_sent: bool,
    /// Whether its connection has served a request before.
    pub is_reused: bool,
    /// Whether a part of an answer came.
    pub has_bytes: bool,
    /// Whether the server accepted the connection, as far as its bytes say.
    pub is_accepted: bool,
    /// How long after it was sent its connection failed.
    pub after: Duration,
}

/// Judges an error in place of an answer.
pub fn error(work: Work, error: &(dyn Error + 'static), known: Unanswered) -> Seen {
    let fate = if let Some(refused) = of_http2(error) {
        refused
    } else if !known.was_sent {
        Fate::NeverSent(Unsent::Closed)
    } else if known.is_reused && !known.has_bytes && known.after < CROSSING {
        Fate::Ambiguous
    } else if !known.is_accepted {
        Fate::Lost(Loss::NotAccepted)
    } else if work == Work::Upload {
        Fate::Lost(Loss::Upload)
    } else {
        Fate::Lost(Loss::NoAnswer)
    };
    (fate, Some(chain(error)))
}

/// Returns `Refused` if the server says by HTTP/2 that it has not begun.
fn of_http2(error: &(dyn Error + 'static)) -> Option<Fate> {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let past_the_last = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return (error.is_remote() && (past_the_last || refused))
                .then_some(Fate::Refused(Refusal::Unprocessed));
        }
        source = cause.source();
    }
    None
}

/// Judges a request that has no answer in time.
pub fn timed_out(within: Duration) -> Seen {
    let seen = format!("nothing within {} s", within.as_secs_f64());
    (Fate::Lost(Loss::TimedOut), Some(seen))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use http::Response;

    use super::*;

    fn of(status: u16, header: Option<(&str, &str)>, is_balancer: bool) -> Fate {
        let mut response = Response::builder().status(status);
        if let Some((name, value)) = header {
            response = response.header(name, value);
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let head = Head::of(parts.status, parts.version, &parts.headers);
        let body = Ok::<_, Infallible>(Bytes::from_static(b"hel"));
        answer(Work::Request, &head, body, None, is_balancer).0
    }

    #[test]
    fn only_a_refusal_that_says_so_is_safe_to_retry() {
        let retry = Some(("retry-after", "1"));
        let close = Some(("connection", "keep-alive, Close"));
        assert_eq!(of(200, close, false), Fate::Answered);
        let later = Fate::Refused(Refusal::Later);
        assert_eq!(of(503, retry, false), later);
        assert_eq!(of(503, retry, true), later);
        assert_eq!(of(503, close, false), Fate::Refused(Refusal::Closing));
        assert_eq!(of(503, close, true), Fate::Lost(Loss::Unavailable));
        assert_eq!(of(503, None, false), Fate::Lost(Loss::Unavailable));
        assert_eq!(of(429, retry, false), later);
        assert_eq!(of(429, None, false), Fate::Lost(Loss::Status(429)));
        assert_eq!(of(502, None, true), Fate::Lost(Loss::Status(502)));
    }

    #[test]
    fn a_body_that_is_shorter_than_usual_is_truncated() {
        let expected = |body| Expected::usual(StatusCode::OK, Some(Bytes::from_static(body)));
        let response = Response::new(());
        let head = Head::of(response.status(), response.version(), response.headers());
        let fate = |expected| {
            let body = Ok::<_, Infallible>(Bytes::from_static(b"hel"));
            answer(Work::Request, &head, body, Some(&expected), false).0
        };
        assert_eq!(fate(expected(b"hello")), Fate::Lost(Loss::Truncated));
        assert_eq!(fate(expected(b"hel")), Fate::Answered);
        // Another answer, and not the beginning of this one.
        assert_eq!(fate(expected(b"other")), Fate::Answered);
        let exactly = |body| fate(Expected::exactly(Bytes::from_static(body)));
        assert_eq!(exactly(b"hel"), Fate::Answered);
        assert_eq!(exactly(b"other"), Fate::Lost(Loss::Content));
        assert_eq!(exactly(b"hello"), Fate::Lost(Loss::Truncated));
    }

    #[test]
    fn only_an_idle_connection_makes_a_loss_ambiguous() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let idle = Unanswered {
            was_sent: true,
            is_reused: true,
            has_bytes: false,
            is_accepted: true,
            after: Duration::from_millis(2),
        };
        let fate = |known| error(Work::Request, &reset, known).0;
        assert_eq!(fate(idle), Fate::Ambiguous);
        let lost = Fate::Lost(Loss::NoAnswer);
        let was_sent = false;
        assert_eq!(
            fate(Unanswered { was_sent, ..idle }),
            Fate::NeverSent(Unsent::Closed)
        );
        assert_eq!(
            fate(Unanswered {
                has_bytes: true,
                ..idle
            }),
            lost
        );
        assert_eq!(
            fate(Unanswered {
                after: CROSSING,
                ..idle
            }),
            lost
        );
        let new = Unanswered {
            is_reused: false,
            ..idle
        };
        assert_eq!(fate(new), lost);
        let is_accepted = false;
        assert_eq!(
            fate(Unanswered { is_accepted, ..new }),
            Fate::Lost(Loss::NotAccepted)
        );
    }
}
