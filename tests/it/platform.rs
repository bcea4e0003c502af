//! What fits the grace of a platform, and what is said of a configuration that does not.

use std::fs;
use std::future::pending;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;
use tower_lifecycle::{Platform, ShutdownConfig, ShutdownController, ShutdownReason};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn within(platform: Platform) -> ShutdownConfig {
    ShutdownConfig::within(platform).unwrap()
}

fn refusal(config: &ShutdownConfig, platform: &Platform) -> String {
    config.fits(platform).unwrap_err().to_string()
}

// ===== within =====

#[test]
fn the_lame_duck_is_what_the_hook_has_not_waited_and_at_most_a_quarter() {
    let kubernetes = Platform::kubernetes;
    let lame_duck = |platform| within(platform).lame_duck;
    assert_eq!(lame_duck(kubernetes()), secs(5));
    assert_eq!(lame_duck(kubernetes().pre_stop(secs(2))), secs(3));
    assert_eq!(lame_duck(kubernetes().pre_stop(secs(7))), secs(0));
    let short = kubernetes().termination_grace(secs(9));
    assert_eq!(lame_duck(short), secs(2));
    assert_eq!(lame_duck(Platform::systemd()), secs(0));
}

#[test]
fn a_grace_that_leaves_nothing_is_an_error_and_no_shutdown_that_cuts_at_once() {
    let error = ShutdownConfig::within(Platform::new(secs(1))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "termination_grace is 1s, but must be above 1s, the margin of 1s"
    );
    assert_eq!(error.field(), "termination_grace");
    let long_hook = Platform::kubernetes().pre_stop(Duration::MAX);
    assert!(ShutdownConfig::within(long_hook.clone()).is_err());
    let at_once = ShutdownConfig::default().shutdown_timeout(secs(0));
    assert_eq!(at_once.fits(&Platform::new(secs(1))), Err(error));
    assert!(at_once.fits(&long_hook).is_err());
}

proptest! {
    /// The unit is 100 ms.
    #[test]
    fn whatever_is_made_for_a_platform_is_valid_and_fits_it(
        (grace, pre_stop, margin) in (0..2_000_u32, 0..300_u32, 0..50_u32),
        choice in 0..4_u8,
    ) {
        let time = |tenths| Duration::from_millis(100) * tenths;
        let platform = match choice {
            0 => Platform::kubernetes(),
            1 => Platform::docker(),
            2 => Platform::systemd(),
            _ => Platform::new(secs(1)),
        };
        let platform = platform
            .termination_grace(time(grace))
            .pre_stop(time(pre_stop))
            .margin(time(margin));
        match ShutdownConfig::within(platform.clone()) {
            Ok(config) => {
                prop_assert_eq!(config.shutdown_timeout, time(grace - pre_stop - margin));
                prop_assert_eq!(config.fits(&platform), Ok(()));
                let more = config.shutdown_timeout + Duration::from_nanos(1);
                prop_assert!(config.clone().shutdown_timeout(more).fits(&platform).is_err());
                prop_assert!(config.lame_duck + config.reserve() < config.shutdown_timeout);
                prop_assert!(ShutdownController::with_config(config).is_ok());
            }
            Err(_) => prop_assert!(grace <= pre_stop + margin),
        }
    }
}

#[test]
fn what_the_environment_gives_is_put_over_a_preset() {
    let env = ShutdownConfig::default().lame_duck(secs(2));
    let config = within(Platform::docker()).merge(env);
    assert_eq!(config, within(Platform::docker()).lame_duck(secs(2)));
}

