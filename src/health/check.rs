//! Checks, and what one probe has to wait for.
//!
//! Each run of a check is a task of its own, so that one that panics or blocks its thread does not
//! take the probe with it. Where results are cached, the check keeps its last run for the probes
//! that come later: while it goes on they wait for the same one, and once it has ended they take
//! its result until that is too old.

use std::fmt;
use std::future::Future;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::error::BoxError;
use crate::sync::{Arc, Mutex, lock};

/// How a check ended, with the text of its error.
pub(super) type Outcome = Result<(), Arc<str>>;

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A check, and its last run; clones share that.
#[derive(Clone)]
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) is_critical: bool,
    run: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
    /// Only where results are cached.
    last: Arc<Mutex<Option<Arc<Run>>>>,
}

/// How long a check may take, and how long its result counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timeout: Duration,
    pub(super) cache_for: Duration,
}

/// One run of a check; it is aborted when nobody can ask for its result any more.
struct Run {
    end: watch::Receiver<Option<End>>,
    task: AbortHandle,
}

struct End {
    outcome: Outcome,
    at: Instant,
}

/// The sending half of a run, inside its task.
struct Ending(watch::Sender<Option<End>>);

/// The checks of one probe: waits until each has ended, or for as long as one may take.
pub(super) struct Round {
    steps: Vec<Step>,
    limit: Duration,
    /// For a check that blocks its thread and cannot look at the clock itself.
    clock: Option<Pin<Box<Sleep>>>,
}

enum Step {
    Waiting(Pin<Box<dyn Future<Output = Outcome> + Send + Sync>>),
    Ended(Outcome),
}

/// How much longer than its limit a check is waited for, in case that its thread is only late.
const LATE: Duration = Duration::from_millis(2);

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
            run: Arc::new(move || Box::pin(check())),
            last: Arc::default(),
        }
    }

    /// Takes the last result, joins the run that is under way, or begins one.
    fn ask(&self, times: Times) -> Step {
        let runtime = Handle::try_current();
        let outside = || Step::Ended(Err("a check needs a tokio runtime".into()));
        if times.cache_for.is_zero() {
            return match runtime {
                Ok(runtime) => Arc::new(Run::start(self, times.timeout, &runtime)).wait(),
                Err(_) => outside(),
            };
        }
        // Held while a run is started, so that there is only one. Nothing of the check's own runs
        // under the lock: it is called by the task.
        let mut last = lock(&self.last);
        if let Some(outcome) = last.as_ref().and_then(|run| run.fresh(times.cache_for)) {
            return Step::Ended(outcome);
        }
        let Ok(runtime) = runtime else {
            return outside();
        };
        match &*last {
            Some(run) if run.is_under_way() => Arc::clone(run).wait(),
            _ => {
                let run = Arc::new(Run::start(self, times.timeout, &runtime));
                last.insert(run).clone().wait()
            }
        }
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

// ===== impl Run =====

impl Run {
    fn start(check: &Check, limit: Duration, runtime: &Handle) -> Self {
        let (sender, end) = watch::channel(None);
        let run = Arc::clone(&check.run);
        let task = runtime.spawn(async move {
            let ending = Ending(sender);
            let outcome = match timeout(limit, async move { run().await }).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string().into()),
                Err(_) => Err(no_answer_within(limit)),
            };
            ending.send(outcome);
        });
        Self {
            end,
            task: task.abort_handle(),
        }
    }

    /// The result, if there is one that is young enough.
    fn fresh(&self, cache_for: Duration) -> Option<Outcome> {
        let end = self.end.borrow();
        let end = end.as_ref()?;
        (end.at.elapsed() < cache_for).then(|| end.outcome.clone())
    }

    /// Whether there will be a result: neither is it there, nor was the task lost with its runtime.
    fn is_under_way(&self) -> bool {
        let end = self.end.borrow();
        end.is_none() && !self.task.is_finished()
    }

    fn wait(self: Arc<Self>) -> Step {
        Step::Waiting(Box::pin(async move {
            let mut end = self.end.clone();
            match end.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(end)) => end.outcome.clone(),
                _ => Err("the runtime of the check has ended".into()),
            }
        }))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ===== impl Ending =====

impl Ending {
    fn send(&self, outcome: Outcome) {
        let at = Instant::now();
        self.0.send_replace(Some(End { outcome, at }));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Otherwise it has ended as it should, or was aborted.
        if thread::panicking() {
            self.send(Err("panicked".into()));
        }
    }
}

// ===== impl Round =====

impl Round {
    /// A round of no checks.
    pub(super) fn empty() -> Self {
        Self {
            steps: Vec::new(),
            limit: Duration::ZERO,
            clock: None,
        }
    }

    pub(super) fn start(checks: &[Check], times: Times) -> Self {
        let limit = times.timeout;
        let steps: Vec<_> = checks.iter().map(|check| check.ask(times)).collect();
        let clock = steps.iter().any(Step::is_waiting).then(|| {
            // A runtime without a timer makes tokio panic; the checks' own limits then do so in
            // their tasks, which shows as failed.
            catch_unwind(|| Box::pin(sleep(limit.saturating_add(LATE)))).ok()
        });
        Self {
            steps,
            limit,
            clock: clock.flatten(),
        }
    }

    /// How many checks are waited for.
    pub(super) fn waiting(&self) -> usize {
        self.steps.iter().filter(|step| step.is_waiting()).count()
    }
}

impl Future for Round {
    /// One for each check, in their order.
    type Output = Vec<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        let mut is_over = true;
        for step in &mut self.steps {
            is_over &= step.poll(cx).is_ready();
        }
        // The clock comes last: a result that has come is shown, however late.
        is_over = is_over
            || match &mut self.clock {
                Some(clock) => clock.as_mut().poll(cx).is_ready(),
                None => false,
            };
        if !is_over {
            return Poll::Pending;
        }
        let limit = self.limit;
        let steps = std::mem::take(&mut self.steps).into_iter();
        let outcome = |step| match step {
            Step::Ended(outcome) => outcome,
            Step::Waiting(_) => Err(no_answer_within(limit)),
        };
        Poll::Ready(steps.map(outcome).collect())
    }
}

impl Step {
    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Waiting(wait) = self {
            let outcome = std::task::ready!(wait.as_mut().poll(cx));
            *self = Self::Ended(outcome);
        }
        Poll::Ready(())
    }
}

fn no_answer_within(limit: Duration) -> Arc<str> {
    format!("no answer within {limit:?}").into()
}
