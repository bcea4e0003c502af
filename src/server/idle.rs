//! Whether a connection has waited too long for the head of a request.
//!
//! It is looked at now and then, which costs a request nothing; hyper's own timeout has a timer made
//! for each.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::plan::PlanReceiver;

pub(super) struct Idle {
    times: Times,
    alarm: Pin<Box<Sleep>>,
    /// As of which the alarm wakes the task.
    registrations: u32,
    /// As of the last look.
    requests: usize,
    /// How many looks have found nothing under way, and no request since the one before.
    looks: u32,
}

/// How long a connection may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For its first request.
    pub(super) first: Duration,
    /// For each later one.
    pub(super) next: Duration,
}

/// A connection has waited too long after so many looks, so within a quarter more than its time.
const LOOKS: u32 = 4;

// ===== impl Idle =====

impl Idle {
    pub(super) fn new(times: Times) -> Self {
        Self {
            times,
            alarm: Box::pin(sleep(times.first / LOOKS)),
            registrations: 0,
            requests: 0,
            looks: 0,
        }
    }

    /// Ready when it has waited too long. `receiver` tells whether the task's waker has changed.
    #[inline]
    pub(super) fn poll(
        &mut self,
        activity: &Activity,
        receiver: &PlanReceiver,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // The alarm will wake the task, and has not yet.
        if self.registrations == receiver.registrations() && !self.alarm.is_elapsed() {
            return Poll::Pending;
        }
        self.registrations = receiver.registrations();
        self.look(activity, cx)
    }

    #[cold]
    fn look(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let is_idle = !activity.owes() && !activity.is_lingering();
        let requests = activity.requests();
        while self.alarm.as_mut().poll(cx).is_ready() {
            if requests != self.requests {
                self.requests = requests;
                self.looks = 0;
            }
            match (is_idle, self.looks) {
                (false, _) => self.looks = 0,
                (true, LOOKS) => return Poll::Ready(()),
                (true, _) => self.looks += 1,
            }
            let time = match requests {
                0 => self.times.first,
                _ => self.times.next,
            };
            let next = sleep(time / LOOKS); // which knows a far future
            self.alarm.as_mut().reset(next.deadline());
        }
        Poll::Pending
    }
}
