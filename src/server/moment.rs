//! Spreads the moments at which connections are asked to leave, in the lame duck and by their age.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// 2³² divided by the golden ratio.
const GOLDEN: u32 = 2_654_435_769;

/// Returns the moment of the `number`th connection.
///
/// The moments are spread evenly over the first half of the lame duck, so that clients do not reconnect
/// all at once. Each client has the second half for its next request.
pub(super) fn of(number: u32, since: Instant, window: Duration) -> Instant {
    let moment = since.checked_add(window.mul_f64(fraction(number) / 2.0));
    // The lame duck is too long for the clock: its connections are never asked.
    moment.unwrap_or_else(|| sleep(Duration::MAX).deadline())
}

/// Returns when the `number`th connection is old: `age` after `since`, or up to a tenth of it later.
///
/// `seed` differs between servers, so that the connections of two that started together do not become old
/// together. Returns `None` if the clock does not go that far.
pub(super) fn of_age(number: u32, seed: u32, since: Instant, age: Duration) -> Option<Instant> {
    let jitter = (age / 10).mul_f64(fraction(number.wrapping_add(seed)));
    since.checked_add(age)?.checked_add(jitter)
}

/// Returns a number between 0 and 1.
///
/// Multiples of the golden ratio are spread evenly, for any number of connections.
fn fraction(number: u32) -> f64 {
    f64::from(number.wrapping_mul(GOLDEN)) / f64::from(u32::MAX)
}
