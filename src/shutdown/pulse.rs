//! Detects that the whole process did not run for a while: SIGSTOP, a starved cgroup, or a sleeping laptop
//! where the clock goes on. That time is not taken from the reserve of the clean-up.

use std::time::{Duration, Instant as SystemInstant};

use tokio::time::Instant;

use crate::sync::{Mutex, lock};

/// A thread wakes every 10 ms. If it does not for this long, the process was frozen.
const FROZEN: Duration = Duration::from_millis(50);

/// The heartbeat of one shutdown.
#[derive(Debug)]
pub(crate) struct Pulse(Mutex<Beats>);

#[derive(Debug)]
struct Beats {
    last: Option<Beat>,
    lost: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    system: SystemInstant,
    /// The time by the clock of the shutdown, which may be paused.
    clock: Instant,
}

impl Pulse {
    /// Starts now. `clock` is the clock of the shutdown. [`beat`](Self::beat) must be called every 10 ms
    /// from now on.
    pub(crate) fn start(clock: impl Fn() -> Instant) -> Self {
        Self(Mutex::new(Beats {
            last: Some(Beat::now(clock)),
            lost: Duration::ZERO,
        }))
    }

    pub(crate) fn stop(&self) {
        lock(&self.0).last = None;
    }

    /// Records a beat, and returns how long the process was frozen since the start, in total.
    ///
    /// To be called before acting on a limit that has passed: after a freeze all timers fire at once, in
    /// any order.
    pub(crate) fn beat(&self, clock: impl Fn() -> Instant) -> Duration {
        let mut beats = lock(&self.0);
        if let Some(last) = beats.last {
            let beat = *beats.last.insert(Beat::now(clock));
            let gap = beat.system.saturating_duration_since(last.system);
            let by_clock = beat.clock.saturating_duration_since(last.clock);
            // If the clock did not advance as well, it is paused, and no limit was missed.
            let has_advanced = by_clock.abs_diff(gap) <= gap / 4;
            if gap >= FROZEN && has_advanced {
                beats.lost += gap;
            }
        }
        beats.lost
    }
}

impl Beat {
    /// Reads both clocks. Reads them again if the process was frozen between the two readings, which would
    /// look like a paused clock.
    fn now(clock: impl Fn() -> Instant) -> Self {
        loop {
            let before = SystemInstant::now();
            let clock = clock();
            let system = SystemInstant::now();
            if system.saturating_duration_since(before) < FROZEN / 2 {
                return Self { system, clock };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::sync::{AtomicBool, Ordering};

    const STEP: Duration = Duration::from_millis(60);

    #[test]
    fn a_gap_is_lost_if_both_clocks_went_through_it() {
        let start = Instant::now();
        let pulse = Pulse::start(|| start);
        assert_eq!(pulse.beat(|| start), Duration::ZERO, "no gap");
        thread::sleep(STEP);
        let lost = pulse.beat(Instant::now);
        assert!(lost >= STEP, "{lost:?}");
        assert_eq!(pulse.beat(Instant::now), lost, "counted once");
    }

    #[test]
    fn a_gap_between_the_readings_of_the_clocks_is_lost_too() {
        let pulse = Pulse::start(Instant::now);
        let is_first = AtomicBool::new(true);
        let lost = pulse.beat(|| {
            let now = Instant::now();
            if is_first.swap(false, Ordering::Relaxed) {
                thread::sleep(STEP);
            }
            now
        });
        assert!(lost >= STEP, "{lost:?}");
    }

    #[test]
    fn a_clock_that_is_paused_or_leaps_has_lost_nothing() {
        let start = Instant::now();
        let pulse = Pulse::start(|| start);
        thread::sleep(STEP);
        assert_eq!(pulse.beat(|| start), Duration::ZERO, "paused");
        thread::sleep(STEP);
        let leap = start + Duration::from_secs(25);
        assert_eq!(pulse.beat(|| leap), Duration::ZERO, "leapt");
    }
}
