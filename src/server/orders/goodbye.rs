//! Decides when the GOAWAY frames of HTTP/2 are sent.
//!
//! A client that follows RFC 9113 §6.8 loses nothing by a GOAWAY. But some clients fail every stream that
//! is open when one arrives, and some fail requests that they have not sent yet. So it is sent when no
//! stream is open, preferably right after a response, or at the last moment before requests are refused.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Order, Orders};
use crate::server::activity::Protocol;
use crate::server::plan::{Drain, Plan};
use crate::shutdown::earlier;

/// The first GOAWAY, with the highest stream identifier and NO_ERROR (RFC 9113 §6.8).
pub(in crate::server) const ANNOUNCEMENT: [u8; 17] = [
    0, 0, 8, // length
    7, 0, // type and flags
    0, 0, 0, 0, // stream
    0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0,
];

/// How long after that hyper's own graceful shutdown starts, which ends with the acknowledgement of a PING.
/// A client may have queued requests that it has not sent yet, and acknowledge a PING before it sends them.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// How long a client that is idle at its moment of the lame duck may still send a request.
const IDLE: Duration = Duration::from_millis(200);
/// How long before requests are refused a client that still sends some gets a GOAWAY, at most.
const MARGIN: Duration = Duration::from_millis(200);
/// The same, as a fraction (1/n) of the time in which late requests are served.
const MARGIN_PART: u32 = 5;

/// The GOAWAY frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Goodbye {
    stage: Stage,
    /// When the connection's moment of the lame duck came.
    moment: Option<Instant>,
    /// How many requests there had been when draining began.
    requests_before: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stage {
    #[default]
    NotStarted,
    /// The first GOAWAY has been sent. hyper's graceful shutdown starts at this time.
    Announced(Instant),
    Done,
}

// ===== impl Goodbye =====

impl Goodbye {
    pub(super) fn is_not_started(&self) -> bool {
        matches!(self.stage, Stage::NotStarted)
    }

    /// Returns when hyper's graceful shutdown is due, if the first GOAWAY has been sent.
    pub(super) fn shutdown_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Announced(due) => Some(due),
            _ => None,
        }
    }

    pub(super) fn announce(&mut self) {
        self.stage = Stage::Announced(Instant::now() + ROUND_TRIP);
    }

    pub(super) fn finish(&mut self) {
        self.stage = Stage::Done;
    }

    pub(super) fn begin_leaving(&mut self) {
        self.moment = Some(Instant::now());
    }

    pub(super) fn begin_draining(&mut self, requests: usize) {
        self.requests_before = requests;
    }

    /// Returns when the GOAWAY is due in a lame duck, if no stream is open.
    pub(super) fn due_when_leaving(&self, has_answered: bool) -> Option<Instant> {
        if has_answered {
            self.moment
        } else {
            self.moment.map(|moment| moment + IDLE)
        }
    }

    /// Returns when the GOAWAY is due in a drain even though a stream is open. `when_idle` is when it is
    /// due if none is.
    pub(super) fn due_at_the_latest(
        &self,
        drain: &Drain,
        when_idle: Option<Instant>,
        requests: usize,
    ) -> Option<Instant> {
        if requests == self.requests_before {
            // The client sends no more requests, so it loses nothing by a late GOAWAY.
            return drain.quiet_until;
        }
        if !drain.serves_late {
            return when_idle;
        }
        let until = drain.late_until.map(|until| {
            let margin = until.saturating_duration_since(drain.since) / MARGIN_PART;
            until - margin.min(MARGIN)
        });
        earlier(until, drain.quiet_until)
    }
}

// ===== impl Orders =====

impl Orders<'_> {
    pub(super) fn announce(&mut self) -> Order {
        self.goodbye.announce();
        Order::Announce
    }

    pub(super) fn start_shutdown(&mut self) -> Order {
        self.goodbye.finish();
        // The peer needs a round trip to respond to the GOAWAY.
        self.next_check = Some(sleep(self.grace).deadline()); // saturates if it overflows
        Order::StartShutdown
    }

    pub(super) fn needs_goaway(&self) -> bool {
        self.protocol == Protocol::Http2 && self.goodbye.is_not_started()
    }

    pub(super) fn is_announced(&self) -> bool {
        self.protocol == Protocol::Http2 && self.goodbye.shutdown_due().is_some()
    }

    /// Ready when the GOAWAY is due in a lame duck.
    ///
    /// A connection that was opened during the lame duck gets a response first.
    pub(super) fn poll_leaving(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let is_known = self.open_since < since || self.activity.requests() > 0;
        if self.needs_goaway() && is_known && self.has_settled(cx) {
            let due = self.goodbye.due_when_leaving(self.has_answered());
            return self.alarm.poll(due, cx);
        }
        Poll::Pending
    }

    /// Returns when the GOAWAY is due in a drain, given the current activity.
    pub(super) fn goaway_due(&self, drain: &Drain, cx: &Context<'_>) -> Option<Instant> {
        let when_idle = if drain.serves_late && self.has_answered() {
            Some(drain.since)
        } else {
            // The client may still send a request, or read that requests are refused.
            self.deadline(drain)
        };
        if self.has_settled(cx) {
            return when_idle;
        }
        let requests = self.activity.requests();
        self.goodbye.due_at_the_latest(drain, when_idle, requests)
    }

    /// Returns whether a response has ended since the connection was asked to leave.
    pub(super) fn has_answered(&self) -> bool {
        self.activity.requests() > 0 && self.activity.quiet_since().is_some()
    }

    /// Returns how many requests there have been, if none is in flight and the client has been, or is about
    /// to be, asked to leave.
    ///
    /// If it is the same before and after the connection is polled, everything has been written.
    #[inline]
    pub(super) fn settled(&self) -> Option<usize> {
        match self.plan {
            Plan::Serve if !self.is_over() => None,
            _ => self.activity.quiet_after(),
        }
    }

    /// Returns whether no stream is open and the last response is written. Otherwise the task is woken
    /// when that may have changed.
    pub(super) fn has_settled(&self, cx: &Context<'_>) -> bool {
        if !self.is_settled {
            self.activity.wake_when_quiet(cx.waker());
        }
        self.is_settled
    }
}
