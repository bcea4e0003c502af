//! The listener.

use super::*;

#[test]
fn whoever_waits_in_the_backlog_is_answered() {
    for round in 0..20 {
        let clients = if round == 0 { 1 } else { 100 };
        let ctl = ShutdownController::new();
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(Some(released)));
        let blocks = {
            let ctl = ctl.clone();
            get(async move || {
                ctl.trigger(ShutdownReason::Manual);
                entered.send(()).unwrap();
                let released = released.lock().unwrap().take().unwrap();
                let _ = released.recv(); // blocks the only thread of the server
                "unblocked"
            })
        };
        let routes = routes().route("/block", blocks);
        let app = routes.layer(DrainLayer::new(ctl.clone()));
        let (tell, address) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(loopback()).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, app, ctl).await
            })
        });
        let address = address.recv().unwrap();
        let mut first = connect(address);
        write(&mut first, b"GET /block HTTP/1.1\r\nhost: test\r\n\r\n");
        has_entered.recv_timeout(10 * SECOND).unwrap();
        let mut waiting: Vec<_> = (0..clients).map(|_| connect(address)).collect();
        for client in &mut waiting {
            write(client, server::get("/").as_bytes());
        }
        release.send(()).unwrap();

        let text = read(&mut first).unwrap();
        assert!(text.ends_with("unblocked"), "{text}");
        for (nth, client) in waiting.iter_mut().enumerate() {
            let text = read(client).unwrap_or_else(|error| panic!("the {nth}th: {error}"));
            assert!(text.ends_with("\r\n\r\nok"), "the {nth}th: {text:?}");
        }
        let report = server.join().unwrap();
        assert!(report.is_graceful(), "{report}");
        assert_eq!((report.late_requests(), report.refused()), (clients, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_accepting_is_waited_out_longer_and_longer() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let kinds = [
        io::ErrorKind::Other,
        io::ErrorKind::OutOfMemory,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::WouldBlock,
    ];
    let mut since = Instant::now();
    for (errors, millis) in [
        (1, 5),
        (2, 5 + 10),
        (8, 5 + 10 + 20 + 40 + 80 + 160 + 320 + 640),
        (11, 5 + 10 + 20 + 40 + 80 + 160 + 320 + 640 + 3 * 1000),
    ] {
        for nth in 0..errors {
            connector.accept(Err(kinds[nth % kinds.len()].into()));
        }
        // An accepted connection resets the count.
        assert_eq!(connector.http1().get("/").await.text(), "ok");
        let took = since.elapsed();
        let expected = Duration::from_millis(millis);
        assert!(
            took >= expected && took < expected + 2 * errors as u32 * MS,
            "{took:?}"
        );
        since = Instant::now();
    }
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn what_befell_one_connection_is_passed_over() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let since = Instant::now();
    for kind in [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::Interrupted,
    ] {
        for _ in 0..100 {
            connector.accept(Err(kind.into()));
        }
    }
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    assert_at(since, Duration::ZERO);
    trigger(&ctl).await;
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn errors_of_accepting_do_not_hold_a_server_that_drains() {
    for errors in [1, 8, 12] {
        let ctl = ShutdownController::new();
        let (connector, server) = start(&ctl, app(&ctl));
        sleep(MS).await;
        let working = ctl.track();
        let since = trigger(&ctl).await;
        for _ in 0..errors {
            connector.accept(Err(io::ErrorKind::Other.into()));
        }
        if errors == 1 {
            assert_eq!(connector.http1().get("/").await.text(), "ok");
        }
        drop(working);
        server.graceful().await;
        let took = since.elapsed();
        assert!(took <= 60 * MS, "{took:?}");
        assert!(connector.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_while_the_server_waits_out_an_error_is_answered() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    for _ in 0..8 {
        connector.accept(Err(io::ErrorKind::Other.into()));
    }
    sleep(700 * MS).await; // the last pause is from 635 ms to 1,275 ms
    let since = trigger(&ctl).await;
    let mut client = connector.http1();
    assert_eq!(client.get("/").await.text(), "ok");
    assert_at(since, Duration::ZERO);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_behind_one_that_has_gone_is_answered() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    sleep(MS).await;
    ctl.trigger(ShutdownReason::Manual);
    ctl.stop_accepting().await;
    for _ in 0..3 {
        connector.accept(Err(io::ErrorKind::ConnectionAborted.into()));
    }
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    server.graceful().await;
}
