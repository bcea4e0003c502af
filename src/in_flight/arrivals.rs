//! Late arrivals: requests that came in the lame duck, when the load balancer should have sent them
//! elsewhere by and by. How late the last one was tells whether the lame duck is long enough.

use std::time::Duration;

use tokio::time::Instant;

use super::gate::{Gate, Shard};
use crate::log::tell;
use crate::sync::OnceLock;

/// The requests that came in the lame duck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrivals {
    pub(crate) count: u64,
    /// How long after the trigger the last one came; `None` only if there was none.
    pub(crate) last: Option<Duration>,
    /// The last one came so late that there would have been more.
    pub(crate) lame_duck_was_too_short: bool,
}

/// Notes that a request has come in the lame duck, on the shard that has admitted it.
#[cold]
pub(crate) fn note(shard: &Shard) {
    shard.note_arrival(nanos(Instant::now()));
}

// ===== impl Arrivals =====

impl Arrivals {
    /// Returns the figures of the shutdown that was triggered at `trigger`. Its lame duck was to last for
    /// `planned`, and lasted for `lame_duck`, if it has ended.
    pub(crate) fn of(
        gate: &Gate,
        planned: Duration,
        trigger: Instant,
        lame_duck: Option<Duration>,
    ) -> Self {
        let (count, last) = gate.arrivals();
        let last = Duration::from_nanos(last.saturating_sub(nanos(trigger)));
        // Who came at the very end may have looked at the clock only after it.
        let last = lame_duck.map_or(last, |lasted| last.min(lasted));
        let ran_its_time = lame_duck.is_some_and(|lasted| lasted >= planned);
        Self {
            count,
            last: (count > 0).then_some(last),
            lame_duck_was_too_short: count > 0 && ran_its_time && is_at_the_end(last, planned),
        }
    }

    /// Says so, if the lame duck was too short.
    pub(crate) fn tell(&self, lame_duck: Duration) {
        if let (Some(last_arrival), true) = (self.last, self.lame_duck_was_too_short) {
            let late_arrivals = self.count;
            tell!(
                warn,
                late_arrivals,
                ?last_arrival,
                ?lame_duck,
                "the lame duck was too short: requests came until its end; set a longer \
                 `lame_duck`, so that the load balancer sends them elsewhere before they are refused"
            );
        }
    }
}

/// Whether it came in the last fifth of a lame duck of `time`.
fn is_at_the_end(arrival: Duration, time: Duration) -> bool {
    arrival > time - time / 5
}

/// Gives an instant as a number that grows with it, for the atomics of the gate.
///
/// It counts from an instant in the middle of the range, and not from the first one: where clocks
/// are paused, another runtime's may be behind it.
fn nanos(at: Instant) -> u64 {
    static MIDDLE: OnceLock<Instant> = OnceLock::new();
    let middle = *MIDDLE.get_or_init(|| at);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    // One of the two is zero.
    let after = nanos(at.saturating_duration_since(middle));
    let before = nanos(middle.saturating_duration_since(at));
    (1_u64 << 63).saturating_add(after).saturating_sub(before)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
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
        assert!(!is_at_the_end(millis(4_000), millis(5_000)));
        assert!(is_at_the_end(millis(4_001), millis(5_000)));
        assert!(!is_at_the_end(millis(4_001), Duration::MAX));
    }

    #[test]
    fn none_came_before_the_trigger_or_after_the_end() {
        let gate = Gate::new(1, LifecycleState::Running.bit());
        let trigger = Instant::now();
        gate.shards()[0].note_arrival(nanos(trigger + millis(7)));
        let last = |trigger, lame_duck| Arrivals::of(&gate, millis(7), trigger, lame_duck).last;
        assert_eq!(last(trigger, None), Some(millis(7)));
        assert_eq!(last(trigger, Some(millis(5))), Some(millis(5)));
        // By a clock that is behind.
        assert_eq!(last(trigger + millis(9), None), Some(Duration::ZERO));
    }
}
