//! When HTTP/2's goodbye is said.
//!
//! A GOAWAY takes nothing from a client that keeps to RFC 9113 §6.8. But some clients fail every stream
//! that is open when one comes, and some fail what they have not sent yet. So it is said when no
//! stream is open, best right after an answer, or at the last moment before requests are refused.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Order, Orders, Protocol};
use crate::server::plan::{Drain, Plan};
use crate::shutdown::earlier;

/// The first of the frames: GOAWAY with the highest stream and NO_ERROR (RFC 9113 §6.8).
pub(in crate::server) const ANNOUNCEMENT: [u8; 17] = [
    0, 0, 8, // its length
    7, 0, // its type and flags
    0, 0, 0, 0, // its stream
    0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0,
];

/// How long after that hyper says its part, which ends with the answer to a PING: a client may have
/// accepted requests that it has not sent yet, and answers a PING before it sends them.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// How long a client that is idle when its moment comes may still send a request, in a lame duck.
const IDLE: Duration = Duration::from_millis(200);
/// How much earlier than requests are refused a client is told that still sends some, at most.
const MARGIN: Duration = Duration::from_millis(200);
/// The same, as a part of the time in which they are served.
const MARGIN_PART: u32 = 5;

/// The goodbye of one connection.
#[derive(Debug, Default)]
pub(super) struct Goodbye {
    stage: Stage,
    /// Since when the connection has had to leave, in a lame duck.
    moment: Option<Instant>,
    /// How many requests there had been when draining began.
    requests_before: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stage {
    #[default]
    Unsaid,
    /// The rest of it follows then.
    Announced(Instant),
    Said,
}

// ===== impl Goodbye =====

impl Goodbye {
    pub(super) fn is_unsaid(&self) -> bool {
        matches!(self.stage, Stage::Unsaid)
    }

    /// Returns when the rest of it is due, if it has been announced.
    pub(super) fn rest_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Announced(due) => Some(due),
            _ => None,
        }
    }

    pub(super) fn announce(&mut self) {
        self.stage = Stage::Announced(Instant::now() + ROUND_TRIP);
    }

    pub(super) fn say(&mut self) {
        self.stage = Stage::Said;
    }

    pub(super) fn begin_leaving(&mut self) {
        self.moment = Some(Instant::now());
    }

    pub(super) fn begin_draining(&mut self, requests: usize) {
        self.requests_before = requests;
    }

    /// Returns when it is due in a lame duck, if no stream is open.
    pub(super) fn due_when_leaving(&self, has_answered: bool) -> Option<Instant> {
        match has_answered {
            true => self.moment,
            false => self.moment.map(|moment| moment + IDLE),
        }
    }

    /// Returns when it is due in a drain although a stream is open; `when_idle` is when it is due if
    /// none is.
    pub(super) fn due_at_the_latest(
        &self,
        drain: &Drain,
        when_idle: Option<Instant>,
        requests: usize,
    ) -> Option<Instant> {
        if requests == self.requests_before {
            // It loses nothing by being left alone: it sends no more requests.
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

    pub(super) fn say_goodbye(&mut self) -> Order {
        self.goodbye.say();
        // An answer to the goodbye takes a round trip.
        self.next_look = Some(sleep(self.grace).deadline()); // which knows a far future
        Order::SayGoodbye
    }

    pub(super) fn owes_goodbye(&self) -> bool {
        self.protocol == Protocol::Http2 && self.goodbye.is_unsaid()
    }

    pub(super) fn is_amid_goodbye(&self) -> bool {
        self.protocol == Protocol::Http2 && self.goodbye.rest_due().is_some()
    }

    /// Ready when the goodbye is due in a lame duck. Who has come since then has had an answer first.
    pub(super) fn poll_leaving(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let is_known = self.open_since < since || self.activity.requests() > 0;
        if self.owes_goodbye() && is_known && self.has_settled(cx) {
            let due = self.goodbye.due_when_leaving(self.has_answered());
            return self.alarm.poll(due, cx);
        }
        Poll::Pending
    }

    /// Returns when the goodbye is due in a drain, as things stand.
    pub(super) fn goodbye_due(&self, drain: &Drain, cx: &Context<'_>) -> Option<Instant> {
        let when_idle = match drain.serves_late && self.has_answered() {
            true => Some(drain.since),
            // It may still send a request, or read that requests are refused.
            false => self.deadline(drain),
        };
        if self.has_settled(cx) {
            return when_idle;
        }
        let requests = self.activity.requests();
        self.goodbye.due_at_the_latest(drain, when_idle, requests)
    }

    /// An answer has ended since the connection has had to leave.
    fn has_answered(&self) -> bool {
        self.activity.requests() > 0 && self.activity.quiet_since().is_some()
    }

    /// Returns how many requests there have been, if none is in flight, where that is of interest. If it
    /// is the same before and after the connection was polled, all has been written.
    #[inline]
    pub(super) fn settled(&self) -> Option<usize> {
        match self.plan {
            Plan::Serve => None,
            _ => self.activity.quiet_after(),
        }
    }

    /// No stream is open, and the last answer is written; else the task is woken when that may have
    /// become so.
    fn has_settled(&self, cx: &Context<'_>) -> bool {
        if !self.is_settled {
            self.activity.wake_when_quiet(cx.waker());
        }
        self.is_settled
    }
}
