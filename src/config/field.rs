//! The fields, their names and values, and which of them were given.

use std::fmt;
use std::time::Duration;

/// A field of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    ShutdownTimeout,
    LameDuck,
    LameDuckProbes,
    LameDuckQuiet,
    LateFor,
    RefuseFor,
    CleanupReserve,
    WorkerReserve,
    RetryAfter,
    ProgressInterval,
    ForceAfter,
    ExitAfter,
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Time(Duration),
    Count(u32),
}

/// The set of fields that were given, by any means.
#[derive(Clone, Copy, Default)]
pub(super) struct Given(u16);

// ===== impl Field =====

impl Field {
    pub(super) const ALL: [Self; 12] = [
        Self::ShutdownTimeout,
        Self::LameDuck,
        Self::LameDuckProbes,
        Self::LameDuckQuiet,
        Self::LateFor,
        Self::RefuseFor,
        Self::CleanupReserve,
        Self::WorkerReserve,
        Self::RetryAfter,
        Self::ProgressInterval,
        Self::ForceAfter,
        Self::ExitAfter,
    ];

    /// The names, in the order of `ALL`.
    pub(super) const NAMES: [&str; Self::ALL.len()] = [
        "shutdown_timeout",
        "lame_duck",
        "lame_duck_probes",
        "lame_duck_quiet",
        "late_for",
        "refuse_for",
        "cleanup_reserve",
        "worker_reserve",
        "retry_after",
        "progress_interval",
        "force_after",
        "exit_after",
    ];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Returns whether its values are whole numbers. All others are durations.
    pub(super) fn is_count(self) -> bool {
        matches!(self, Self::LameDuckProbes)
    }
}

// ===== impl Value =====

impl Value {
    /// Returns the duration. A number is one of seconds, as in text without a unit.
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Time(time) => time,
            Self::Count(count) => Duration::from_secs(count.into()),
        }
    }

    /// Returns the number. Of a duration, it is that of the whole seconds.
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Time(time) => u32::try_from(time.as_secs()).unwrap_or(u32::MAX),
            Self::Count(count) => count,
        }
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

// ===== impl Given =====

impl Given {
    pub(super) fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u16;
    }

    pub(super) fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u16) != 0
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = Field::ALL.iter().filter(|field| self.contains(**field));
        f.debug_set().entries(given).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_remembered_by_field() {
        let mut given = Given::default();
        given.insert(Field::LameDuck);
        given.insert(Field::ProgressInterval);
        let found = Field::ALL.map(|field| given.contains(field));
        assert_eq!(
            found,
            [
                false, true, false, false, false, false, false, false, false, true, false, false
            ]
        );
        assert_eq!(format!("{given:?}"), "{LameDuck, ProgressInterval}");
    }
}
