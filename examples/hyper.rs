//! A plain hyper accept loop that drains: HTTP/1 and HTTP/2, without axum.
//!
//! ```text
//! cargo run -p examples --example hyper
//! curl -i 127.0.0.1:3000/            # hello
//! curl -i 127.0.0.1:3000/slow        # takes ten seconds
//! kill -TERM $(pgrep -x hyper)       # while it does
//! curl -i 127.0.0.1:3000/            # connection refused: a load balancer tries the next instance
//! ```
//!
//! It is shorter with the feature `server`: see `examples/accept_loop.rs`.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::{conn::auto, graceful::GracefulShutdown};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{ServiceBuilder, ServiceExt};
use tower_lifecycle::{DrainLayer, HealthService, ShutdownController};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();

    let ctl = ShutdownController::new();
    ctl.listen_for_signals().expect("inside a runtime");

    let health = HealthService::new(ctl.clone());
    let service = ServiceBuilder::new()
        // Probes are not counted, and are answered to the end.
        .layer(DrainLayer::new(ctl.clone()).exempt_paths(["/health"]))
        .service_fn(move |request| route(health.clone(), request));
    let service = TowerToHyperService::new(service);

    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await.expect("a free port");
    let _ = writeln!(
        std::io::stdout(),
        "listening on {}",
        listener.local_addr().expect("bound")
    );

    let mut stop = ctl.stop_accepting();
    let server = async move {
        let http = auto::Builder::new(TokioExecutor::new());
        let graceful = GracefulShutdown::new();
        let connection = |stream| {
            let stream = TokioIo::new(stream);
            let connection = http.serve_connection_with_upgrades(stream, service.clone());
            graceful.watch(connection.into_owned())
        };
        // Dropping the set cuts its connections, so none outlives this future.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream));
                    }
                    // For example too many open files, which may be temporary.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        // Closing the listener resets the connections in the kernel's backlog.
        for _ in 0..4096 {
            match timeout(Duration::from_millis(1), listener.accept()).await {
                Ok(Ok((stream, _))) => {
                    connections.spawn(connection(stream));
                }
                Ok(Err(error)) => tracing::warn!(%error, "cannot accept"),
                Err(_) => break,
            }
        }
        drop(listener);
        // A request may already be on its way on an idle connection; it is served.
        sleep(Duration::from_millis(200)).await;
        // Closes idle connections now, and the others after their current response.
        graceful.shutdown().await;
    };

    let report = ctl.run(server).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    report.exit_code()
}

async fn route(
    health: HealthService,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        "/health" => return health.oneshot(request).await,
        "/slow" => sleep(Duration::from_secs(10)).await,
        _ => {}
    }
    Ok(Response::new(Full::from("hello\n")))
}
