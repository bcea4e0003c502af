//! Configuration from code, files and the environment, and their precedence.

use std::time::Duration;

use proptest::prelude::*;
use tower_lifecycle::config::ConfigError;
use tower_lifecycle::{ShutdownConfig, ShutdownController};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn the_defaults_stand() {
    let config = ShutdownConfig::default();
    assert_eq!(config.shutdown_timeout, secs(30));
    assert_eq!(config.lame_duck, Duration::ZERO);
    assert_eq!(config.lame_duck_probes, 0);
    assert_eq!(config.lame_duck_quiet, Duration::from_millis(500));
    assert_eq!(config.late_for, secs(1));
    assert_eq!(config.refuse_for, Duration::ZERO);
    assert_eq!(config.cleanup_reserve, None);
    assert_eq!(config.worker_reserve, None);
    assert_eq!(config.retry_after, secs(1));
    assert_eq!(config.progress_interval, secs(5));
    assert_eq!(config.force_after, Duration::from_millis(500));
    assert_eq!(config.exit_after, None);
}

// ===== merge =====

/// A configuration with all fields set, each to a different time or number.
fn all_set(first: u32) -> ShutdownConfig {
    let probes = first + 11;
    let first = u64::from(first);
    ShutdownConfig::default()
        .shutdown_timeout(secs(first))
        .lame_duck(secs(first + 1))
        .late_for(secs(first + 2))
        .refuse_for(secs(first + 3))
        .cleanup_reserve(secs(first + 4))
        .worker_reserve(secs(first + 5))
        .retry_after(secs(first + 6))
        .progress_interval(secs(first + 7))
        .force_after(secs(first + 8))
        .exit_after(secs(first + 9))
        .lame_duck_quiet(secs(first + 10))
        .lame_duck_probes(probes)
}

#[test]
fn merge_takes_what_was_given_and_keeps_the_rest() {
    assert_eq!(all_set(10).merge(all_set(20)), all_set(20));
    assert_eq!(all_set(10).merge(ShutdownConfig::default()), all_set(10));
    assert_eq!(ShutdownConfig::default().merge(all_set(10)), all_set(10));

    type Set = fn(ShutdownConfig, Duration) -> ShutdownConfig;
    let setters: [Set; 12] = [
        ShutdownConfig::shutdown_timeout,
        ShutdownConfig::lame_duck,
        ShutdownConfig::late_for,
        ShutdownConfig::refuse_for,
        ShutdownConfig::cleanup_reserve,
        ShutdownConfig::worker_reserve,
        ShutdownConfig::retry_after,
        ShutdownConfig::progress_interval,
        ShutdownConfig::force_after,
        ShutdownConfig::exit_after,
        ShutdownConfig::lame_duck_quiet,
        |config, time| config.lame_duck_probes(u32::try_from(time.as_secs()).unwrap()),
    ];
    for set in setters {
        let over = set(ShutdownConfig::default(), secs(99));
        assert_eq!(all_set(10).merge(over), set(all_set(10), secs(99)));
    }
}

#[test]
fn a_default_that_was_given_wins_over_another_value() {
    let defaults = ShutdownConfig::default()
        .shutdown_timeout(secs(30))
        .lame_duck(Duration::ZERO)
        .late_for(secs(1))
        .refuse_for(Duration::ZERO)
        .retry_after(secs(1))
        .progress_interval(secs(5))
        .force_after(Duration::from_millis(500))
        .lame_duck_quiet(Duration::from_millis(500))
        .lame_duck_probes(0);
    assert_eq!(defaults, ShutdownConfig::default()); // equal, but not the same in a merge

    // Fields without a default are left out.
    let expected = ShutdownConfig::default()
        .cleanup_reserve(secs(14))
        .worker_reserve(secs(15))
        .exit_after(secs(19));
    assert_eq!(all_set(10).merge(defaults.clone()), expected);
    // A merge keeps which fields were set.
    let twice = ShutdownConfig::default().merge(defaults);
    assert_eq!(all_set(10).merge(twice), expected);
}

