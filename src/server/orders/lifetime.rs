//! Decides when a connection has lived long enough outside a drain: by its age, or by its requests.
//!
//! The client is asked to leave as in a lame duck, so it loses nothing: on HTTP/1 the next response says
//! `Connection: close` (RFC 9112 §9.6), on HTTP/2 it gets a GOAWAY (RFC 9113 §6.8). A drain has times of its
//! own, which replace these.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{Order, Orders};
use crate::server::activity::{Closing, Protocol};
use crate::server::alarm::Alarm;
use crate::server::moment;
use crate::server::settings::Lifespan;
use crate::shutdown::earlier;

/// How long a connection that has reached a limit may take to end without a disturbance. An idle HTTP/1
/// client may send one more request, whose response says `Connection: close`. An HTTP/2 connection gets
/// its GOAWAY as soon as no stream is open.
const QUIET_TIMEOUT: Duration = Duration::from_secs(5);

/// The limits of one connection.
#[derive(Debug)]
pub(super) struct Lifetime {
    is_limited: bool,
    /// When the client is asked to leave because of the connection's age.
    old_at: Option<Instant>,
    /// When the connection is closed even with requests in flight.
    closed_at: Option<Instant>,
    /// When the client was asked to leave, if it has been.
    over_since: Option<Instant>,
    alarm: Alarm,
}

// ===== impl Lifetime =====

impl Lifetime {
    pub(super) fn new(lifespan: &Lifespan, number: u32, accepted_at: Instant) -> Self {
        let &Lifespan {
            age,
            grace,
            requests,
            seed,
        } = lifespan;
        let old_at = age.and_then(|age| moment::of_age(number, seed, accepted_at, age));
        Self {
            is_limited: age.is_some() || requests.is_some(),
            old_at,
            closed_at: old_at
                .zip(grace)
                .and_then(|(old_at, grace)| old_at.checked_add(grace)),
            over_since: None,
            alarm: Alarm::default(),
        }
    }
}

// ===== impl Orders =====

impl Orders<'_> {
    /// Returns whether the connection has reached one of its limits.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        let lifetime = &self.lifetime;
        lifetime.is_limited
            && (lifetime.over_since.is_some() || self.activity.has_had_last_request())
    }

    /// Ready when the connection has an order because it has reached one of its limits.
    #[inline]
    pub(super) fn poll_lifetime(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        if !self.lifetime.is_limited {
            return Poll::Pending;
        }
        match self.protocol {
            Protocol::Unknown | Protocol::Http1 | Protocol::Http2 => self.poll_limited(cx),
            // A handshake has a limit of its own, and tunnels have none.
            _ => Poll::Pending,
        }
    }

    fn poll_limited(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        let since = ready!(self.poll_over(cx));
        if self.needs_goaway() {
            let due = if self.has_settled(cx) {
                self.goodbye.due_when_leaving(self.has_answered())
            } else {
                Some(since + QUIET_TIMEOUT)
            };
            let due = earlier(due, self.lifetime.closed_at);
            ready!(self.lifetime.alarm.poll(due, cx));
            return Poll::Ready(self.announce());
        }
        let due = match self.protocol {
            Protocol::Http2 => self.silent_due(cx),
            _ => self.idle_due(since),
        };
        // Read after `silent_due`, which has the task woken when the last tunnel has ended.
        let closed_at = self.lifetime.closed_at;
        let closed_at = closed_at.filter(|_| !self.activity.has_tunnel());
        ready!(self.lifetime.alarm.poll(earlier(due, closed_at), cx));
        Poll::Ready(if self.activity.is_quiet() {
            self.last_order()
        } else {
            Order::Cut
        })
    }

    /// Ready when a limit has been reached, since when the client is asked to leave.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        if let Some(since) = self.lifetime.over_since {
            return Poll::Ready(since);
        }
        if !self.is_over() {
            ready!(self.lifetime.alarm.poll(self.lifetime.old_at, cx));
        }
        let now = Instant::now();
        self.lifetime.over_since = Some(now);
        self.activity.set_closing(Closing::Now);
        self.goodbye.begin_leaving();
        Poll::Ready(now)
    }

    /// Returns when an idle connection is closed that does not speak HTTP/2. A request that arrives before
    /// gets a response with `Connection: close`.
    fn idle_due(&self, since: Instant) -> Option<Instant> {
        let activity = self.activity;
        let is_idle = activity.is_quiet() && !activity.has_received() && !activity.is_lingering();
        let quiet = activity.quiet_since().unwrap_or(since);
        is_idle.then(|| quiet.max(since) + QUIET_TIMEOUT)
    }

    /// Returns when an HTTP/2 connection is closed whose client has not responded to the GOAWAY, if no stream
    /// is open.
    fn silent_due(&self, cx: &Context<'_>) -> Option<Instant> {
        let has_settled = self.has_settled(cx);
        let quiet = self.activity.quiet_since();
        let due = quiet.map(|quiet| quiet.checked_add(self.grace));
        let due = due.unwrap_or(self.next_check).max(self.next_check);
        due.filter(|_| has_settled)
    }
}
