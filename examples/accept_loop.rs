//! Your own accept loop over TLS, with hyper-util: HTTP/2 and HTTP/1.1 by ALPN.
//!
//! ```text
//! cargo run -p examples --example accept_loop
//! curl -ki https://localhost:3000/             # HTTP/2
//! curl -ki https://localhost:3000/slow         # takes ten seconds
//! kill -TERM $(pgrep -x accept_loop)           # while it does
//! ```
//!
//! `serve` does all of this and more: see `examples/tls.rs`. Three kinds of connections are easy to
//! forget in your own loop, and each mistake loses requests at every deploy: connections that are
//! still in their handshake, connections in the listener's backlog, and connections with a request
//! in progress.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Version;
use axum::{Router, routing::get};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_lifecycle::{DrainLayer, ShutdownController};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let ctl = ShutdownController::new();
    ctl.listen_for_signals()?;

    let slow = || async {
        sleep(Duration::from_secs(10)).await;
        "at last\n"
    };
    let app = Router::new()
        .route(
            "/",
            get(|version: Version| async move { format!("hello, {version:?}\n") }),
        )
        .route("/slow", get(slow))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());

    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await?;
    let _ = writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?);

    let tls = TlsAcceptor::from(Arc::new(tls()?));
    let serve = {
        let ctl = ctl.clone();
        move |tcp, peer| serve_connection(&ctl, tls.clone(), tcp, peer, app.clone())
    };
    let stop = ctl.stop_accepting();
    let report = ctl.run(accept_loop(listener, serve, stop)).await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}

/// Serves every connection until `stop` resolves.
async fn accept_loop(
    listener: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr),
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => serve(tcp, peer),
            // For example too many open files, which may be temporary.
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Closing the listener would reset the connections in the kernel's backlog.
    for _ in 0..4096 {
        match timeout(Duration::from_millis(1), listener.accept()).await {
            Ok(Ok((tcp, peer))) => serve(tcp, peer),
            Ok(Err(error)) => tracing::warn!(%error, "cannot accept"),
            Err(_) => break,
        }
    }
}

/// Serves one connection, handshake included. It counts from this call on.
fn serve_connection(
    ctl: &ShutdownController,
    tls: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    app: Router,
) {
    let handshake = async move {
        let stream = TokioIo::new(tls.accept(tcp).await?);
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            // Detects peers that vanished without closing, which would hold the drain.
            .keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(2));
        let connection =
            builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(app));
        io::Result::Ok(connection.into_owned())
    };
    let connection = ctl.watch_handshake(handshake).peer(peer);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection failed");
        }
    });
}

fn tls() -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
