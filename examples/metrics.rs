//! Metrics for Prometheus on an admin port, which answers until right before the end.
//!
//! ```text
//! cargo run -p examples --example metrics
//! curl localhost:3000/slow & curl localhost:9000/metrics
//! kill -TERM $(pgrep -x metrics); sleep 1; curl localhost:9000/metrics
//! ```
//!
//! `examples/deploy` has alerts and a dashboard for them.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tower_lifecycle::{DrainLayer, HealthService, ShutdownConfig, ShutdownController, serve};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().log_internal_errors(false).init();
    let prometheus = PrometheusBuilder::new().install_recorder()?;
    let config = ShutdownConfig::default().lame_duck(Duration::from_secs(2));
    let ctl = ShutdownController::with_config(config)?;
    ctl.listen_for_signals()?;

    let listener = TcpListener::bind("127.0.0.1:9000").await?;
    let routes = admin(&ctl, prometheus);
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(closing)
            .await
    });

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = serve(listener, app, ctl).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}

/// The routes of the admin port.
pub fn admin(ctl: &ShutdownController, prometheus: PrometheusHandle) -> Router {
    let scraped = ctl.clone();
    let metrics = async move || {
        scraped.record_metrics();
        prometheus.render()
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route_service("/health", HealthService::new(ctl.clone()))
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "done\n"
}
