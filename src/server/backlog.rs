//! Accepts the backlog of a listening socket before it is closed, since closing the socket resets it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};

/// The backlog is empty when no connection has come for this long.
const SILENCE: Duration = Duration::from_millis(1);
/// How long to wait for new connections at most. After that only pending ones are accepted.
const EMPTYING: Duration = Duration::from_millis(50);
/// How many connections are accepted after that, at most. Usually the kernel's limit of a backlog.
const BACKLOG: usize = 4096;

/// A backlog that is being emptied.
#[derive(Debug)]
pub(crate) struct Backlog {
    until: Instant,
    left: usize,
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self {
            until: Instant::now() + EMPTYING,
            left: BACKLOG,
        }
    }

    /// Returns whether it is not yet too late to wait for new connections.
    #[cfg(feature = "axum")]
    pub(crate) fn may_wait(&self) -> bool {
        Instant::now() < self.until
    }

    /// Returns the output of `accept`, or `None` when the backlog is empty.
    ///
    /// It is empty when no connection has come for `SILENCE`, or after `EMPTYING`, when none is pending.
    pub(crate) async fn next<F: Future>(&mut self, accept: F) -> Option<F::Output> {
        if Instant::now() < self.until {
            return timeout(SILENCE, accept).await.ok();
        }
        self.left = self.left.checked_sub(1)?;
        match poll_once(unconstrained(accept)).await {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
