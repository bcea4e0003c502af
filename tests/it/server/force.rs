//! Force.

use super::*;

/// What could be left behind.
#[derive(Clone, Default)]
struct Remains {
    handlers: Alive,
    bodies: Alive,
    apps: Alive,
    sockets: Alive,
    tasks: Alive,
}

impl Remains {
    fn counts(&self) -> [usize; 5] {
        let Self {
            handlers,
            bodies,
            apps,
            sockets,
            tasks,
        } = self;
        [handlers, bodies, apps, sockets, tasks].map(Alive::count)
    }

    /// An application in which nothing ends.
    fn app(&self, ctl: &ShutdownController) -> Router {
        let (handlers, bodies) = (self.handlers.clone(), self.bodies.clone());
        let (tasks, inner) = (self.tasks.clone(), self.handlers.clone());
        let forever = get(async move || {
            let _life = handlers.begin();
            pending::<()>().await
        });
        let torrent = get(async move || {
            let life = bodies.begin();
            Body::from_stream(stream::repeat_with(move || {
                let _life = &life;
                Ok::<_, Infallible>(Bytes::from_static(&[b't'; 16 * 1024]))
            }))
        });
        let upgrades = get(async move |mut request: Request| {
            let upgrade = hyper::upgrade::on(&mut request);
            let life = tasks.begin();
            tokio::spawn(async move {
                let _life = life;
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                io.write_all(b"?").await.unwrap_err();
            });
            switching()
        });
        let waits_for_upgrade = get(async move |mut request: Request| {
            let _life = inner.begin();
            hyper::upgrade::on(&mut request).await.unwrap();
        });
        Router::new()
            .route("/", get(async |State(_): State<Arc<server::Life>>| "ok"))
            .route("/forever", forever)
            .route("/torrent", torrent)
            .route("/large", get(async || Bytes::from(vec![0; 64 << 20])))
            .route("/upgrade", upgrades)
            .route("/waits-for-upgrade", waits_for_upgrade)
            .with_state(Arc::new(self.apps.begin()))
            .layer(DrainLayer::new(ctl.clone()))
    }
}

