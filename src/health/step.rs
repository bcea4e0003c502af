//! One check of a probe.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::run::Outcome;

/// The result of one check, or a future that waits for it.
pub(super) enum Step {
    Waiting(Pin<Box<dyn Future<Output = Outcome> + Send + Sync>>),
    Ended(Shown),
}

/// What a probe shows of a check.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) outcome: Outcome,
    /// How long ago the run ended. Set for runs in the background only.
    pub(super) age: Option<Duration>,
}

impl From<Outcome> for Shown {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, age: None }
    }
}

// ===== impl Step =====

impl Step {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Waiting(wait) = self {
            let outcome = ready!(wait.as_mut().poll(cx));
            *self = Self::Ended(outcome.into());
        }
        Poll::Ready(())
    }
}
