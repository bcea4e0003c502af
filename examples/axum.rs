//! The quick start: an axum app that drains.
//!
//! ```text
//! cargo run -p examples --example axum
//! curl -i 127.0.0.1:3000/            # hello
//! curl -iN 127.0.0.1:3000/slow       # a stream of ten seconds
//! kill -TERM $(pgrep -x axum)        # while the stream runs
//! curl -i 127.0.0.1:3000/            # connection refused: a load balancer tries the next instance
//! ```

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tower_lifecycle::{DrainLayer, DrainListener, HealthService, ShutdownController};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Neither this nor `writeln!` panics when stderr is closed, as `println!` would.
        .log_internal_errors(false)
        .init();

    let ctl = ShutdownController::new();
    ctl.listen_for_signals().expect("inside a runtime");
    ctl.on_shutdown("close pool", |notice| async move {
        let _ = writeln!(
            std::io::stdout(),
            "closing the pool, {:?} left",
            notice.time_remaining()
        );
        Ok(())
    })
    .expect("the only hook of this name");

    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/slow", get(slow))
        .layer(DrainLayer::new(ctl.clone()))
        // Added after the layer, so that probes are never refused.
        .route_service("/health", HealthService::new(ctl.clone()))
        .route_service("/livez", HealthService::new(ctl.clone()).liveness());

    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await.expect("a free port");
    let _ = writeln!(
        std::io::stdout(),
        "listening on {}",
        listener.local_addr().expect("bound")
    );

    // Accepts the connections in the kernel's backlog before it closes.
    let listener = DrainListener::new(listener, &ctl);
    let stop = listener.graceful_shutdown();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    let report = ctl.run(server).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    report.exit_code()
}

/// Sends ten lines, one a second.
async fn slow() -> Body {
    Body::from_stream(futures_util::stream::unfold(0, |line| async move {
        if line == 10 {
            return None;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let text = Bytes::from(format!("line {line}\n"));
        Some((Ok::<_, Infallible>(text), line + 1))
    }))
}