/// Opens a connection of each kind that does not end by itself.
async fn never_ending<T, F>(mut connect: impl FnMut() -> F) -> Vec<(&'static str, T)>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Future<Output = T>,
{
    let mut clients = Vec::new();
    for path in ["/forever", "/torrent", "/large"] {
        let mut client = Http1::new(connect().await);
        client.send(server::get(path)).await;
        clients.push((path, client.io));
    }
    let mut idle = Http1::new(connect().await);
    assert_eq!(idle.get("/").await.text(), "ok");
    clients.push(("idle", idle.io));
    clients.push(("silent", connect().await));
    let mut half = Http1::new(connect().await);
    half.send("GET / HT").await;
    clients.push(("half a head", half.io));
    let mut upgraded = Http1::new(connect().await);
    upgraded.send(UPGRADE).await;
    assert_eq!(upgraded.answer().await.status, 101);
    clients.push(("upgraded", upgraded.io));
    let mut waits = Http1::new(connect().await);
    waits.send(UPGRADE.replace("/up", "/waits-for-up")).await;
    clients.push(("waits for its upgrade", waits.io));
    let mut streams = Http2::new(connect().await, &[]).await;
    for nth in 0..100 {
        let path = if nth % 10 == 0 {
            "/torrent"
        } else {
            "/forever"
        };
        streams.send(Frame::get(2 * nth + 1, path)).await;
    }
    clients.push(("100 streams", streams.io));
    let idle = Http2::new(connect().await, &[]).await;
    clients.push(("idle HTTP/2", idle.io));
    clients
}

/// All are already closed; the data sent before can still be read.
async fn assert_closed<T: tokio::io::AsyncRead + Unpin>(clients: Vec<(&str, T)>) {
    for (name, mut client) in clients {
        let mut piece = vec![0; 64 * 1024];
        let end = async { while client.read(&mut piece).await.is_ok_and(|count| count > 0) {} };
        let ended = timeout(5 * SECOND, end).await;
        assert!(ended.is_ok(), "{name}: still open");
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_forced_server_has_returned_nothing_of_it_is_left() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = serve(pipes, remains.app(&ctl), ctl.clone());
    let server = Server(tokio::spawn(server.into_future()));
    let clients = never_ending(async || watched_pipe(&connector, &remains.sockets)).await;
    sleep(100 * MS).await;
    assert_eq!(remains.counts(), [92, 11, 1, clients.len(), 1]);

    let since = trigger(&ctl).await;
    let report = server.report().await;
    assert!(since.elapsed() <= 25 * SECOND + 250 * MS, "{report}");
    assert_eq!(remains.counts()[..4], [0; 4], "{report}");
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    // The task of the tunnel belongs to the application. It is notified.
    tokio::task::yield_now().await;
    assert_eq!(remains.tasks.count(), 0);
    assert_closed(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_server_on_sockets_leaves_nothing_behind_in_time() {
    let total = 1600 * MS;
    let config = ShutdownConfig::default().shutdown_timeout(total);
    let (ctl, remains) = (controller(config), Remains::default());
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = remains.sockets.clone();
    let server = serve(listener, remains.app(&ctl), ctl.clone()).handshake(move |io| {
        let io = Watched::new(io, &sockets);
        async move { Ok(io) }
    });
    let server = tokio::spawn(server.into_future());
    let clients = never_ending(async || TcpStream::connect(address).await.unwrap()).await;
    let expected = [92, 11, 1, clients.len(), 1];
    in_time(async {
        while remains.counts() != expected {
            sleep(5 * MS).await;
        }
    })
    .await;

    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    let report = in_time(server).await.unwrap();
    let took = since.elapsed();
    assert_eq!(remains.counts()[..4], [0; 4], "{report}");
    println!("{took:?} of {total:?}");
    assert!(took < total + SECOND, "{took:?}");
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    assert_closed(clients).await;
    assert_eq!(remains.tasks.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_dropped_closes_all_its_connections() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = tokio::spawn(serve(pipes, remains.app(&ctl), ctl.clone()).into_future());
    let mut clients = never_ending(async || watched_pipe(&connector, &remains.sockets)).await;
    sleep(100 * MS).await;
    clients.retain(|(name, _)| *name != "upgraded"); // has its own test
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    sleep(MS).await;
    let [handlers, bodies, apps, sockets, _] = remains.counts();
    assert_eq!([handlers, bodies, apps, sockets], [0, 0, 0, 0]);
    assert_closed(clients).await;
    ctl.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_dropped_closes_its_tunnels() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = pipes();
    let server = tokio::spawn(serve(pipes, remains.app(&ctl), ctl.clone()).into_future());
    let pipe = watched_pipe(&connector, &remains.sockets);
    let mut client = Http1::new(pipe);
    client.send(UPGRADE).await;
    assert_eq!(client.answer().await.status, 101);
    sleep(MS).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert_closed(vec![("upgraded", client.io)]).await;
    assert_eq!((remains.sockets.count(), remains.tasks.count()), (0, 0));
}

/// An application whose `/blocks` signals when it is entered, and blocks its thread until the
/// sender is dropped: at the end of the test, even on failure.
fn blocking(ctl: &ShutdownController) -> (Router, Event, std::sync::mpsc::Sender<()>) {
    let entered = Event::new();
    let (release, released) = std::sync::mpsc::channel();
    let released = Arc::new(std::sync::Mutex::new(released));
    let enters = entered.clone();
    let blocks = get(async move || {
        enters.happens();
        let _ = released.lock().unwrap().recv();
    });
    (app_with(ctl, "/blocks", blocks), entered, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_blocked_thread_is_abandoned_and_the_rest_is_closed_in_time() {
    let total = 1600 * MS;
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(total));
    let (app, entered, _release) = blocking(&ctl);
    let (connector, server) = start(&ctl, app);
    let mut blocked = connector.http1();
    blocked.send(server::get("/blocks")).await;
    entered.happened().await;
    let mut idle = connector.http1();
    assert_eq!(idle.get("/").await.text(), "ok");

    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(idle.end().await, b"");
    let report = server.report().await;
    let took = since.elapsed();
    println!("{took:?} of {total:?}");
    assert!(took < total + SECOND, "{took:?}");
    // The request, and the server, which waits for its connection.
    assert_eq!((report.aborted(), report.abandoned()), (0, 2), "{report}");
    assert!(report.is_forced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_blocked_stream_does_not_hold_its_connection_open() {
    let total = 1600 * MS;
    let ctl = controller(ShutdownConfig::default().shutdown_timeout(total));
    let (app, entered, _release) = blocking(&ctl);
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http2().await;
    assert_eq!(client.get(1, "/").await, "ok");
    client.send(Frame::get(3, "/blocks")).await;
    entered.happened().await;
    let since = std::time::Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    client.end().await;
    let report = server.report().await;
    assert!(since.elapsed() < total + SECOND, "{:?}", since.elapsed());
    assert_eq!((report.aborted(), report.abandoned()), (0, 2), "{report}");
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_is_told_before_its_connection_is_closed() {
    for early in [true, false] {
        let (ctl, remains) = (refusing(), Remains::default());
        let (connector, server) = start(&ctl, remains.app(&ctl));
        let mut client = connector.http1();
        client.send(server::get("/forever")).await;
        let mut http2 = connector.http2().await;
        for stream in [1, 3, 5] {
            http2.send(Frame::get(stream, "/forever")).await;
        }
        sleep(100 * MS).await;
        if !early {
            trigger(&ctl).await;
            sleep(SECOND).await;
        }
        let since = Instant::now();
        ctl.force();
        // A client that comes only now.
        let mut late = connector.http1();
        late.get("/").await.assert_refused();
        let mut late_2 = connector.http2().await;
        assert_eq!(late_2.get(1, "/").await, REFUSED);

        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (503, CUT));
        assert!(answer.closes());
        assert_eq!(client.end().await, b"");
        let frames = http2.end().await;
        let bodies = frames
            .iter()
            .filter(|frame| frame.payload == CUT.as_bytes());
        assert_eq!(bodies.count(), 3, "{frames:?}");
        let report = server.report().await;
        assert!(since.elapsed() <= 253 * MS, "{:?}", since.elapsed());
        assert!(report.is_forced());
        assert_eq!((report.aborted(), report.abandoned()), (4, 0), "{report}");
        late_2.end().await;
    }
}

/// Seen on a busy machine with ten thousand connections: the last one was closed, and the server's own task
/// had not been polled since.
#[tokio::test(start_paused = true)]
async fn a_server_whose_connections_have_just_closed_has_time_to_end() {
    let (ctl, remains) = (ShutdownController::new(), Remains::default());
    let (connector, pipes) = server::pipes();
    let mut serving = serve(pipes, remains.app(&ctl), ctl.clone()).into_future();
    let mut client = connector.http1();
    client.send(server::get("/large")).await;
    timeout(MS, &mut serving).await.unwrap_err();

    ctl.force();
    // Work that was cut has 250 ms to end. The server closes its connections after 210 ms, and is next
    // polled after 280 ms.
    sleep(209 * MS).await;
    timeout(MS, &mut serving).await.unwrap_err();
    sleep(70 * MS).await;
    let report = serving.await;
    assert_eq!(report.connections_cut(), 1, "{report}");
    assert_eq!(report.abandoned(), 0, "{report}");
}
