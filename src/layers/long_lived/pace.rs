//! When the bodies of a class are ended: one after another, once draining has begun.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::{LongLived, Name};
use crate::log::{millis, tell_here};
use crate::shutdown::Core;
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, Weak, lock};

/// A class of one controller. It counts its bodies and assigns their turns.
pub(crate) struct Class {
    long_lived: LongLived,
    alive: AtomicUsize,
    /// Set at the first turn.
    pace: Mutex<Option<Pace>>,
    core: Weak<Core>,
}

/// The time of the next turn, and the interval between turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    /// `None` means never.
    next: Option<Instant>,
    interval: Duration,
}

/// A body of a class, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Member(Arc<Class>);

// ===== impl Class =====

impl Class {
    pub(super) fn new(long_lived: LongLived, core: Weak<Core>) -> Self {
        Self {
            long_lived,
            alive: AtomicUsize::new(0),
            pace: Mutex::new(None),
            core,
        }
    }

    fn name(&self) -> &Name {
        &self.long_lived.name
    }

    pub(super) fn is(&self, long_lived: &LongLived) -> bool {
        self.long_lived == *long_lived
    }

    /// Assigns the next turn to a body. Called only once draining has begun.
    fn take_turn(&self) -> Option<Instant> {
        let notice = self.core.upgrade().and_then(|core| core.notice());
        let now = (notice.as_ref()).map_or_else(Instant::now, |notice| notice.now());
        // Relaxed, as the updates in `Member`: only a divisor, and a small error hardly matters.
        let alive = self.alive.load(Ordering::Relaxed);
        let (turn, started) = {
            let mut pace = lock(&self.pace);
            let is_first = pace.is_none();
            let pace = pace.get_or_insert_with(|| {
                // The first body may be polled some time after the end of the lame duck.
                let lame_duck_deadline = notice.as_ref().and_then(|n| n.lame_duck_deadline());
                let began = lame_duck_deadline.map_or(now, |deadline| deadline.min(now));
                let deadline = notice.as_ref().and_then(|n| n.drain_deadline());
                Pace::new(&self.long_lived, alive, began, deadline)
            });
            (pace.take_turn(now), is_first.then_some(*pace))
        };
        // Not under the lock: a subscriber is foreign code.
        if let Some(Pace { interval, .. }) = started {
            let after = self.long_lived.after;
            let class = self.name();
            tell_here!(
                info,
                ?class,
                alive,
                after_ms = millis(after),
                interval_ms = millis(interval),
                "ending long-lived responses"
            );
        }
        turn
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.long_lived.fmt(f)
    }
}

// ===== impl Pace =====

impl Pace {
    fn new(class: &LongLived, alive: usize, began: Instant, deadline: Option<Instant>) -> Self {
        let first = began.checked_add(class.after);
        // Rounded up, so that no more bodies than the rate end in a second.
        let nanos = 1_000_000_000_u32.checked_div(class.rate);
        let nanos = nanos.map(|nanos| nanos + u32::from(1_000_000_000 % class.rate > 0));
        let mut interval = nanos.map_or(Duration::MAX, |n| Duration::from_nanos(n.into()));
        if let (Some(first), Some(deadline)) = (first, deadline) {
            let half = deadline.saturating_duration_since(first) / 2;
            let alive = u32::try_from(alive).unwrap_or(u32::MAX).max(1);
            interval = interval.min(half / alive);
        }
        Self {
            next: first,
            interval,
        }
    }

    /// Returns the next turn, which is never in the past.
    ///
    /// Unused turns are lost. Otherwise, bodies that come late together would end together.
    fn take_turn(&mut self, now: Instant) -> Option<Instant> {
        let turn = self.next?.max(now);
        self.next = turn.checked_add(self.interval);
        Some(turn)
    }
}

// ===== impl Member =====

impl Member {
    pub(crate) fn new(class: Arc<Class>) -> Self {
        // Relaxed, as the load in `Class::take_turn`: only a count.
        class.alive.fetch_add(1, Ordering::Relaxed);
        if let Some(core) = class.core.upgrade() {
            core.gate.streams.increment();
        }
        Self(class)
    }

    pub(crate) fn take_turn(&self) -> Option<Instant> {
        self.0.take_turn()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Relaxed, as the load in `Class::take_turn`: only a count.
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
        if let Some(core) = self.0.core.upgrade() {
            core.gate.streams.decrement();
        }
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn interval(rate: u32, alive: usize, drain: Option<Duration>) -> Duration {
        let class = LongLived::path("/").rate(rate);
        let began = Instant::now();
        Pace::new(&class, alive, began, drain.map(|drain| began + drain)).interval
    }

    #[test]
    fn never_more_end_in_a_second_than_the_rate_says() {
        for rate in [1, 2, 3, 7, 200, 999_999_999, 1_000_000_000, u32::MAX] {
            let second = interval(rate, 1, Some(secs(3_600))).checked_mul(rate);
            assert!(second.is_some_and(|second| second >= secs(1)), "{rate}");
        }
    }

    #[test]
    fn no_figure_is_too_large_or_too_small() {
        assert_eq!(interval(0, 0, None), Duration::MAX);
        assert_eq!(interval(0, 0, Some(secs(2))), secs(1));
        assert_eq!(interval(1, usize::MAX, Some(secs(1))), Duration::ZERO);
        assert_eq!(interval(1, 2, Some(Duration::ZERO)), Duration::ZERO);
    }

    #[test]
    fn a_turn_that_the_clock_cannot_hold_never_comes() {
        let now = Instant::now();
        let never = LongLived::path("/").after(Duration::MAX);
        assert_eq!(Pace::new(&never, 1, now, None).take_turn(now), None);
        let mut slow = Pace::new(&LongLived::path("/").rate(0), 2, now, None);
        assert_eq!(slow.take_turn(now), Some(now));
        assert_eq!(slow.take_turn(now), None);
    }
}
