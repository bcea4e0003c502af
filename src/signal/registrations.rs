//! Whether anybody else in this process has registered a signal handler since ours.
//!
//! signal-hook does not tell who handles a signal. It numbers all registrations, tokio's too, so a
//! gap between two of our own is somebody else's. The number is read by hashing an id; if that ever
//! fails, it is taken for granted that there is somebody.

use std::hash::{Hash, Hasher};
use std::io;

use signal_hook::{SigId, flag, low_level};

use crate::sync::{Arc, PoisonError};

struct Registrations {
    /// The number of one of ours, and how many of ours came after it.
    latest: Option<(u128, u128)>,
    /// There is somebody else.
    others: bool,
}

static REGISTRATIONS: std::sync::Mutex<Registrations> = std::sync::Mutex::new(Registrations {
    latest: None,
    others: false,
});

/// Makes `count` registrations of ours. Nobody else of ours makes one meanwhile, so that none is
/// taken for a stranger's.
pub(super) fn ours<T>(count: usize, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut registrations = REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = make();
    match (&made, &mut registrations.latest) {
        (Ok(_), Some((_, since))) => *since += count as u128,
        (Ok(_), None) => {}
        // Nobody can tell how many were made.
        (Err(_), _) => registrations.others = true,
    }
    made
}

/// Returns whether there may be a registration of somebody else's since the first call. `signal` has
/// to be one that we handle.
pub(super) fn has_others(signal: i32) -> bool {
    let mut registrations = REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = flag::register(signal, Arc::default()).ok().and_then(|id| {
        low_level::unregister(id);
        number_of(id)
    });
    let expected = registrations.latest.map(|(number, ours)| number + ours + 1);
    registrations.others |= number.is_none() || expected.is_some_and(|is| Some(is) != number);
    registrations.latest = number.map(|number| (number, 0));
    registrations.others
}

fn number_of(id: SigId) -> Option<u128> {
    let mut number = Number(None);
    id.hash(&mut number);
    number.0
}

/// Takes the number out of what is hashed.
struct Number(Option<u128>);

impl Hasher for Number {
    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u128(&mut self, number: u128) {
        self.0 = Some(number);
    }

    fn finish(&self) -> u64 {
        0
    }
}
