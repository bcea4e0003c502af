//! What waits in a listening socket that is about to be closed. Closing it resets all of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};

/// When nobody has come for this long, the backlog is empty.
const SILENCE: Duration = Duration::from_millis(1);
/// For how long the backlog is emptied, if it does not become empty.
const EMPTYING: Duration = Duration::from_millis(50);
/// How many can be waiting in it then: the kernel's own limit, as it mostly is.
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

    /// Gives what `accept` comes to, or `None` when the backlog is empty: when nobody has come for a
    /// moment or, if they do not cease to come, when nobody is there.
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

    /// Waits for a moment, after an error that the next `accept` may have too.
    #[cfg(feature = "server")]
    pub(crate) async fn pause(&self) {
        if Instant::now() < self.until {
            tokio::time::sleep(SILENCE).await;
        }
    }
}

async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
