//! Parses durations and numbers from text.

use std::fmt::Debug;
use std::time::Duration;

use humantime::DurationError;

use super::error::{Cause, ConfigError};
use super::field::{Field, Value};
use super::shutdown_config::ShutdownConfig;

// ===== impl ShutdownConfig =====

impl ShutdownConfig {
    /// Parses a duration, as [`from_env`](Self::from_env) does.
    ///
    /// The text is a number of seconds (`45`, `0.25`) or has the units of
    /// [`humantime`](https://docs.rs/humantime/2/humantime/fn.parse_duration.html) (`45s`,
    /// `1m 30s`, `200ms`). A number is rounded to the nearest nanosecond. Leading and trailing
    /// white space is ignored.
    ///
    /// This is meant for command lines. With clap:
    /// `#[arg(value_parser = ShutdownConfig::parse_duration)]`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that shows the text and says what is allowed. It knows no field,
    /// so it names it `duration`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let duration = ShutdownConfig::parse_duration("1m 30s").unwrap();
    /// assert_eq!(duration, Duration::from_secs(90));
    /// assert_eq!(ShutdownConfig::parse_duration("90").unwrap(), duration);
    ///
    /// let error = ShutdownConfig::parse_duration("soon").unwrap_err();
    /// assert!(error.to_string().starts_with(r#"duration is "soon", but must be seconds"#));
    /// ```
    pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
        parse(text).map_err(|cause| ConfigError::bad_value("duration", &text, Some(cause)))
    }
}

impl Field {
    pub(super) fn parse(self, text: &str) -> Result<Value, ConfigError> {
        if self.is_count() {
            let count = text.trim().parse().map(Value::Count).map_err(Cause::Count);
            return count.map_err(|cause| self.bad_value(&text, Some(cause)));
        }
        let time = parse(text).map(Value::Time);
        time.map_err(|cause| self.bad_value(&text, Some(cause)))
    }

    /// Returns the error for `value`, which is not one of this field.
    pub(super) fn bad_value(self, value: &dyn Debug, cause: Option<Cause>) -> ConfigError {
        if self.is_count() {
            ConfigError::bad_count(self.name(), value, cause)
        } else {
            ConfigError::bad_value(self.name(), value, cause)
        }
    }
}

fn parse(text: &str) -> Result<Duration, Cause> {
    let text = text.trim();
    // Not through `f64`, which is not exact for large numbers.
    if let Ok(secs) = text.parse() {
        return Ok(Duration::from_secs(secs));
    }
    match text.parse() {
        Ok(secs) => Duration::try_from_secs_f64(secs).map_err(Cause::Seconds),
        Err(_) => parse_units(text).map_err(Cause::Units),
    }
}

/// Parses the parts of text such as `1m 30s` one by one and adds them up. humantime itself panics
/// if the sum is one nanosecond above the maximum (chronotope/humantime#66).
fn parse_units(text: &str) -> Result<Duration, DurationError> {
    let (mut sum, mut rest) = (Duration::ZERO, text);
    loop {
        let unit = rest.find(char::is_alphabetic).unwrap_or(rest.len());
        let next = rest[unit..].find(|c: char| c.is_ascii_digit());
        let (part, tail) = rest.split_at(next.map_or(rest.len(), |next| unit + next));
        let duration = match part {
            // Zero without a unit is valid only as the whole text, which is then a number.
            "0" => Err(DurationError::UnknownUnit {
                start: text.len(),
                end: text.len(),
                unit: String::new(),
                value: 0,
            }),
            part => humantime::parse_duration(part),
        };
        sum = sum
            .checked_add(duration?)
            .ok_or(DurationError::NumberOverflow)?;
        if tail.is_empty() {
            return Ok(sum);
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::config::error::ALLOWED;

    #[test]
    fn numbers_are_seconds_and_units_are_understood() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("45", 45_000_000_000),
            ("45.0", 45_000_000_000),
            (" 45\n", 45_000_000_000),
            ("0.25", 250_000_000),
            ("1e-9", 1),
            ("45s", 45_000_000_000),
            ("1m 30s", 90_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5m", 90_000_000_000),
            ("200ms", 200_000_000),
            ("2 s 999999999ns 1ns", 3_000_000_000),
        ] {
            let duration = parse(text);
            assert_eq!(duration, Ok(Duration::from_nanos(nanos)), "{text:?}");
        }
        // Exact, although `f64` would round it up to 2^64.
        let most = Ok(Duration::from_secs(u64::MAX));
        assert_eq!(parse("18446744073709551615"), most);
        assert_eq!(
            parse("18446744073709551615s 999999999ns"),
            Ok(Duration::MAX)
        );
    }

    #[test]
    fn anything_else_is_refused_with_its_cause() {
        for (text, cause) in [
            ("", "empty"),
            (" ", "empty"),
            ("abc", "expected number"),
            ("5 parsecs", "unknown time unit"),
            ("1s 30", "time unit needed"),
            ("1s 0", "time unit needed"),
            ("-5s", "expected number"),
            ("1,5", "invalid character"),
            ("-5", "negative"),
            ("-0.1", "negative"),
            ("nan", "too big"),
            ("inf", "too big"),
            ("-inf", "negative"),
            ("1e300", "too big"),
            ("18446744073709551616", "too big"),
            ("18446744073709551616s", "too large"),
            // humantime panics on these.
            ("18446744073709551615s 1000000000ns", "too large"),
            ("18446744073709551615s 999999999ns 1ns", "too large"),
        ] {
            let error = ShutdownConfig::parse_duration(text).unwrap_err();
            assert_eq!((error.field(), error.key()), ("duration", "duration"));
            assert_eq!(
                error.to_string(),
                format!("duration is {text:?}, but must be {ALLOWED}")
            );
            let source = error.source().unwrap().to_string();
            assert!(source.contains(cause), "{text:?}: {source}");
        }
    }

    #[test]
    fn what_is_long_or_breaks_the_line_is_shown_short_and_escaped() {
        let error = ShutdownConfig::parse_duration("1\nERROR all is lost\u{202e}").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(r#"duration is "1\nERROR all is lost\u{202e}", but"#),
            "{text}"
        );

        let error = ShutdownConfig::parse_duration(&format!("1{}", "µ".repeat(10_000)));
        let error = error.unwrap_err();
        assert!(error.to_string().contains("µ…, but must be"), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
        let source = error.source().unwrap().to_string();
        assert!(
            source.contains("unknown time unit") && source.len() < 400,
            "{source}"
        );
    }
}
