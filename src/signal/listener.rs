//! What the signals that a controller listens for mean.

use std::time::Instant;

use crate::controller::ShutdownController;
use crate::log::tell;
use crate::shutdown::Shutdown;
use crate::state::ShutdownReason;
use crate::sync::Arc;

/// One listening of a controller. It ends as soon as a clone is dropped, with the runtime that it
/// was begun in or on a panic, so that the controller can listen again in another runtime.
#[derive(Clone)]
pub(super) struct Listener {
    /// Strongly: signals count also when every other handle is gone.
    pub(super) ctl: ShutdownController,
    pub(super) start: u64,
}

/// The first signal of a shutdown.
pub(super) struct First {
    shutdown: Arc<Shutdown>,
    heard_at: Instant,
}

impl Listener {
    /// The first signal of a shutdown triggers it, a later one forces it; `true` after that. When
    /// the shutdown is called off in between, the next signal is a first one again.
    pub(super) fn heard(&self, name: &'static str, first: &mut Option<First>) -> bool {
        let core = self.ctl.core();
        if let Some(first) = first.as_ref().filter(|f| !f.shutdown.is_called_off()) {
            let since_first = first.heard_at.elapsed();
            if since_first < core.config.force_after {
                tell!(
                    debug,
                    signal = name,
                    ?since_first,
                    "signal received again, and not counted"
                );
                return false;
            }
            core.note_signal(name);
            // Gives signals back before it forces, so that a third one is not swallowed meanwhile.
            core.listening.stop_if(self.start);
            self.ctl.force();
            tell!(warn, signal = name, "second signal received: forcing");
            return true;
        }
        let heard_at = Instant::now();
        // First, so that whoever learns of the shutdown finds it.
        core.note_signal(name);
        self.ctl.trigger(ShutdownReason::Signal(name));
        *first = core.shutdown().map(|shutdown| First { shutdown, heard_at });
        tell!(info, signal = name, "signal received: shutting down");
        false
    }

    /// One that is not to begin a shutdown came during one.
    #[cfg(unix)]
    pub(super) fn ignored(&self, name: &'static str) {
        tell!(info, signal = name, "signal ignored during the shutdown");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ctl.core().listening.stop_if(self.start);
    }
}
