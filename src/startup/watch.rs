//! Watching a service from its start until it has been stopped.

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::controller::{self, ShutdownController, Task};
use crate::error::BoxError;
use crate::shutdown::StartupCause;
use crate::shutdown::{BoxFuture, Job, TaskPolicy};
use crate::sync::Arc;

/// The future that watches a service, and the policy for its end.
pub(super) struct Watch {
    pub(super) future: BoxFuture,
    pub(super) policy: TaskPolicy,
}

/// Aborts the watch task when dropped.
struct AbortOnDrop(AbortHandle);

impl Watch {
    /// Spawns a task that watches the service of this name. Returns a stop that also ends the task.
    pub(super) fn begin(
        self,
        ctl: &ShutdownController,
        name: &Arc<str>,
        stop: Job,
    ) -> (Job, Result<(), StartupCause>) {
        // The caller may poll the start outside the runtime.
        if Handle::try_current().is_err() && ctl.core().capture_runtime().is_none() {
            let error = "watching a service needs a tokio runtime";
            let error: BoxError = error.into();
            return (stop, Err(StartupCause::Failed(error.into())));
        }
        let task = Task::watch(Arc::clone(name), self.policy, self.future);
        let watching = AbortOnDrop(controller::start(ctl, task).abort_handle());
        let Job { run, timeout } = stop;
        let run = move |notice| -> BoxFuture {
            let stopping = run(notice);
            Box::pin(async move {
                let _watching = watching;
                stopping.await
            })
        };
        let run = Box::new(run);
        (Job { run, timeout }, Ok(()))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
