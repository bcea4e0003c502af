//! Reads the configuration from environment variables.

use std::env;
use std::ffi::OsString;

use super::error::ConfigError;
use super::field::Field;
use super::shutdown_config::ShutdownConfig;

// ===== impl ShutdownConfig =====

impl ShutdownConfig {
    /// Reads the environment variables that begin with `prefix`.
    ///
    /// With the prefix `MY_APP` they are
    ///
    /// | variable | field |
    /// |---|---|
    /// | `MY_APP_SHUTDOWN_TIMEOUT` | [`shutdown_timeout`](#structfield.shutdown_timeout) |
    /// | `MY_APP_LAME_DUCK` | [`lame_duck`](#structfield.lame_duck) |
    /// | `MY_APP_LAME_DUCK_PROBES` | [`lame_duck_probes`](#structfield.lame_duck_probes) |
    /// | `MY_APP_LAME_DUCK_QUIET` | [`lame_duck_quiet`](#structfield.lame_duck_quiet) |
    /// | `MY_APP_LATE_FOR` | [`late_for`](#structfield.late_for) |
    /// | `MY_APP_REFUSE_FOR` | [`refuse_for`](#structfield.refuse_for) |
    /// | `MY_APP_CLEANUP_RESERVE` | [`cleanup_reserve`](#structfield.cleanup_reserve) |
    /// | `MY_APP_WORKER_RESERVE` | [`worker_reserve`](#structfield.worker_reserve) |
    /// | `MY_APP_RETRY_AFTER` | [`retry_after`](#structfield.retry_after) |
    /// | `MY_APP_PROGRESS_INTERVAL` | [`progress_interval`](#structfield.progress_interval) |
    /// | `MY_APP_FORCE_AFTER` | [`force_after`](#structfield.force_after) |
    /// | `MY_APP_EXIT_AFTER` | [`exit_after`](#structfield.exit_after) |
    ///
    /// and their values are parsed by [`parse_duration`](Self::parse_duration), except that
    /// `lame_duck_probes` is a whole number. A field keeps its
    /// default if its variable is not set. Other variables belong to the application and are not
    /// read.
    ///
    /// The `_` after the prefix is omitted if the prefix ends in one or is empty: `APP_` is the
    /// same as `APP`, `APP__` reads `APP__LAME_DUCK`, and the empty prefix reads `LAME_DUCK`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for the first variable with an invalid value. It names the
    /// variable, shows its value, and says what is allowed. An empty value is an error too, because
    /// it is more often a mistake than a wish for the default.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::from_env("MY_APP")?;
    /// assert_eq!(config, ShutdownConfig::default()); // none of them is set
    /// # Ok(()) }
    /// ```
    pub fn from_env(prefix: &str) -> Result<Self, ConfigError> {
        Self::from_variables(prefix, |name| env::var_os(name))
    }

    fn from_variables(
        prefix: &str,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let separator = match prefix {
            "" => "",
            prefix if prefix.ends_with('_') => "",
            _ => "_",
        };
        let mut config = Self::default();
        for field in Field::ALL {
            let name = format!("{prefix}{separator}{}", field.name().to_ascii_uppercase());
            let Some(value) = lookup(&name) else { continue };
            let value = match value.to_str() {
                Some(text) => field.parse(text),
                None => Err(field.bad_value(&value, None)),
            };
            config = config.with(field, value.map_err(|error| error.with_key(name))?);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;

    /// Reads the configuration from `variables` only.
    fn read(prefix: &str, variables: &[(&str, &str)]) -> Result<ShutdownConfig, ConfigError> {
        ShutdownConfig::from_variables(prefix, |name| {
            let variable = variables.iter().find(|variable| variable.0 == name);
            variable.map(|variable| variable.1.into())
        })
    }

    #[test]
    fn each_variable_sets_its_own_field() {
        let config = read(
            "APP",
            &[
                ("APP_SHUTDOWN_TIMEOUT", "1m 30s"),
                ("APP_LAME_DUCK", "2"),
                ("APP_LAME_DUCK_PROBES", "3"),
                ("APP_LAME_DUCK_QUIET", "0.3"),
                ("APP_LATE_FOR", "3"),
                ("APP_REFUSE_FOR", "0.25"),
                ("APP_CLEANUP_RESERVE", "4s"),
                ("APP_WORKER_RESERVE", "4.5s"),
                ("APP_RETRY_AFTER", "5.0"),
                ("APP_PROGRESS_INTERVAL", "600ms"),
                ("APP_FORCE_AFTER", "0.7"),
                ("APP_EXIT_AFTER", "8"),
            ],
        );
        let expected = ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(90))
            .lame_duck(Duration::from_secs(2))
            .lame_duck_probes(3)
            .lame_duck_quiet(Duration::from_millis(300))
            .late_for(Duration::from_secs(3))
            .refuse_for(Duration::from_millis(250))
            .cleanup_reserve(Duration::from_secs(4))
            .worker_reserve(Duration::from_millis(4500))
            .retry_after(Duration::from_secs(5))
            .progress_interval(Duration::from_millis(600))
            .force_after(Duration::from_millis(700))
            .exit_after(Duration::from_secs(8));
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn what_is_not_set_keeps_the_default_and_what_is_not_ours_is_not_read() {
        let names = RefCell::new(Vec::new());
        let config = ShutdownConfig::from_variables("APP", |name| {
            names.borrow_mut().push(name.to_owned());
            None
        });
        assert_eq!(config, Ok(ShutdownConfig::default()));
        let expected = [
            "APP_SHUTDOWN_TIMEOUT",
            "APP_LAME_DUCK",
            "APP_LAME_DUCK_PROBES",
            "APP_LAME_DUCK_QUIET",
            "APP_LATE_FOR",
            "APP_REFUSE_FOR",
            "APP_CLEANUP_RESERVE",
            "APP_WORKER_RESERVE",
            "APP_RETRY_AFTER",
            "APP_PROGRESS_INTERVAL",
            "APP_FORCE_AFTER",
            "APP_EXIT_AFTER",
        ];
        assert_eq!(names.into_inner(), expected);
    }

    #[test]
    fn the_prefix_is_parted_from_the_name_by_what_it_ends_in() {
        for (prefix, name) in [
            ("APP", "APP_LAME_DUCK"),
            ("APP_", "APP_LAME_DUCK"),
            ("APP__", "APP__LAME_DUCK"),
            ("", "LAME_DUCK"),
        ] {
            let config = read(prefix, &[(name, "7")]).unwrap();
            assert_eq!(config.lame_duck, Duration::from_secs(7), "{prefix:?}");
        }
    }

    #[test]
    fn the_error_names_variable_field_and_value() {
        let error = read("APP", &[("APP_RETRY_AFTER", "")]).unwrap_err();
        assert_eq!(error.field(), "retry_after");
        assert_eq!(error.key(), "APP_RETRY_AFTER");
        assert_eq!(
            error.to_string(),
            "APP_RETRY_AFTER is \"\", but must be seconds such as 45 or 0.25, or units such as \
             1m 30s, at least zero and below 2^64 seconds"
        );

        for value in ["", "two", "-1", "2.5", "2s", "4294967296"] {
            let error = read("APP", &[("APP_LAME_DUCK_PROBES", value)]).unwrap_err();
            let expected = format!(
                "APP_LAME_DUCK_PROBES is {value:?}, but must be a whole number from 0 to 4294967295"
            );
            assert_eq!(error.to_string(), expected);
            assert!(std::error::Error::source(&error).is_some());
        }
    }
}
