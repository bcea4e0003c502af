//! `axum::serve` with its own graceful shutdown.

#[tokio::main]
async fn main() {
    let server = axum::serve(compared::listener().await, compared::app());
    server
        .with_graceful_shutdown(compared::terminated())
        .await
        .unwrap();
}
