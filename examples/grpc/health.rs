//! From the controller's state to the gRPC health protocol.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_lifecycle::{LifecycleState, ShutdownController};

/// Reports these services as `SERVING` while the state is `Running`, else as `NOT_SERVING`.
///
/// The service of the name "" is the server as a whole. A shutdown that is called off reports them as
/// `SERVING` again. It must be called inside a tokio runtime.
pub fn report_health(
    ctl: &ShutdownController,
    reporter: HealthReporter,
    services: &'static [&'static str],
) {
    // A task tells it, since an observer must not wait. It asks for the state itself, so it is never
    // behind, and ends when the observer is dropped, after the last move.
    let (moved, mut moves) = watch::channel(());
    ctl.on_state_change(move |_, _| {
        moved.send_replace(());
    });
    let ctl = ctl.clone();
    tokio::spawn(async move {
        let mut reported = None;
        loop {
            let status = match ctl.state() {
                LifecycleState::Running => ServingStatus::Serving,
                _ => ServingStatus::NotServing,
            };
            // Watchers are told of each report, and are to see changes only.
            if reported.replace(status) != Some(status) {
                for service in services {
                    reporter.set_service_status(service, status).await;
                }
            }
            if moves.changed().await.is_err() {
                break;
            }
        }
    });
}
