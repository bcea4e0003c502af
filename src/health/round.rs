//! All checks of one probe.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::check::{Check, Times};
use super::step::{Shown, Step};
use crate::controller::ShutdownController;

/// A future that waits until each check of a probe has ended or timed out.
pub(super) struct Round {
    steps: Vec<Step>,
}

// ===== impl Round =====

impl Round {
    /// Creates a round without checks.
    pub(super) fn empty() -> Self {
        Self { steps: Vec::new() }
    }

    pub(super) fn start(checks: &[Check], times: Times, ctl: &ShutdownController) -> Self {
        let steps = checks.iter().map(|check| check.ask(times, ctl));
        Self {
            steps: steps.collect(),
        }
    }

    /// Returns how many checks have not ended.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |step: &&Step| matches!(step, Step::Waiting(_));
        self.steps.iter().filter(waiting).count()
    }
}

impl Future for Round {
    /// One result per check, in the order of the checks.
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
