//! `RequestTrackingLayer` around the router.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_lifecycle::{RequestTrackingLayer, ShutdownController};

use server::Pipe;

async fn serve(pipe: Pipe) {
    let layer = RequestTrackingLayer::new(ShutdownController::new());
    server::serve_around(pipe, layer).await;
}

suite::program!();
