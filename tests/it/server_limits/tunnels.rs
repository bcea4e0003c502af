//! Tunnels, which no age ends.

use super::*;

use std::convert::Infallible;

use axum::body::Bytes;
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

/// Echoes in a tunnel; `/` answers at once and any other path never.
async fn tunnels(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let is_http2 = *request.method() == Method::CONNECT;
    let mut response = Response::new(Empty::new());
    if request.uri().path() == "/held" {
        std::future::pending::<()>().await;
    }
    if !is_http2 {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("upgrade", "echo".parse().unwrap());
        headers.insert("connection", "upgrade".parse().unwrap());
    }
    tokio::spawn(async move {
        let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        while let Ok(byte) = io.read_u8().await {
            io.write_u8(byte).await.unwrap();
        }
        let _ = io.shutdown().await;
    });
    Ok(response)
}

fn start_tunnels(ctl: &ShutdownController) -> (Connector, Server) {
    start_with(ctl, service_fn(tunnels), |serve| {
        serve
            .max_connection_age(AGE)
            .max_connection_age_grace(GRACE)
    })
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_not_ended() {
    let app = App::new();
    let (connector, server) = start_tunnels(&app.ctl);
    let mut client = connector.http1();
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 101);
    sleep(3 * (OLDEST + GRACE)).await;
    client.send("x").await;
    assert_eq!(client.exactly(1).await, b"x");
    drop(client);
    app.end(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_of_http2_keeps_its_connection_until_it_ends() {
    let app = App::new();
    let (connector, server) = start_tunnels(&app.ctl);
    let io = TokioIo::new(connector.pipe(64 * 1024));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    sleep(MS).await; // for the server's settings, which allow it
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a/socket")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(connect).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let held = Request::get("http://a/held").body(Empty::new()).unwrap();
    let held = tokio::spawn(sender.send_request(held));

    sleep(3 * (OLDEST + GRACE)).await;
    tunnel.write_u8(b'x').await.unwrap();
    assert_eq!(in_time(tunnel.read_u8()).await.unwrap(), b'x');
    assert!(!held.is_finished(), "the request shares the connection");
    // The client has been asked to leave.
    let more = Request::get("http://a/").body(Empty::new()).unwrap();
    assert!(sender.send_request(more).await.is_err());

    let since = Instant::now();
    drop(tunnel);
    assert!(in_time(held).await.unwrap().is_err());
    assert_at(since, Duration::ZERO);
    let _ = in_time(connection).await.unwrap();
    app.end(server).await;
}
