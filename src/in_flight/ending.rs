//! Whether the runtime is ending.

use std::future::pending;

use tokio::runtime::Handle;

use crate::panic;

/// Returns whether the runtime of the calling task is ending, which drops all its tasks.
///
/// It asks by a task, which an ending runtime drops instead of taking it.
pub(crate) fn runtime_is_ending() -> bool {
    let mut is_ending = false;
    // A runtime may have hooks for its tasks, which are foreign.
    panic::contained(|| {
        if let Ok(runtime) = Handle::try_current() {
            let task = runtime.spawn(pending::<()>());
            is_ending = task.is_finished();
            task.abort();
        }
    });
    is_ending
}
