//! A wait that many connections can have at a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::shutdown::Wait;

/// A wait for something that is never taken back. It does not go to the list of waiters, which all
/// connections share, at every poll of the connection: that would cost every request.
pub(crate) struct Told {
    wait: Wait,
    waker: Option<Waker>,
}

// ===== impl Told =====

impl Told {
    pub(crate) fn new(wait: Wait) -> Self {
        let waker = None;
        Self { wait, waker }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let registered = self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        if registered && !self.wait.is_over() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        Pin::new(&mut self.wait).poll(cx)
    }
}
