//! One request on a connection of its own: the readiness probe, and what a path answers without a
//! restart.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::chain::chain;
use crate::target::Target;

/// What to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Once<'a> {
    pub target: &'a Target,
    pub address: SocketAddr,
    pub method: Method,
    pub path: &'a str,
    pub by_http2: bool,
    /// Do not wait for the body.
    pub head_only: bool,
}

/// Sends a request, and returns the status and the body, or what went wrong.
pub(crate) async fn once(ask: Once<'_>, within: Duration) -> Result<(StatusCode, Bytes), String> {
    let asked = timeout(within, send(ask)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs_f64())))
}

async fn send(ask: Once<'_>) -> Result<(StatusCode, Bytes), String> {
    let address = ask.address;
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("connecting to {address}: {error}"))?;
    let body = match ask.method {
        Method::POST => Full::from("upload"),
        _ => Full::default(),
    };
    let request = Request::builder().method(ask.method);
    let failed = |error: hyper::Error| chain(&error);
    // Dropped at the end, which closes the connection.
    let (response, _kept) = if ask.by_http2 {
        let shaken =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, driver) = shaken.await.map_err(failed)?;
        tokio::spawn(driver);
        let request = request.uri(ask.target.url("http", ask.path)).body(body);
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        (response, Kept::Http2(sender))
    } else {
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, driver) = shaken.await.map_err(failed)?;
        tokio::spawn(driver);
        let request = request.uri(ask.path);
        let request = request.header(header::HOST, ask.target.authority.as_str());
        let request = request.body(body).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        (response, Kept::Http1(sender))
    };
    let status = response.status();
    if ask.head_only {
        return Ok((status, Bytes::new()));
    }
    let body = response.into_body().collect().await.map_err(failed)?;
    Ok((status, body.to_bytes()))
}

/// A connection that must not be closed before the body is read.
enum Kept {
    Http1(#[expect(dead_code)] hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(#[expect(dead_code)] hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}
