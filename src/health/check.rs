//! A health check and its result.
//!
//! A check keeps its last run for later probes. While that run is in progress, they wait for it. After it
//! has ended, they use its result if it is still valid, or start another run.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;

use super::background::Background;
use super::run::{End, no_answer_within, timer};
use super::runs::Runs;
use super::step::{Shown, Step};
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::sync::{Arc, Mutex, lock};

/// A check. Clones share its runs.
#[derive(Clone)]
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) is_critical: bool,
    runs: Arc<Runs>,
    background: Arc<Mutex<Option<Background>>>,
}

/// How long a check may take, and how long its result is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timeout: Duration,
    pub(super) cache_for: Duration,
    /// The period of the runs in the background. Zero means none.
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

    /// Returns the last result, joins the run in progress, or starts a run.
    pub(super) fn ask(&self, times: Times, ctl: &ShutdownController) -> Step {
        let runtime = Handle::try_current().ok();
        if let Some(runtime) = runtime.as_ref().filter(|_| !times.every.is_zero()) {
            self.run_in_background(times.every, ctl, runtime);
        }
        // Hold the lock until the run is started, so that only one run starts.
        let mut latest = self.runs.latest();
        let in_progress = latest.in_progress();
        let remaining = match &in_progress {
            Some(run) => run.remaining(times.timeout),
            None => times.timeout,
        };
        if in_progress.is_some() && remaining.is_zero() {
            return Step::Ended(Err(no_answer_within(times.timeout)).into());
        }
        if let Some(shown) = latest.end().and_then(|end| times.shows(end)) {
            return Step::Ended(shown);
        }
        let Some(runtime) = runtime else {
            return Step::Ended(Err("a check needs a tokio runtime".into()).into());
        };
        let Some(timer) = timer(remaining) else {
            return Step::Ended(Err("a check needs a tokio runtime with a timer".into()).into());
        };
        let run = in_progress.unwrap_or_else(|| self.runs.start(&mut latest, &runtime));
        Step::Waiting(Box::pin(run.wait(times.timeout, timer)))
    }

    /// Makes sure that the check runs in the background at least this often.
    fn run_in_background(&self, every: Duration, ctl: &ShutdownController, runtime: &Handle) {
        let mut background = lock(&self.background);
        let is_often_enough = |background: &Background| background.runs_every(every);
        if background.as_ref().is_some_and(is_often_enough) {
            return;
        }
        let runs = Arc::downgrade(&self.runs);
        *background = Some(Background::start(runs, every, ctl, runtime));
        self.runs.start_unless_in_progress(runtime);
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
    /// Returns what a probe shows of this result, or `None` if the result is too old.
    fn shows(self, end: End) -> Option<Shown> {
        let age = end.age();
        let is_background = !self.every.is_zero();
        (is_background || age < self.cache_for).then(|| Shown {
            outcome: end.outcome,
            age: is_background.then_some(age),
        })
    }
}