#[test]
fn the_last_of_three_wins() {
    let file = ShutdownConfig::default()
        .shutdown_timeout(secs(60))
        .lame_duck(secs(6))
        .retry_after(secs(7));
    let env = ShutdownConfig::default()
        .lame_duck(secs(8))
        .retry_after(secs(9));
    let cli = ShutdownConfig::default().retry_after(secs(1));
    let config = file.merge(env).merge(cli);
    assert_eq!(config.shutdown_timeout, secs(60));
    assert_eq!(config.lame_duck, secs(8));
    assert_eq!(config.retry_after, secs(1));
}

#[test]
fn a_field_that_was_assigned_is_given_where_it_differs_from_the_default() {
    let mut over = ShutdownConfig::default();
    over.lame_duck = secs(3);
    over.retry_after = secs(1); // the default: nothing shows that it was assigned
    let config = all_set(10).merge(over);
    assert_eq!(config, all_set(10).lame_duck(secs(3)));

    let mut over = ShutdownConfig::default()
        .cleanup_reserve(secs(3))
        .worker_reserve(secs(3));
    (over.cleanup_reserve, over.worker_reserve) = (None, None);
    assert_eq!(all_set(10).merge(over), all_set(10));
}

#[test]
fn equality_is_about_every_field() {
    assert_eq!(all_set(10), all_set(10));
    let others: [fn(&mut ShutdownConfig); 12] = [
        |config| config.shutdown_timeout = secs(1),
        |config| config.lame_duck = secs(1),
        |config| config.refuse_for = secs(1),
        |config| config.cleanup_reserve = None,
        |config| config.worker_reserve = None,
        |config| config.retry_after = secs(1),
        |config| config.progress_interval = secs(1),
        |config| config.late_for = secs(1),
        |config| config.force_after = secs(1),
        |config| config.exit_after = None,
        |config| config.lame_duck_quiet = secs(1),
        |config| config.lame_duck_probes = 1,
    ];
    for change in others {
        let mut other = all_set(10);
        change(&mut other);
        assert_ne!(other, all_set(10));
    }
}

#[test]
fn what_fits_into_no_total_is_left_to_the_controller() {
    let config = ShutdownConfig::default().lame_duck(secs(40));
    let longer = ShutdownConfig::default().shutdown_timeout(secs(60));
    assert!(ShutdownController::with_config(config.clone()).is_err());
    assert!(ShutdownController::with_config(config.merge(longer)).is_ok());
}

// ===== text =====

proptest! {
    #[test]
    fn any_text_is_a_duration_or_an_error_that_shows_it(
        text in prop_oneof![
            any::<String>(),
            "[-+]?[0-9]{0,22}(\\.[0-9]{0,12})?(e-?[0-9]{1,3})?",
            "([0-9]{1,6} ?(s|ms|us|ns|m|h|d|y|month| |µs|x)? ?){1,4}",
        ]
    ) {
        let expected = match text.trim().parse::<f64>() {
            Ok(float) => match text.trim().parse() {
                Ok(whole) => Some(secs(whole)),
                Err(_) => Duration::try_from_secs_f64(float).ok(),
            },
            Err(_) => humantime::parse_duration(text.trim()).ok(),
        };
        match (ShutdownConfig::parse_duration(&text), expected) {
            (Ok(duration), expected) => prop_assert_eq!(Some(duration), expected),
            (Err(error), expected) => {
                prop_assert_eq!(expected, None);
                prop_assert!(is_shown(&error, &text), "{}", error);
            }
        }
    }

    /// Humantime itself panics where the sum is just above the maximum.
    #[test]
    fn units_add_up_to_their_sum_or_to_an_error(
        parts in prop::collection::vec(
            prop_oneof![
                (any::<u64>(), Just(("s", 1_000_000_000))),
                ((u64::MAX - 1)..=u64::MAX, Just(("s", 1_000_000_000))),
                (0..u64::MAX / 10, Just(("m", 60_000_000_000))),
                (0..=2_000_000_000_u64, Just(("ns", 1))),
                (999_999_999..=1_000_000_000_u64, Just(("ns", 1))),
                (0..5_000_u64, Just(("ms", 1_000_000))),
            ],
            1..5,
        )
    ) {
        let text: Vec<_> = parts.iter().map(|(n, (unit, _))| format!("{n}{unit}")).collect();
        let nanos: u128 = parts.iter().map(|(n, (_, nanos))| u128::from(*n) * nanos).sum();
        let parsed = ShutdownConfig::parse_duration(&text.join(" "));
        prop_assert_eq!(parsed.is_ok(), nanos <= Duration::MAX.as_nanos());
        if let Ok(duration) = parsed {
            prop_assert_eq!(duration.as_nanos(), nanos);
        }
    }
}

