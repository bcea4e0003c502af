//! Notifications of readiness changes.

use tokio::sync::watch;

/// Notifies subscribers that readiness may have changed.
#[derive(Debug)]
pub(crate) struct ReadinessChanges(watch::Sender<()>);

impl ReadinessChanges {
    /// Wakes all subscribers.
    pub(crate) fn notify(&self) {
        self.0.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

impl Default for ReadinessChanges {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}
