//! The metrics, the alert rules and the dashboard, read by Prometheus itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use metrics_exporter_prometheus::PrometheusBuilder;
use tower_lifecycle::{ShutdownController, ShutdownReason};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/deploy")
        .join(path)
}

/// Returns what a scrape gets after a shutdown, which has every figure.
async fn scrape() -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let ctl = ShutdownController::new();
    ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
    ctl.shutdown(ShutdownReason::Manual).await;
    metrics::with_local_recorder(&recorder, || ctl.record_metrics());
    recorder.handle().render()
}

fn assert_success(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{}: {said}", output.status);
}

#[tokio::test]
#[ignore = "needs promtool"]
async fn promtool_finds_no_fault_with_the_metrics() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = scrape().await;
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert_success(&output);
    // A breach of a convention is only a warning.
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_no_fault_with_the_rules_and_their_tests_pass() {
    let folder = deploy("prometheus");
    for args in [
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ] {
        let output = Command::new("promtool")
            .current_dir(&folder)
            .args(args)
            .output()
            .unwrap();
        assert_success(&output);
    }
}

/// Needs no program.
#[tokio::test]
async fn the_rules_and_the_dashboard_use_only_metrics_that_exist() {
    let scraped = scrape().await;
    for path in ["prometheus/rules.yml", "grafana/dashboard.json"] {
        let text = fs::read_to_string(deploy(path)).unwrap();
        let is_part = |char: char| char.is_ascii_lowercase() || char == '_';
        let names: Vec<_> = (text.match_indices("lifecycle_"))
            .map(|(at, _)| text[at..].split(|char| !is_part(char)).next().unwrap())
            .collect();
        assert!(names.len() >= 5, "{path}: {names:?}");
        for name in names {
            assert!(
                scraped.contains(&format!("# TYPE {name} ")),
                "{path}: {name}"
            );
        }
    }
}