/// Returns whether the error shows the text, or its beginning.
fn is_shown(error: &ConfigError, text: &str) -> bool {
    let escaped: String = format!("{text:?}").chars().take(64).collect();
    error
        .to_string()
        .starts_with(&format!("duration is {escaped}"))
}

// ===== serde =====

#[cfg(feature = "serde")]
mod files {
    use std::collections::HashMap;

    use config::{Config, Environment, File, FileFormat};
    use serde::{Deserialize, Serialize};

    use super::*;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const FIELDS: [&str; 12] = [
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
        "lame_duck_quiet",
        PROBES,
    ];
    /// The only field that is no duration.
    const PROBES: &str = "lame_duck_probes";

    const ALLOWED: &str = "seconds such as 45 or 0.25, or units such as 1m 30s, at least zero and \
                           below 2^64 seconds";
    const ALLOWED_COUNT: &str = "a whole number from 0 to 4294967295";

    fn json(text: &str) -> Result<ShutdownConfig, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn toml(text: &str) -> Result<ShutdownConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Through the `config` crate, which stores the values in between.
    fn yaml(text: &str) -> Result<ShutdownConfig, String> {
        Config::builder()
            .add_source(File::from_str(text, FileFormat::Yaml))
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| error.to_string())
    }

    type Read = fn(&str) -> Result<ShutdownConfig, String>;

    /// Each format, with the text that sets one key.
    fn formats(key: &str, value: &str) -> [(&'static str, Read, String); 3] {
        [
            ("json", json, format!(r#"{{ "{key}": {value} }}"#)),
            ("toml", toml, format!("{key} = {value}")),
            ("yaml", yaml, format!("{key}: {value}")),
        ]
    }

    #[test]
    fn each_key_sets_its_own_field() {
        let text = r#"{
            "shutdown_timeout": 10, "lame_duck": 11, "late_for": 12, "refuse_for": 13,
            "cleanup_reserve": 14, "worker_reserve": 15, "retry_after": 16,
            "progress_interval": 17, "force_after": 18, "exit_after": 19,
            "lame_duck_quiet": 20, "lame_duck_probes": 21
        }"#;
        assert_eq!(json(text), Ok(all_set(10)));
        let keys = FIELDS.iter().zip(10..);
        let text: String = keys.map(|(key, n)| format!("{key} = {n}\n")).collect();
        assert_eq!(toml(&text), Ok(all_set(10)));
        let text = text.replace(" = ", ": ");
        assert_eq!(yaml(&text), Ok(all_set(10)));
    }

    #[test]
    fn a_duration_is_seconds_or_text_in_every_format() {
        for (value, duration) in [
            ("45", secs(45)),
            ("45.0", secs(45)),
            ("0.25", millis(250)),
            ("0", Duration::ZERO),
            (r#""45""#, secs(45)),
            (r#""0.25""#, millis(250)),
            (r#""45s""#, secs(45)),
            (r#""1m 30s""#, secs(90)),
            (r#""200ms""#, millis(200)),
        ] {
            let expected = ShutdownConfig::default().lame_duck(duration);
            for (format, read, text) in formats("lame_duck", value) {
                assert_eq!(read(&text), Ok(expected.clone()), "{format} {value}");
            }
        }
    }

    #[test]
    fn what_is_missing_keeps_the_default_and_is_not_given() {
        for (format, read, text) in formats("lame_duck", "0") {
            let config = read(&text).unwrap();
            assert_eq!(config, ShutdownConfig::default(), "{format}");
            let merged = all_set(10).merge(config);
            assert_eq!(merged, all_set(10).lame_duck(Duration::ZERO), "{format}");
        }
        assert_eq!(json("{}"), Ok(ShutdownConfig::default()));
    }

    #[test]
    fn a_value_that_is_no_duration_is_named_with_its_key_and_what_is_allowed() {
        for (value, shown) in [
            (r#""""#, r#"is "","#),
            (r#""abc""#, r#"is "abc","#),
            (r#""-5""#, r#"is "-5","#),
            (r#""NaN""#, r#"is "NaN","#),
            (r#""inf""#, r#"is "inf","#),
            (r#""1e300""#, r#"is "1e300","#),
            ("-5", "is -5,"),
            ("-0.5", "is -0.5,"),
            ("1e300", "is 1e300,"),
            ("true", "boolean `true`"),
            ("[1]", "sequence"),
        ] {
            for key in FIELDS {
                for (format, read, text) in formats(key, value) {
                    let error = read(&text).unwrap_err();
                    let allowed = if key == PROBES {
                        ALLOWED_COUNT
                    } else {
                        ALLOWED
                    };
                    for part in [key, shown, allowed] {
                        assert!(error.contains(part), "{format}: {part:?} in {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_is_whole_and_is_written_as_one() {
        for (value, probes) in [("0", 0), ("3", 3), (r#"" 3""#, 3), ("4294967295", u32::MAX)] {
            let expected = ShutdownConfig::default().lame_duck_probes(probes);
            for (format, read, text) in formats(PROBES, value) {
                assert_eq!(read(&text), Ok(expected.clone()), "{format} {value}");
            }
        }
        for value in [
            "2.0",
            "0.5",
            "4294967296",
            r#""2s""#,
            r#""0.5""#,
            r#""4294967296""#,
        ] {
            for (format, read, text) in formats(PROBES, value) {
                let error = read(&text).unwrap_err();
                assert!(error.contains(ALLOWED_COUNT), "{format} {value}: {error}");
            }
        }
        let config = ShutdownConfig::default().lame_duck_probes(3);
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json[PROBES], 3);
        reads_back(&config).unwrap();
    }

    #[test]
    fn what_only_some_formats_can_say_is_refused_too() {
        for (value, shown, read) in [
            ("{ \"lame_duck\": null }", "null", json as Read),
            ("{ \"cleanup_reserve\": null }", "null", json),
            ("lame_duck: ~", "unit value", yaml),
            ("lame_duck = nan", "is NaN,", toml),
            ("lame_duck = inf", "is inf,", toml),
            ("lame_duck = -inf", "is -inf,", toml),
            ("lame_duck = 1979-05-27", "map", toml),
            ("{ \"lame_duck\": {} }", "map", json),
        ] {
            let error = read(value).unwrap_err();
            for part in [shown, ALLOWED] {
                assert!(error.contains(part), "{value}: {part:?} in {error}");
            }
        }
    }

    #[test]
    fn numbers_of_every_width_are_taken_and_checked() {
        use serde::de::value::{Error, MapDeserializer};
        use serde::de::{IntoDeserializer, value};

        fn read<'de, N: IntoDeserializer<'de, Error>>(n: N) -> Result<Duration, String> {
            let map = MapDeserializer::new([("lame_duck", n)].into_iter());
            let config = ShutdownConfig::deserialize(map);
            config
                .map(|config| config.lame_duck)
                .map_err(|error: value::Error| error.to_string())
        }

        let most = secs(u64::MAX);
        assert_eq!(read(u64::MAX), Ok(most));
        assert_eq!(read(u128::from(u64::MAX)), Ok(most));
        assert_eq!(read(i128::from(u64::MAX)), Ok(most));
        assert_eq!(read(7_i64), Ok(secs(7)));
        assert_eq!(read(7_u8), Ok(secs(7)));
        assert_eq!(read(0.5_f32), Ok(millis(500)));
        for (read, shown) in [
            (read(1_u128 << 64), "is 18446744073709551616,"),
            (read(-1_i128), "is -1,"),
            (read(i64::MIN), "is -9223372036854775808,"),
            (read(f64::NAN), "is NaN,"),
            (read(f64::INFINITY), "is inf,"),
            (
                read(18_446_744_073_709_551_616.0_f64),
                "is 1.8446744073709552e19,",
            ),
        ] {
            let error = read.unwrap_err();
            assert!(error.contains(&format!("lame_duck {shown}")), "{error}");
            assert!(error.contains(ALLOWED), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_those_that_are_known() {
        for (format, read, text) in formats("lame_dock", "5") {
            let error = read(&text).unwrap_err();
            assert!(error.contains(r#""lame_dock""#), "{format}: {error}");
            for field in FIELDS {
                assert!(error.contains(field), "{format}: {error}");
            }
        }
        let key = format!("\\n{}", "x".repeat(1_000));
        let error = json(&format!(r#"{{ "{key}": 5 }}"#)).unwrap_err();
        assert!(error.contains(r#"unknown key "\nxxx"#), "{error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_key_that_comes_twice_is_refused() {
        let error = json(r#"{ "lame_duck": 5, "retry_after": 1, "lame_duck": 5 }"#).unwrap_err();
        assert!(error.contains("duplicate field `lame_duck`"), "{error}");
        assert!(toml("lame_duck = 5\nlame_duck = 5").is_err());
        // The `config` crate keeps the last value before it calls this crate.
    }

    #[test]
    fn what_is_no_map_is_refused_with_the_keys() {
        let error = json("5").unwrap_err();
        assert!(
            error.contains("a map of the keys shutdown_timeout, lame_duck"),
            "{error}"
        );
    }

    #[test]
    fn it_nests_and_flattens_in_the_configuration_of_an_application() {
        #[derive(Deserialize)]
        struct Nested {
            port: u16,
            #[serde(default)]
            shutdown: ShutdownConfig,
        }
        #[derive(Deserialize)]
        struct Flat {
            port: u16,
            #[serde(flatten)]
            shutdown: ShutdownConfig,
        }
        let expected = ShutdownConfig::default().lame_duck(secs(5));
        let nested: Nested =
            serde_json::from_str(r#"{ "port": 80, "shutdown": { "lame_duck": 5 } }"#).unwrap();
        assert_eq!((nested.port, nested.shutdown), (80, expected.clone()));
        let flat: Flat = serde_json::from_str(r#"{ "port": 80, "lame_duck": "5s" }"#).unwrap();
        assert_eq!((flat.port, flat.shutdown), (80, expected));
        let none: Nested = serde_json::from_str(r#"{ "port": 80 }"#).unwrap();
        assert_eq!(none.shutdown, ShutdownConfig::default());
    }

    #[test]
    fn the_config_crate_puts_its_sources_over_one_another() {
        #[derive(Deserialize)]
        struct App {
            shutdown: ShutdownConfig,
        }
        let read = |variables: &[(&str, &str)]| -> Result<ShutdownConfig, String> {
            let variables = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let file = "shutdown: { shutdown_timeout: 1m, lame_duck: 5, retry_after: 2.5 }";
            let app: Result<App, _> = Config::builder()
                .add_source(File::from_str(file, FileFormat::Yaml))
                .add_source(
                    Environment::with_prefix("APP")
                        .prefix_separator("_")
                        .separator("__")
                        .source(Some(variables.collect::<HashMap<_, _>>())),
                )
                .set_override("shutdown.retry_after", 3_i64)
                .and_then(|builder| builder.build())
                .and_then(Config::try_deserialize);
            app.map(|app| app.shutdown)
                .map_err(|error| error.to_string())
        };

        let config = read(&[
            ("APP_SHUTDOWN__LAME_DUCK", "10"),
            ("APP_SHUTDOWN__RETRY_AFTER", "9s"),
        ]);
        let expected = ShutdownConfig::default()
            .shutdown_timeout(secs(60)) // the file
            .lame_duck(secs(10)) // the environment
            .retry_after(secs(3)); // the override
        assert_eq!(config, Ok(expected));

        let error = read(&[("APP_SHUTDOWN__LAME_DUCK", "abc")]).unwrap_err();
        assert!(
            error.contains(r#"lame_duck is "abc", but must be"#),
            "{error}"
        );
        let error = read(&[("APP_SHUTDOWN__LAME_DOCK", "5")]).unwrap_err();
        assert!(error.contains(r#"unknown key "lame_dock""#), "{error}");
    }

    #[test]
    fn it_is_written_as_text_without_a_reserve_that_is_none() {
        let config = ShutdownConfig::default().shutdown_timeout(secs(90));
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"shutdown_timeout":"1m 30s","lame_duck":"0s","lame_duck_probes":0,"lame_duck_quiet":"500ms","late_for":"1s","refuse_for":"0s","retry_after":"1s","progress_interval":"5s","force_after":"500ms"}"#
        );
        let config = config.cleanup_reserve(Duration::ZERO);
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""cleanup_reserve":"0s""#), "{text}");
    }

    fn reads_back(config: &ShutdownConfig) -> Result<(), TestCaseError> {
        prop_assert_eq!(
            json(&serde_json::to_string(config).unwrap()),
            Ok(config.clone())
        );
        prop_assert_eq!(toml(&toml::to_string(config).unwrap()), Ok(config.clone()));
        Ok(())
    }

    #[test]
    fn what_was_written_reads_back_at_the_ends_of_the_range() {
        for duration in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_nanos(999_999_999),
            Duration::new(1, 1),
            secs(u64::MAX),
            Duration::MAX,
        ] {
            let config = ShutdownConfig::default()
                .shutdown_timeout(duration)
                .cleanup_reserve(duration);
            reads_back(&config).unwrap();
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Outer {
        shutdown: ShutdownConfig,
    }

    proptest! {
        #[test]
        fn any_duration_that_was_written_reads_back(
            times in prop::array::uniform6(any::<Duration>()),
            reserves in any::<[Option<Duration>; 2]>(),
            exit in any::<Option<Duration>>(),
            probes in any::<u32>(),
        ) {
            let mut config = ShutdownConfig::default()
                .shutdown_timeout(times[0])
                .lame_duck(times[1])
                .refuse_for(times[2])
                .retry_after(times[3])
                .progress_interval(times[4])
                .force_after(times[5])
                .lame_duck_probes(probes);
            config.exit_after = exit;
            [config.cleanup_reserve, config.worker_reserve] = reserves;
            reads_back(&config)?;
            let outer = Outer { shutdown: config };
            let text = toml::to_string(&outer).unwrap();
            prop_assert_eq!(toml::from_str::<Outer>(&text).unwrap(), outer);
        }

        #[test]
        fn any_text_as_a_value_reads_as_parse_duration_does(text in any::<String>()) {
            let value = serde_json::json!({ "refuse_for": text });
            let read = serde_json::from_value::<ShutdownConfig>(value);
            match (read, ShutdownConfig::parse_duration(&text)) {
                (Ok(config), Ok(duration)) => prop_assert_eq!(config.refuse_for, duration),
                (Err(error), Err(expected)) => {
                    let expected = expected.to_string().replacen("duration", "refuse_for", 1);
                    prop_assert_eq!(error.to_string(), expected);
                }
                (read, expected) => prop_assert!(false, "{:?} {:?}", read, expected),
            }
        }
    }
}
