//! How long each part of a shutdown may take.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// How long each part of a shutdown may take.
///
/// All of it fits into one total, [`shutdown_timeout`](Self::shutdown_timeout):
///
/// ```text
/// |── lame_duck ──|──────── drain ────────|── cleanup_reserve ──|
/// |──────────────────── shutdown_timeout ───────────────────────|
/// ```
///
/// The fields can be read; they are set by the setters of the same names, and checked as a whole by
/// [`ShutdownController::with_config`](crate::ShutdownController::with_config). A duration that the
/// clock cannot hold, such as `Duration::MAX`, means no limit.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownConfig, ShutdownController};
///
/// let config = ShutdownConfig::default()
///     .shutdown_timeout(Duration::from_secs(25))
///     .lame_duck(Duration::from_secs(5));
/// assert!(ShutdownController::with_config(config).is_ok());
///
/// let config = ShutdownConfig::default()
///     .shutdown_timeout(Duration::from_secs(5))
///     .lame_duck(Duration::from_secs(10));
/// let error = ShutdownController::with_config(config).unwrap_err();
/// assert_eq!(error.field(), "lame_duck");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a configuration does nothing until it is given to a controller"]
pub struct ShutdownConfig {
    /// The time for everything, from the trigger to the end. Default 30 s. Zero cuts at once.
    pub shutdown_timeout: Duration,
    /// How long everything is still served while readiness is red. Default zero.
    pub lame_duck: Duration,
    /// How long the listener stays open, refusing, after draining began. Default 200 ms.
    pub refuse_for: Duration,
    /// What of the total is kept for clean-up. Default the smaller of 5 s and a quarter of the
    /// total.
    pub cleanup_reserve: Option<Duration>,
    /// What a refused client is told to wait, rounded up to whole seconds. Default 1 s: the next
    /// try most likely meets another instance.
    pub retry_after: Duration,
    /// How often the log says what is waited for while draining. Default 5 s.
    pub progress_interval: Duration,
}

/// Says why a [`ShutdownConfig`] cannot be.
///
/// It names the field, its value, and what is allowed.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: Duration,
    allowed: Allowed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    AboveZero,
    /// What the total leaves, beside the clean-up reserve where there is one.
    AtMost {
        total: Duration,
        reserve: Option<Duration>,
    },
}

// ===== impl ShutdownConfig =====

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            shutdown_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            refuse_for: Duration::from_millis(200),
            cleanup_reserve: None,
            retry_after: Duration::from_secs(1),
            progress_interval: Duration::from_secs(5),
        }
    }
}

