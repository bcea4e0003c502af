//! Detects a runtime that is shutting down.

use std::future::pending;

use tokio::runtime::Handle;

use crate::panic;
use crate::spawn;

/// Returns whether the runtime of the calling task is shutting down, which drops all its tasks.
///
/// It spawns a task, which a runtime that is shutting down drops at once.
pub(crate) fn runtime_is_ending() -> bool {
    let mut is_ending = false;
    // A runtime may have hooks for its tasks, which are foreign code.
    panic::contained(|| {
        if let Ok(runtime) = Handle::try_current() {
            let task = spawn::task(&runtime, pending());
            is_ending = task.is_finished();
            task.abort();
        }
    });
    is_ending
}
