//! Repeated triggers and resumes.

use super::*;

/// Triggers are cancelled while clients come and go; then a drain loses no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_triggers_taken_back_loses_nobody() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(20_000))
        .lame_duck(ms(400)));
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let stop = Arc::new(Notify::new());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let stop = Arc::clone(&stop);
        clients.push(tokio::spawn(async move {
            let mut answers = 0;
            let work = async {
                loop {
                    let mut client = TcpStream::connect(address).await.unwrap();
                    for _ in 0..5 {
                        client.write_all(GET).await.unwrap();
                        let answer = read_until(&mut client, HELLO).await;
                        assert!(answer.ends_with(HELLO), "{answer:?}");
                        answers += 1;
                        if answer.contains("connection: close") {
                            break;
                        }
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.notified() => {}
            }
            answers
        }));
    }
    for _ in 0..200 {
        ctl.trigger(ShutdownReason::Manual);
        sleep(ms(2)).await;
        ctl.resume().unwrap();
    }
    let mut answers = 0;
    stop.notify_waiters();
    for client in clients {
        answers += client.await.unwrap();
    }
    assert!(answers > 100, "{answers}");
    ctl.trigger(ShutdownReason::Manual);
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// A server that starts when the shutdown is over, or nearly, ends with the same report.
#[tokio::test(start_paused = true)]
async fn a_server_that_comes_too_late_ends_at_once() {
    let ctl = within(2_000);
    let (tell, told) = oneshot::channel();
    let guard = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let (door, listener) = pipes();
    let late = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let mut client = connect(&door, 0);
    client.write_all(GET).await.unwrap();
    assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
    tokio::spawn(async move {
        drop(guard);
        let _ = tell.send(());
    });
    told.await.unwrap();
    assert!(late.await.unwrap().is_graceful());
    let (door, listener) = pipes();
    let mut client = connect(&door, 0);
    assert!(serve(listener, app(&ctl), ctl).await.is_graceful());
    drop(door);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}
