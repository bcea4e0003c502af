//! A point in time at which a future goes on, even in a runtime without a timer.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::panic;

/// Ready at `at`. Without a timer (outside of tokio, or in a runtime without one), it is ready at once.
pub(super) fn poll_alarm(
    alarm: &mut Option<Pin<Box<Sleep>>>,
    at: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if Handle::try_current().is_err() {
        return Poll::Ready(());
    }
    let mut polled = Poll::Ready(());
    // Tokio panics in a runtime without a timer, and has no way to check for one.
    panic::contained(|| {
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        polled = alarm.as_mut().poll(cx);
    });
    polled
}
