//! actix-web, which has a graceful shutdown by default.

use actix_web::web::{self, Bytes};
use actix_web::{App, HttpServer};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let server = HttpServer::new(|| {
        App::new()
            .route("/", web::get().to(async || "hello\n"))
            .route("/slow", web::get().to(compared::slow))
            .route(
                "/u",
                web::post().to(async |body: Bytes| body.len().to_string()),
            )
    });
    server.workers(2).bind(compared::address())?.run().await
}
