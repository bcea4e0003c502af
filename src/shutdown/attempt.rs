//! One shutdown, from its trigger on: to its end, or until it is called off.

use std::time::Duration;

use tokio::sync::watch;

use super::notice::ShutdownNotice;
use super::pulse::Pulse;
use crate::sync::OnceLock;

/// One shutdown, or the rollback of a start-up that failed.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) notice: ShutdownNotice,
    pub(crate) in_flight_at_trigger: u64,
    pulse: Pulse,
    /// Of the report.
    exit_code: OnceLock<u8>,
    /// Of its own, and not a milestone: who slept through a `resume` and the next trigger still
    /// learns that this one is over.
    called_off: watch::Sender<bool>,
}

impl Shutdown {
    pub(crate) fn new(notice: ShutdownNotice, in_flight_at_trigger: u64) -> Self {
        Self {
            pulse: Pulse::start(|| notice.now()),
            notice,
            in_flight_at_trigger,
            exit_code: OnceLock::new(),
            called_off: watch::Sender::new(false),
        }
    }

    /// Gives up looking for time in which the process does not run: nobody calls
    /// [`frozen`](Self::frozen) often enough.
    pub(crate) fn stop_pulse(&self) {
        self.pulse.stop();
    }

    /// Returns how long the process did not run since the trigger, in all. To be called every 10 ms.
    pub(crate) fn frozen(&self) -> Duration {
        self.pulse.beat(|| self.notice.now())
    }

    pub(crate) fn note_exit_code(&self, code: u8) {
        // There is one report.
        let _ = self.exit_code.set(code);
    }

    pub(crate) fn exit_code(&self) -> Option<u8> {
        self.exit_code.get().copied()
    }

    pub(crate) fn call_off(&self) {
        self.called_off.send_replace(true);
    }

    pub(crate) fn is_called_off(&self) -> bool {
        *self.called_off.borrow()
    }

    /// Resolves once it is called off.
    pub(crate) async fn called_off(&self) {
        // The sender is not dropped before this borrow ends, so there is no error to come.
        let _ = self.called_off.subscribe().wait_for(|off| *off).await;
    }
}
