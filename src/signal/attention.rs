//! The default action of signals: a signal takes it only while nothing in this process uses the signal.
//!
//! The signal handler itself takes the action, so this works even when every thread is blocked.

use std::io;
use std::process;

use signal_hook::consts::{SIGHUP, SIGIO};
use signal_hook::flag;
use signal_hook::low_level::signal_name;

use super::registrations::{has_others, register};
use crate::sync::{Arc, AtomicBool, Ordering, PoisonError};

/// Marks these signals as used until it is dropped.
pub(super) struct Attention(Vec<i32>);

/// Lets a thread decide on the action of SIGHUP until it is dropped.
pub(super) struct HangupWatch(());

/// The users of a signal, and the state that its handler reads.
#[derive(Default)]
struct Signal {
    users: usize,
    /// The number of `HangupWatch`es. They do not count as users.
    watches: usize,
    /// Read by the signal handler, which takes the default action if it is `true`.
    is_unused: Arc<AtomicBool>,
    /// `true` if the handler for the default action is registered.
    has_default_action: bool,
    /// `true` if other code may have registered a handler since a watch began.
    may_be_handled: bool,
}

/// The signals that are known, each once.
struct Known(Vec<(i32, Signal)>);

static SIGNALS: std::sync::Mutex<Known> = std::sync::Mutex::new(Known(Vec::new()));

// ===== impl Attention =====

impl Attention {
    /// Marks signals as used that are listened for. Each takes its default action after the end, whatever
    /// it did before.
    pub(super) fn listen(signals: &[i32]) -> io::Result<Self> {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        for &number in signals {
            let signal = known.entry(number);
            signal.enable_default_action(number)?;
            signal.may_be_handled = false;
        }
        Ok(Self::new(signals.to_vec(), &mut known))
    }

    /// Marks those of `signals` as used that would kill the process, so that they do nothing. Signals that
    /// the user handles or ignores are left alone. So are signals that the system does not let a process
    /// handle.
    pub(super) fn absorb(signals: &[i32]) -> Self {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        let unhandled = Unhandled::read();
        let mut absorbed = Vec::new();
        for &number in signals {
            let registered = match (known.get(number).is_some(), &unhandled) {
                (true, _) => Ok(()),
                (false, Some(unhandled)) if unhandled.contains(number) => {
                    let signal = known.entry(number);
                    signal.enable_default_action(number)
                }
                (false, Some(_)) => continue,
                // It is unknown whether the signal is handled, so it does nothing from now on.
                (false, None) => register(1, || flag::register(number, Arc::default())).map(|_| {
                    known.entry(number);
                }),
            };
            if registered.is_ok() {
                absorbed.push(number);
            }
        }
        Self::new(absorbed, &mut known)
    }

    fn new(signals: Vec<i32>, known: &mut Known) -> Self {
        for number in &signals {
            if let Some(signal) = known.get_mut(*number) {
                signal.users += 1;
                signal.update();
            }
        }
        Self(signals)
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = i32> {
        self.0.iter().copied()
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        for number in &self.0 {
            if let Some(signal) = known.get_mut(*number) {
                signal.users -= 1;
                signal.update();
            }
        }
    }
}

// ===== impl HangupWatch =====

impl HangupWatch {
    /// Holds back the default action of SIGHUP, so that a SIGHUP that comes together with a SIGTERM finds
    /// the shutdown that the SIGTERM begins. Returns `None` if the process handles or ignores SIGHUP, if
    /// that is unknown, or as PID 1, for which SIGHUP has no default action.
    pub(super) fn begin(handled: i32) -> Option<Self> {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        // Called before the check below, so that handlers registered after the check are noticed.
        has_others(handled);
        let is_ours = known
            .get(SIGHUP)
            .is_some_and(|signal| signal.has_default_action);
        if process::id() == 1 || !(is_ours || Unhandled::read()?.contains(SIGHUP)) {
            return None;
        }
        let signal = known.entry(SIGHUP);
        signal.enable_default_action(SIGHUP).ok()?;
        signal.watches += 1;
        signal.update();
        Some(Self(()))
    }

    /// Returns whether SIGHUP is used now: it was chosen, or a shutdown is in progress.
    pub(super) fn is_used() -> bool {
        let known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(SIGHUP).is_some_and(|signal| signal.users > 0)
    }

    /// Returns whether other code may have registered a handler for SIGHUP since the watch began.
    pub(super) fn may_be_handled() -> bool {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(SIGHUP).check_for_handler(SIGHUP)
    }
}

impl Drop for HangupWatch {
    fn drop(&mut self) {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = known.get_mut(SIGHUP) {
            if signal.users == 0 {
                signal.check_for_handler(SIGHUP);
            }
            signal.watches -= 1;
            signal.update();
        }
    }
}

// ===== impl Known =====

impl Known {
    fn get(&self, number: i32) -> Option<&Signal> {
        let mut known = self.0.iter();
        known.find_map(|(known, signal)| (*known == number).then_some(signal))
    }

    fn get_mut(&mut self, number: i32) -> Option<&mut Signal> {
        let mut known = self.0.iter_mut();
        known.find_map(|(known, signal)| (*known == number).then_some(signal))
    }

    /// Returns the signal, which is known from now on.
    fn entry(&mut self, number: i32) -> &mut Signal {
        let known = self.0.iter().position(|(known, _)| *known == number);
        let place = known.unwrap_or_else(|| {
            self.0.push((number, Signal::default()));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }
}

// ===== impl Signal =====

impl Signal {
    /// Makes the signal take its default action while it is unused.
    fn enable_default_action(&mut self, number: i32) -> io::Result<()> {
        if self.has_default_action {
            return Ok(());
        }
        let is_unused = Arc::clone(&self.is_unused);
        // The kernel takes no default action that would kill PID 1, and signal-hook does not know the
        // default action of every signal. The process then exits with the code that a shell would report.
        if process::id() == 1 || number == SIGIO || signal_name(number).is_none() {
            register(1, || {
                flag::register_conditional_shutdown(number, 128 + number, is_unused)
            })?;
        } else {
            register(1, || flag::register_conditional_default(number, is_unused))?;
        }
        self.has_default_action = true;
        Ok(())
    }

    fn check_for_handler(&mut self, number: i32) -> bool {
        self.may_be_handled |= has_others(number);
        self.may_be_handled
    }

    fn update(&self) {
        let is_unused = self.users == 0 && self.watches == 0 && !self.may_be_handled;
        // SeqCst: pairs with the SeqCst load in the signal handler.
        self.is_unused.store(is_unused, Ordering::SeqCst);
    }
}

/// The signals that the process neither handles nor ignores, as a bit mask.
struct Unhandled(u64);

impl Unhandled {
    /// Returns `None` if they are unknown.
    #[cfg(target_os = "linux")]
    fn read() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self(!(mask("SigIgn:")? | mask("SigCgt:")?)))
    }

    #[cfg(not(target_os = "linux"))]
    fn read() -> Option<Self> {
        None
    }

    fn contains(&self, signal: i32) -> bool {
        self.0 & (1 << (signal - 1)) != 0
    }
}
