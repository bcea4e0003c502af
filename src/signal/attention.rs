//! Whether a signal takes its default action: not while somebody in this process has a use for it.
//!
//! When nobody has, it takes it in the signal handler itself, which works also when every thread is
//! blocked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process;

use signal_hook::consts::{SIGHUP, SIGIO};
use signal_hook::flag;
use signal_hook::low_level::signal_name;

use super::registrations::{has_others, ours};
use crate::sync::{Arc, AtomicBool, Ordering, PoisonError};

/// Somebody has a use for these signals, until it is dropped.
pub(super) struct Attention(BTreeSet<i32>);

/// Somebody decides on SIGHUP in a thread, until it is dropped.
pub(super) struct HangupWatch(());

/// How many have a use for a signal, and what its handler looks at.
#[derive(Default)]
struct Signal {
    users: usize,
    /// How many decide on it in a thread; they have no use for it.
    watches: usize,
    nobody: Arc<AtomicBool>,
    /// It takes its default action when nobody has a use for it.
    acts: bool,
    /// It was not handled when a watch began, and may be since.
    may_be_handled: bool,
}

type Known = BTreeMap<i32, Signal>;

static SIGNALS: std::sync::Mutex<Known> = std::sync::Mutex::new(BTreeMap::new());

// ===== impl Attention =====

impl Attention {
    /// For signals that are listened for. Each takes its default action from the end on, whatever it did
    /// before.
    pub(super) fn pay(signals: &BTreeSet<i32>) -> io::Result<Self> {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        for &number in signals {
            let signal = known.entry(number).or_default();
            signal.let_act(number)?;
            signal.may_be_handled = false;
        }
        Ok(Self::to(signals.clone(), &mut known))
    }

    /// For those of `signals` that would kill, so that they do nothing. What the user handles or ignores
    /// is left alone, and so is what the system does not let anybody handle.
    pub(super) fn absorb(signals: &BTreeSet<i32>) -> Self {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        let unhandled = Unhandled::look();
        let mut absorbed = BTreeSet::new();
        for &number in signals {
            let registered = match (known.contains_key(&number), &unhandled) {
                (true, _) => Ok(()),
                (false, Some(unhandled)) if unhandled.contains(number) => {
                    let signal = known.entry(number).or_default();
                    signal.let_act(number)
                }
                (false, Some(_)) => continue,
                // Nobody can tell, so it does nothing from now on.
                (false, None) => ours(1, || flag::register(number, Arc::default())).map(|_| {
                    known.entry(number).or_default();
                }),
            };
            if registered.is_ok() {
                absorbed.insert(number);
            }
        }
        Self::to(absorbed, &mut known)
    }

    fn to(signals: BTreeSet<i32>, known: &mut Known) -> Self {
        for number in &signals {
            if let Some(signal) = known.get_mut(number) {
                signal.users += 1;
                signal.tell();
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
            if let Some(signal) = known.get_mut(number) {
                signal.users -= 1;
                signal.tell();
            }
        }
    }
}

// ===== impl HangupWatch =====

impl HangupWatch {
    /// Keeps SIGHUP from its default action, so that one that comes right with a SIGTERM finds the
    /// shutdown that this one begins. `None` if somebody handles or ignores it, or if that cannot be
    /// told; and as PID 1, for which it has no default action.
    pub(super) fn begin(handled: i32) -> Option<Self> {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is looked who handles it: whoever comes later is noticed.
        has_others(handled);
        let is_ours = known.get(&SIGHUP).is_some_and(|signal| signal.acts);
        if process::id() == 1 || !(is_ours || Unhandled::look()?.contains(SIGHUP)) {
            return None;
        }
        let signal = known.entry(SIGHUP).or_default();
        signal.let_act(SIGHUP).ok()?;
        signal.watches += 1;
        signal.tell();
        Some(Self(()))
    }

    /// Whether somebody has a use for it now: it was chosen, or a shutdown is under way.
    pub(super) fn is_used() -> bool {
        let known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&SIGHUP).is_some_and(|signal| signal.users > 0)
    }

    /// Whether somebody may have begun to handle it since.
    pub(super) fn may_be_handled() -> bool {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(SIGHUP).or_default().look_for_handler(SIGHUP)
    }
}

impl Drop for HangupWatch {
    fn drop(&mut self) {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = known.get_mut(&SIGHUP) {
            if signal.users == 0 {
                signal.look_for_handler(SIGHUP);
            }
            signal.watches -= 1;
            signal.tell();
        }
    }
}

// ===== impl Signal =====

impl Signal {
    /// Has it take its default action when nobody has a use for it.
    fn let_act(&mut self, number: i32) -> io::Result<()> {
        if self.acts {
            return Ok(());
        }
        let nobody = Arc::clone(&self.nobody);
        // The kernel does not let PID 1 be killed by a default action, and signal-hook does not know
        // that of every signal. The process ends then as a shell would say it.
        if process::id() == 1 || number == SIGIO || signal_name(number).is_none() {
            ours(1, || {
                flag::register_conditional_shutdown(number, 128 + number, nobody)
            })?;
        } else {
            ours(1, || flag::register_conditional_default(number, nobody))?;
        }
        self.acts = true;
        Ok(())
    }

    fn look_for_handler(&mut self, number: i32) -> bool {
        self.may_be_handled |= has_others(number);
        self.may_be_handled
    }

    fn tell(&self) {
        let nobody = self.users == 0 && self.watches == 0 && !self.may_be_handled;
        // SeqCst: pairs with the load of the same strength in the signal handler.
        self.nobody.store(nobody, Ordering::SeqCst);
    }
}

/// The signals that nobody handles or ignores, as a mask.
struct Unhandled(u64);

impl Unhandled {
    /// Returns `None` if it cannot be told.
    #[cfg(target_os = "linux")]
    fn look() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self(!(mask("SigIgn:")? | mask("SigCgt:")?)))
    }

    #[cfg(not(target_os = "linux"))]
    fn look() -> Option<Self> {
        None
    }

    fn contains(&self, signal: i32) -> bool {
        self.0 & (1 << (signal - 1)) != 0
    }
}
