//! A service, under [`serve`] or another server, and a ledger of what its clients see of each
//! request.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::ops::{AddAssign, Range};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use drain_check::client::judge::{self, Head, Unanswered};
use drain_check::client::{Expected, Seen};
use drain_check::{Entry, Fate, Loss, Refusal, Unsent, Work};
use futures_util::{Stream, StreamExt, stream};
use http::{Response, StatusCode};
use portable_atomic::AtomicU64;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReport, UpgradeGuard, serve,
};

use crate::support::loopback::loopback;

/// The body of a refusal response.
pub const REFUSED: &str = r#"{"error":"service is shutting down"}"#;
pub const STREAM_SIZE: usize = 1 << 20;
pub const UPLOAD_SIZE: usize = 8 << 20;

/// Returns a random number, from the random keys of the standard library's maps.
pub fn random(range: Range<u64>) -> u64 {
    let bits = RandomState::new().build_hasher().finish();
    range.start + bits % (range.end - range.start)
}

pub fn random_millis(range: Range<u64>) -> Duration {
    Duration::from_micros(random(range.start * 1000..range.end * 1000))
}

// ===== the service =====

/// The accept loop to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    /// `axum::serve` with the layer, under `run`.
    Axum,
    /// `axum::serve` with its own graceful shutdown, which begins with the drain.
    PlainAxum,
}

/// A server with a route for each kind of response that matters to its end.
pub struct Service {
    pub ctl: ShutdownController,
    pub address: SocketAddr,
    /// The number of events and messages that it has sent.
    pieces: Arc<AtomicU64>,
    run: JoinHandle<ShutdownReport>,
}

impl Service {
    /// A short drain, to allow many of them; the rest of the time is for slow machines.
    pub fn config() -> ShutdownConfig {
        ShutdownConfig::default().shutdown_timeout(Duration::from_secs(10))
    }

    pub async fn start(config: ShutdownConfig) -> Self {
        Self::start_with(Kind::Ours, config).await
    }

