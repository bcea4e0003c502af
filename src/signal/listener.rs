//! The meaning of the signals that a controller listens for.

// Systems without signals have nothing to listen for.
#![cfg_attr(not(any(unix, windows)), allow(dead_code))]

use std::time::Instant;

use crate::controller::ShutdownController;
use crate::log::{millis, tell};
use crate::shutdown::Shutdown;
use crate::state::ShutdownReason;
use crate::sync::Arc;

/// The listener of a controller. Listening ends as soon as any clone is dropped, also by the end of its
/// runtime or by a panic. The controller can then listen again in another runtime.
#[derive(Clone)]
pub(super) struct Listener {
    /// A strong handle, so that signals work even when all other handles are dropped.
    pub(super) ctl: ShutdownController,
    pub(super) start: u64,
}

/// The first signal of a shutdown.
pub(super) struct FirstSignal {
    shutdown: Arc<Shutdown>,
    received_at: Instant,
}

impl Listener {
    /// Handles a signal: the first one triggers the shutdown, a later one forces it. Returns `true` after
    /// a force. If the shutdown is called off in between, the next signal is a first one again.
    pub(super) fn received(&self, name: &'static str, first: &mut Option<FirstSignal>) -> bool {
        let core = self.ctl.core();
        if let Some(first) = first.as_ref().filter(|f| !f.shutdown.is_called_off()) {
            let since_first = first.received_at.elapsed();
            if since_first < core.config.force_after {
                tell!(
                    debug,
                    signal = name,
                    since_first_ms = millis(since_first),
                    "signal received again, too soon to count"
                );
                return false;
            }
            core.note_signal(name);
            // Stops listening before the force, so that a third signal is not swallowed meanwhile.
            core.listening.stop_if(self.start);
            self.ctl.force();
            tell!(warn, signal = name, "second signal received: forcing");
            return true;
        }
        let received_at = Instant::now();
        // Noted before the trigger, so that code that is notified of the shutdown finds the signal.
        core.note_signal(name);
        self.ctl.trigger(ShutdownReason::Signal(name));
        *first = core.shutdown().map(|shutdown| FirstSignal {
            shutdown,
            received_at,
        });
        tell!(info, signal = name, "signal received: shutting down");
        false
    }

    /// Logs a signal that was received during the shutdown and has no effect on it.
    #[cfg(unix)]
    pub(super) fn log_ignored(&self, name: &'static str) {
        tell!(info, signal = name, "signal ignored during the shutdown");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ctl.core().listening.stop_if(self.start);
    }
}
