//! Fits a configuration into the grace of a platform.

use std::time::Duration;

use super::error::{ConfigError, sum};
use super::field::Field;
use super::platform::Platform;
use super::shutdown_config::ShutdownConfig;

// ===== impl ShutdownConfig =====

impl ShutdownConfig {
    /// Creates a configuration whose shutdown ends before the platform kills the process.
    ///
    /// The [`shutdown_timeout`](Self::shutdown_timeout) is the platform's grace, less its
    /// [`pre_stop`](Platform::pre_stop) and its [`margin`](Platform::margin). The
    /// [`lame_duck`](Self::lame_duck) is the time in which the platform itself may still send requests,
    /// and at most a quarter of the total: 5 s on [Kubernetes](Platform::kubernetes) without a hook, and
    /// zero elsewhere. The other fields have their defaults. The
    /// [`cleanup_reserve`](Self::cleanup_reserve) is thus the smaller of 5 s and a quarter of the total.
    ///
    /// The configuration remembers its platform, also through the setters and [`merge`](Self::merge), for
    /// the check of [`listen_for_signals`](crate::ShutdownController#method.listen_for_signals). The
    /// platform is not written by serde.
    ///
    /// It is not promised that the process ends in time if something blocks its runtime: see
    /// [`exit_after`](Self::exit_after). Time in which the process does not run at all postpones the end.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the grace is not longer than `pre_stop` and `margin` together.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig, ShutdownController};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::within(Platform::docker())?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(9)); // of 10 s
    /// assert_eq!(config.reserve(), Duration::from_millis(2250)); // of these
    /// ShutdownController::with_config(config)?;
    ///
    /// let hook = Platform::kubernetes().pre_stop(Duration::from_secs(30));
    /// assert_eq!(
    ///     ShutdownConfig::within(hook).unwrap_err().to_string(),
    ///     "termination_grace is 30s, but must be above 31s, the pre_stop of 30s and the \
    ///      margin of 1s"
    /// );
    /// # Ok(()) }
    /// ```
    pub fn within(platform: Platform) -> Result<Self, ConfigError> {
        let total = platform.left_beside(&platform.kept(None))?;
        let lame_duck = platform.routes_after_sigterm().min(total / 4);
        let mut config = Self::default()
            .with(Field::ShutdownTimeout, total.into())
            .with(Field::LameDuck, lame_duck.into());
        config.platform = Some(platform);
        Ok(config)
    }

    /// Checks that a shutdown ends before the platform kills the process.
    ///
    /// The [`shutdown_timeout`](Self::shutdown_timeout) has to fit into the platform's grace beside its
    /// [`pre_stop`](Platform::pre_stop) and its [`margin`](Platform::margin). An
    /// [`exit_after`](Self::exit_after) that is longer than the margin takes its place. The parts of the
    /// total are not checked here, but by
    /// [`ShutdownController::with_config`](crate::ShutdownController::with_config).
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the total, what fits, and the numbers that this comes from.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// let platform = Platform::kubernetes().pre_stop(Duration::from_secs(5));
    /// let config = ShutdownConfig::default();
    /// assert_eq!(
    ///     config.fits(&platform).unwrap_err().to_string(),
    ///     "shutdown_timeout is 30s, but may be at most 24s: Kubernetes kills after 30s, less \
    ///      the pre_stop of 5s and the margin of 1s"
    /// );
    /// assert!(config.shutdown_timeout(Duration::from_secs(24)).fits(&platform).is_ok());
    /// ```
    pub fn fits(&self, platform: &Platform) -> Result<(), ConfigError> {
        let kept = platform.kept(self.exit_after);
        let left = platform.left_beside(&kept)?;
        if self.shutdown_timeout > left {
            let (field, total) = (Field::ShutdownTimeout.name(), self.shutdown_timeout);
            return Err(ConfigError::killed(field, total, platform, &kept));
        }
        Ok(())
    }
}

// ===== impl Platform =====

impl Platform {
    /// Returns the parts of the grace that a shutdown cannot have, and their names.
    fn kept(&self, exit_after: Option<Duration>) -> Vec<(&'static str, Duration)> {
        let exit = match exit_after {
            Some(time) if time > self.margin => (Field::ExitAfter.name(), time),
            _ => ("margin", self.margin),
        };
        if self.pre_stop.is_zero() {
            vec![exit]
        } else {
            vec![("pre_stop", self.pre_stop), exit]
        }
    }

    /// Returns what the grace leaves beside these parts.
    fn left_beside(&self, kept: &[(&'static str, Duration)]) -> Result<Duration, ConfigError> {
        match self.termination_grace.saturating_sub(sum(kept)) {
            Duration::ZERO => Err(ConfigError::nothing_left(self, kept)),
            left => Ok(left),
        }
    }
}
