//! The signal that begins a hand-over.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::controller::ShutdownController;
use crate::log::tell;
use crate::state::LifecycleState;

/// The signal that begins a hand-over, for [`HandOver::on_signal`](super::HandOver::on_signal).
///
/// # Examples
///
/// ```
/// use tower_lifecycle::restart::RestartSignal;
///
/// assert_eq!(RestartSignal::default(), RestartSignal::User2);
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RestartSignal {
    /// SIGUSR2, by the convention of nginx, HAProxy and Unicorn.
    #[default]
    User2,
    /// SIGUSR1.
    User1,
    /// SIGHUP, which systemd sends to a unit of `Type=notify-reload`.
    Hangup,
}

impl RestartSignal {
    const fn number(self) -> i32 {
        match self {
            Self::User2 => SIGUSR2,
            Self::User1 => SIGUSR1,
            Self::Hangup => SIGHUP,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::User2 => "SIGUSR2",
            Self::User1 => "SIGUSR1",
            Self::Hangup => "SIGHUP",
        }
    }

    /// Calls `received` for each of these signals until draining begins, in a thread of its own. After
    /// that the signal does nothing.
    pub(super) fn listen<F>(self, ctl: &ShutdownController, received: F) -> io::Result<()>
    where
        F: Fn() + Send + 'static,
    {
        let mut signals = Signals::new([self.number()])?;
        let handle = signals.handle();
        thread::Builder::new()
            .name("tower-lifecycle-restart-signal".to_owned())
            .spawn(move || {
                for _ in signals.forever() {
                    tell!(info, signal = self.name(), "signal received: handing over");
                    received();
                }
            })?;
        let reached = move |state| {
            if state >= LifecycleState::Draining {
                handle.close();
            }
        };
        ctl.on_state_change({
            let reached = reached.clone();
            move |_, state| reached(state)
        });
        // It may have been reached before.
        reached(ctl.state());
        Ok(())
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;
    use crate::state::ShutdownReason;

    #[tokio::test]
    async fn a_thread_that_comes_after_the_drain_has_begun_ends() {
        let ctl = ShutdownController::new();
        ctl.shutdown(ShutdownReason::Manual).await;
        let (held, thread) = channel::<()>();
        let received = move || held.send(()).expect("it is awaited");
        let listening = RestartSignal::User1.listen(&ctl, received);
        listening.expect("a thread");
        let end = thread.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    }
}
