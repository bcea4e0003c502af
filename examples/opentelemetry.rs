//! Metrics for OpenTelemetry: observable instruments, which read the figures when they are exported.
//!
//! ```text
//! cargo run -p examples --example opentelemetry
//! curl localhost:3000/
//! kill -TERM $(pgrep -x opentelemetry)     # the last export has what the shutdown did
//! ```
//!
//! It exports to its output. `opentelemetry-otlp` has the exporter for a collector.

use std::io::Write;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_stdout::MetricExporter;
use tokio::net::TcpListener;
use tower_lifecycle::controller::Metrics;
use tower_lifecycle::{DrainLayer, ShutdownController, serve};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let ctl = ShutdownController::new();
    ctl.listen_for_signals()?;
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(MetricExporter::default())
        .build();
    observe(&ctl, &provider.meter("tower-lifecycle"));

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = serve(listener, app, ctl).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    // Exports once more, and blocks meanwhile.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    Ok(report.exit_code())
}

/// Creates an instrument for each figure.
fn observe(ctl: &ShutdownController, meter: &Meter) {
    let counter = |name: &'static str, figure: fn(&Metrics) -> u64| {
        let ctl = ctl.clone();
        meter
            .u64_observable_counter(name)
            .with_callback(move |observer| observer.observe(figure(&ctl.metrics()), &[]))
            .build();
    };
    counter("lifecycle.requests.admitted", |now| now.admitted);
    counter("lifecycle.requests.refused", |now| now.refused);
    counter("lifecycle.requests.aborted", |now| now.aborted);

    let gauge = |name: &'static str, figure: fn(&Metrics) -> u64| {
        let ctl = ctl.clone();
        meter
            .u64_observable_gauge(name)
            .with_callback(move |observer| observer.observe(figure(&ctl.metrics()), &[]))
            .build();
    };
    gauge("lifecycle.requests.in_flight", |now| now.in_flight);
    gauge("lifecycle.requests.late", |now| now.late_requests);
    gauge("lifecycle.requests.abandoned", |now| now.abandoned);
    gauge("lifecycle.upgrades.open", |now| now.upgrades);
    gauge("lifecycle.streams.open", |now| now.streams);
    gauge("lifecycle.tasks.running", |now| now.tasks);

    let ctl = ctl.clone();
    meter
        .u64_observable_gauge("lifecycle.state")
        .with_callback(move |observer| {
            observer.observe(1, &[KeyValue::new("state", ctl.state().name())]);
        })
        .build();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_sdk::metrics::InMemoryMetricExporter;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use tower_lifecycle::ShutdownReason;

    use super::*;

    /// Returns the figures of the latest export, by name and attributes.
    fn exported(
        provider: &SdkMeterProvider,
        exporter: &InMemoryMetricExporter,
    ) -> BTreeMap<String, u64> {
        provider.force_flush().unwrap();
        let exports = exporter.get_finished_metrics().unwrap();
        let mut figures = BTreeMap::new();
        let scopes = exports.last().unwrap().scope_metrics();
        for metric in scopes.flat_map(|scope| scope.metrics()) {
            let AggregatedMetrics::U64(data) = metric.data() else {
                panic!("{}: not of this type", metric.name());
            };
            let mut note = |attributes: Vec<String>, figure| {
                let name = format!("{}{}", metric.name(), attributes.concat());
                figures.insert(name, figure);
            };
            let text = |pair: &KeyValue| format!(" {}={}", pair.key, pair.value);
            match data {
                MetricData::Sum(sum) => {
                    assert!(sum.is_monotonic(), "{}", metric.name());
                    let mut points = sum.data_points();
                    points.by_ref().for_each(|point| {
                        note(point.attributes().map(text).collect(), point.value());
                    });
                }
                MetricData::Gauge(gauge) => gauge.data_points().for_each(|point| {
                    note(point.attributes().map(text).collect(), point.value());
                }),
                _ => panic!("{}: not of this kind", metric.name()),
            }
        }
        figures
    }

    #[tokio::test]
    async fn each_export_has_the_present_figures() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        let ctl = ShutdownController::new();
        observe(&ctl, &provider.meter("tower-lifecycle"));

        let work = ctl.try_admit().unwrap();
        let now = exported(&provider, &exporter);
        assert_eq!(now["lifecycle.requests.in_flight"], 1, "{now:?}");
        assert_eq!(now["lifecycle.requests.admitted"], 1, "{now:?}");
        assert_eq!(now["lifecycle.state state=running"], 1, "{now:?}");

        drop(work);
        ctl.shutdown(ShutdownReason::Manual).await;
        assert!(ctl.try_admit().is_err());
        let end = exported(&provider, &exporter);
        assert_eq!(end["lifecycle.requests.in_flight"], 0, "{end:?}");
        assert_eq!(end["lifecycle.requests.refused"], 1, "{end:?}");
        assert_eq!(end["lifecycle.state state=stopped"], 1, "{end:?}");
        assert!(
            !end.contains_key("lifecycle.state state=running"),
            "{end:?}"
        );
    }
}
