//! Changes of readiness, for a health protocol or a service registry.

use std::fmt;

use tokio::sync::watch;

use super::controller::ShutdownController;
use crate::shutdown::Core;
use crate::state::LifecycleState;
use crate::sync::{Arc, Weak};

/// Reports whether the service is ready for traffic, now and at each change.
///
/// It is created by [`ShutdownController::readiness`].
///
/// # Examples
///
/// Updating a service registry:
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};
///
/// async fn register(_: bool) {}
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # tokio::time::pause();
/// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
/// let ctl = ShutdownController::with_config(config).unwrap();
///
/// let mut readiness = ctl.readiness();
/// let updates = tokio::spawn(async move {
///     while let Some(is_ready) = readiness.next().await {
///         register(is_ready).await;
///     }
/// });
///
/// ctl.shutdown(ShutdownReason::Manual).await;
/// updates.await.unwrap(); // ends by itself
/// # }
/// ```
#[must_use = "it tells nothing unless asked"]
pub struct Readiness {
    /// Weak, so that it does not keep a lifecycle alive that nobody can end any more.
    core: Weak<Core>,
    changes: watch::Receiver<()>,
    /// The value that was returned last.
    told: Option<bool>,
}

// ===== impl ShutdownController =====

impl ShutdownController {
    /// Returns whether the service is ready for traffic: it is running, it is not paused, and no shutdown
    /// was triggered.
    ///
    /// It is `false` from the trigger on, and no later than at the first refusal. It does not include
    /// the checks of a `HealthService`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let ctl = ShutdownController::new();
    /// assert!(ctl.is_ready());
    /// ctl.pause();
    /// assert!(!ctl.is_ready());
    /// ```
    pub fn is_ready(&self) -> bool {
        self.core().is_ready()
    }

    /// Returns a [`Readiness`], which reports [`is_ready`](Self::is_ready) now and at each change.
    ///
    /// It does not keep the controller alive.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            core: Arc::downgrade(self.core()),
            changes: self.core().readiness.subscribe(),
            told: None,
        }
    }
}

// ===== impl Readiness =====

impl Readiness {
    /// Waits for the next change, and returns whether the service is ready. Returns `None` when it can
    /// never be ready again.
    ///
    /// The first call returns the current value without waiting. Each value differs from the one before:
    /// a change that is reverted before the next call is not reported. From draining on the service
    /// cannot become ready again, so `false` is then followed by `None`. `None` is also returned when
    /// the controller is dropped without a shutdown.
    ///
    /// What is not promised: if there is no lame duck, work may be refused before a task that waits
    /// here has run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let core = self.core.upgrade()?;
            let is_ready = core.is_ready();
            if self.told.replace(is_ready) != Some(is_ready) {
                return Some(is_ready);
            }
            if core.state() >= LifecycleState::Draining {
                return None;
            }
            drop(core);
            self.changes.changed().await.ok()?;
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
    use crate::state::ShutdownReason;

    /// P9: a caller that was refused finds the service not ready.
    #[test]
    fn it_is_red_no_later_than_the_first_refusal() {
        for _ in 0..500 {
            let ctl = ShutdownController::new();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while ctl.try_admit().is_ok() {}
                    assert!(!ctl.is_ready());
                });
                ctl.core().announce(ShutdownReason::Manual);
            });
        }
    }
}
