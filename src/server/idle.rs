//! Detects connections that have waited too long for the head of a request.
//!
//! A connection is checked from time to time, which adds no cost per request. hyper's own timeout
//! creates a timer for each request.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::plan::PlanReceiver;

pub(super) struct Idle {
    alarm: Pin<Box<Sleep>>,
    /// The receiver's `registrations` when the alarm was last polled.
    registrations: u32,
    /// The number of requests at the last check.
    requests: usize,
    /// How many checks in a row found the connection idle, with no new request in between.
    idle_checks: u32,
}

/// How long a connection may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For its first request.
    pub(super) first: Duration,
    /// For each later one.
    pub(super) next: Duration,
}

/// Checks per timeout. A connection is closed up to a quarter of its timeout late.
const CHECKS: u32 = 4;

/// The shortest time between two checks. An alarm of zero elapses whenever it is polled.
const SHORTEST: Duration = Duration::from_millis(1);

fn part_of(time: Duration) -> Duration {
    (time / CHECKS).max(SHORTEST)
}

// ===== impl Idle =====

impl Idle {
    /// Begins to count now. `first` is the time for the first request.
    pub(super) fn new(first: Duration) -> Self {
        Self {
            alarm: Box::pin(sleep(part_of(first))),
            registrations: 0,
            requests: 0,
            idle_checks: 0,
        }
    }

    /// Ready when the connection has waited too long. `receiver` counts changes of the task's waker.
    #[inline]
    pub(super) fn poll(
        &mut self,
        times: Times,
        activity: &Activity,
        receiver: &PlanReceiver,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // The alarm has not elapsed, and will wake the task.
        if self.registrations == receiver.registrations() && !self.alarm.is_elapsed() {
            return Poll::Pending;
        }
        self.registrations = receiver.registrations();
        self.check(times, activity, cx)
    }

    #[cold]
    fn check(&mut self, times: Times, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let is_idle = !activity.owes() && !activity.is_lingering();
        let requests = activity.requests();
        // Unconstrained: an alarm without tokio's budget would not be registered, and would never elapse.
        while pin!(unconstrained(self.alarm.as_mut())).poll(cx).is_ready() {
            if requests != self.requests {
                self.requests = requests;
                self.idle_checks = 0;
            }
            match (is_idle, self.idle_checks) {
                (false, _) => self.idle_checks = 0,
                (true, CHECKS) => return Poll::Ready(()),
                (true, _) => self.idle_checks += 1,
            }
            let time = match requests {
                0 => times.first,
                _ => times.next,
            };
            let next = sleep(part_of(time)); // saturates if it overflows
            self.alarm.as_mut().reset(next.deadline());
        }
        Poll::Pending
    }
}
