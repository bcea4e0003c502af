//! What one probe has to wait for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::check::{Check, Times};
use super::run::Outcome;
use crate::controller::ShutdownController;

/// The checks of one probe: waits until each has ended, or for as long as it may take.
pub(super) struct Round {
    steps: Vec<Step>,
}

pub(super) enum Step {
    Waiting(Pin<Box<dyn Future<Output = Outcome> + Send + Sync>>),
    Ended(Shown),
}

/// What a probe shows of a check.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) outcome: Outcome,
    /// Of a result that was not made for this probe: how long ago the run ended.
    pub(super) age: Option<Duration>,
}

impl From<Outcome> for Shown {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, age: None }
    }
}

// ===== impl Round =====

impl Round {
    /// A round of no checks.
    pub(super) fn empty() -> Self {
        Self { steps: Vec::new() }
    }

    pub(super) fn start(checks: &[Check], times: Times, ctl: &ShutdownController) -> Self {
        let steps = checks.iter().map(|check| check.ask(times, ctl));
        Self {
            steps: steps.collect(),
        }
    }

    /// How many checks are waited for.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |step: &&Step| matches!(step, Step::Waiting(_));
        self.steps.iter().filter(waiting).count()
    }
}

impl Future for Round {
    /// One for each check, in their order.
    type Output = Vec<Shown>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Shown>> {
        let mut is_over = true;
        for step in &mut self.steps {
            is_over &= step.poll(cx).is_ready();
        }
        if !is_over {
            return Poll::Pending;
        }
        let steps = std::mem::take(&mut self.steps).into_iter();
        let shown = |step| match step {
            Step::Ended(shown) => Some(shown),
            Step::Waiting(_) => None,
        };
        Poll::Ready(steps.filter_map(shown).collect())
    }
}

impl Step {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Waiting(wait) = self {
            let outcome = ready!(wait.as_mut().poll(cx));
            *self = Self::Ended(outcome.into());
        }
        Poll::Ready(())
    }
}
