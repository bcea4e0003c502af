//! Values of environment variables.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use arbitrary::Arbitrary;
use tower_lifecycle::ShutdownConfig;

use crate::config::{only, set};
use crate::{FIELDS, assert_error_showable};

#[derive(Debug, Arbitrary)]
pub struct Input {
    prefix: Prefix,
    /// In the order of the fields.
    values: [Option<Variable>; FIELDS.len()],
}

#[derive(Debug, Arbitrary)]
enum Prefix {
    Plain,
    WithUnderscore,
    Empty,
}

#[derive(Debug, Arbitrary)]
enum Variable {
    Whole(u64),
    Fraction(f64),
    Units(Vec<(Number, Unit)>),
    Bytes(Vec<u8>),
    /// Longer than an error may show.
    Long {
        start: Number,
        repeated: char,
    },
    /// The largest number of seconds, plus some nanoseconds.
    Limit(Number),
}

/// Includes values at which sums overflow.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Number {
    Any(u64),
    Most,
    Billion,
    BelowBillion,
    One,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Unit {
    Nanos,
    Micros,
    Millis,
    Secs,
    Minutes,
    Years,
    Zero,
}

pub fn check(input: &Input) {
    let (prefix, start) = match input.prefix {
        Prefix::Plain => ("FUZZ", "FUZZ_"),
        Prefix::WithUnderscore => ("FUZZ_", "FUZZ_"),
        Prefix::Empty => ("", ""),
    };
    let variables = FIELDS.map(|field| format!("{start}{}", field.to_ascii_uppercase()));
    let values = input.values.each_ref();
    let values = values.map(|value| value.as_ref().map(Variable::text));
    let variables: Vec<_> = variables.into_iter().zip(values).collect();
    let read = temp_env::with_vars(&variables, || ShutdownConfig::from_env(prefix));

    // Until the first invalid one.
    let mut expected = ShutdownConfig::default();
    for (field, (variable, value)) in FIELDS.into_iter().zip(&variables) {
        let Some(value) = value else { continue };
        let parsed = value.to_str().map(ShutdownConfig::parse_duration);
        let Some(Ok(duration)) = parsed else {
            let error = read.expect_err("a value that is no duration");
            assert_eq!((error.field(), error.key()), (field, variable.as_str()));
            let text = error.to_string();
            assert!(text.starts_with(&format!("{variable} is ")), "{text}");
            assert_error_showable(&error);
            // A long value is shown in part: it may be a secret in the wrong variable.
            let shown = format!("{value:?}");
            assert_eq!(text.contains(&shown), shown.chars().count() <= 64, "{text}");
            return;
        };
        if let Some(exact) = input.exact(field) {
            assert_eq!(duration, exact, "{value:?}");
        }
        reads_back(duration);
        expected = set(expected, field, duration);
    }
    assert_eq!(read, Ok(expected));
}

/// A duration written to a file reads back the same.
fn reads_back(duration: Duration) {
    let text = humantime::format_duration(duration).to_string();
    assert_eq!(
        ShutdownConfig::parse_duration(&text),
        Ok(duration),
        "{text}"
    );
    let in_nanos = format!("{}s {}ns", duration.as_secs(), duration.subsec_nanos());
    assert_eq!(
        ShutdownConfig::parse_duration(&in_nanos),
        Ok(duration),
        "{in_nanos}"
    );
    assert_eq!(only("lame_duck", duration).lame_duck, duration);
}

impl Input {
    /// The expected value, if it is known without parsing.
    fn exact(&self, field: &str) -> Option<Duration> {
        let index = FIELDS.iter().position(|other| *other == field)?;
        match self.values[index].as_ref()? {
            Variable::Whole(secs) => Some(Duration::from_secs(*secs)),
            Variable::Units(parts) => {
                let part = |(n, unit): &(Number, Unit)| unit.times(n.value());
                let nanos = parts.iter().map(part).sum::<Option<u128>>()?;
                let secs = u64::try_from(nanos / 1_000_000_000).ok()?;
                Some(Duration::new(secs, (nanos % 1_000_000_000) as u32))
            }
            Variable::Limit(nanos) => {
                Duration::from_secs(u64::MAX).checked_add(Duration::from_nanos(nanos.value()))
            }
            Variable::Fraction(_) | Variable::Bytes(_) | Variable::Long { .. } => None,
        }
    }
}

impl Variable {
    fn text(&self) -> OsString {
        match self {
            Self::Whole(secs) => secs.to_string().into(),
            Self::Fraction(secs) => secs.to_string().into(),
            Self::Units(parts) => {
                let part = |(n, unit): &(Number, Unit)| format!("{}{}", n.value(), unit.text());
                parts.iter().map(part).collect::<Vec<_>>().join(" ").into()
            }
            Self::Long { start, repeated } => {
                let text = format!("{}{}", start.value(), repeated.to_string().repeat(2_000));
                text.replace('\0', "").into()
            }
            Self::Limit(nanos) => format!("{}s {}ns", u64::MAX, nanos.value()).into(),
            // No variable can contain a NUL.
            Self::Bytes(bytes) => {
                let bytes = bytes.iter().copied().filter(|byte| *byte != 0);
                OsString::from_vec(bytes.collect())
            }
        }
    }
}

impl Number {
    fn value(self) -> u64 {
        match self {
            Self::Any(n) => n,
            Self::Most => u64::MAX,
            Self::Billion => 1_000_000_000,
            Self::BelowBillion => 999_999_999,
            Self::One => 1,
        }
    }
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::Nanos => "ns",
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::Secs => "s",
            Self::Minutes => "min",
            Self::Years => "years",
            Self::Zero => "",
        }
    }

    /// In nanoseconds; `None` where `humantime` defines the unit.
    fn times(self, n: u64) -> Option<u128> {
        let nanos = match self {
            Self::Nanos => 1,
            Self::Micros => 1_000,
            Self::Millis => 1_000_000,
            Self::Secs => 1_000_000_000,
            Self::Minutes => 60_000_000_000,
            Self::Years | Self::Zero => return None,
        };
        Some(u128::from(n) * nanos)
    }
}
