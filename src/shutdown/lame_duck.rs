//! How a lame duck ends, and who has seen in it that the service is not ready.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::{Mutex, lock};

/// Why a lame duck ended.
///
/// See [`ShutdownReport::lame_duck_end`](crate::ShutdownReport::lame_duck_end) for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LameDuckEnd {
    /// It lasted as long as it was [set](crate::ShutdownConfig::lame_duck) to.
    InFull,
    /// All probers had seen readiness red [often enough](crate::ShutdownConfig::lame_duck_probes), and it
    /// was [quiet](crate::ShutdownConfig::lame_duck_quiet).
    Early,
    /// The shutdown was forced.
    Forced,
    /// All servers had ended, so no request could come.
    ServersEnded,
}

/// The probers of readiness.
///
/// Only their hashes are kept, and of so many that other clients of a public health path cannot fill the
/// memory.
#[derive(Debug, Default)]
pub(crate) struct Probers {
    hashes: RandomState,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    probers: Vec<Probes>,
    /// When there were last too many of them.
    overflowed: Option<Instant>,
}

/// The probes of one prober.
#[derive(Debug)]
struct Probes {
    /// The hash of the prober.
    prober: u64,
    last: Instant,
    /// How many were answered red since the trigger.
    red: u32,
}

/// How many probers there are, and how many of them have seen readiness red often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witnesses {
    pub(crate) probers: usize,
    pub(crate) seen_red: usize,
}

// ===== impl LameDuckEnd =====

impl LameDuckEnd {
    /// Returns the name in lower snake case, such as `in_full`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InFull => "in_full",
            Self::Early => "early",
            Self::Forced => "forced",
            Self::ServersEnded => "servers_ended",
        }
    }
}

impl fmt::Display for LameDuckEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InFull => "in full",
            Self::ServersEnded => "servers ended",
            _ => self.name(),
        })
    }
}

// ===== impl Probers =====

impl Probers {
    const MAX: usize = 64;

    /// Returns the hash of what tells one prober from another.
    #[cfg_attr(not(feature = "health"), allow(dead_code))]
    pub(crate) fn hash(&self, prober: impl Hash) -> u64 {
        self.hashes.hash_one(prober)
    }

    /// Notes a probe by the prober with this hash, and whether it was answered red. Those who have not probed for as long
    /// as `window` may be forgotten.
    #[cfg_attr(not(feature = "health"), allow(dead_code))]
    pub(crate) fn note(&self, prober: u64, is_red: bool, window: Duration) {
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        let red = u32::from(is_red);
        if let Some(probes) = seen.probers.iter_mut().find(|one| one.prober == prober) {
            probes.last = now;
            probes.red = probes.red.saturating_add(red);
            return;
        }
        if seen.probers.len() >= Self::MAX {
            let is_current = |probes: &Probes| now.saturating_duration_since(probes.last) <= window;
            seen.probers.retain(is_current);
        }
        if seen.probers.len() >= Self::MAX {
            seen.overflowed = Some(now);
            return;
        }
        let last = now;
        seen.probers.push(Probes { prober, last, red });
    }

    /// Forgets what was seen in a pause or an earlier lame duck, because a new shutdown begins.
    pub(crate) fn forget_red(&self) {
        lock(&self.seen)
            .probers
            .iter_mut()
            .for_each(|probes| probes.red = 0);
    }

    /// Returns who has probed since `window` before the trigger, and how many of them have seen red at least
    /// `times`. With too many probers to be known, one of them has not.
    pub(crate) fn witnesses(&self, times: u32, trigger: Instant, window: Duration) -> Witnesses {
        let seen = lock(&self.seen);
        let is_current = |last: Instant| trigger.saturating_duration_since(last) <= window;
        let current = seen.probers.iter().filter(|p| is_current(p.last));
        let (mut probers, mut seen_red) = (0, 0);
        for probes in current {
            probers += 1;
            seen_red += usize::from(probes.red >= times);
        }
        probers += usize::from(seen.overflowed.is_some_and(is_current));
        Witnesses { probers, seen_red }
    }
}

// ===== impl Witnesses =====

impl Witnesses {
    /// Returns whether there are probers, and all of them have seen it.
    pub(crate) fn are_all(self) -> bool {
        self.probers > 0 && self.seen_red == self.probers
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    #[test]
    fn too_many_probers_are_one_that_has_not_seen_it() {
        let (probers, trigger) = (Probers::default(), Instant::now());
        let all_see_red = |names: std::ops::Range<u64>| {
            names.for_each(|name| probers.note(name, true, WINDOW));
        };
        all_see_red(0..64);
        let witnesses = probers.witnesses(1, trigger, WINDOW);
        assert_eq!((witnesses.probers, witnesses.are_all()), (64, true));

        all_see_red(64..640);
        let witnesses = probers.witnesses(1, trigger, WINDOW);
        assert_eq!((witnesses.probers, witnesses.seen_red), (65, 64));
        assert!(!witnesses.are_all());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_probe_no_more_make_room() {
        let probers = Probers::default();
        (0..64).for_each(|name| probers.note(name, false, WINDOW));
        tokio::time::advance(2 * WINDOW).await;
        probers.note(64, false, WINDOW);
        let trigger = Instant::now();
        assert_eq!(probers.witnesses(0, trigger, WINDOW).probers, 1);
    }
}
