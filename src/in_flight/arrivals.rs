//! Late arrivals: requests that came in the lame duck, while the load balancer should have moved
//! them elsewhere. The time of the last one shows whether the lame duck is long enough.

use std::time::Duration;

use tokio::time::Instant;

use super::gate::{Gate, Shard};
use crate::log::{millis, tell};
use crate::sync::OnceLock;

/// The requests that came in the lame duck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrivals {
    pub(crate) count: u64,
    /// How long after the trigger the last one came; `None` only if there was none.
    pub(crate) last: Option<Duration>,
    /// The last one came close to the end of the lame duck, so more may have come after it.
    pub(crate) lame_duck_was_too_short: bool,
}

/// Notes on `shard`, which admitted the request, that a request came in the lame duck.
#[cold]
pub(crate) fn note(shard: &Shard) {
    shard.note_arrival(nanos(Instant::now()));
}

// ===== impl Arrivals =====

impl Arrivals {
    /// Returns the late arrivals of the shutdown that was triggered at `trigger`. Its lame duck lasted
    /// `lame_duck` if it has ended, and was as long as planned, `full`, if nothing ended it early.
    pub(crate) fn of(
        gate: &Gate,
        trigger: Instant,
        lame_duck: Option<Duration>,
        full: Option<Duration>,
    ) -> Self {
        let (count, last) = gate.arrivals();
        let last = Duration::from_nanos(last.saturating_sub(nanos(trigger)));
        // A request that came at the very end may have read the clock after it.
        let last = lame_duck.map_or(last, |lasted| last.min(lasted));
        Self {
            count,
            last: (count > 0).then_some(last),
            lame_duck_was_too_short: count > 0
                && full.is_some_and(|full| is_in_last_fifth(last, full)),
        }
    }

    /// Logs a warning if the lame duck was too short.
    pub(crate) fn tell(&self, lame_duck: Duration) {
        if let (Some(last_arrival), true) = (self.last, self.lame_duck_was_too_short) {
            let late_arrivals = self.count;
            tell!(
                warn,
                late_arrivals,
                last_arrival_ms = millis(last_arrival),
                lame_duck_ms = millis(lame_duck),
                "the lame duck was too short: requests arrived until its end; set a longer `lame_duck`, so that the load balancer stops sending requests before they are refused"
            );
        }
    }
}

/// Returns whether `arrival` is in the last fifth of a lame duck of length `time`.
fn is_in_last_fifth(arrival: Duration, time: Duration) -> bool {
    arrival > time - time / 5
}

/// Returns `at` as a number that grows with it, for the atomics of the gate.
///
/// The first instant maps to the middle of the range, because with paused clocks the clock of
/// another runtime may be behind it.
fn nanos(at: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(|| at);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    // One of these is zero.
    let after = nanos(at.saturating_duration_since(first));
    let before = nanos(first.saturating_duration_since(at));
    (1_u64 << 63).saturating_add(after).saturating_sub(before)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
    use crate::in_flight::Lease;
    use crate::state::LifecycleState;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn instants_keep_their_distance_on_both_sides_of_the_first() {
        let now = Instant::now();
        let first = nanos(now);
        assert_eq!(nanos(now + millis(3)) - first, 3_000_000);
        // The clock may have begun a moment ago.
        if let Some(earlier) = now.checked_sub(millis(3)) {
            assert_eq!(first - nanos(earlier), 3_000_000);
        }
    }

    #[test]
    fn the_last_fifth_begins_after_four() {
        assert!(!is_in_last_fifth(millis(4_000), millis(5_000)));
        assert!(is_in_last_fifth(millis(4_001), millis(5_000)));
        assert!(!is_in_last_fifth(millis(4_001), Duration::MAX));
    }

    #[test]
    fn none_came_before_the_trigger_or_after_the_end() {
        let gate = Lease::new(1, LifecycleState::Running.bit());
        let trigger = Instant::now();
        gate.shards()[0].note_arrival(nanos(trigger + millis(7)));
        let last = |trigger, lame_duck| Arrivals::of(&gate, trigger, lame_duck, None).last;
        assert_eq!(last(trigger, None), Some(millis(7)));
        assert_eq!(last(trigger, Some(millis(5))), Some(millis(5)));
        // With a clock that is behind.
        assert_eq!(last(trigger + millis(9), None), Some(Duration::ZERO));
    }
}
