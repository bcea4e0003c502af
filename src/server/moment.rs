//! Spreads over the lame duck the moments at which connections are asked to leave.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// 2³² divided by the golden ratio.
const GOLDEN: u32 = 2_654_435_769;

/// Returns the moment of the `number`th connection.
///
/// The moments are spread evenly over the first half of the lame duck, so that clients do not reconnect
/// all at once. Each client has the second half for its next request.
pub(super) fn of(number: u32, since: Instant, window: Duration) -> Instant {
    // Multiples of the golden ratio are spread evenly, for any number of connections.
    let fraction = f64::from(number.wrapping_mul(GOLDEN)) / f64::from(u32::MAX);
    let moment = since.checked_add(window.mul_f64(fraction / 2.0));
    // The lame duck is too long for the clock: its connections are never asked.
    moment.unwrap_or_else(|| sleep(Duration::MAX).deadline())
}
