//! The error for an invalid configuration.

use std::error::Error;
use std::fmt::{self, Debug};
use std::num::ParseIntError;
use std::time::{Duration, TryFromFloatSecsError};

use super::platform::Platform;
use crate::text::one_line;

/// An error for a [`ShutdownConfig`](crate::ShutdownConfig) that is invalid, or that does not fit its
/// [`Platform`](crate::Platform).
///
/// It names the field, its value, and what is allowed. A value from outside is escaped, and
/// truncated if it is long.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownConfig, ShutdownController};
///
/// let config = ShutdownConfig::default().cleanup_reserve(Duration::from_secs(40));
/// let error = ShutdownController::with_config(config).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "cleanup_reserve is 40s, but may be at most 30s, the shutdown_timeout"
/// );
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigError {
    field: &'static str,
    /// The name that the user knows, if it differs from `field`.
    key: Option<Box<str>>,
    /// The value as it is displayed.
    value: Box<str>,
    allowed: Allowed,
    cause: Option<Box<Cause>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Allowed {
    AboveZero,
    /// At most what the total leaves after the fields that are reserved from it.
    AtMost {
        total: Duration,
        kept: Vec<(&'static str, Duration)>,
    },
    /// At most what the grace of a platform leaves after what is kept of it.
    BeforeKill {
        platform: &'static str,
        grace: Duration,
        kept: Vec<(&'static str, Duration)>,
    },
    /// More than what is kept of it.
    Above {
        kept: Vec<(&'static str, Duration)>,
    },
    /// Any valid duration.
    Duration,
    /// Any valid number.
    Count,
}

/// Why a value from outside is not one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cause {
    Seconds(TryFromFloatSecsError),
    Units(humantime::DurationError),
    Count(ParseIntError),
}

/// What a duration from outside may be.
pub(super) const ALLOWED: &str = "seconds such as 45 or 0.25, or units such as 1m 30s, at least \
                                  zero and below 2^64 seconds";

/// What a number from outside may be.
pub(super) const ALLOWED_COUNT: &str = "a whole number from 0 to 4294967295";

/// The maximum number of characters that are shown of a value.
const MAX_SHOWN: usize = 64;

// ===== impl ConfigError =====

impl ConfigError {
    pub(super) fn not_above_zero(field: &'static str, value: Duration) -> Self {
        Self::new(field, &value, Allowed::AboveZero)
    }

    pub(super) fn too_long(
        field: &'static str,
        value: Duration,
        total: Duration,
        kept: &[(&'static str, Duration)],
    ) -> Self {
        let kept = kept.to_vec();
        Self::new(field, &value, Allowed::AtMost { total, kept })
    }

    pub(super) fn killed(
        field: &'static str,
        value: Duration,
        platform: &Platform,
        kept: &[(&'static str, Duration)],
    ) -> Self {
        let allowed = Allowed::BeforeKill {
            platform: platform.name,
            grace: platform.termination_grace,
            kept: kept.to_vec(),
        };
        Self::new(field, &value, allowed)
    }

    pub(super) fn nothing_left(platform: &Platform, kept: &[(&'static str, Duration)]) -> Self {
        let kept = kept.to_vec();
        let grace = platform.termination_grace;
        Self::new("termination_grace", &grace, Allowed::Above { kept })
    }

    pub(super) fn bad_value(field: &'static str, value: &dyn Debug, cause: Option<Cause>) -> Self {
        Self {
            cause: cause.map(Cause::shortened).map(Box::new),
            ..Self::new(field, value, Allowed::Duration)
        }
    }

    pub(super) fn bad_count(field: &'static str, value: &dyn Debug, cause: Option<Cause>) -> Self {
        Self {
            cause: cause.map(Box::new),
            ..Self::new(field, value, Allowed::Count)
        }
    }

    fn new(field: &'static str, value: &dyn Debug, allowed: Allowed) -> Self {
        Self {
            field,
            key: None,
            value: escaped(value),
            allowed,
            cause: None,
        }
    }

    /// Sets the name that the user knows the field by.
    pub(super) fn with_key(self, key: String) -> Self {
        Self {
            key: Some(key.into()),
            ..self
        }
    }

    /// Returns the name of the field that has an invalid value.
    ///
    /// For an error of [`parse_duration`](crate::ShutdownConfig::parse_duration), which knows no
    /// field, it is `duration`. For a [`Platform`](crate::Platform) that leaves no time, it is
    /// `termination_grace`.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Returns the name under which the value was given.
    ///
    /// This is the name of the environment variable, if the value came from one. Otherwise it is
    /// the same as [`field`](Self::field).
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(self.field)
    }
}

// Equality is total for humantime's error too, although it does not implement `Eq`.
impl Eq for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, but ", self.key(), self.value)?;
        match &self.allowed {
            Allowed::AboveZero => f.write_str("must be above zero"),
            Allowed::AtMost { total, kept } if kept.is_empty() => {
                write!(f, "may be at most {total:?}, the shutdown_timeout")
            }
            Allowed::AtMost { total, kept } => {
                let left = total.saturating_sub(sum(kept));
                write!(
                    f,
                    "may be at most {left:?}: the shutdown_timeout of {total:?}, less"
                )?;
                list(f, kept)
            }
            Allowed::BeforeKill {
                platform,
                grace,
                kept,
            } => {
                let left = grace.saturating_sub(sum(kept));
                write!(
                    f,
                    "may be at most {left:?}: {platform} kills after {grace:?}, less"
                )?;
                list(f, kept)
            }
            Allowed::Above { kept } => {
                write!(f, "must be above {:?},", sum(kept))?;
                list(f, kept)
            }
            Allowed::Duration => write!(f, "must be {ALLOWED}"),
            Allowed::Count => write!(f, "must be {ALLOWED_COUNT}"),
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.cause.as_deref()? {
            Cause::Seconds(cause) => Some(cause),
            Cause::Units(cause) => Some(cause),
            Cause::Count(cause) => Some(cause),
        }
    }
}

// ===== impl Cause =====

impl Cause {
    /// Truncates the unit, the only text in it, which is as long as the user wrote it.
    fn shortened(mut self) -> Self {
        if let Self::Units(humantime::DurationError::UnknownUnit { unit, .. }) = &mut self {
            if let Some((end, _)) = unit.char_indices().nth(MAX_SHOWN) {
                unit.truncate(end);
            }
        }
        self
    }
}

/// Returns how long these take together.
pub(super) fn sum(kept: &[(&str, Duration)]) -> Duration {
    let times = kept.iter().map(|(_, time)| *time);
    times.fold(Duration::ZERO, Duration::saturating_add)
}

fn list(f: &mut fmt::Formatter<'_>, kept: &[(&str, Duration)]) -> fmt::Result {
    for (index, (name, time)) in kept.iter().enumerate() {
        let and = if index == 0 { "" } else { " and" };
        write!(f, "{and} the {name} of {time:?}")?;
    }
    Ok(())
}

/// Formats a value from outside, so that it cannot break out of a log line.
pub(super) fn escaped(value: &dyn Debug) -> Box<str> {
    one_line(&format!("{value:?}"), MAX_SHOWN).into()
}
