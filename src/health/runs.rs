//! The runs of a check, of which there is at most one at a time.

use tokio::runtime::Handle;

use super::run::{CheckFuture, End, Run};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// What a check does, and how that went.
pub(super) struct Runs {
    check: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
    /// Nothing of the check's own runs under the lock: it is called by the task.
    latest: Mutex<Latest>,
}

#[derive(Default)]
pub(super) struct Latest {
    run: Option<Arc<Run>>,
    /// How the one before ended.
    before: Option<End>,
}

// ===== impl Runs =====

impl Runs {
    pub(super) fn new(check: impl Fn() -> CheckFuture + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            check: Arc::new(check),
            latest: Mutex::default(),
        })
    }

    pub(super) fn latest(&self) -> MutexGuard<'_, Latest> {
        lock(&self.latest)
    }

    /// Begins a run. `latest` is held meanwhile, so that there is only one.
    pub(super) fn begin(&self, latest: &mut Latest, runtime: &Handle) -> Arc<Run> {
        latest.before = latest.end();
        let check = Arc::clone(&self.check);
        let run = Arc::new(Run::start(move || check(), runtime));
        Arc::clone(latest.run.insert(run))
    }

    pub(super) fn begin_unless_under_way(&self, runtime: &Handle) {
        let mut latest = self.latest();
        if latest.under_way().is_none() {
            self.begin(&mut latest, runtime);
        }
    }
}

// ===== impl Latest =====

impl Latest {
    pub(super) fn under_way(&self) -> Option<Arc<Run>> {
        self.run.clone().filter(|run| run.is_under_way())
    }

    /// Returns how the last run ended that has.
    pub(super) fn end(&self) -> Option<End> {
        let end = self.run.as_ref().and_then(|run| run.end());
        end.or_else(|| self.before.clone())
    }
}
