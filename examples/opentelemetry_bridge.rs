//! All figures of `record_metrics` for OpenTelemetry, by the bridge `metrics-opentelemetry`.
//!
//! ```text
//! cargo run -p examples --example opentelemetry_bridge
//! curl localhost:3000/
//! kill -TERM $(pgrep -f opentelemetry_bridge)     # the last export has what the shutdown did
//! ```
//!
//! It exports to its output. `opentelemetry-otlp` has the exporter for a collector. For figures of your own
//! choice, and without a bridge, see `examples/opentelemetry.rs`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_stdout::MetricExporter;
use tokio::net::TcpListener;
use tokio::time::interval;
use tower_lifecycle::{DrainLayer, ShutdownController, serve};

/// An export has figures that are at most this old.
const EVERY: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let ctl = ShutdownController::new();
    ctl.listen_for_signals()?;
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(MetricExporter::default())
        .build();
    metrics::set_global_recorder(bridge(&provider))?;
    let recorded = ctl.clone();
    let recording = tokio::spawn(async move {
        let mut tick = interval(EVERY);
        loop {
            tick.tick().await;
            recorded.record_metrics();
        }
    });

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = serve(listener, app, ctl.clone()).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    recording.abort();
    ctl.record_metrics();
    // Exports once more, and blocks meanwhile.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    Ok(report.exit_code())
}

fn bridge(provider: &SdkMeterProvider) -> OpenTelemetryRecorder {
    let meter = provider.meter("tower-lifecycle");
    OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(meter))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics::with_local_recorder;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::KeyValue;
    use opentelemetry_sdk::metrics::InMemoryMetricExporter;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use tower_lifecycle::ShutdownReason;

    use super::*;

    /// Returns the latest export: figures by name and attributes, as Prometheus writes them.
    fn exported(exporter: &InMemoryMetricExporter) -> BTreeMap<String, f64> {
        let exports = exporter.get_finished_metrics().unwrap();
        let mut figures = BTreeMap::new();
        for metric in exports
            .last()
            .unwrap()
            .scope_metrics()
            .flat_map(|scope| scope.metrics())
        {
            let mut note = |attributes: Vec<String>, figure| {
                let labels = match &*attributes {
                    [] => String::new(),
                    some => format!("{{{}}}", some.join(",")),
                };
                figures.insert(format!("{}{labels}", metric.name()), figure);
            };
            let text = |pair: &KeyValue| format!("{}=\"{}\"", pair.key, pair.value);
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    sum.data_points().for_each(|point| {
                        note(point.attributes().map(text).collect(), point.value() as f64);
                    })
                }
                AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                    gauge.data_points().for_each(|point| {
                        note(point.attributes().map(text).collect(), point.value());
                    });
                }
                _ => panic!("{}: not of this kind", metric.name()),
            }
        }
        figures
    }

    /// Returns what is not a duration, which differs between two readings.
    fn counts(figures: impl IntoIterator<Item = (String, f64)>) -> BTreeMap<String, f64> {
        let is_count = |(name, _): &(String, f64)| !name.contains("_seconds");
        figures.into_iter().filter(is_count).collect()
    }

    #[tokio::test]
    async fn every_figure_for_prometheus_is_exported() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        let bridge = bridge(&provider);
        let prometheus = PrometheusBuilder::new().build_recorder();
        let ctl = ShutdownController::new();
        ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
        let both = || {
            with_local_recorder(&bridge, || ctl.record_metrics());
            with_local_recorder(&prometheus, || ctl.record_metrics());
            provider.force_flush().unwrap();
            let text = prometheus.handle().render();
            let lines = text.lines().filter(|line| line.starts_with("lifecycle_"));
            let figures = lines.map(|line| {
                let (name, figure) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), figure.parse().unwrap())
            });
            let figures: BTreeMap<String, f64> = figures.collect();
            let exported = exported(&exporter);
            assert!(
                exported.keys().eq(figures.keys()),
                "{exported:?}, {figures:?}"
            );
            assert_eq!(counts(exported.clone()), counts(figures));
            exported
        };

        let work = ctl.try_admit().unwrap();
        let now = both();
        assert_eq!(now["lifecycle_requests_in_flight"], 1.0, "{now:?}");
        assert_eq!(now[r#"lifecycle_state{state="running"}"#], 1.0, "{now:?}");

        drop(work);
        ctl.shutdown(ShutdownReason::Manual).await;
        let end = both();
        assert_eq!(end["lifecycle_requests_in_flight"], 0.0, "{end:?}");
        assert_eq!(end["lifecycle_requests_admitted_total"], 1.0, "{end:?}");
        assert_eq!(end[r#"lifecycle_state{state="stopped"}"#], 1.0, "{end:?}");
        let hook = |name: &&String| name.starts_with("lifecycle_hook_duration_seconds{");
        assert_eq!(end.keys().filter(hook).count(), 1, "{end:?}");
    }
}
