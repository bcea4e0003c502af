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
        ctl.on_state_change(move |_, state| {
            if state >= LifecycleState::Draining {
                handle.close();
            }
        });
        Ok(())
    }
}
