//! HTTP/2.

use super::*;

/// The control of the next test, and of the one in a short drain.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_does_not_hold_the_drain() {
    let report = end_with_silent_h2(30_000, h2_get()).await;
    assert!(report.is_graceful(), "{report}");
}

/// One stream that was a tunnel, and is over, marks the whole connection as a tunnel forever.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_that_once_had_a_tunnel_does_not_hold_the_drain() {
    let connect = http::Request::connect("a:1").body(Empty::new()).unwrap();
    let report = end_with_silent_h2(30_000, connect).await;
    assert!(report.is_graceful(), "{report}");
}

/// A socket that can block its thread for a while at the end of a poll, as if the operating system
/// had preempted it.
struct Preempted {
    pipe: DuplexStream,
    armed: Arc<AtomicBool>,
    release: Arc<Notify>,
}

impl AsyncRead for Preempted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Preempted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.armed.swap(false, Ordering::Relaxed) {
            let release = Arc::clone(&self.release);
            // From another thread: a task woken by this one would wait for it.
            std::thread::spawn(move || release.notify_one());
            std::thread::sleep(ms(100));
        }
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// A stream's task ends between the connection's poll and the check of what is in flight: its
/// response is in hyper's queue and is not counted, and the connection is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_h2_answer_that_comes_at_the_moment_of_the_look_is_not_lost() {
    let ctl = within(20_000);
    let (armed, release) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let released = Arc::clone(&release);
    let app: Router = Router::new()
        .route("/", get(async move || released.notified().await))
        .route("/before", get(async || sleep(ms(300)).await))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let (client, pipe) = duplex(64 * 1024);
    let listener = One(Some(Preempted {
        pipe,
        armed: Arc::clone(&armed),
        release,
    }));
    let serving = serve(listener, app, ctl.clone()).grace(ms(500));
    let server = tokio::spawn(serving.into_future());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    let before = http::Request::get("http://a/before").body(Empty::new());
    let before = tokio::spawn(sender.send_request(before.unwrap()));
    sleep(ms(100)).await;
    ctl.trigger(ShutdownReason::Manual);
    // A late request: the GOAWAY was sent after 800 ms and acknowledged; the next check is at 1,300
    // ms.
    sleep(ms(100)).await;
    let answer = tokio::spawn(sender.send_request(h2_get()));
    assert!(before.await.unwrap().is_ok());
    sleep(ms(900)).await;
    armed.store(true, Ordering::Relaxed);
    let answer = timeout(ms(5_000), answer).await.unwrap().unwrap();
    assert!(answer.is_ok_and(|answer| answer.status() == 200));
    assert!(server.await.unwrap().is_graceful());
}
