//! tonic's server with its graceful shutdown. The routes are axum's, so that the same clients fit.

use tonic::service::Routes;
use tonic::transport::Server;

#[tokio::main]
async fn main() {
    let server = Server::builder().add_routes(Routes::from(compared::app()));
    let server = server.serve_with_shutdown(compared::address(), compared::terminated());
    server.await.unwrap();
}