    pub async fn start_with(kind: Kind, config: ShutdownConfig) -> Self {
        let ctl = ShutdownController::with_config(config).unwrap();
        let pieces = Arc::<AtomicU64>::default();
        let app = Router::new()
            .route("/", get(async || "quick"))
            .route("/wait/{millis}", get(wait))
            .route("/stream", get(stream))
            .route("/upload", post(upload))
            .route("/early", post(async || "no need"))
            .route("/events", get(events))
            .route("/echo", any(echo))
            .with_state(Arc::clone(&pieces));
        let drains = app.clone().layer(DrainLayer::new(ctl.clone()));
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let run = match kind {
            Kind::Ours => tokio::spawn(serve(listener, drains, ctl.clone()).into_future()),
            Kind::Axum => {
                let server = axum::serve(listener, drains);
                let server = server.with_graceful_shutdown(ctl.stop_accepting());
                tokio::spawn(ctl.run(server))
            }
            Kind::PlainAxum => {
                let server = axum::serve(listener, app).with_graceful_shutdown(ctl.draining());
                tokio::spawn(ctl.run(server))
            }
        };
        Self {
            ctl,
            address,
            pieces,
            run,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits for the end of the server.
    pub async fn report(self) -> ShutdownReport {
        self.counts().await.report
    }

    /// Waits for the end of the server. Returns its counts.
    pub async fn counts(self) -> Counts {
        Counts {
            report: self.run.await.unwrap(),
            pieces: self.pieces.load(Ordering::Relaxed),
        }
    }
}

/// The server's own counts.
#[derive(Debug)]
pub struct Counts {
    pub report: ShutdownReport,
    pieces: u64,
}

async fn wait(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    format!("waited {millis} ms")
}

async fn stream() -> Body {
    let chunk = Bytes::from_static(&[b's'; STREAM_SIZE / 64]);
    Body::from_stream(stream::repeat(Ok::<_, Infallible>(chunk)).take(64))
}

async fn upload(body: Body) -> String {
    let mut received = 0;
    let mut body = body.into_data_stream();
    while let Some(Ok(chunk)) = body.next().await {
        received += chunk.len();
    }
    format!("{received} bytes")
}

/// Sends numbered events, without end.
async fn events(
    State(pieces): State<Arc<AtomicU64>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold(0, move |number| {
        let pieces = Arc::clone(&pieces);
        async move {
            sleep(Duration::from_millis(5)).await;
            pieces.fetch_add(1, Ordering::Relaxed);
            let event = Event::default().data(numbered(number));
            Some((Ok(event), number + 1))
        }
    });
    Sse::new(ticks)
}

/// Returns the text of an event. It is padded: h2's client closes a connection on which a hundred DATA frames
/// of less than 256 bytes wait to be read, which they do on a busy machine.
fn numbered(number: u64) -> String {
    format!("{number:0>256}")
}

/// Returns whether these are the first events, all complete, and how many they are.
pub fn first_events(body: &[u8]) -> (bool, u64) {
    let expected = |number| format!("data: {}\n\n", numbered(number));
    let (mut rest, mut count) = (body, 0);
    while let Some(after) = rest.strip_prefix(expected(count).as_bytes()) {
        (rest, count) = (after, count + 1);
    }
    (rest.is_empty(), count)
}

/// Echoes messages until draining begins, and then closes.
async fn echo(
    ws: WebSocketUpgrade,
    State(pieces): State<Arc<AtomicU64>>,
    Extension(guard): Extension<UpgradeGuard>,
) -> axum::response::Response {
    ws.on_upgrade(async move |mut socket| {
        loop {
            tokio::select! {
                message = socket.recv() => {
                    let Some(Ok(message)) = message else { return };
                    pieces.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send(message).await;
                }
                () = guard.draining() => break,
            }
        }
        let going_away = CloseFrame {
            code: close_code::AWAY,
            reason: "".into(),
        };
        let _ = socket.send(Message::Close(Some(going_away))).await;
        // Messages that the client sent before it saw the close frame are for another instance.
        while let Some(Ok(_)) = socket.recv().await {}
    })
}

// ===== the ledger =====

/// The ledger of a round: drain-check's, and what only these tests count.
#[derive(Default)]
pub struct Ledger {
    book: drain_check::Ledger,
    /// The number of events and messages that clients received.
    pieces: AtomicU64,
    draining_since: OnceLock<Duration>,
}

#[derive(Debug, Default, Clone)]
pub struct Entries {
    /// The number of events and messages that clients received.
    pub pieces: u64,
    /// 200, and the whole body.
    pub answered: u64,
    /// How many of them were certainly sent while draining.
    pub late: u64,
    /// 503 with `Retry-After`.
    pub refused: u64,
    /// Past the last stream in a GOAWAY, or reset as an unprocessed stream.
    pub unprocessed: u64,
    /// Not sent, because its connection was closed; sent again on another one.
    pub unsent: u64,
    /// Not sent, because the connection was refused.
    pub turned_away: u64,
    /// Ambiguous like lost requests, but the server cannot have seen them in time.
    pub crossed: Vec<String>,
    pub lost: Vec<String>,
}

impl Ledger {
    /// Returns the time since the beginning of the round.
    pub fn now(&self) -> Duration {
        self.book.now()
    }

    /// Notes that draining has begun.
    pub fn begin_draining(&self) {
        self.draining_since.get_or_init(|| self.now());
    }

    /// Returns for how long the server has been draining.
    pub fn draining_for(&self) -> Option<Duration> {
        Some(self.now() - *self.draining_since.get()?)
    }

    pub fn note(&self, entry: Entry) {
        self.book.note(entry);
    }

    pub fn note_pieces(&self, count: u64) {
        self.pieces.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes out the entries.
    pub fn take(&self) -> Entries {
        let mut entries = Entries {
            pieces: self.pieces.load(Ordering::Relaxed),
            ..Entries::default()
        };
        let draining_since = self.draining_since.get().copied();
        for entry in self.book.take() {
            entries.add(entry, draining_since.unwrap_or(Duration::MAX));
        }
        entries
    }
}

impl Entries {
    fn add(&mut self, entry: Entry, draining_since: Duration) {
        let why = || format!("{:?}: {}", entry.fate, entry.seen.as_deref().unwrap_or("–"));
        match entry.fate {
            Fate::Answered => {
                self.answered += 1;
                self.late += u64::from(entry.began >= draining_since);
            }
            Fate::Refused(Refusal::Later) => self.refused += 1,
            Fate::Refused(Refusal::Unprocessed) => self.unprocessed += 1,
            Fate::NeverSent(Unsent::Closed) => self.unsent += 1,
            Fate::NeverSent(Unsent::Refused) => self.turned_away += 1,
            Fate::Ambiguous => self.crossed.push(why()),
            _ => self.lost.push(why()),
        }
    }

    /// Panics if a request was lost, or if the server's counts differ.
    #[track_caller]
    pub fn check(&self, counts: &Counts) {
        let Counts { report, pieces } = counts;
        assert!(self.lost.is_empty(), "{self}\n{report}");
        let ours = (self.answered, self.refused, self.pieces);
        let theirs = (report.admitted(), report.refused(), *pieces);
        assert_eq!(ours, theirs, "{self}\n{report}");
        // Some were sent before draining, and arrived later.
        assert!(self.late <= report.late_requests(), "{self}\n{report}");
        assert!(report.is_graceful(), "{report}");
    }
}

impl AddAssign for Entries {
    fn add_assign(&mut self, other: Self) {
        self.pieces += other.pieces;
        self.answered += other.answered;
        self.late += other.late;
        self.refused += other.refused;
        self.unprocessed += other.unprocessed;
        self.unsent += other.unsent;
        self.turned_away += other.turned_away;
        self.crossed.extend(other.crossed);
        self.lost.extend(other.lost);
    }
}

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pieces: _,
            answered,
            late,
            refused,
            unprocessed,
            unsent,
            turned_away,
            crossed,
            lost,
        } = self;
        write!(
            f,
            "{answered} answered, {late} of them late, {refused} refused by 503, {unprocessed} by \
             GOAWAY, {unsent} to be sent anew, {turned_away} turned away at TCP, {} crossed a close, \
             {} lost or ambiguous",
            crossed.len(),
            lost.len()
        )?;
        for why in crossed.iter().take(10) {
            write!(f, "\n  crossed: {why}")?;
        }
        for why in lost.iter().take(10) {
            write!(f, "\n  lost: {why}")?;
        }
        Ok(())
    }
}

