//! `tower-http`'s gauge around the router.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
mod server;
mod suite;

use tower_http::metrics::InFlightRequestsLayer;

use server::Pipe;

async fn serve(pipe: Pipe) {
    let (layer, _) = InFlightRequestsLayer::pair();
    server::serve_around(pipe, layer).await;
}

suite::program!();
