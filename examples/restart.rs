//! Restarts in place: a new process takes over the listening socket, and then the old one shuts down.
//!
//! ```text
//! cargo run -p examples --example restart &
//! curl localhost:3000/                     # the ID of the process
//! kill -USR2 $(pgrep -o -x restart)        # the oldest one: it starts a new one
//! curl localhost:3000/                     # another ID
//! FAIL=1 cargo run -p examples --example restart    # each new process fails, and the first one goes on
//! kill -TERM $(pgrep -x restart)           # the end
//! ```

use std::io::Write;
use std::process::{self, ExitCode};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tower_lifecycle::restart::{HandOver, Inherited, RestartSignal};
use tower_lifecycle::{DrainLayer, HealthService, ShutdownConfig, ShutdownController, serve};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().log_internal_errors(false).init();
    let mut inherited = Inherited::from_env()?;
    if inherited.has_predecessor() && std::env::var_os("FAIL").is_some() {
        return Err("told to fail".into());
    }

    // A new process that ends in the lame duck of the old one calls its shutdown off.
    let config = ShutdownConfig::default().lame_duck(Duration::from_secs(2));
    let ctl = ShutdownController::with_config(config)?;
    ctl.listen_for_signals()?;
    let listener = inherited.tcp("http")?.or_bind("127.0.0.1:3000").await?;
    HandOver::new(&ctl)?
        .listener("http", &listener)?
        .on_signal(RestartSignal::User2)?;

    let app = Router::new()
        .route("/", get(async || format!("{}\n", process::id())))
        .layer(DrainLayer::new(ctl.clone()))
        .route_service("/health", HealthService::new(ctl.clone()))
        .with_state(());
    inherited.ready_with(&ctl);
    let report = serve(listener, app, ctl).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}
