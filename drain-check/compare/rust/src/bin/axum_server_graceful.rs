//! axum-server with its graceful shutdown.

use std::time::Duration;

use axum_server::Handle;

#[tokio::main]
async fn main() {
    let handle = Handle::new();
    tokio::spawn({
        let handle = handle.clone();
        async move {
            compared::terminated().await;
            handle.graceful_shutdown(Some(Duration::from_secs(10)));
        }
    });
    let server = axum_server::bind(compared::address()).handle(handle);
    server
        .serve(compared::app().into_make_service())
        .await
        .unwrap();
}
