//! `axum::serve` alone.

#[tokio::main]
async fn main() {
    axum::serve(compared::listener().await, compared::app())
        .await
        .unwrap();
}
