//! Ways to close the listener of `axum::serve`: with connections in its backlog, or after accepting
//! them.
//!
//! In each round some clients have connected and sent their requests, and wait in the kernel's
//! backlog, when the trigger comes. Others arrive during the drain.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower_lifecycle::DrainListener;
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
};

use crate::support::loopback::loopback;
use crate::support::sockets::{Event, Held, in_time};

const IN_THE_BACKLOG: usize = 100;
const NEWCOMERS: usize = 100;

/// The outcome of a request.
#[derive(Debug)]
enum Fate {
    /// A complete response.
    Answered,
    /// 503 and `Retry-After`.
    Refused,
    /// The connection was refused, so the request was not sent.
    TurnedAway,
    /// Sent, and reset or closed without a response: it may or may not have been processed.
    Ambiguous,
}

/// Counts requests by outcome.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ledger {
    answered: usize,
    refused: usize,
    turned_away: usize,
    ambiguous: usize,
}

/// How the listener is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// When draining begins.
    StopAccepting,
    /// After it has stayed open, and refused, for a while.
    RefuseFor,
    /// When draining has begun and its backlog is empty.
    DrainListener,
}

impl Way {
    fn config(self) -> ShutdownConfig {
        match self {
            Way::RefuseFor => ShutdownConfig::default().refuse_for(Duration::from_millis(200)),
            _ => ShutdownConfig::default().late_for(Duration::from_secs(10)),
        }
    }
}

/// The outcomes of the requests of both kinds of clients.
#[derive(Debug, Default)]
struct Ledgers {
    backlog: Ledger,
    newcomers: Ledger,
}

#[tokio::test]
async fn with_drain_listener_every_client_in_the_backlog_is_served() {
    let ledgers = play(5, Way::DrainListener).await;
    let expected = Ledger {
        answered: 5 * IN_THE_BACKLOG,
        ..Ledger::default()
    };
    assert_eq!(ledgers.backlog, expected);
    assert_eq!(ledgers.newcomers.refused, 0, "{}", ledgers.newcomers);
}

#[tokio::test]
async fn with_refuse_for_every_client_gets_a_response() {
    let ledgers = play(5, Way::RefuseFor).await;
    let refused = |clients| Ledger {
        refused: 5 * clients,
        ..Ledger::default()
    };
    assert_eq!(ledgers.backlog, refused(IN_THE_BACKLOG));
    assert_eq!(ledgers.newcomers, refused(NEWCOMERS));
}

#[tokio::test]
#[ignore = "measures, and does not judge: run it with --nocapture"]
async fn figures_of_each_way_to_close_the_listener() {
    let ways = [Way::StopAccepting, Way::RefuseFor, Way::DrainListener];
    for way in ways {
        let Ledgers { backlog, newcomers } = play(20, way).await;
        println!("{way:?}\n  in the backlog: {backlog}\n  newcomers:      {newcomers}");
    }
}

/// Runs some rounds.
async fn play(rounds: usize, way: Way) -> Ledgers {
    let mut ledgers = Ledgers::default();
    for _ in 0..rounds {
        in_time(round(&mut ledgers, way)).await;
    }
    ledgers
}

async fn round(ledgers: &mut Ledgers, way: Way) {
    let ctl = ShutdownController::with_config(way.config()).unwrap();
    let held = Held::new();
    let server = Server::start(&ctl, &held, way).await;
    let address = server.address;
    let (mut backlog, mut newcomers) = (JoinSet::new(), JoinSet::new());

    // One request is in progress until the last client has its response.
    let at_work = tokio::spawn(exchange(connect("/held", address).await.unwrap()));
    held.entered.happened().await;

    // The server's only thread is busy while clients join the backlog.
    let busy = tokio::spawn(exchange(connect("/busy", address).await.unwrap()));
    server.busy.happened().await;
    for _ in 0..IN_THE_BACKLOG {
        backlog.spawn(exchange(connect("/", address).await.unwrap()));
    }
    ctl.trigger(ShutdownReason::Manual);
    server.release.send(()).unwrap();

    for _ in 0..NEWCOMERS {
        newcomers.spawn(async move {
            match connect("/", address).await {
                Ok(stream) => exchange(stream).await,
                Err(_) => Fate::TurnedAway,
            }
        });
    }
    while let Some(fate) = backlog.join_next().await {
        ledgers.backlog.note(fate.unwrap());
    }
    while let Some(fate) = newcomers.join_next().await {
        ledgers.newcomers.note(fate.unwrap());
    }
    held.released.happens();
    for admitted in [at_work, busy] {
        let fate = admitted.await.unwrap();
        assert!(matches!(fate, Fate::Answered), "{fate:?}");
    }
    let report = tokio::task::spawn_blocking(|| server.thread.join());
    assert!(report.await.unwrap().unwrap().is_graceful());
}

// ===== the server =====

/// A server with one separate thread, which can be kept busy.
struct Server {
    address: SocketAddr,
    busy: Event,
    release: mpsc::Sender<()>,
    thread: JoinHandle<ShutdownReport>,
}

impl Server {
    async fn start(ctl: &ShutdownController, held: &Held, way: Way) -> Self {
        let entered = Event::new();
        let (release, released) = mpsc::channel();
        let (entering, released) = (entered.clone(), Arc::new(Mutex::new(released)));
        let busy = async move || {
            entering.happens();
            let _ = released.lock().unwrap().recv();
        };
        let app = Router::new()
            .route("/", get(async || "ok"))
            .route("/held", held.route())
            .route("/busy", get(busy))
            .layer(DrainLayer::new(ctl.clone()));
        let (bound, address) = oneshot::channel();
        let ctl = ctl.clone();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(loopback()).await.unwrap();
                let address = listener.local_addr().unwrap();
                if way == Way::DrainListener {
                    let listener = DrainListener::new(listener, &ctl);
                    let stop = listener.graceful_shutdown();
                    bound.send(address).unwrap();
                    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
                    return ctl.run(server).await;
                }
                let stop = ctl.stop_accepting();
                bound.send(address).unwrap();
                let server = axum::serve(listener, app).with_graceful_shutdown(stop);
                ctl.run(server).await
            })
        });
        Self {
            address: address.await.unwrap(),
            busy: entered,
            release,
            thread,
        }
    }
}

// ===== the clients =====

/// Connects and sends a request.
async fn connect(path: &str, address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Reads the response, until the server closes.
async fn exchange(mut stream: TcpStream) -> Fate {
    let mut response = String::new();
    if stream.read_to_string(&mut response).await.is_err() {
        return Fate::Ambiguous;
    }
    let is_whole = |body: &str| response.ends_with(&format!("\r\n\r\n{body}"));
    if response.starts_with("HTTP/1.1 200 ") && ["", "ok", Held::ANSWER].into_iter().any(is_whole) {
        Fate::Answered
    } else if response.starts_with("HTTP/1.1 503 ")
        && response.contains("\r\nretry-after: 1\r\n")
        && is_whole(r#"{"error":"service is shutting down"}"#)
    {
        Fate::Refused
    } else {
        Fate::Ambiguous
    }
}

impl Ledger {
    fn note(&mut self, fate: Fate) {
        *match fate {
            Fate::Answered => &mut self.answered,
            Fate::Refused => &mut self.refused,
            Fate::TurnedAway => &mut self.turned_away,
            Fate::Ambiguous => &mut self.ambiguous,
        } += 1;
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            answered,
            refused,
            turned_away,
            ambiguous,
        } = self;
        write!(
            f,
            "{answered} answered, {refused} refused by 503, {turned_away} turned away at TCP, \
             {ambiguous} lost or ambiguous"
        )
    }
}
