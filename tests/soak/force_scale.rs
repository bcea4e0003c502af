//! A force with thousands of connections: nothing of the server is left when the clean-up begins.

use std::future::{IntoFuture, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use futures_util::{StreamExt, future, stream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReport, UpgradeGuard, serve,
};

use crate::support::server::{Alive, Frame, Http1, Http2, Watched, in_time, pipes};

/// What is alive of a server, as seen by its clean-up and its caller.
#[derive(Debug, PartialEq)]
struct Left {
    connections: usize,
    handlers: usize,
}

const NOTHING: Left = Left {
    connections: 0,
    handlers: 0,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Sleeping,
    Streaming,
    Upgraded,
    /// Ten sleeping requests on each connection.
    Http2,
}

/// Forces a server with this many connections. Returns what was left when its hook began, and when
/// the hook had returned, and the report.
async fn force(kind: Kind, connections: usize) -> (Left, Left, ShutdownReport) {
    let (sockets, handlers) = (Alive::default(), Alive::default());
    let left = {
        let (sockets, handlers) = (sockets.clone(), handlers.clone());
        move || Left {
            connections: sockets.count(),
            handlers: handlers.count(),
        }
    };
    // The machine that runs this may be slow, and busy.
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(60))
        .cleanup_reserve(Duration::from_secs(50));
    let ctl = ShutdownController::with_config(config).unwrap();
    let at_hook = Arc::new(std::sync::Mutex::new(None));
    let note = (Arc::clone(&at_hook), left.clone());
    ctl.on_shutdown("close the pool", move |_notice| async move {
        *note.0.lock().unwrap() = Some(note.1());
        Ok(())
    })
    .unwrap();
    let (connector, listener) = pipes();
    let server = tokio::spawn(serve(listener, app(&ctl, &handlers), ctl.clone()).into_future());

    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let (client, io) = duplex(512);
        connector.accept(Ok(Watched::new(io, &sockets)));
        clients.push(begin(kind, client).await);
    }
    let in_flight = match kind {
        Kind::Http2 => 10 * connections,
        _ => connections,
    };
    in_time(async {
        while ctl.in_flight() < in_flight as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    ctl.force();
    let report = in_time(server).await.unwrap();
    let at_return = left();
    let at_hook = at_hook.lock().unwrap().take().expect("the hook ran");
    drop(clients);
    (at_hook, at_return, report)
}

fn app(ctl: &ShutdownController, alive: &Alive) -> Router {
    let one = |alive: &Alive| {
        let alive = alive.clone();
        move || alive.begin()
    };
    let (sleeping, streaming, upgraded) = (one(alive), one(alive), one(alive));
    let upgrade = get(async move |mut request: Request| {
        let one = upgraded();
        let guard: UpgradeGuard = request.extensions().get().cloned().unwrap();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _one = one;
            let _guard = guard;
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let _ = io.read_u8().await;
        });
        let head = Response::builder().status(101);
        let head = head
            .header("connection", "upgrade")
            .header("upgrade", "test");
        head.body(Body::empty()).unwrap()
    });
    Router::new()
        .route(
            "/sleep",
            get(async move || {
                let _one = sleeping();
                pending::<()>().await
            }),
        )
        .route(
            "/stream",
            get(async move || {
                let one = streaming();
                let first = stream::once(future::ready(Ok::<_, io::Error>(Bytes::from("first"))));
                let rest = stream::pending().map(move |item| {
                    let _one = &one;
                    item
                });
                Body::from_stream(first.chain(rest))
            }),
        )
        .route("/upgrade", upgrade)
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(())
}

/// A client that has sent its requests.
async fn begin(kind: Kind, io: DuplexStream) -> Box<dyn Send> {
    let path = match kind {
        Kind::Http2 => {
            let mut client = Http2::new(io, &[]).await;
            for stream in 0..10 {
                client.send(Frame::get(2 * stream + 1, "/sleep")).await;
            }
            return Box::new(client);
        }
        Kind::Sleeping => "/sleep",
        Kind::Streaming => "/stream",
        Kind::Upgraded => "/upgrade",
    };
    let mut client = Http1::new(io);
    let upgrade = "connection: upgrade\r\nupgrade: test\r\n";
    let headers = if kind == Kind::Upgraded { upgrade } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
    client.send(request).await;
    Box::new(client)
}

async fn nothing_is_left(kind: Kind, connections: usize) {
    let (at_hook, at_return, report) = force(kind, connections).await;
    println!("{kind:?} {at_hook:?} {at_return:?}\n{report}");
    assert_eq!(at_hook, NOTHING, "{kind:?} at the hook: {report}");
    assert_eq!(at_return, NOTHING, "{kind:?} at the return: {report}");
    assert!(report.hooks()[0].is_completed());
    assert!(report.is_forced());
    assert_eq!(report.abandoned(), 0, "{report}");
    assert_eq!(report.aborted(), report.in_flight_at_force(), "{report}");
}

const MANY: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handler_is_left_of_ten_thousand() {
    nothing_is_left(Kind::Sleeping, MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_left_of_ten_thousand() {
    nothing_is_left(Kind::Streaming, MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tunnel_is_left_of_ten_thousand() {
    nothing_is_left(Kind::Upgraded, MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_of_http2_is_left_of_ten_thousand() {
    nothing_is_left(Kind::Http2, MANY / 10).await;
}

#[tokio::test]
async fn one_thread_leaves_nothing_either() {
    for kind in [Kind::Sleeping, Kind::Streaming, Kind::Upgraded] {
        nothing_is_left(kind, MANY / 2).await;
    }
    nothing_is_left(Kind::Http2, MANY / 20).await;
}
