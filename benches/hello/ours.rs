//! `tower_lifecycle::serve`, with no layer.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_lifecycle::ShutdownController;

use server::Pipe;

async fn serve(pipe: Pipe) {
    server::serve_ours(pipe, server::router(), ShutdownController::new()).await;
}

suite::program!();
