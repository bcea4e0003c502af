//! Serde support for the configuration.

use std::fmt::{self, Debug};
use std::time::Duration;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::error::{ALLOWED, ALLOWED_COUNT, Cause, escaped};
use super::field::{Field, Value};
use super::shutdown_config::ShutdownConfig;

const NAME: &str = "ShutdownConfig";

struct ConfigVisitor;

struct KeyVisitor;

/// Deserializes the value of a field. Its errors name the field, which few formats do.
struct ValueOf(Field);

/// Serializes a duration as a number of seconds, for figures that are only written.
pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

// ===== impl ShutdownConfig =====

impl Serialize for ShutdownConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = Field::ALL.map(|field| (field.name(), self.value(field)));
        let set = fields.iter().filter(|(_, value)| value.is_some()).count();
        let mut out = serializer.serialize_struct(NAME, set)?;
        for (name, value) in fields {
            match value {
                // As text, because no number type is exact for all durations in every format.
                Some(Value::Count(count)) => out.serialize_field(name, &count)?,
                Some(Value::Time(time)) => {
                    let text = humantime::format_duration(time).to_string();
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
            config = config.with(field, map.next_value_seed(ValueOf(field))?);
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
                escaped(&key),
                Field::NAMES.join(", ")
            ))
        })
    }
}

// ===== impl ValueOf =====

impl ValueOf {
    fn whole<N, E: Error>(self, number: N) -> Result<Value, E>
    where
        N: TryInto<u32> + TryInto<u64> + Debug + Copy,
    {
        let value = if self.0.is_count() {
            number.try_into().ok().map(Value::Count)
        } else {
            let secs = number.try_into().ok();
            secs.map(|secs| Value::Time(Duration::from_secs(secs)))
        };
        value.ok_or_else(|| E::custom(self.0.bad_value(&number, None)))
    }
}

impl<'de> DeserializeSeed<'de> for ValueOf {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueOf {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed = if self.0.is_count() {
            ALLOWED_COUNT
        } else {
            ALLOWED
        };
        write!(f, "{} to be {allowed}", self.0.name())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        self.whole(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        self.whole(number)
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<Value, E> {
        self.whole(number)
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Value, E> {
        self.whole(number)
    }

    fn visit_f64<E: Error>(self, secs: f64) -> Result<Value, E> {
        if self.0.is_count() {
            return Err(E::custom(self.0.bad_value(&secs, None)));
        }
        let time = Duration::try_from_secs_f64(secs).map(Value::Time);
        time.map_err(|cause| E::custom(self.0.bad_value(&secs, Some(Cause::Seconds(cause)))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.parse(text).map_err(E::custom)
    }
}
