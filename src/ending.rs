//! Whether the runtime is ending.

use std::future::pending;

use tokio::runtime::Handle;

/// Returns whether the runtime of the calling task is ending, which drops all its tasks.
///
/// It asks by a task, which an ending runtime drops instead of taking it.
pub(crate) fn runtime_is_ending() -> bool {
    let Ok(runtime) = Handle::try_current() else {
        return false;
    };
    let task = runtime.spawn(pending::<()>());
    let is_ending = task.is_finished();
    task.abort();
    is_ending
}
