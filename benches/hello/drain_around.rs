//! `DrainLayer` around the router.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_lifecycle::{DrainLayer, ShutdownController};

use server::Pipe;

async fn serve(pipe: Pipe) {
    let layer = DrainLayer::new(ShutdownController::new());
    server::serve_around(pipe, layer).await;
}

suite::program!();
