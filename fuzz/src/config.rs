//! Configuration text, in three common formats.

use std::time::Duration;

use serde_json::{Map, Value};
use tower_lifecycle::{ShutdownConfig, ShutdownController};

use crate::{FIELDS, PROBES, assert_error_showable, assert_showable};

pub type Input = String;

pub fn check(text: &Input) {
    let json = serde_json::from_str::<ShutdownConfig>(text);
    if let Err(error) = &json {
        // Syntax errors come from `serde_json`; data errors come from this crate.
        if error.is_data() {
            assert!(names_a_field(&error.to_string()), "{error}");
        }
    }
    let toml = toml::from_str::<ShutdownConfig>(text);
    let yaml = serde_yaml_ng::from_str::<ShutdownConfig>(text);
    for config in [json.ok(), toml.ok(), yaml.ok()].into_iter().flatten() {
        reads_back(&config);
        merges(&config);
        // Also with values that just fit, and that just do not fit.
        let kept = kept(&config).unwrap_or(Duration::MAX);
        let most = config.shutdown_timeout.saturating_sub(kept);
        is_taken_or_refused(config.clone().lame_duck(most));
        is_taken_or_refused(
            config
                .clone()
                .lame_duck(most.saturating_add(Duration::from_nanos(1))),
        );
        is_taken_or_refused(config);
    }
    if let Ok(Value::Object(values)) = serde_json::from_str(text) {
        each_alone(values);
    }
}

fn names_a_field(text: &str) -> bool {
    FIELDS.iter().any(|field| text.contains(field))
}

/// Every format reads back what it writes.
fn reads_back(config: &ShutdownConfig) {
    let json = serde_json::to_string(config).expect("it can be written");
    assert_eq!(
        serde_json::from_str::<ShutdownConfig>(&json).unwrap(),
        *config
    );
    let toml = toml::to_string(config).expect("it can be written");
    assert_eq!(toml::from_str::<ShutdownConfig>(&toml).unwrap(), *config);
    let yaml = serde_yaml_ng::to_string(config).expect("it can be written");
    assert_eq!(
        serde_yaml_ng::from_str::<ShutdownConfig>(&yaml).unwrap(),
        *config
    );
}

/// Merging with the defaults changes nothing, on either side.
fn merges(config: &ShutdownConfig) {
    let default = ShutdownConfig::default();
    assert_eq!(default.clone().merge(config.clone()), *config);
    assert_eq!(config.clone().merge(default), *config);
}

fn is_taken_or_refused(config: ShutdownConfig) {
    let total = config.shutdown_timeout;
    let fits = !config.progress_interval.is_zero()
        && kept(&config)
            .and_then(|kept| kept.checked_add(config.lame_duck))
            .is_some_and(|sum| sum <= total);
    match ShutdownController::with_config(config) {
        Ok(_) => assert!(fits),
        Err(error) => {
            assert!(!fits, "{error}");
            assert!(FIELDS.contains(&error.field()), "{error}");
            assert!(error.to_string().starts_with(error.field()), "{error}");
            assert_error_showable(&error);
        }
    }
}

/// The part of the total outside lame duck and drain. The default worker reserve always fits.
fn kept(config: &ShutdownConfig) -> Option<Duration> {
    let workers = config.worker_reserve.unwrap_or_default();
    config.reserve().checked_add(workers)
}

/// Tries each value alone, so that the field that an error must name is known.
fn each_alone(values: Map<String, Value>) {
    for (key, value) in values {
        let one = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        let read = serde_json::from_str::<ShutdownConfig>(&one.to_string());
        if FIELDS.contains(&key.as_str()) {
            match (read, duration(&value)) {
                (Ok(config), Some(duration)) => {
                    assert_eq!(config, only(&key, duration));
                    let twice = format!("{{\"{key}\":{value},\"{key}\":{value}}}");
                    let error = serde_json::from_str::<ShutdownConfig>(&twice).unwrap_err();
                    assert!(error.to_string().contains(&key), "{error}");
                }
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains(&key), "{text}");
                    assert_showable(&text);
                }
                (read, model) => panic!("{one}: {read:?} instead of {model:?}"),
            }
        } else if key == PROBES {
            match (read, number(&value)) {
                (Ok(config), Some(number)) => {
                    assert_eq!(config, ShutdownConfig::default().lame_duck_probes(number));
                }
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains(&key), "{text}");
                    assert_showable(&text);
                }
                (read, model) => panic!("{one}: {read:?} instead of {model:?}"),
            }
        } else {
            let text = read.expect_err("an unknown key").to_string();
            assert!(text.starts_with("unknown key"), "{text}");
            assert_showable(&text);
            // A mistyped key may be a secret.
            let shown = value.to_string();
            assert!(shown.len() < 40 || !text.contains(&shown), "{text}");
        }
    }
}

/// The duration of a JSON value.
fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(secs) => Some(Duration::from_secs(secs)),
            None => Duration::try_from_secs_f64(number.as_f64()?).ok(),
        },
        Value::String(text) => ShutdownConfig::parse_duration(text).ok(),
        _ => None,
    }
}

/// The whole number of a JSON value.
fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64()?.try_into().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Returns the defaults with one field set.
pub(crate) fn only(field: &str, value: Duration) -> ShutdownConfig {
    set(ShutdownConfig::default(), field, value)
}

/// Returns the configuration with the field of this name set.
pub(crate) fn set(config: ShutdownConfig, field: &str, value: Duration) -> ShutdownConfig {
    match field {
        "shutdown_timeout" => config.shutdown_timeout(value),
        "lame_duck" => config.lame_duck(value),
        "lame_duck_quiet" => config.lame_duck_quiet(value),
        "late_for" => config.late_for(value),
        "refuse_for" => config.refuse_for(value),
        "cleanup_reserve" => config.cleanup_reserve(value),
        "worker_reserve" => config.worker_reserve(value),
        "retry_after" => config.retry_after(value),
        "progress_interval" => config.progress_interval(value),
        "force_after" => config.force_after(value),
        "exit_after" => config.exit_after(value),
        other => panic!("there is no field {other}"),
    }
}
