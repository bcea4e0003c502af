//! Extreme settings.

use super::*;

fn a_request_of_400_ms_with_a_grace_of(grace: Duration) -> (String, ShutdownReport) {
    in_a_thread(move || async move {
        let ctl = ctl(ShutdownConfig::default()
            .shutdown_timeout(ms(600))
            .refuse_for(ms(20)));
        let (door, listener) = pipes();
        let serving = serve(listener, app(&ctl), ctl.clone()).grace(grace);
        let server = tokio::spawn(serving.into_future());
        let mut client = connect(&door, 0);
        let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        sleep(ms(20)).await;
        ctl.trigger(ShutdownReason::Manual);
        (read_until(&mut client, "slow").await, server.await.unwrap())
    })
}

/// A busy connection checks again after `grace`, which is immediately: the loop never ends.
#[test]
fn no_grace_at_all_does_not_stop_a_thread() {
    let (answer, report) = a_request_of_400_ms_with_a_grace_of(Duration::ZERO);
    assert!(answer.ends_with("slow") && report.is_graceful(), "{report}");
}

/// As above: a check after an infinite grace never comes, and the deadline passes.
#[test]
fn an_endless_grace_does_not_stop_a_thread() {
    let (answer, report) = a_request_of_400_ms_with_a_grace_of(Duration::MAX);
    assert!(answer.ends_with("slow") && report.is_graceful(), "{report}");
}

/// `now + time` overflows: the connection panics, and the refused client is reset.
#[tokio::test(start_paused = true)]
async fn lingering_without_a_limit_of_time() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone()).linger(1 << 30, Duration::MAX);
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    assert!(read_until(&mut client, "early").await.ends_with("early"));
    sleep(ms(100)).await;
    client.write_all(&[0; 1000]).await.unwrap();
    sleep(ms(100)).await;
    client.write_all(&[0; 1000]).await.unwrap();
}

/// A socket that always has data to read, and never an end.
struct Endless {
    head: &'static [u8],
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.head.len().min(buffer.remaining());
        let (now, later) = self.head.split_at(count);
        buffer.put_slice(now);
        self.head = later;
        if count == 0 {
            let rest = buffer.remaining();
            buffer.put_slice(&vec![b'x'; rest]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The time limit is checked only when there is nothing to read.
#[test]
fn lingering_ends_in_time_also_when_the_client_never_pauses() {
    let report = in_a_thread(|| async {
        let ctl = within(2_000);
        let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
        let listener = One(Some(Endless { head }));
        let serving = serve(listener, app(&ctl), ctl.clone()).linger(u64::MAX, ms(100));
        let server = tokio::spawn(serving.into_future());
        sleep(ms(500)).await;
        ctl.trigger(ShutdownReason::Manual);
        server.await.unwrap()
    });
    assert!(report.is_graceful(), "{report}");
}

/// The same on a real socket, whose client writes as fast as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lingering_ends_in_time_on_a_socket_that_is_always_full() {
    let ctl = within(10_000);
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, app(&ctl), ctl.clone()).linger(u64::MAX, ms(300));
    let _server = tokio::spawn(serving.into_future());
    let took = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
        client.write_all(head).unwrap();
        let began = std::time::Instant::now();
        let bytes = vec![b'x'; 1 << 20];
        while began.elapsed() < ms(3_000) && client.write_all(&bytes).is_ok() {}
        began.elapsed()
    });
    let took = took.await.unwrap();
    assert!(took < ms(1_500), "{took:?}");
}

/// The check for idle connections treats one that reads and discards as idle: an upload with an
/// early response is reset, although its time limit is much longer.
#[tokio::test(start_paused = true)]
async fn the_time_for_a_head_does_not_end_the_reading_of_an_upload() {
    let ctl = within(60_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone())
        .header_read_timeout(ms(1_000))
        .linger(64 << 20, ms(30_000));
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let head = b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < ms(10_000) {
        sleep(ms(200)).await;
        let result = client.write_all(&[0; 300]).await;
        assert!(result.is_ok(), "reset after {:?}", began.elapsed());
    }
}

/// A request head that takes no time, with a paused clock.
#[test]
fn no_time_for_a_head_does_not_stop_a_thread() {
    let answer = in_a_thread(|| async {
        tokio::time::pause();
        let ctl = within(10_000);
        let (door, listener) = pipes();
        let mut client = connect(&door, 0);
        let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let serving = serve(listener, app(&ctl), ctl.clone()).header_read_timeout(Duration::ZERO);
        let _server = tokio::spawn(serving.into_future());
        read_until(&mut client, "slow").await
    });
    assert!(answer.is_empty() || answer.ends_with("slow"));
}
