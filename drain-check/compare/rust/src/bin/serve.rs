//! tower-lifecycle's `serve`, with a lame duck of a second and a half.

use std::time::Duration;

use tower_lifecycle::{DrainLayer, HealthService, ShutdownConfig, ShutdownController, serve};

#[tokio::main]
async fn main() {
    let config = ShutdownConfig::default().lame_duck(Duration::from_millis(1500));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    let app = compared::app().layer(DrainLayer::new(ctl.clone()));
    let app = app.route_service("/health", HealthService::new(ctl.clone()));
    serve(compared::listener().await, app, ctl).await;
}
