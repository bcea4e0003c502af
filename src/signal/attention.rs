//! Whether a signal takes its default action: not while somebody in this process has a use for it.
//!
//! When nobody has, it takes it in the signal handler itself, which works also when every thread is
//! blocked.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::process;

use signal_hook::flag;

use crate::sync::{Arc, AtomicBool, Ordering, PoisonError};

/// Somebody has a use for these signals, until it is dropped.
pub(super) struct Attention(BTreeSet<i32>);

/// How many have a use for a signal, and what its handler looks at.
struct Signal {
    users: usize,
    nobody: Arc<AtomicBool>,
}

static SIGNALS: std::sync::Mutex<BTreeMap<i32, Signal>> = std::sync::Mutex::new(BTreeMap::new());

// ===== impl Attention =====

impl Attention {
    /// For signals that are listened for. Each takes its default action from the end on, whatever it did
    /// before.
    pub(super) fn pay(signals: &BTreeSet<i32>) -> io::Result<Self> {
        Self::to(signals, default_action)
    }

    /// For signals that are to do nothing. What the user handles or ignores is left alone.
    pub(super) fn absorb(signals: &BTreeSet<i32>) -> io::Result<Self> {
        Self::to(signals, |signal, nobody| match was_default(signal) {
            Some(true) => default_action(signal, nobody),
            Some(false) => Ok(()),
            // Nobody can tell, so it does nothing from now on.
            None => flag::register(signal, Arc::default()).map(drop),
        })
    }

    fn to(
        signals: &BTreeSet<i32>,
        register: impl Fn(i32, &Arc<AtomicBool>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut known = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        for &signal in signals {
            if let Entry::Vacant(place) = known.entry(signal) {
                let nobody = Arc::new(AtomicBool::new(false));
                register(signal, &nobody)?;
                place.insert(Signal { users: 0, nobody });
            }
        }
        for number in signals {
            if let Some(signal) = known.get_mut(number) {
                signal.users += 1;
                signal.tell();
            }
        }
        drop(known);
        Ok(Self(signals.clone()))
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

impl Signal {
    fn tell(&self) {
        // SeqCst: pairs with the load of the same strength in the signal handler.
        self.nobody.store(self.users == 0, Ordering::SeqCst);
    }
}

/// Has `signal` end the process when `nobody` has a use for it.
fn default_action(signal: i32, nobody: &Arc<AtomicBool>) -> io::Result<()> {
    let nobody = Arc::clone(nobody);
    // The kernel does not let PID 1 be killed by a default action, so it ends as a shell would say it.
    let registered = match process::id() {
        1 => flag::register_conditional_shutdown(signal, 128 + signal, nobody),
        _ => flag::register_conditional_default(signal, nobody),
    };
    registered.map(drop)
}

/// Returns whether nobody handles `signal`, and it is not ignored; `None` if that cannot be told.
#[cfg(target_os = "linux")]
fn was_default(signal: i32) -> Option<bool> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let taken = mask("SigIgn:")? | mask("SigCgt:")?;
    Some(taken & (1 << (signal - 1)) == 0)
}

#[cfg(not(target_os = "linux"))]
fn was_default(_signal: i32) -> Option<bool> {
    None
}
