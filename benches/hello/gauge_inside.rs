//! `tower-http`'s gauge by `Router::layer`.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_http::metrics::InFlightRequestsLayer;

use server::Pipe;

async fn serve(pipe: Pipe) {
    let (layer, _) = InFlightRequestsLayer::pair();
    server::serve_router(pipe, server::router().layer(layer)).await;
}

suite::program!();
