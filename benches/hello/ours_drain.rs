//! `tower_lifecycle::serve`, and `DrainLayer` by `Router::layer`.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_lifecycle::{DrainLayer, ShutdownController};

use server::Pipe;

async fn serve(pipe: Pipe) {
    let ctl = ShutdownController::new();
    let app = server::router().layer(DrainLayer::new(ctl.clone()));
    server::serve_ours(pipe, app, ctl).await;
}

suite::program!();
