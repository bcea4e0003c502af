//! The runs of a check. At most one is in progress at a time.

use tokio::runtime::Handle;

use super::run::{CheckFuture, End, Run};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// The function of a check, and its latest run.
pub(super) struct Runs {
    check: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
    /// The check itself never runs under this lock. The task calls it.
    latest: Mutex<Latest>,
}

#[derive(Default)]
pub(super) struct Latest {
    run: Option<Arc<Run>>,
    /// How the run before `run` ended.
    previous_end: Option<End>,
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

    /// Starts a run. The caller holds the lock of `latest`, so that only one run starts.
    pub(super) fn start(&self, latest: &mut Latest, runtime: &Handle) -> Arc<Run> {
        latest.previous_end = latest.end();
        let check = Arc::clone(&self.check);
        let run = Arc::new(Run::start(move || check(), runtime));
        Arc::clone(latest.run.insert(run))
    }

    pub(super) fn start_unless_in_progress(&self, runtime: &Handle) {
        let mut latest = self.latest();
        if latest.in_progress().is_none() {
            self.start(&mut latest, runtime);
        }
    }
}

// ===== impl Latest =====

impl Latest {
    pub(super) fn in_progress(&self) -> Option<Arc<Run>> {
        self.run.clone().filter(|run| run.is_in_progress())
    }

    /// Returns how the last ended run ended.
    pub(super) fn end(&self) -> Option<End> {
        let end = self.run.as_ref().and_then(|run| run.end());
        end.or_else(|| self.previous_end.clone())
    }
}