// ===== what clients see =====

/// Judges a response that was read to its end: more strictly than drain-check, which does not know the
/// server.
pub fn fate_of(response: &Response<Bytes>, is_whole: impl FnOnce(&Bytes) -> bool) -> Seen {
    let (status, body) = (response.status(), response.body());
    let head = Head::of(status, response.version(), response.headers());
    let expected = Expected::usual(StatusCode::OK, None);
    let read = Ok::<_, Infallible>(body.clone());
    let (fate, seen) = judge::answer(Work::Request, &head, read, Some(&expected), false);
    let is_proper = match fate {
        Fate::Answered => status == StatusCode::OK && is_whole(body),
        Fate::Refused(Refusal::Later) => {
            status == StatusCode::SERVICE_UNAVAILABLE && body == REFUSED
        }
        Fate::Refused(_) => false,
        _ => return (fate, seen),
    };
    if is_proper {
        return (fate, seen);
    }
    let begin = body[..body.len().min(100)].escape_ascii();
    let seen = format!("{status} and {} bytes: {begin}", body.len());
    (Fate::Lost(Loss::Content), Some(seen))
}

/// Judges an error in place of a response, on a connection that was accepted.
pub fn fate_of_error(error: &(dyn std::error::Error + 'static)) -> Seen {
    let known = Unanswered {
        was_sent: true,
        is_reused: false,
        has_bytes: false,
        is_accepted: true,
        after: Duration::ZERO,
    };
    judge::error(Work::Request, error, known)
}
