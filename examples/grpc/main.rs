//! gRPC with the health protocol: tonic's services under `serve`.
//!
//! ```text
//! cargo run -p examples --example grpc  # [address [address of the admin server]]
//! printf '\0\0\0\0\0' > empty                 # a message without fields
//! call() { curl -sN --http2-prior-knowledge -H content-type:application/grpc -D - -o - \
//!     --data-binary @empty "127.0.0.1:3000/$1" | cat -v; }
//! call grpc.health.v1.Health/Check            # ends in ^H^A, which is SERVING
//! call example.Echo/Repeat &                  # a stream of ten seconds
//! kill -TERM $(pgrep -x grpc)                 # while it runs: all ten messages arrive
//! call grpc.health.v1.Health/Check            # ends in ^H^B, which is NOT_SERVING
//! sleep 5; call example.Echo/Say              # connection refused
//! ```
//!
//! Health is also served on a separate port, 3001, which stays open to the very end.
//!
//! From the trigger on health is `NOT_SERVING`, and every `Watch` stream is told. Five seconds
//! later the listener closes. Calls that still arrive on open connections are served for a second;
//! then they are refused with the status `UNAVAILABLE`, which clients retry elsewhere.

mod echo;
mod health;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tower_lifecycle::{DrainLayer, LongLived, ShutdownConfig, ShutdownController, serve};

use echo::Echo;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    // The lame duck is for watchers: they see `NOT_SERVING` before their streams are ended.
    let config = ShutdownConfig::default().lame_duck(Duration::from_secs(5));
    let ctl = ShutdownController::with_config(config)?;
    ctl.listen_for_signals()?;

    let (reporter, health) = tonic_health::server::health_reporter();
    health::report_health(&ctl, reporter, &["", Echo::NAME]);

    // Starts before the public port opens, and closes after the clean-up.
    let admin = std::env::args().nth(2);
    let admin = TcpListener::bind(admin.as_deref().unwrap_or("127.0.0.1:3001")).await?;
    let probes = tonic::transport::Server::builder().add_service(health.clone());
    ctl.spawn_admin("admin", |closing| async move {
        probes
            .serve_with_incoming_shutdown(TcpIncoming::from(admin), closing)
            .await
    });

    let drain = DrainLayer::new(ctl.clone())
        // `Check` answers `NOT_SERVING` to the end, and no `Watch` stream holds the drain.
        .exempt_paths(["/grpc.health.v1.Health/Check"])
        .long_lived(LongLived::path("/grpc.health.v1.Health/Watch"));
    let app = Routes::new(Echo)
        .add_service(health)
        .into_axum_router()
        .layer(drain);

    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await?;
    let _ = writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?);

    let report = serve(listener, app, ctl).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}
