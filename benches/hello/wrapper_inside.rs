//! An empty wrapper by `Router::layer`.

mod client;
#[path = "../instructions/measuring.rs"]
mod measuring;
// Other benches use more of it.
#[allow(dead_code)]
#[path = "../common/keep.rs"]
mod keep;
mod server;
mod suite;

use tower::layer::layer_fn;

use keep::{NoGuard, keep};
use server::Pipe;

async fn serve(pipe: Pipe) {
    let layer = layer_fn(|route| keep(route, NoGuard::new));
    server::serve_router(pipe, server::router().layer(layer)).await;
}

suite::program!();
