//! Runs a check periodically in the background.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::runs::Runs;
use crate::controller::ShutdownController;
use crate::shutdown::{Either, race};
use crate::spawn;
use crate::sync::Weak;

/// A handle to the task that starts the runs of a check.
///
/// Each run is its own task. The task ends when the check is dropped, or when draining begins, because
/// no probe shows a check after that. Dropping the handle aborts the task.
pub(super) struct Background {
    every: Duration,
    task: AbortHandle,
}

// ===== impl Background =====

impl Background {
    /// Spawns the task. It starts a run after each period, unless one is still running.
    pub(super) fn start(
        runs: Weak<Runs>,
        every: Duration,
        ctl: &ShutdownController,
        runtime: &Handle,
    ) -> Self {
        let mut draining = ctl.draining();
        let handle = runtime.clone();
        let task = spawn::task(runtime, async move {
            while let Either::Right(()) = race(&mut draining, sleep(every)).await {
                let Some(runs) = runs.upgrade() else {
                    return;
                };
                runs.start_unless_in_progress(&handle);
            }
        });
        Self {
            every,
            task: task.abort_handle(),
        }
    }

    /// Returns whether the task runs the check at least this often and is still alive. The task ends
    /// early if its runtime shuts down.
    pub(super) fn runs_every(&self, every: Duration) -> bool {
        self.every <= every && !self.task.is_finished()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.task.abort();
    }
}