/// A request, a task and a hook that never end.
#[tokio::test(start_paused = true)]
async fn the_report_is_there_before_the_kill_whatever_is_stuck() {
    for platform in [
        Platform::kubernetes().pre_stop(secs(5)),
        Platform::docker(),
        Platform::systemd(),
    ] {
        let ctl = ShutdownController::with_config(within(platform.clone())).unwrap();
        let _stuck = ctl.track();
        ctl.spawn("stuck", pending::<()>());
        ctl.on_shutdown("stuck", |_| pending()).unwrap();
        let sigterm = Instant::now();
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert!(report.is_forced(), "{report}");
        let ended = platform.pre_stop + sigterm.elapsed();
        assert!(
            ended <= platform.termination_grace - platform.margin,
            "{ended:?} of {platform:?}"
        );
    }
}

// ===== fits =====

#[test]
fn what_does_not_fit_is_said_with_the_numbers_and_with_what_would() {
    let config = ShutdownConfig::default();
    assert_eq!(
        refusal(&config, &Platform::kubernetes()),
        "shutdown_timeout is 30s, but may be at most 29s: Kubernetes kills after 30s, less \
         the margin of 1s"
    );
    let own = Platform::new(secs(20)).pre_stop(secs(5)).margin(secs(2));
    assert_eq!(
        refusal(&config, &own),
        "shutdown_timeout is 30s, but may be at most 13s: the platform kills after 20s, less \
         the pre_stop of 5s and the margin of 2s"
    );
    assert_eq!(config.fits(&own).unwrap_err().field(), "shutdown_timeout");
    assert_eq!(config.fits(&Platform::systemd()), Ok(()));
    let endless = config.shutdown_timeout(Duration::MAX);
    assert!(endless.fits(&Platform::systemd()).is_err());
}

#[test]
fn the_time_until_the_process_is_ended_counts_if_it_is_longer_than_the_margin() {
    let config = within(Platform::docker());
    assert_eq!(
        config.clone().exit_after(secs(1)).fits(&Platform::docker()),
        Ok(())
    );
    assert_eq!(
        refusal(&config.exit_after(secs(3)), &Platform::docker()),
        "shutdown_timeout is 9s, but may be at most 7s: Docker kills after 10s, less \
         the exit_after of 3s"
    );
}

// ===== what the pages and the manifests say =====

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_guide_has_the_times_of_each_preset() {
    let mut table = String::from(
        "| | grace | `shutdown_timeout` | `lame_duck` | drain | `cleanup_reserve` |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    let pre_stop = Platform::kubernetes().pre_stop(secs(5));
    for (name, platform) in [
        ("`Platform::kubernetes()`", Platform::kubernetes()),
        ("the same, `.pre_stop(Duration::from_secs(5))`", pre_stop),
        ("`Platform::docker()`", Platform::docker()),
        ("`Platform::systemd()`", Platform::systemd()),
    ] {
        let grace = platform.termination_grace;
        let config = within(platform);
        let (total, lame_duck, reserve) =
            (config.shutdown_timeout, config.lame_duck, config.reserve());
        let times = [
            grace,
            total,
            lame_duck,
            total - lame_duck - reserve,
            reserve,
        ];
        let times = times.map(|time| format!("{} s", time.as_secs_f64()));
        table += &format!("| {name} | {} |\n", times.join(" | "));
    }
    let page = read("docs/guide/times.md");
    assert!(page.contains(&table), "the table should be\n{table}");
}

/// The number behind `key:`, which is there once.
fn number(manifest: &str, key: &str) -> Option<Duration> {
    let mut values = manifest.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().parse().map(secs).unwrap())
    });
    let value = values.next();
    assert!(values.next().is_none(), "{key}");
    value
}

#[test]
fn the_manifests_grant_what_their_configurations_are_made_for() {
    for (file, pre_stop) in [
        ("deployment.yaml", None),
        ("deployment-pre-stop.yaml", Some(secs(5))),
    ] {
        let manifest = read(&format!("examples/deploy/kubernetes/{file}"));
        let grace = number(&manifest, "terminationGracePeriodSeconds");
        assert_eq!(grace, Some(Platform::kubernetes().termination_grace));
        assert_eq!(number(&manifest, "seconds"), pre_stop, "{file}");
    }
}
