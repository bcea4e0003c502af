//! axum, with no layer.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use server::Pipe;

async fn serve(pipe: Pipe) {
    server::serve_router(pipe, server::router()).await;
}

suite::program!();
