//! A check and its runs, of which there is at most one at a time.
//!
//! The check keeps its last run for the probes that come later: while it goes on they wait for the
//! same one, and once it has ended they take its result where that counts, or begin another.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;

use super::background::Background;
use super::round::{Shown, Step};
use super::run::{CheckFuture, End, Run, clock, no_answer_within};
use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::sync::{Arc, Mutex, lock};

/// A check; clones share its runs.
#[derive(Clone)]
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) is_critical: bool,
    runs: Arc<Runs>,
}

/// How long a check may take, and which of its results count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timeout: Duration,
    pub(super) cache_for: Duration,
    /// Runs them in the background, unless it is zero.
    pub(super) every: Duration,
}

/// What a check does, and how that went.
pub(super) struct Runs {
    check: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
    /// Nothing of the check's own runs under the lock: it is called by the task.
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    run: Option<Arc<Run>>,
    /// How the one before ended.
    before: Option<End>,
    background: Option<Background>,
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
            runs: Arc::new(Runs {
                check: Arc::new(move || Box::pin(check())),
                latest: Mutex::default(),
            }),
        }
    }

    /// Takes the last result, joins the run that is under way, or begins one.
    pub(super) fn ask(&self, times: Times, ctl: &ShutdownController) -> Step {
        let runtime = Handle::try_current().ok();
        // Held while a run is begun, so that there is only one.
        let mut latest = lock(&self.runs.latest);
        if let Some(runtime) = runtime.as_ref().filter(|_| !times.every.is_zero()) {
            self.keep_running(&mut latest, times.every, ctl, runtime);
        }
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
        let run = under_way.unwrap_or_else(|| latest.begin(&self.runs.check, &runtime));
        Step::Waiting(Box::pin(run.wait(times.timeout, clock)))
    }

    /// Sees to it that it is run in the background at least this often.
    fn keep_running(
        &self,
        latest: &mut Latest,
        every: Duration,
        ctl: &ShutdownController,
        runtime: &Handle,
    ) {
        let background = latest.background.as_ref();
        if background.is_some_and(|background| background.runs_every(every)) {
            return;
        }
        let runs = Arc::downgrade(&self.runs);
        latest.background = Some(Background::start(runs, every, ctl, runtime));
        latest.begin_unless_under_way(&self.runs.check, runtime);
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

// ===== impl Runs =====

impl Runs {
    pub(super) fn begin_unless_under_way(&self, runtime: &Handle) {
        lock(&self.latest).begin_unless_under_way(&self.check, runtime);
    }
}

impl Latest {
    fn under_way(&self) -> Option<Arc<Run>> {
        self.run.clone().filter(|run| run.is_under_way())
    }

    /// Returns how the last run ended that has.
    fn end(&self) -> Option<End> {
        let end = self.run.as_ref().and_then(|run| run.end());
        end.or_else(|| self.before.clone())
    }

    fn begin_unless_under_way(
        &mut self,
        check: &Arc<dyn Fn() -> CheckFuture + Send + Sync>,
        runtime: &Handle,
    ) {
        if self.under_way().is_none() {
            self.begin(check, runtime);
        }
    }

    fn begin(
        &mut self,
        check: &Arc<dyn Fn() -> CheckFuture + Send + Sync>,
        runtime: &Handle,
    ) -> Arc<Run> {
        self.before = self.end();
        let check = Arc::clone(check);
        let run = Arc::new(Run::start(move || check(), runtime));
        Arc::clone(self.run.insert(run))
    }
}
