//! A wait that is cheap to poll for many connections.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::shutdown::Wait;

/// A wait for an event that is never undone.
///
/// It registers again only when the waker has changed. All connections share the list of waiters, so
/// registering at every poll would slow down every request.
pub(crate) struct CachedWait {
    wait: Wait,
    waker: Option<Waker>,
}

// ===== impl CachedWait =====

impl CachedWait {
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