impl ShutdownConfig {
    /// Sets the time for everything: lame duck, drain and clean-up together.
    ///
    /// Stay below what the platform grants before it kills: `terminationGracePeriodSeconds` on
    /// Kubernetes (less the `preStop` hook), `TimeoutStopSec` under systemd.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // Kubernetes kills after 30 s by default.
    /// let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(25));
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(25));
    /// ```
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Sets how long everything is still served while readiness is red.
    ///
    /// Longer than the load balancer takes to notice: probe period × failure threshold, and a bit.
    /// With a time of zero the state is skipped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // A probe every 2 s that has to fail twice, and one second to spare.
    /// let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    /// assert_eq!(config.lame_duck, Duration::from_secs(5));
    /// ```
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// Sets how long the listener stays open, refusing, after draining began.
    ///
    /// It is the least that
    /// [`ShutdownController::stop_accepting`](crate::ShutdownController::stop_accepting) waits,
    /// but never longer than half of the drain, so that the server can end in the other. A force
    /// shortens it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().refuse_for(Duration::from_millis(500));
    /// assert_eq!(config.refuse_for, Duration::from_millis(500));
    /// ```
    pub fn refuse_for(mut self, time: Duration) -> Self {
        self.refuse_for = time;
        self
    }

    /// Sets what of the total is kept for clean-up, whatever the drain does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().cleanup_reserve(Duration::from_secs(10));
    /// assert_eq!(config.reserve(), Duration::from_secs(10));
    /// ```
    pub fn cleanup_reserve(mut self, reserve: Duration) -> Self {
        self.cleanup_reserve = Some(reserve);
        self
    }

    /// Sets what a refused client is told to wait.
    ///
    /// It is told in whole seconds, rounded up (RFC 9110 §10.2.3). A layer may have a [setting of
    /// its own](crate::DrainLayer::retry_after).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().retry_after(Duration::from_secs(3));
    /// assert_eq!(config.retry_after, Duration::from_secs(3));
    /// ```
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = time;
        self
    }

    /// Sets how often the log says what is waited for while draining.
    ///
    /// It must be above zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().progress_interval(Duration::from_secs(1));
    /// assert_eq!(config.progress_interval, Duration::from_secs(1));
    /// ```
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress_interval = interval;
        self
    }

    /// Returns what of the total is kept for clean-up: as set, or the default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default();
    /// assert_eq!(config.reserve(), Duration::from_secs(5));
    ///
    /// let short = config.shutdown_timeout(Duration::from_secs(8));
    /// assert_eq!(short.reserve(), Duration::from_secs(2)); // a quarter
    /// ```
    pub fn reserve(&self) -> Duration {
        self.cleanup_reserve
            .unwrap_or_else(|| Duration::from_secs(5).min(self.shutdown_timeout / 4))
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.progress_interval.is_zero() {
            return Err(ConfigError {
                field: "progress_interval",
                value: self.progress_interval,
                allowed: Allowed::AboveZero,
            });
        }
        let (total, reserve) = (self.shutdown_timeout, self.reserve());
        if reserve > total {
            return Err(ConfigError {
                field: "cleanup_reserve",
                value: reserve,
                allowed: Allowed::AtMost {
                    total,
                    reserve: None,
                },
            });
        }
        if self.lame_duck > total - reserve {
            return Err(ConfigError {
                field: "lame_duck",
                value: self.lame_duck,
                allowed: Allowed::AtMost {
                    total,
                    reserve: Some(reserve),
                },
            });
        }
        Ok(())
    }
}

// ===== impl ConfigError =====

impl ConfigError {
    /// Returns the name of the field that cannot be as it is.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        write!(f, "{field} is {value:?}, but ")?;
        match allowed {
            Allowed::AboveZero => f.write_str("must be above zero"),
            Allowed::AtMost {
                total,
                reserve: None,
            } => {
                write!(f, "may be at most {total:?}, the shutdown_timeout")
            }
            Allowed::AtMost {
                total,
                reserve: Some(reserve),
            } => write!(
                f,
                "may be at most {:?}, what the shutdown_timeout of {total:?} leaves beside the \
                 cleanup_reserve of {reserve:?}",
                total.saturating_sub(*reserve),
            ),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_default_reserve_is_a_quarter_and_at_most_five_seconds() {
        let config = ShutdownConfig::default();
        assert_eq!(config.reserve(), secs(5));
        assert_eq!(config.clone().shutdown_timeout(secs(8)).reserve(), secs(2));
        assert_eq!(config.shutdown_timeout(Duration::MAX).reserve(), secs(5));
    }

    #[test]
    fn what_cannot_fit_is_named_with_its_value_and_bound() {
        let config = ShutdownConfig::default().lame_duck(secs(26));
        let error = config.validate().unwrap_err();
        assert_eq!(error.field(), "lame_duck");
        assert_eq!(
            error.to_string(),
            "lame_duck is 26s, but may be at most 25s, what the shutdown_timeout of 30s leaves \
             beside the cleanup_reserve of 5s"
        );

        let config = ShutdownConfig::default().cleanup_reserve(secs(31));
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cleanup_reserve is 31s, but may be at most 30s, the shutdown_timeout"
        );

        let config = ShutdownConfig::default().progress_interval(Duration::ZERO);
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "progress_interval is 0ns, but must be above zero"
        );
    }

    #[test]
    fn zero_and_endless_are_legal() {
        let zero = ShutdownConfig::default().shutdown_timeout(Duration::ZERO);
        assert_eq!(zero.validate(), Ok(()));
        let endless = ShutdownConfig::default()
            .shutdown_timeout(Duration::MAX)
            .lame_duck(secs(1))
            .refuse_for(Duration::MAX)
            .retry_after(Duration::MAX)
            .progress_interval(Duration::MAX);
        assert_eq!(endless.validate(), Ok(()));
        let all_reserve = ShutdownConfig::default().cleanup_reserve(secs(30));
        assert_eq!(all_reserve.validate(), Ok(()));
    }
}
