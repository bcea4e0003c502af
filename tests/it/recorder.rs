//! Figures for the `metrics` facade.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::time::sleep;
use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};

const SECOND: Duration = Duration::from_secs(1);

fn scrape(recorder: &PrometheusRecorder, ctl: &ShutdownController) -> String {
    metrics::with_local_recorder(recorder, || ctl.record_metrics());
    recorder.handle().render()
}

#[track_caller]
fn assert_has(scraped: &str, lines: &[&str]) {
    for line in lines {
        assert!(scraped.lines().any(|one| one == *line), "{line}: {scraped}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scrape_has_the_figures_of_its_moment() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let config = ShutdownConfig::default().shutdown_timeout(20 * SECOND);
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.on_shutdown("flush", |_| async { Err("full".into()) })
        .unwrap();
    let stuck = [ctl.track(), ctl.track(), ctl.track()];
    ctl.pause();
    ctl.try_admit().unwrap_err();
    assert_has(
        &scrape(&recorder, &ctl),
        &[
            "lifecycle_state{state=\"running\"} 1",
            "lifecycle_state{state=\"draining\"} 0",
            "lifecycle_paused 1",
            "lifecycle_requests_in_flight 3",
            "lifecycle_requests_admitted_total 3",
            "lifecycle_requests_refused_total 1",
            "lifecycle_requests_aborted_total 0",
            "lifecycle_hooks_registered 1",
            "lifecycle_shutdown_timeout_seconds 20",
            "lifecycle_shutdown_remaining_seconds 20",
        ],
    );

    ctl.unpause();
    ctl.trigger(ShutdownReason::Manual);
    sleep(3 * SECOND).await;
    let draining = scrape(&recorder, &ctl);
    assert_has(
        &draining,
        &[
            "lifecycle_state{state=\"running\"} 0",
            "lifecycle_state{state=\"draining\"} 1",
            "lifecycle_paused 0",
            "lifecycle_shutdown_remaining_seconds 17",
        ],
    );
    assert!(!draining.contains("lifecycle_hook_duration_seconds"));

    drop(stuck);
    ctl.shutdown(ShutdownReason::Manual).await;
    assert_has(
        &scrape(&recorder, &ctl),
        &[
            "lifecycle_state{state=\"stopped\"} 1",
            "lifecycle_requests_in_flight 0",
            "lifecycle_hook_duration_seconds{hook=\"flush\",outcome=\"failed\"} 0",
        ],
    );
}

#[test]
fn without_a_recorder_it_does_nothing() {
    ShutdownController::new().record_metrics();
}
