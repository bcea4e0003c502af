//! A check, and what a probe gets of it.
//!
//! The check keeps its last run for the probes that come later: while it goes on they wait for the
//! same one, and once it has ended they take its result where that counts, or begin another.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;

use super::background::Background;
use super::run::{End, clock, no_answer_within};
use super::runs::Runs;
use super::step::{Shown, Step};
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::sync::{Arc, Mutex, lock};

/// A check; clones share its runs.
#[derive(Clone)]
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) is_critical: bool,
    runs: Arc<Runs>,
    background: Arc<Mutex<Option<Background>>>,
}

/// How long a check may take, and which of its results count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timeout: Duration,
    pub(super) cache_for: Duration,
    /// Runs them in the background, unless it is zero.
    pub(super) every: Duration,
}

// ===== impl Check =====

impl Check {
    pub(super) fn new<F, Fut>(name: Arc<str>, is_critical: bool, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self {
            name,
            is_critical,
            runs: Runs::new(move || Box::pin(check())),
            background: Arc::default(),
        }
    }

    /// Takes the last result, joins the run that is under way, or begins one.
    pub(super) fn ask(&self, times: Times, ctl: &ShutdownController) -> Step {
        let runtime = Handle::try_current().ok();
        if let Some(runtime) = runtime.as_ref().filter(|_| !times.every.is_zero()) {
            self.keep_running(times.every, ctl, runtime);
        }
        // Held while a run is begun, so that there is only one.
        let mut latest = self.runs.latest();
        let under_way = latest.under_way();
        let remaining = match &under_way {
            Some(run) => run.remaining(times.timeout),
            None => times.timeout,
        };
        if under_way.is_some() && remaining.is_zero() {
            return Step::Ended(Err(no_answer_within(times.timeout)).into());
        }
        if let Some(shown) = latest.end().and_then(|end| times.shows(end)) {
            return Step::Ended(shown);
        }
        let Some(runtime) = runtime else {
            return Step::Ended(Err("a check needs a tokio runtime".into()).into());
        };
        let Some(clock) = clock(remaining) else {
            return Step::Ended(Err("a check needs a tokio runtime with a timer".into()).into());
        };
        let run = under_way.unwrap_or_else(|| self.runs.begin(&mut latest, &runtime));
        Step::Waiting(Box::pin(run.wait(times.timeout, clock)))
    }

    /// Sees to it that it is run in the background at least this often.
    fn keep_running(&self, every: Duration, ctl: &ShutdownController, runtime: &Handle) {
        let mut background = lock(&self.background);
        let runs_already = |background: &Background| background.runs_every(every);
        if background.as_ref().is_some_and(runs_already) {
            return;
        }
        let runs = Arc::downgrade(&self.runs);
        *background = Some(Background::start(runs, every, ctl, runtime));
        self.runs.begin_unless_under_way(runtime);
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("is_critical", &self.is_critical)
            .finish_non_exhaustive()
    }
}

// ===== impl Times =====

impl Times {
    /// Returns what is shown of a result, if it counts.
    fn shows(self, end: End) -> Option<Shown> {
        let age = end.age();
        let is_background = !self.every.is_zero();
        (is_background || age < self.cache_for).then(|| Shown {
            outcome: end.outcome,
            age: is_background.then_some(age),
        })
    }
}
