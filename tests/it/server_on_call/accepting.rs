//! Accepting.

use super::*;

/// Has an error and a client in its backlog when the listener is about to close.
struct Backlog {
    ctl: ShutdownController,
    results: Vec<io::Result<(DuplexStream, u32)>>,
}

impl Listener for Backlog {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(DuplexStream, u32)> {
        self.ctl.stop_accepting().await;
        match self.results.pop() {
            Some(result) => result,
            None => pending().await,
        }
    }
}

async fn client_behind(error: Option<io::ErrorKind>) -> String {
    let ctl = within(10_000);
    let (mut client, pipe) = duplex(1024);
    client.write_all(GET).await.unwrap();
    let mut results = vec![Ok((pipe, 0))];
    results.extend(error.map(|kind| Err(kind.into())));
    let listener = Backlog {
        ctl: ctl.clone(),
        results,
    };
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    ctl.trigger(ShutdownReason::Manual);
    let answer = read_until(&mut client, HELLO).await;
    server.await.unwrap();
    answer
}

/// "everything in the accept backlog gets a real answer", also behind a connection that has gone.
#[tokio::test(start_paused = true)]
async fn a_client_behind_one_that_has_gone_is_answered() {
    assert!(client_behind(None).await.ends_with(HELLO));
    let answer = client_behind(Some(io::ErrorKind::ConnectionAborted)).await;
    assert!(answer.ends_with(HELLO), "{answer:?}");
}

struct Failing;

impl Listener for Failing {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Errors of single connections, one after another without a pause: nothing else gets to run.
#[test]
fn connections_that_fail_for_ever_do_not_stop_a_thread() {
    let report = in_a_thread(|| async {
        let ctl = within(1_000);
        let server = tokio::spawn(serve(Failing, app(&ctl), ctl.clone()).into_future());
        sleep(ms(10)).await;
        ctl.trigger(ShutdownReason::Manual);
        server.await.unwrap()
    });
    assert!(report.is_graceful(), "{report}");
}

/// A panic about one peer's address affects only that connection, not the server and the others.
#[tokio::test(start_paused = true)]
async fn an_extension_that_panics_harms_one_connection() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone()).extension(|peer: &u32| {
        assert_ne!(*peer, 13, "a peer that nobody has thought of");
        *peer
    });
    let _server = tokio::spawn(serving.into_future());
    let mut busy = connect(&door, 1);
    let request = b"GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n";
    busy.write_all(request).await.unwrap();
    sleep(ms(10)).await;
    let _unlucky = connect(&door, 13);
    assert!(read_until(&mut busy, "slow").await.ends_with("slow"));
    assert!(ctl.notice().is_none(), "the server has ended");
}

/// An application that panics in its handler, or in a handshake, affects only its connection.
#[tokio::test(start_paused = true)]
async fn a_handshake_or_a_builder_that_panics_harms_one_connection() {
    let ctl = within(10_000);
    let (door, listener) = pipes();
    let first = AtomicBool::new(true);
    let second = AtomicBool::new(true);
    let serving = serve(listener, app(&ctl), ctl.clone())
        .handshake(move |io: DuplexStream| {
            assert!(!first.swap(false, Ordering::Relaxed));
            async { Ok(io) }
        })
        .http1(move |_| assert!(!second.swap(false, Ordering::Relaxed)));
    let server = tokio::spawn(serving.into_future());
    for (number, expected) in [(0, false), (1, false), (2, true)] {
        let mut client = connect(&door, number);
        let _ = client.write_all(GET).await;
        let answer = read_until(&mut client, HELLO).await;
        assert_eq!(answer.ends_with(HELLO), expected, "{number}");
    }
    ctl.trigger(ShutdownReason::Manual);
    assert!(server.await.unwrap().is_graceful());
}
