//! The page of the lifecycle on an admin port, with requests that take long, so that there is something to see.
//!
//! ```text
//! cargo run -p examples --example admin
//! xdg-open http://127.0.0.1:9000/lifecycle
//! curl 127.0.0.1:3000/orders/17/export             # takes a minute
//! curl 127.0.0.1:3000/events                       # a stream without end
//! kill -TERM $(pgrep -x admin)                     # or the button of the page
//! ```
//!
//! `docs/guide/pictures/take` takes the pictures of the guide from it.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower_lifecycle::health::LifecycleService;
use tower_lifecycle::layers::RequestNamesLayer;
use tower_lifecycle::{DrainLayer, HealthService, ShutdownConfig, ShutdownController, serve};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let ctl = ShutdownController::with_config(ShutdownConfig::default().shutdown_timeout(MINUTE))?;
    ctl.listen_for_signals()?;

    let admin = TcpListener::bind("127.0.0.1:9000").await?;
    let lifecycle = LifecycleService::new(ctl.clone()).actions(true);
    let routes = Router::new()
        .route_service("/lifecycle", lifecycle)
        .route_service("/health", HealthService::new(ctl.clone()));
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(admin, routes)
            .with_graceful_shutdown(closing)
            .await
    });

    // Work that is not a request is listed by its name too.
    let import = ctl.track_named("import of orders.csv");
    tokio::spawn(async move {
        import.draining().await;
        sleep(MINUTE / 4).await;
    });
    ctl.spawn_worker("outbox", |stop| stop);
    ctl.on_shutdown("flush the outbox", |_| async { Ok(()) })?;

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/orders/{id}/export", get(export))
        .route("/events", get(events))
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = serve(listener, app, ctl).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}

async fn export() -> &'static str {
    sleep(MINUTE).await;
    "exported\n"
}

async fn events() -> Sse<impl stream::Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::once(pending()))
}
