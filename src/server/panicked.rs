//! Tasks of the server that panicked.

use tokio::task::JoinError;

use crate::log::tell;
use crate::panic;

/// Logs the panic of a connection's task, or of one of its streams.
pub(super) fn log_panic(error: JoinError) {
    if let Ok(payload) = error.try_into_panic() {
        let panic = panic::into_message(payload);
        tell!(error, %panic, "the task of a connection or stream panicked: closed it");
    }
}
