//! How a shutdown ends with difficult clients and handlers: this crate's servers and others.
//!
//! ```text
//! cargo bench -p benches --features page --bench endings        # takes a minute
//! ```
//!
//! Each case has its own runtime and server on loopback, and one HTTP/1 client that delays the end.
//! Servers with a deadline get one second. The bench waits five seconds for the end of each server.
//! The table shows when the server's future ended, what its client received, and whether the
//! handler's state, in its future or in the body of its response, was dropped by then and one
//! second later. Times are counted from the trigger.
//!
//! A program usually closes its pools and ends when its server's future has ended. Here the runtime
//! continues for that second, to show what was left running. Clients that do not read start reading
//! after it, and show whether they are still being served.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::{conn::auto, graceful::GracefulShutdown};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, serve};

/// The deadline of servers that have one.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long to wait for the end of a server.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to observe after the end of a server.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How long a server gets to process its client's input, where nothing signals it.
const SETTLING: Duration = Duration::from_millis(200);
/// The time limit of a case.
const LIMIT: Duration = Duration::from_secs(20);

const MIB: usize = 1 << 20;
const LARGE: usize = 64 * MIB;

const WAYS: [Way; 5] = [
    Way::OurServe,
    Way::OurLayer,
    Way::Axum,
    Way::AxumServer,
    Way::HyperUtil,
];

const SCENARIOS: [Scenario; 6] = [
    Scenario::EndlessHandler,
    Scenario::Idle,
    Scenario::HalfHead,
    Scenario::UnreadWhole,
    Scenario::UnreadChunks,
    Scenario::Upgraded,
];

/// A server to compare.
#[derive(Clone, Copy)]
enum Way {
    OurServe,
    OurLayer,
    Axum,
    AxumServer,
    HyperUtil,
}

#[derive(Clone, Copy)]
enum Scenario {
    EndlessHandler,
    Idle,
    HalfHead,
    UnreadWhole,
    UnreadChunks,
    Upgraded,
}

/// The measurements of one case.
struct Row {
    ended: Option<Duration>,
    client: Sight,
    at_the_end: Fate,
    later: Fate,
}

fn main() {
    println!(
        "| in the way | server | it ended after | its client saw | held at the end | 1 s later |"
    );
    println!("|---|---|---|---|---|---|");
    for scenario in SCENARIOS {
        for way in WAYS {
            match case(way, scenario) {
                Some(row) => println!("| {scenario} | {way} | {row} |"),
                None => println!("| {scenario} | {way} | not measured in {LIMIT:?} | | | |"),
            }
        }
    }
}

fn case(way: Way, scenario: Scenario) -> Option<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let row = runtime.block_on(async { timeout(LIMIT, measure(way, scenario)).await.ok() });
    runtime.shutdown_timeout(AFTERWARDS);
    row
}

async fn measure(way: Way, scenario: Scenario) -> Row {
    let held = Held::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (trigger, triggered) = oneshot::channel();
    let serving = way.serve(listener, app(&held), async {
        triggered.await.expect("it is sent below");
    });
    let mut serving = tokio::spawn({
        let held = held.clone();
        async move {
            serving.await;
            // Measured here, before another task of this runtime learns of the end.
            (Instant::now(), held.fate())
        }
    });

    let stream = TcpStream::connect(address).await.expect("a listener");
    let stream = scenario.stand_in_the_way(stream, &held).await;

    let began = Instant::now();
    trigger.send(()).expect("the server waits for it");
    let (enough, has_enough) = oneshot::channel();
    let reads = scenario.client_reads();
    let client = tokio::spawn(async move {
        if reads {
            let enough = async { has_enough.await.expect("it is sent below") };
            return look(stream, began, enough).await;
        }
        // Starts to read after everything else is observed: is it still being served?
        has_enough.await.expect("it is sent below");
        let mut sight = look(stream, began, sleep(2 * AFTERWARDS)).await;
        sight.when = None;
        sight
    });

    let ended = timeout(END_TIMEOUT, &mut serving).await.ok();
    let ended = ended.map(|ended| ended.expect("the server does not panic"));
    let fate = held.fate();
    sleep(AFTERWARDS).await;
    let later = held.fate();
    enough.send(()).ok();
    Row {
        ended: ended.map(|(at, _)| at.duration_since(began)),
        client: client.await.expect("the client does not panic"),
        at_the_end: ended.map_or(fate, |(_, fate)| fate),
        later,
    }
}

// ===== the app =====

/// Tracks whether the handler's state still exists.
#[derive(Clone)]
struct Held {
    made: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    entered: Arc<Semaphore>,
}

struct Hold(Arc<AtomicUsize>);

#[derive(Clone, Copy)]
enum Fate {
    NothingHeld,
    Alive,
    Dropped,
}

/// A large response in one piece.
struct Large {
    bytes: Vec<u8>,
    _hold: Hold,
}

