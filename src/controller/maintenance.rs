//! Calling a shutdown off, and refusing new work for a while without a shutdown.

use std::error::Error;
use std::fmt;

use super::controller::ShutdownController;
use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::{ENDED, Wait};
use crate::state::LifecycleState;

/// Says why a shutdown could not be called off.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// assert_eq!(
///     ctl.resume().unwrap_err().to_string(),
///     "there is no shutdown to call off: the state is `running`"
/// );
///
/// ctl.trigger(ShutdownReason::Manual);
/// assert_eq!(
///     ctl.resume().unwrap_err().to_string(),
///     "the shutdown is past the lame duck and cannot be called off: in `draining`, waits have \
///      resolved and the listener may be closed"
/// );
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeError {
    state: LifecycleState,
}

impl ShutdownController {
    /// Calls off a shutdown that is still in its lame duck. The service is ready again.
    ///
    /// The state is `Running` again, and new responses no longer ask their clients to close the
    /// connection. Tasks that were notified by [`triggered`](Self::triggered) or
    /// [`lame_duck_begun`](Self::lame_duck_begun) are not notified that the shutdown was called off.
    /// Tasks that wait for a later phase go on waiting. A future of [`shutdown`](Self::shutdown) then
    /// resolves with the next shutdown. The next signal counts as a first signal again.
    ///
    /// # Errors
    ///
    /// Returns a [`ResumeError`] in every other state. A shutdown cannot be called off from draining
    /// on: waits have resolved, and the listener may be closed. Nor can it be called off once a server
    /// of [`run`](Self::run) has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(10));
    /// let ctl = ShutdownController::with_config(config).unwrap();
    ///
    /// ctl.trigger(ShutdownReason::Manual); // on the wrong host
    /// assert_eq!(ctl.state(), LifecycleState::LameDuck);
    /// ctl.resume().expect("still a lame duck");
    /// assert_eq!(ctl.state(), LifecycleState::Running);
    /// assert!(ctl.notice().is_none());
    /// # }
    /// ```
    pub fn resume(&self) -> Result<(), ResumeError> {
        self.core()
            .call_off()
            .map_err(|state| ResumeError { state })
    }

    /// Refuses new work until [`unpause`](Self::unpause). Returns `false` if it is already paused.
    ///
    /// This is for maintenance. The service is not ready, and new requests are refused as while
    /// draining, with `Retry-After` and a text of their own. Nothing shuts down, the state does not
    /// change, and no future that waits for the shutdown resolves. Admitted work runs on; wait for it
    /// with [`idle`](Self::idle). [`track`](Self::track) and the
    /// [`RequestTrackingLayer`](crate::RequestTrackingLayer) never refuse, and go on counting.
    ///
    /// A shutdown during a pause proceeds as usual, and ends the pause. From draining on this does
    /// nothing, and returns `false`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// ctl.pause();
    /// assert!(ctl.try_admit().is_err());
    ///
    /// ctl.idle().await; // nothing is in flight
    /// // migrate the database …
    ///
    /// ctl.unpause();
    /// assert!(ctl.try_admit().is_ok());
    /// # }
    /// ```
    pub fn pause(&self) -> bool {
        let paused = self.core().gate.pause();
        if paused {
            self.core().readiness.notify();
            let in_flight = self.in_flight();
            tell!(info, in_flight, "paused: refusing new work");
        }
        paused
    }

    /// Admits new work again. Returns `false` if it was not paused, or if draining has begun.
    ///
    /// See [`pause`](Self::pause) for an example.
    pub fn unpause(&self) -> bool {
        let unpaused = self.core().gate.unpause();
        if unpaused {
            self.core().readiness.notify();
            tell!(info, "unpaused: admitting new work");
        }
        unpaused
    }

    /// Returns whether new work is refused by a [`pause`](Self::pause).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let ctl = ShutdownController::new();
    /// assert!(!ctl.is_paused());
    /// ctl.pause();
    /// assert!(ctl.is_paused());
    /// ```
    pub fn is_paused(&self) -> bool {
        self.core().gate.is_paused()
    }

    /// Waits until nothing is in flight while new work is refused.
    ///
    /// Work is refused while paused, and from draining on. While work is admitted, this waits for one
    /// of the two. It resolves when the last guard is dropped, not at a later tick. It means that
    /// nothing was in flight at one moment since the call: work that is never
    /// [refused](Self::track) can begin after that.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let request = ctl.try_admit().unwrap();
    /// ctl.pause();
    ///
    /// let idle = ctl.idle();
    /// tokio::spawn(async move { drop(request) });
    /// idle.await;
    /// assert_eq!(ctl.in_flight(), 0);
    /// # }
    /// ```
    pub fn idle(&self) -> Wait {
        let core = self.core();
        // Reset first: work that cannot be refused may have begun since the milestone was reached.
        core.milestones().take_back(event::IDLE);
        let idle = self.wait(event::IDLE | ENDED);
        core.gate.scan();
        idle
    }
}

// ===== impl ResumeError =====

impl ResumeError {
    /// Returns the state that the service was in.
    pub fn state(&self) -> LifecycleState {
        self.state
    }
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state;
        if state < LifecycleState::Running {
            write!(f, "a start-up cannot be called off: the state is `{state}`")
        } else if state < LifecycleState::LameDuck {
            write!(
                f,
                "there is no shutdown to call off: the state is `{state}`"
            )
        } else if state == LifecycleState::LameDuck {
            f.write_str("a server has ended, so the shutdown cannot be called off")
        } else {
            write!(
                f,
                "the shutdown is past the lame duck and cannot be called off: in `{state}`, waits \
                 have resolved and the listener may be closed"
            )
        }
    }
}

impl Error for ResumeError {}
