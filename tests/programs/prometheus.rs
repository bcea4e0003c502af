//! The metrics, the alert rules and the dashboard, read by Prometheus itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use http::Request;
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_lifecycle::{ShutdownController, ShutdownReason};

/// The example's `main` is not used here.
#[allow(dead_code)]
#[path = "../../examples/metrics.rs"]
mod example;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/deploy")
        .join(path)
}

/// Returns what a scrape of the example gets after a shutdown, which has every figure.
async fn scrape() -> String {
    static PROMETHEUS: LazyLock<PrometheusHandle> =
        LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());
    let ctl = ShutdownController::new();
    let admin = example::admin(&ctl, PROMETHEUS.clone());
    ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
    ctl.shutdown(ShutdownReason::Manual).await;
    let request = Request::get("/metrics").body(String::new()).unwrap();
    let response = admin.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
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

/// As recording rules, which is how promtool checks queries.
#[test]
#[ignore = "needs promtool"]
fn promtool_understands_the_queries_of_the_dashboard() {
    let text = fs::read_to_string(deploy("grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<_> = targets
        .enumerate()
        .map(|(number, target)| {
            // The variables of Grafana, as it fills them in.
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$job", ".*");
            assert!(!query.contains('$'), "{query}");
            json!({ "record": format!("query_{number}"), "expr": query })
        })
        .collect();
    assert!(rules.len() >= 10, "{rules:?}");
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let file = std::env::temp_dir().join(format!("dashboard-{}.yml", std::process::id()));
    // JSON is YAML.
    fs::write(&file, rules.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    fs::remove_file(&file).unwrap();
    assert_success(&output);
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

#[test]
fn the_guide_shows_the_code_of_the_example_for_opentelemetry() {
    let read = |path| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (guide, example) = (
        read("docs/guide/metrics.md"),
        read("examples/opentelemetry.rs"),
    );
    let shown = guide.split("```rust,ignore\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    assert!(shown.lines().count() > 5, "{shown}");
    for line in shown.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(example.lines().any(|other| other.trim() == line), "{line}");
    }
}
