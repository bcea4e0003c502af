//! TLS in front of `serve`: HTTP/2 and HTTP/1.1 by ALPN, closed with close_notify.
//!
//! ```text
//! cargo run -p examples --example tls
//! curl -ki https://localhost:3000/             # HTTP/2
//! curl -ki --http1.1 https://localhost:3000/
//! kill -TERM $(pgrep -x tls)
//! ```
//!
//! The certificate is self-signed and generated at start; a real service loads its own.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use axum::http::Version;
use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_lifecycle::{DrainLayer, ShutdownController, serve};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let ctl = ShutdownController::new();
    ctl.listen_for_signals()?;

    let app = Router::new()
        .route(
            "/",
            get(|version: Version| async move { format!("hello, {version:?}\n") }),
        )
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());

    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");
    let listener = TcpListener::bind(address).await?;
    let _ = writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?);

    // Runs in the connection's own task, with a time limit: a silent client does not block others.
    let acceptor = TlsAcceptor::from(Arc::new(tls()?));
    let report = serve(listener, app, ctl)
        .handshake(move |tcp| acceptor.accept(tcp))
        .await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
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
