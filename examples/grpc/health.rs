//! Reports the controller's readiness in the gRPC health protocol.

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_lifecycle::ShutdownController;

/// Reports these services as `SERVING` while the controller is ready, otherwise as `NOT_SERVING`.
///
/// The service named "" is the whole server, and the one that Kubernetes probes. Call this inside a
/// tokio runtime. Its task ends when draining begins.
pub fn report_health(
    ctl: &ShutdownController,
    reporter: HealthReporter,
    services: &'static [&'static str],
) {
    let mut readiness = ctl.readiness();
    tokio::spawn(async move {
        while let Some(is_ready) = readiness.next().await {
            let status = if is_ready {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for service in services {
                reporter.set_service_status(service, status).await;
            }
        }
    });
}