impl Held {
    fn new() -> Self {
        Self {
            made: Arc::default(),
            dropped: Arc::default(),
            entered: Arc::new(Semaphore::new(0)),
        }
    }

    fn hold(&self) -> Hold {
        self.made.fetch_add(1, Ordering::SeqCst);
        self.entered.add_permits(1);
        Hold(Arc::clone(&self.dropped))
    }

    fn fate(&self) -> Fate {
        match self.made.load(Ordering::SeqCst) {
            0 => Fate::NothingHeld,
            made if made == self.dropped.load(Ordering::SeqCst) => Fate::Dropped,
            _ => Fate::Alive,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn app(held: &Held) -> Router {
    let (endless, whole, chunks, socket) = (held.clone(), held.clone(), held.clone(), held.clone());
    Router::new()
        .route("/quick", get(async || "ok"))
        .route(
            "/endless",
            get(async move || {
                let _hold = endless.hold();
                pending::<()>().await;
            }),
        )
        .route(
            "/whole",
            get(async move || {
                Body::from(Bytes::from_owner(Large {
                    bytes: vec![b'x'; LARGE],
                    _hold: whole.hold(),
                }))
            }),
        )
        .route(
            "/chunks",
            get(async move || {
                let chunk = Bytes::from(vec![b'x'; MIB / 16]);
                let left = LARGE / chunk.len();
                let start = (left, chunk, chunks.hold());
                Body::from_stream(stream::unfold(start, async |(left, chunk, hold)| {
                    let left = usize::checked_sub(left, 1)?;
                    Some((Ok::<_, Infallible>(chunk.clone()), (left, chunk, hold)))
                }))
            }),
        )
        .route(
            "/socket",
            get(async move |upgrade: WebSocketUpgrade| {
                let hold = socket.hold();
                upgrade.on_upgrade(async move |socket| {
                    let _held = (socket, hold);
                    pending::<()>().await;
                })
            }),
        )
}

// ===== the servers =====

impl Way {
    async fn serve(
        self,
        listener: TcpListener,
        app: Router,
        triggered: impl Future<Output = ()> + Send + 'static,
    ) {
        match self {
            Self::OurServe => our_serve(listener, app, triggered).await,
            Self::OurLayer => our_layer(listener, app, triggered).await,
            Self::Axum => axum_alone(listener, app, triggered).await,
            Self::AxumServer => axum_server(listener, app, triggered).await,
            Self::HyperUtil => hyper_util(listener, app, triggered).await,
        }
    }
}

/// The layer with this crate's server.
async fn our_serve(listener: TcpListener, app: Router, triggered: impl Future<Output = ()>) {
    let ctl = controller();
    let app = app.layer(DrainLayer::new(ctl.clone()));
    tokio::join!(serve(listener, app, ctl.clone()).into_future(), async {
        triggered.await;
        ctl.trigger(ShutdownReason::Manual);
    });
}

/// The layer alone, with `axum::serve`.
async fn our_layer(listener: TcpListener, app: Router, triggered: impl Future<Output = ()>) {
    let ctl = controller();
    let app = app.layer(DrainLayer::new(ctl.clone()));
    let server = axum::serve(listener, app).with_graceful_shutdown(ctl.stop_accepting());
    tokio::join!(ctl.run(server), async {
        triggered.await;
        ctl.trigger(ShutdownReason::Manual);
    });
}

fn controller() -> ShutdownController {
    let config = ShutdownConfig::default().shutdown_timeout(DEADLINE);
    ShutdownController::with_config(config).expect("legal times")
}

async fn axum_alone(
    listener: TcpListener,
    app: Router,
    triggered: impl Future<Output = ()> + Send + 'static,
) {
    let server = axum::serve(listener, app).with_graceful_shutdown(triggered);
    server.await.expect("it never fails");
}

async fn axum_server(listener: TcpListener, app: Router, triggered: impl Future<Output = ()>) {
    let listener = listener.into_std().expect("a socket");
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp(listener).expect("a listener");
    let server = server.handle(handle.clone()).serve(app.into_make_service());
    let (ended, ()) = tokio::join!(server, async {
        triggered.await;
        handle.graceful_shutdown(Some(DEADLINE));
    });
    ended.expect("nothing fails on loopback");
}

/// The loop of the documentation, with the limit shown there.
async fn hyper_util(listener: TcpListener, app: Router, triggered: impl Future<Output = ()>) {
    let http = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let mut triggered = pin!(triggered);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("nothing fails on loopback");
                let service = TowerToHyperService::new(app.clone());
                let connection =
                    http.serve_connection_with_upgrades(TokioIo::new(stream), service);
                tokio::spawn(graceful.watch(connection.into_owned()));
            }
            () = &mut triggered => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = sleep(DEADLINE) => {}
    }
}

// ===== the clients =====

/// What a client received after the trigger.
struct Sight {
    bytes: Vec<u8>,
    end: Option<Result<(), ErrorKind>>,
    /// Since the trigger; `None` if the client did not read all the time.
    when: Option<Duration>,
}

impl Scenario {
    /// Does what the server has to cope with, up to the trigger.
    async fn stand_in_the_way(self, mut stream: TcpStream, held: &Held) -> TcpStream {
        let path = match self {
            Self::EndlessHandler => "/endless",
            Self::Idle => "/quick",
            Self::HalfHead => {
                stream.write_all(b"GE").await.expect("connected");
                sleep(SETTLING).await;
                return stream;
            }
            Self::UnreadWhole => "/whole",
            Self::UnreadChunks => "/chunks",
            Self::Upgraded => "/socket",
        };
        let upgrade = match self {
            Self::Upgraded => {
                "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            _ => "",
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{upgrade}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        match self {
            Self::Idle => read_until(&mut stream, b"\r\n\r\nok").await,
            Self::Upgraded => read_until(&mut stream, b"\r\n\r\n").await,
            _ => {}
        }
        if !matches!(self, Self::Idle) {
            held.entered.acquire().await.expect("open").forget();
        }
        // Long enough to fill the kernel's buffers, if the client does not read.
        sleep(SETTLING).await;
        stream
    }

    fn client_reads(self) -> bool {
        !matches!(self, Self::UnreadWhole | Self::UnreadChunks)
    }
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let read = stream.read_buf(&mut bytes).await.expect("connected");
        assert_ne!(read, 0, "the server answers before it is to end");
    }
}

/// Reads until the connection ends, or the time limit is reached.
async fn look(mut stream: TcpStream, began: Instant, enough: impl Future<Output = ()>) -> Sight {
    let mut bytes = Vec::new();
    let mut enough = pin!(enough);
    let end = loop {
        tokio::select! {
            read = stream.read_buf(&mut bytes) => match read {
                Ok(0) => break Some(Ok(())),
                Ok(_) => {}
                Err(error) => break Some(Err(error.kind())),
            },
            () = &mut enough => break None,
        }
    };
    let when = end.is_some().then(|| began.elapsed());
    Sight { bytes, end, when }
}

impl Sight {
    /// Classifies the bytes. The responses here are simple enough for this.
    fn content(&self) -> Option<String> {
        let bytes = &self.bytes;
        if bytes.is_empty() {
            return None;
        }
        let end_of_head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end_of_head) = end_of_head.filter(|_| bytes.starts_with(b"HTTP/1.1 ")) else {
            return Some(format!("{} bytes", bytes.len()));
        };
        let head = String::from_utf8_lossy(&bytes[..end_of_head]).to_lowercase();
        let status = &head["http/1.1 ".len()..][..3];
        let body = &bytes[end_of_head + 4..];
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        let is_whole = length.map_or(body.ends_with(b"0\r\n\r\n"), |length: usize| {
            body.len() == length
        });
        Some(match (status, is_whole) {
            ("200", true) => "the whole response".into(),
            ("200", false) => format!("{} of {} MiB", body.len() / MIB, LARGE / MIB),
            (_, true) => status.into(),
            (_, false) => format!("a part of a {status}"),
        })
    }
}

// ===== the table =====

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended {
            Some(after) => write!(f, "{} ms", after.as_millis())?,
            None => write!(f, "not in {} s", END_TIMEOUT.as_secs())?,
        }
        let Self {
            client,
            at_the_end,
            later,
            ..
        } = self;
        write!(f, " | {client} | {at_the_end} | {later}")
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.map(|end| match end {
            Ok(()) => "EOF".to_owned(),
            Err(ErrorKind::ConnectionReset) => "reset".to_owned(),
            Err(other) => other.to_string(),
        });
        match (self.content(), end) {
            (None, None) => f.write_str("nothing"),
            (None, Some(end)) => f.write_str(&end),
            (Some(content), None) => f.write_str(&content),
            (Some(content), Some(end)) => write!(f, "{content}, {end}"),
        }?;
        match self.when {
            Some(when) => write!(f, " ({} ms)", when.as_millis()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingHeld => "–",
            Self::Alive => "alive",
            Self::Dropped => "dropped",
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OurServe => "`DrainLayer` in our `serve`, 1 s",
            Self::OurLayer => "`DrainLayer` in `axum::serve`, 1 s",
            Self::Axum => "`axum::serve`",
            Self::AxumServer => "`axum-server`, 1 s",
            Self::HyperUtil => "hyper-util's `GracefulShutdown`, 1 s",
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndlessHandler => "a handler that never ends",
            Self::Idle => "an idle keep-alive client",
            Self::HalfHead => "half a request head",
            Self::UnreadWhole => "64 MiB in one piece, not read",
            Self::UnreadChunks => "64 MiB in chunks, not read",
            Self::Upgraded => "a WebSocket whose handler never ends",
        })
    }
}
