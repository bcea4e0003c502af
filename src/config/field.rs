//! The fields, their names, and which of them were given.

use std::fmt;

/// A field of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    ShutdownTimeout,
    LameDuck,
    LateFor,
    RefuseFor,
    CleanupReserve,
    WorkerReserve,
    RetryAfter,
    ProgressInterval,
    ForceAfter,
    ExitAfter,
}

/// The set of fields that were given, by any means.
#[derive(Clone, Copy, Default)]
pub(super) struct Given(u16);

// ===== impl Field =====

impl Field {
    pub(super) const ALL: [Self; 10] = [
        Self::ShutdownTimeout,
        Self::LameDuck,
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
                false, true, false, false, false, false, false, true, false, false
            ]
        );
        assert_eq!(format!("{given:?}"), "{LameDuck, ProgressInterval}");
    }
}
