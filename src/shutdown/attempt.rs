//! One shutdown, from its trigger to its end, or until it is called off.

use std::time::Duration;

use tokio::sync::watch;

use super::lame_duck::LameDuckEnd;
use super::notice::ShutdownNotice;
use super::pulse::Pulse;
use crate::log::Spans;
use crate::sync::{Arc, OnceLock};

/// One shutdown, or the rollback of a start-up that failed.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) notice: ShutdownNotice,
    pub(crate) in_flight_at_trigger: u64,
    pub(crate) spans: Arc<Spans>,
    pulse: Pulse,
    /// How the lame duck ended, and how long it lasted.
    lame_duck: OnceLock<(LameDuckEnd, Duration)>,
    /// The exit code of the report.
    exit_code: OnceLock<u8>,
    /// Not a milestone: a task that is not polled between a `resume` and the next trigger still learns
    /// that this shutdown was called off.
    called_off: watch::Sender<bool>,
}

impl Shutdown {
    pub(crate) fn new(notice: ShutdownNotice, in_flight_at_trigger: u64) -> Self {
        Self {
            pulse: Pulse::start(|| notice.now()),
            spans: Spans::new(notice.reason()),
            notice,
            in_flight_at_trigger,
            lame_duck: OnceLock::new(),
            exit_code: OnceLock::new(),
            called_off: watch::Sender::new(false),
        }
    }

    /// Stops the detection of time in which the process does not run. To be called if no thread calls
    /// [`frozen`](Self::frozen) often enough.
    pub(crate) fn stop_pulse(&self) {
        self.pulse.stop();
    }

    /// Returns how long the process did not run since the trigger, in total. Must be called every 10 ms.
    pub(crate) fn frozen(&self) -> Duration {
        self.pulse.beat(|| self.notice.now())
    }

    pub(crate) fn note_lame_duck(&self, end: LameDuckEnd, lasted: Duration) {
        // Only the sequence notes it.
        let _ = self.lame_duck.set((end, lasted));
    }

    /// Returns how the lame duck ended and how long it lasted, if there was one and it has ended.
    pub(crate) fn lame_duck(&self) -> Option<(LameDuckEnd, Duration)> {
        self.lame_duck.get().copied()
    }

    pub(crate) fn note_exit_code(&self, code: u8) {
        // Only one report is published.
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

    /// Waits until the shutdown is called off.
    pub(crate) async fn called_off(&self) {
        // Cannot fail: the sender outlives this borrow.
        let _ = self.called_off.subscribe().wait_for(|off| *off).await;
    }
}
