//! Tunnels.

use super::*;

/// Shutting down the write side of a tunnel is a half-close (a proxy's `copy_bidirectional` does
/// it). The connection treats it as the end of HTTP, and discards what the client sends.
#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_closed_in_one_direction_loses_nothing_in_the_other() {
    let ctl = within(10_000);
    let (app, mut tunnels) = tunnels(&ctl);
    let (door, _server) = start(&ctl, app);
    let (mut client, mut server_side) = tunnel(&door, &mut tunnels).await;
    client.write_all(b"before, ").await.unwrap();
    let far = tokio::spawn(async move {
        server_side.shutdown().await.unwrap();
        let mut text = String::new();
        server_side.read_to_string(&mut text).await.unwrap();
        text
    });
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    client.write_all(b"after").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(far.await.unwrap(), "before, after");
}

async fn is_closed(mut tunnel: Tunnel) -> bool {
    let read = async move { !matches!(tunnel.read(&mut [0; 8]).await, Ok(n) if n > 0) };
    timeout(ms(500), read).await.unwrap_or(false)
}

/// "Dropping it closes every connection".
#[tokio::test(start_paused = true)]
async fn dropping_the_server_closes_its_tunnels_too() {
    let ctl = within(10_000);
    let (app, mut tunnels) = tunnels(&ctl);
    let (door, server) = start(&ctl, app);
    let (_client, server_side) = tunnel(&door, &mut tunnels).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(is_closed(server_side).await, "the tunnel is open");
}

/// "then every socket is closed, whatever is on it", also without a reserve for the clean-up.
#[tokio::test(start_paused = true)]
async fn a_force_closes_tunnels_also_without_a_reserve() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(500))
        .cleanup_reserve(Duration::ZERO));
    let (app, mut tunnels) = tunnels(&ctl);
    let (door, server) = start(&ctl, app);
    let (_client, server_side) = tunnel(&door, &mut tunnels).await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap();
    assert!(is_closed(server_side).await, "the tunnel is open");
}

/// A tunnel that is cut counts as aborted once, and not as abandoned.
#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_cut_is_counted_once() {
    let ctl = within(2_000);
    let (app, mut tunnels) = tunnels(&ctl);
    let (door, server) = start(&ctl, app);
    let (_client, mut server_side) = tunnel(&door, &mut tunnels).await;
    let user = tokio::spawn(async move { server_side.read(&mut [0; 8]).await });
    assert_eq!(ctl.in_flight(), 1);
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert_eq!(report.in_flight_at_force(), 1);
    assert_eq!((report.aborted(), report.abandoned()), (1, 0), "{report}");
    assert!(user.await.unwrap().is_err());
}

/// A socket whose drop panics, for example by an assertion.
struct BadDrop(DuplexStream);

impl Drop for BadDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a drop that panics");
        }
    }
}

impl AsyncRead for BadDrop {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BadDrop {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The waiter for the disconnect is woken only after the socket's drop.
#[tokio::test(start_paused = true)]
async fn a_socket_whose_drop_panics_does_not_hold_the_server() {
    let ctl = within(10_000);
    let (mut client, pipe) = duplex(64 * 1024);
    let (app, mut tunnels) = tunnels(&ctl);
    let listener = One(Some(BadDrop(pipe)));
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    client.write_all(UPGRADE).await.unwrap();
    let server_side = tunnels.recv().await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(10)).await;
    let dropped = tokio::spawn(async move { drop(server_side) });
    assert!(dropped.await.unwrap_err().is_panic());
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// An upgrade that was not requested, or that is not used, ends the connection.
#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_none_does_not_hold_the_server() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let (app, _tunnels) = tunnels(&ctl);
    let app = app.fallback(async || ());
    let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
    let mut clients = Vec::new();
    for request in [
        "GET /tunnel HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ] {
        let mut client = connect(&door, 0);
        client.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut client, "never").await;
        clients.push(client);
    }
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}
