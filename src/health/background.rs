//! Running a check at a period, whoever asks.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::runs::Runs;
use crate::controller::ShutdownController;
use crate::shutdown::{Either, race};
use crate::sync::Weak;

/// The task that begins the runs of a check. It ends when the check is gone, or when draining begins,
/// after which no probe shows a check. The runs are tasks of their own.
pub(super) struct Background {
    every: Duration,
    task: AbortHandle,
}

// ===== impl Background =====

impl Background {
    /// Begins a run at each period from now on, unless one is under way then.
    pub(super) fn start(
        runs: Weak<Runs>,
        every: Duration,
        ctl: &ShutdownController,
        runtime: &Handle,
    ) -> Self {
        let mut draining = ctl.draining();
        let handle = runtime.clone();
        let task = runtime.spawn(async move {
            while let Either::Right(()) = race(&mut draining, sleep(every)).await {
                let Some(runs) = runs.upgrade() else {
                    return;
                };
                runs.begin_unless_under_way(&handle);
            }
        });
        Self {
            every,
            task: task.abort_handle(),
        }
    }

    /// Returns whether it runs the check at least this often, and was not lost with its runtime.
    pub(super) fn runs_every(&self, every: Duration) -> bool {
        self.every <= every && !self.task.is_finished()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.task.abort();
    }
}
