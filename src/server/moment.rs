//! When, in a lame duck, one connection is asked to leave.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// 2³² divided by the golden ratio.
const GOLDEN: u32 = 2_654_435_769;

/// Returns the moment of the connection that came as the `number`th. The moments lie evenly in the
/// first half of the lame duck, so that clients do not come back all at once, and each has the
/// other half for its next request.
pub(super) fn of(number: u32, since: Instant, window: Duration) -> Instant {
    // Multiples of the golden ratio are spread evenly, however many there are.
    let fraction = f64::from(number.wrapping_mul(GOLDEN)) / f64::from(u32::MAX);
    let moment = since.checked_add(window.mul_f64(fraction / 2.0));
    // A lame duck that no clock can hold does not come to it.
    moment.unwrap_or_else(|| sleep(Duration::MAX).deadline())
}
