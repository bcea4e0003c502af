//! Decides when one connection has to close, from the server's plan and the connection's activity.

mod goodbye;
mod lifetime;

pub(super) use self::goodbye::ANNOUNCEMENT;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use self::goodbye::Goodbye;
use self::lifetime::Lifetime;
use super::activity::{Activity, Closing, Protocol};
use super::alarm::Alarm;
use super::idle::{Idle, Times};
use super::moment;
use super::plan::{Drain, Plan, PlanChannel, PlanReceiver};
use super::settings::Settings;
use crate::log::tell;
use crate::shutdown::{Either, earlier};
use crate::sync::Arc;

/// What a connection has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Send the first GOAWAY of HTTP/2, so that the client sends no more requests.
    Announce,
    /// Start hyper's graceful shutdown of HTTP/2, which still accepts requests that are on their way and
    /// ends with the last response.
    StartShutdown,
    /// Close now: nothing is in flight.
    Close,
    /// Close now, even with requests in flight.
    Cut,
}

/// How long until a connection that was busy at its deadline is checked again.
const RECHECK: Duration = Duration::from_millis(100);

pub(super) struct Orders<'a> {
    plans: &'a PlanChannel,
    activity: &'a Arc<Activity>,
    receiver: PlanReceiver,
    plan: Plan,
    protocol: Protocol,
    /// The position in the order of accepted connections.
    number: u32,
    accepted_at: Instant,
    /// When the handshake ended. A request can arrive from then on.
    open_since: Instant,
    grace: Duration,
    /// How long the head of a request may take.
    head_timeout: Duration,
    /// How long an HTTP/2 connection may be idle between two requests.
    http2_idle_timeout: Duration,
    idle: Option<Idle>,
    /// When the client is asked to leave in the lame duck. `None` once that has been done.
    moment: Option<Instant>,
    goodbye: Goodbye,
    lifetime: Lifetime,
    /// No stream was open before and after the last poll of the connection, so everything is written.
    is_settled: bool,
    /// When a connection that was busy at its deadline is checked again.
    next_check: Option<Instant>,
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
        let accepted_at = Instant::now();
        Self {
            plans,
            activity,
            receiver: PlanReceiver::new(),
            plan: Plan::Serve,
            protocol: Protocol::Handshake,
            number,
            accepted_at,
            open_since: accepted_at,
            grace: settings.grace,
            head_timeout: settings.header_read_timeout,
            http2_idle_timeout: settings.http2_idle_timeout,
            idle: None,
            moment: None,
            goodbye: Goodbye::default(),
            lifetime: Lifetime::new(&settings.lifespan, number, accepted_at),
            is_settled: false,
            next_check: None,
            alarm: Alarm::default(),
        }
    }

    pub(super) fn set_protocol(&mut self, protocol: Protocol) {
        if self.protocol == Protocol::Handshake {
            self.open_since = Instant::now();
        }
        self.protocol = protocol;
        self.activity.note_protocol(protocol);
    }

    pub(super) fn activity(&self) -> &'a Arc<Activity> {
        self.activity
    }

    /// Drives `connection` until it ends or there is an order for it.
    pub(super) async fn drive<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
    ) -> Either<C::Output, Order> {
        poll_fn(|cx| {
            // The plan is read first, so that no response follows an old one. The rest comes after the
            // poll, because it depends on the state of the connection.
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

    /// Waits until a connection has to end on which HTTP has not begun, or is over.
    pub(super) async fn end(&mut self) {
        poll_fn(|cx| self.poll_next(cx).map(drop)).await
    }

    /// Waits until the connection has to end even with requests in flight.
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
            self.apply(plan);
        }
        if self.moment.is_some_and(|moment| moment <= Instant::now()) {
            self.leave();
        }
    }

    /// Makes responses ask the client to leave: the connection's moment of the lame duck has come.
    fn leave(&mut self) {
        if self.moment.take().is_some() {
            self.activity.set_closing(Closing::Now);
            self.goodbye.begin_leaving();
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        self.read(cx);
        match self.plan {
            Plan::Close => Poll::Ready(Order::Cut),
            _ if self.is_announced() => {
                ready!(self.alarm.poll(self.goodbye.shutdown_due(), cx));
                Poll::Ready(self.start_shutdown())
            }
            Plan::Serve => match self.poll_lifetime(cx) {
                Poll::Pending => self.poll_idle(cx),
                order => order,
            },
            Plan::Leave { since, .. } => {
                if let Poll::Ready(order) = self.poll_lifetime(cx) {
                    return Poll::Ready(order);
                }
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
                if self.needs_goaway() {
                    let due = self.goaway_due(&drain, cx);
                    ready!(self.alarm.poll(earlier(due, stuck), cx));
                    return Poll::Ready(if is_stuck() {
                        Order::Cut
                    } else {
                        self.announce()
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
                // The connection ends by itself after its last response. Another check is needed only to
                // detect a peer that has fallen silent after that. On HTTP/1 each step of a response
                // causes a check.
                let last = drain.quiet_until;
                let is_last_check = last.is_some_and(|until| until <= Instant::now());
                if self.protocol == Protocol::Http1 || is_last_check {
                    return self.alarm.poll(stuck, cx).map(|()| Order::Cut);
                }
                self.next_check = Some(Instant::now() + RECHECK);
            },
        }
    }

    /// Ready when no request head has arrived for too long.
    #[inline]
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        let first = self.head_timeout;
        let next = match self.protocol {
            Protocol::Unknown | Protocol::Http1 => first,
            Protocol::Http2 => self.http2_idle_timeout,
            _ => return Poll::Pending,
        };
        let times = Times { first, next };
        let idle = self.idle.get_or_insert_with(|| Idle::new(first));
        ready!(idle.poll(times, self.activity, &self.receiver, cx));
        tell!(debug, "no request came in time");
        Poll::Ready(self.last_order())
    }

    fn apply(&mut self, plan: Plan) {
        self.moment = match plan {
            Plan::Leave { since, window } => Some(moment::of(self.number, since, window)),
            _ => None,
        };
        self.activity.set_closing(match plan {
            _ if self.is_over() => Closing::Now,
            Plan::Serve => Closing::None,
            Plan::Leave { .. } => Closing::NotYet,
            Plan::Drain(_) | Plan::Close => Closing::Now,
        });
        if let Plan::Drain(_) = plan {
            self.goodbye.begin_draining(self.activity.requests());
        }
        self.plan = plan;
    }

    /// Returns the order that ends an idle connection.
    fn last_order(&self) -> Order {
        match self.protocol {
            // hyper would wait for the rest of the head.
            Protocol::Http1 if self.activity.has_received() => Order::Cut,
            Protocol::Http1 => {
                // The bodies of its requests were sent before it was idle.
                self.activity.note_may_send(false);
                Order::Close
            }
            _ => Order::Close,
        }
    }

    /// Returns whether an HTTP/2 connection is busy after all. Streams run in tasks of their own, so one may
    /// have produced data just after the last check.
    pub(super) fn is_busy_again(&self) -> bool {
        self.protocol == Protocol::Http2 && !self.activity.is_quiet()
    }

    /// Returns whether closing the connection now could make a truncated response look complete.
    ///
    /// On HTTP/1 the end of the connection may end a response (RFC 9112 §9.8). On HTTP/2 every client
    /// notices the truncation.
    pub(super) fn is_mid_response(&self) -> bool {
        self.protocol == Protocol::Http1 && !self.activity.is_quiet()
    }

    /// Returns how long closing the connection may take.
    pub(super) fn close_timeout(&self) -> Duration {
        match (self.protocol, self.plan) {
            // The peer has had its time after the GOAWAY.
            (Protocol::Http2, Plan::Drain(_)) => Duration::ZERO,
            _ => self.grace,
        }
    }

    /// Returns until when the draining server waits for this connection if nothing is in flight. `None`
    /// means without limit.
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
            // Frames arrive on an idle connection, too.
            Protocol::Http2 => false,
            _ => self.activity.has_received(),
        };
        let mut deadline = idle_until;
        if is_new || has_begun {
            let begun = since.max(self.accepted_at).checked_add(self.grace);
            deadline = deadline.zip(begun).map(|(idle, begun)| idle.max(begun));
        }
        // On HTTP/1 a response that began earlier did not say `Connection: close`, so another request may
        // follow.
        let quiet = self.activity.quiet_since();
        if let (Protocol::Http1, Some(quiet), Some(idle)) = (self.protocol, quiet, idle_until) {
            let last_call = quiet.checked_add(idle.saturating_duration_since(since));
            deadline = deadline.zip(last_call).map(|(idle, last)| idle.max(last));
        }
        if self.activity.is_lingering() {
            deadline = None; // lingering has its own limit
        }
        let next_check = self.next_check;
        let deadline = deadline.map(|deadline| next_check.map_or(deadline, |c| c.max(deadline)));
        earlier(deadline, quiet_until)
    }

    /// Returns until when the server waits for a peer that does not read, if none of the unread data is the
    /// response to an admitted request.
    fn stuck_until(&self, drain: &Drain) -> Option<Instant> {
        let speaks_http = matches!(self.protocol, Protocol::Http1 | Protocol::Http2);
        let activity = self.activity;
        let is_stuck = !activity.is_quiet() && !activity.owes() && !activity.is_lingering();
        if !speaks_http || !is_stuck {
            return None;
        }
        let came_at = drain.since.max(self.accepted_at);
        let progress_at = activity.progress_at();
        let since = progress_at.map_or(came_at, |at| at.max(came_at));
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
