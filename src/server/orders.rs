//! When one connection has to go: the server's plan, at this connection's own moments.

mod goodbye;

pub(super) use self::goodbye::ANNOUNCEMENT;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use self::goodbye::Goodbye;
use super::activity::{Activity, Parting};
use super::alarm::Alarm;
use super::idle::{Idle, Times};
use super::moment;
use super::plan::{Drain, Plan, PlanChannel, PlanReceiver};
use super::settings::Settings;
use crate::shutdown::{Either, earlier};
use crate::sync::Arc;

/// What a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Announce the end, on HTTP/2: no more requests are to be sent.
    Announce,
    /// Say goodbye, as HTTP/2 does: take what is on its way, and end with the last answer.
    SayGoodbye,
    /// End now: nothing is in flight.
    Close,
    /// End now, whatever is in flight.
    Cut,
}

/// What is spoken on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Not HTTP yet: the transport is being agreed upon.
    Handshake,
    /// Nothing has been said.
    Unknown,
    Http1,
    Http2,
    /// Something else, of which HTTP knows nothing.
    Tunnel,
    /// Nothing any more: it is being closed.
    Over,
}

/// When one that should be gone, and was busy, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Orders<'a> {
    plans: &'a PlanChannel,
    activity: &'a Arc<Activity>,
    receiver: PlanReceiver,
    plan: Plan,
    protocol: Protocol,
    /// In the order in which connections came.
    number: u32,
    accepted_at: Instant,
    /// Since when it could have asked for anything: the end of the handshake.
    open_since: Instant,
    grace: Duration,
    /// How long the head of a request may take.
    head_timeout: Duration,
    /// How long an HTTP/2 connection may be idle between two requests.
    http2_idle_timeout: Duration,
    idle: Option<Idle>,
    /// When it is asked to leave, in the lame duck; `None` when it has been.
    moment: Option<Instant>,
    goodbye: Goodbye,
    /// No stream was open when the connection was polled, and none is: all has been written.
    is_settled: bool,
    /// It was busy when it should have been gone, and is looked at again then.
    next_look: Option<Instant>,
    alarm: Alarm,
}

// ===== impl Orders =====

impl<'a> Orders<'a> {
    pub(super) fn new(
        plans: &'a PlanChannel,
        activity: &'a Arc<Activity>,
        number: u32,
        settings: &Settings,
    ) -> Self {
        Self {
            plans,
            activity,
            receiver: PlanReceiver::new(),
            plan: Plan::Serve,
            protocol: Protocol::Handshake,
            number,
            accepted_at: Instant::now(),
            open_since: Instant::now(),
            grace: settings.grace,
            head_timeout: settings.header_read_timeout,
            http2_idle_timeout: settings.http2_idle_timeout,
            idle: None,
            moment: None,
            goodbye: Goodbye::default(),
            is_settled: false,
            next_look: None,
            alarm: Alarm::default(),
        }
    }

    pub(super) fn speak(&mut self, protocol: Protocol) {
        if self.protocol == Protocol::Handshake {
            self.open_since = Instant::now();
        }
        self.protocol = protocol;
    }

