//! `axum::serve` with tower-lifecycle's layer and listener, with a lame duck of a second and a half.

use std::time::Duration;

use tower_lifecycle::{
    DrainLayer, DrainListener, HealthService, ShutdownConfig, ShutdownController,
};

#[tokio::main]
async fn main() {
    let config = ShutdownConfig::default().lame_duck(Duration::from_millis(1500));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    let app = compared::app().layer(DrainLayer::new(ctl.clone()));
    let app = app.route_service("/health", HealthService::new(ctl.clone()));
    let listener = DrainListener::new(compared::listener().await, &ctl);
    let stop = listener.graceful_shutdown();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    ctl.run(server).await;
}
