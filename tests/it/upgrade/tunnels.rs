//! Tunnels with hyper's own upgrade, on sockets.

use super::*;

/// hyper's own upgrade, in a handler that uses only hyper and the guard.
async fn tunnel(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let guard = request.extensions_mut().remove::<UpgradeGuard>().unwrap();
    let connects = request.method() == Method::CONNECT;
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let mut socket = TokioIo::new(upgraded);
        let mut byte = [0];
        loop {
            tokio::select! {
                read = socket.read(&mut byte) => match read {
                    Ok(1) => socket.write_all(&byte).await.unwrap(),
                    _ => return,
                },
                () = guard.draining() => break,
            }
        }
        socket.write_all(b"bye").await.unwrap();
        socket.shutdown().await.unwrap();
    });
    let mut response = Response::new(Empty::new());
    if !connects {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(UPGRADE, "echo".parse().unwrap());
        response
            .headers_mut()
            .insert(CONNECTION, "upgrade".parse().unwrap());
    }
    Ok(response)
}

/// Serves one connection of `tunnel`.
pub(super) async fn serve_tunnel(ctl: &ShutdownController) -> std::net::SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = DrainLayer::new(ctl.clone()).layer(service_fn(tunnel));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(service);
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let _ = connection.await;
    });
    address
}

/// Gets one byte echoed, and has a shutdown close the tunnel.
pub(super) async fn drain_tunnel<S>(ctl: &ShutdownController, stream: &mut S) -> ShutdownReport
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    // The response was complete long before.
    assert_eq!(ctl.in_flight(), 1);
    ctl.trigger(MANUAL);
    let mut goodbye = String::new();
    stream.read_to_string(&mut goodbye).await.unwrap();
    assert_eq!(goodbye, "bye");
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful(), "{report}");
    report
}