    pub(super) fn activity(&self) -> &'a Arc<Activity> {
        self.activity
    }

    /// Drives `connection` until it ends, or there is an order for it.
    pub(super) async fn drive<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
    ) -> Either<C::Output, Order> {
        poll_fn(|cx| {
            // Before, so that no answer is made by an old plan; the rest after, since it is about
            // what the connection has come to.
            self.read(cx);
            let before = self.settled();
            if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                return Poll::Ready(Either::Left(output));
            }
            self.is_settled = before.is_some() && before == self.settled();
            self.poll_next(cx).map(Either::Right)
        })
        .await
    }

    /// Waits until a connection on which no HTTP is spoken, not yet or not any more, has to end.
    pub(super) async fn end(&mut self) {
        poll_fn(|cx| self.poll_next(cx).map(drop)).await
    }

    /// Waits until the connection has to end whatever is in flight.
    pub(super) async fn cut(&mut self) {
        poll_fn(|cx| {
            self.read(cx);
            match self.plan {
                Plan::Close => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await
    }

    #[inline]
    fn read(&mut self, cx: &mut Context<'_>) {
        if let Some(plan) = self.receiver.changed(self.plans, cx) {
            self.follow(plan);
        }
        if self.moment.is_some_and(|moment| moment <= Instant::now()) {
            self.leave();
        }
    }

    /// The connection's own moment of the lame duck has come: answers say so from now on.
    fn leave(&mut self) {
        if self.moment.take().is_some() {
            self.activity.part(Parting::Now);
            self.goodbye.begin_leaving();
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        self.read(cx);
        match self.plan {
            Plan::Close => Poll::Ready(Order::Cut),
            _ if self.is_amid_goodbye() => {
                ready!(self.alarm.poll(self.goodbye.rest_due(), cx));
                Poll::Ready(self.say_goodbye())
            }
            Plan::Serve => self.poll_idle(cx),
            Plan::Leave { since, .. } => {
                let has_come = self.poll_moment(cx).is_ready();
                if has_come && self.protocol == Protocol::Http2 {
                    ready!(self.poll_leaving(since, cx));
                    return Poll::Ready(self.announce());
                }
                self.poll_idle(cx)
            }
            Plan::Drain(drain) => loop {
                let stuck = self.stuck_until(&drain);
                let is_stuck = || stuck.is_some_and(|until| until <= Instant::now());
                if self.owes_goodbye() {
                    let due = self.goodbye_due(&drain, cx);
                    ready!(self.alarm.poll(earlier(due, stuck), cx));
                    return Poll::Ready(match is_stuck() {
                        true => Order::Cut,
                        false => self.announce(),
                    });
                }
                let due = earlier(self.deadline(&drain), stuck);
                ready!(self.alarm.poll(due, cx));
                if is_stuck() {
                    return Poll::Ready(Order::Cut);
                }
                if self.activity.is_quiet() {
                    return Poll::Ready(self.last_order());
                }
                // It ends by itself, with its last answer; only a peer that has fallen silent after
                // that is found by another look. On HTTP/1 each step of an answer is one.
                let last = drain.quiet_until;
                let is_last_look = last.is_some_and(|until| until <= Instant::now());
                if self.protocol == Protocol::Http1 || is_last_look {
                    return self.alarm.poll(stuck, cx).map(|()| Order::Cut);
                }
                self.next_look = Some(Instant::now() + LOOK_AGAIN);
            },
        }
    }

    /// Ready when no head of a request has come for too long.
    #[inline]
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        let first = self.head_timeout;
        let next = match self.protocol {
            Protocol::Http1 => first,
            Protocol::Http2 => self.http2_idle_timeout,
            _ => return Poll::Pending,
        };
        let times = Times { first, next };
        let idle = self.idle.get_or_insert_with(|| Idle::new(times));
        ready!(idle.poll(self.activity, &self.receiver, cx));
        Poll::Ready(self.last_order())
    }

    fn follow(&mut self, plan: Plan) {
        self.moment = match plan {
            Plan::Leave { since, window } => Some(moment::of(self.number, since, window)),
            _ => None,
        };
        self.activity.part(match plan {
            Plan::Serve => Parting::None,
            Plan::Leave { .. } => Parting::NotYet,
            Plan::Drain(_) | Plan::Close => Parting::Now,
        });
        if let Plan::Drain(_) = plan {
            self.goodbye.begin_draining(self.activity.requests());
        }
        self.plan = plan;
    }

    fn last_order(&self) -> Order {
        match self.protocol {
            // hyper would wait for the rest of the head.
            Protocol::Http1 if self.activity.has_heard() => Order::Cut,
            Protocol::Http1 => {
                // What its requests had to send was sent before it was idle.
                self.activity.note_may_send(false);
                Order::Close
            }
            _ => Order::Close,
        }
    }

    /// Streams run beside their connection: one may have ended just after the last look.
    pub(super) fn is_busy_again(&self) -> bool {
        self.protocol == Protocol::Http2 && !self.activity.is_quiet()
    }

    /// If it ends now, an answer ends before its end. On HTTP/2 every client sees that; on HTTP/1 an
    /// answer may end with its connection (RFC 9112 §9.8).
    pub(super) fn is_in_an_answer(&self) -> bool {
        self.protocol == Protocol::Http1 && !self.activity.is_quiet()
    }

    /// Returns how long it may take to close.
    pub(super) fn patience(&self) -> Duration {
        match (self.protocol, self.plan) {
            // It was given its time after the goodbye.
            (Protocol::Http2, Plan::Drain(_)) => Duration::ZERO,
            _ => self.grace,
        }
    }

    /// Returns until when the draining server waits for this connection, if nothing is in flight;
    /// `None` is without limit.
    fn deadline(&self, drain: &Drain) -> Option<Instant> {
        let &Drain {
            since,
            idle_until,
            quiet_until,
            ..
        } = drain;
        let is_new = self.open_since >= since;
        let has_begun = match self.protocol {
            Protocol::Handshake => true,
            // Its frames come and go while it is idle.
            Protocol::Http2 => false,
            _ => self.activity.has_heard(),
        };
        let mut deadline = idle_until;
        if is_new || has_begun {
            let begun = since.max(self.accepted_at).checked_add(self.grace);
            deadline = deadline.zip(begun).map(|(idle, begun)| idle.max(begun));
        }
        // On HTTP/1 an answer that began before did not say that it is the last, so another request
        // may follow.
        let quiet = self.activity.quiet_since();
        if let (Protocol::Http1, Some(quiet), Some(idle)) = (self.protocol, quiet, idle_until) {
            let last_call = quiet.checked_add(idle.saturating_duration_since(since));
            deadline = deadline.zip(last_call).map(|(idle, last)| idle.max(last));
        }
        if self.activity.is_lingering() {
            deadline = None; // it has a limit of its own
        }
        let next_look = self.next_look;
        let deadline = deadline.map(|deadline| next_look.map_or(deadline, |l| l.max(deadline)));
        earlier(deadline, quiet_until)
    }

    /// Returns until when a peer is waited for that does not take what is there for it, if none of that is
    /// the answer to an admitted request.
    fn stuck_until(&self, drain: &Drain) -> Option<Instant> {
        let speaks_http = matches!(self.protocol, Protocol::Http1 | Protocol::Http2);
        let activity = self.activity;
        let is_stuck = !activity.is_quiet() && !activity.owes() && !activity.is_lingering();
        if !speaks_http || !is_stuck {
            return None;
        }
        let came_at = drain.since.max(self.accepted_at);
        let since = (activity.paid_at()).map_or(came_at, |paid_at| paid_at.max(came_at));
        earlier(since.checked_add(self.grace), drain.quiet_until)
    }

    /// Ready when the connection's own moment of the lame duck has come.
    fn poll_moment(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.moment.is_some() {
            ready!(self.alarm.poll(self.moment, cx));
            self.leave();
        }
        Poll::Ready(())
    }
}

impl Drop for Orders<'_> {
    fn drop(&mut self) {
        self.receiver.leave(self.plans);
    }
}
