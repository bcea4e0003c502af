//! An empty wrapper around the router.

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
    server::serve_around(pipe, layer_fn(|app| keep(app, NoGuard::new))).await;
}

suite::program!();
