//! Serde support for the configuration.

use std::fmt::{self, Debug};
use std::time::Duration;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::error::{ALLOWED, Cause, ConfigError, escaped};
use super::field::Field;
use super::shutdown_config::ShutdownConfig;

const NAME: &str = "ShutdownConfig";

struct ConfigVisitor;

struct KeyVisitor;

/// Deserializes the duration of a field. Its errors name the field, which few formats do.
struct DurationOf(Field);

// ===== impl ShutdownConfig =====

impl Serialize for ShutdownConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = Field::ALL.map(|field| (field.name(), self.value(field)));
        let set = fields.iter().filter(|(_, value)| value.is_some()).count();
        let mut out = serializer.serialize_struct(NAME, set)?;
        for (name, value) in fields {
            match value {
                // As text, because no number type is exact for all durations in every format.
                Some(value) => {
                    let text = humantime::format_duration(value).to_string();
                    out.serialize_field(name, &text)?;
                }
                None => out.skip_field(name)?,
            }
        }
        out.end()
    }
}

impl<'de> Deserialize<'de> for ShutdownConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(NAME, &Field::NAMES, ConfigVisitor)
    }
}

impl<'de> Visitor<'de> for ConfigVisitor {
    type Value = ShutdownConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map of the keys {}", Field::NAMES.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShutdownConfig, A::Error> {
        let mut config = ShutdownConfig::default();
        while let Some(field) = map.next_key()? {
            if config.given.contains(field) {
                return Err(A::Error::duplicate_field(field.name()));
            }
            config = config.with(field, map.next_value_seed(DurationOf(field))?);
        }
        Ok(config)
    }
}

// ===== impl Field =====

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

impl Visitor<'_> for KeyVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of the keys {}", Field::NAMES.join(", "))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Field, E> {
        let field = Field::ALL.into_iter().find(|field| field.name() == key);
        // Not `unknown_field`, which does not escape the key.
        field.ok_or_else(|| {
            E::custom(format_args!(
                "unknown key {}, expected one of {}",
                escaped(key),
                Field::NAMES.join(", ")
            ))
        })
    }
}

// ===== impl DurationOf =====

impl DurationOf {
    fn whole_secs<N: TryInto<u64> + Debug + Copy, E: Error>(self, secs: N) -> Result<Duration, E> {
        secs.try_into()
            .map(Duration::from_secs)
            .map_err(|_| E::custom(ConfigError::bad_value(self.0.name(), secs, None)))
    }
}

impl<'de> DeserializeSeed<'de> for DurationOf {
    type Value = Duration;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for DurationOf {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to be {ALLOWED}", self.0.name())
    }

    fn visit_u64<E: Error>(self, secs: u64) -> Result<Duration, E> {
        self.whole_secs(secs)
    }

    fn visit_i64<E: Error>(self, secs: i64) -> Result<Duration, E> {
        self.whole_secs(secs)
    }

    fn visit_u128<E: Error>(self, secs: u128) -> Result<Duration, E> {
        self.whole_secs(secs)
    }

    fn visit_i128<E: Error>(self, secs: i128) -> Result<Duration, E> {
        self.whole_secs(secs)
    }

    fn visit_f64<E: Error>(self, secs: f64) -> Result<Duration, E> {
        Duration::try_from_secs_f64(secs).map_err(|cause| {
            let cause = Some(Cause::Seconds(cause));
            E::custom(ConfigError::bad_value(self.0.name(), secs, cause))
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        self.0.parse(text).map_err(E::custom)
    }
}
