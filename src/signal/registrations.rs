//! Detects whether other code in this process has registered a signal handler.
//!
//! signal-hook does not report who handles a signal. It numbers all registrations, including tokio's.
//! So a gap between the numbers of two registrations of this crate means that other code registered a
//! handler in between. The number is read by hashing an id. If that fails, other code is assumed.

use std::hash::{Hash, Hasher};
use std::io;

use signal_hook::{SigId, flag, low_level};

use crate::sync::{Arc, PoisonError};

struct Registrations {
    /// The number of a registration of this crate, and how many this crate has made since.
    latest: Option<(u128, u128)>,
    /// `true` if other code may have registered a handler.
    others: bool,
}

static REGISTRATIONS: std::sync::Mutex<Registrations> = std::sync::Mutex::new(Registrations {
    latest: None,
    others: false,
});

/// Runs `make`, which makes `count` registrations. A lock keeps other registrations of this crate out
/// meanwhile, so that they are counted correctly.
pub(super) fn register<T>(count: usize, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut registrations = REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = make();
    match (&made, &mut registrations.latest) {
        (Ok(_), Some((_, since))) => *since += count as u128,
        (Ok(_), None) => {}
        // It is unknown how many were made.
        (Err(_), _) => registrations.others = true,
    }
    made
}

/// Returns whether other code may have registered a handler since the first call. `signal` must be one
/// that this crate handles.
pub(super) fn has_others(signal: i32) -> bool {
    let mut registrations = REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = flag::register(signal, Arc::default()).ok().and_then(|id| {
        low_level::unregister(id);
        number_of(id)
    });
    let expected = registrations
        .latest
        .map(|(number, since)| number + since + 1);
    registrations.others |=
        number.is_none() || expected.is_some_and(|expected| Some(expected) != number);
    registrations.latest = number.map(|number| (number, 0));
    registrations.others
}

fn number_of(id: SigId) -> Option<u128> {
    let mut number = Number(None);
    id.hash(&mut number);
    number.0
}

/// A hasher that stores the number that is hashed.
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
