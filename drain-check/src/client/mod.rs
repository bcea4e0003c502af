//! The load: clients that nobody wrote for this purpose. They enter the fate of each request into a
//! [`Ledger`].

mod http1;
mod http2;
pub mod judge;
mod once;
#[cfg(feature = "program")]
mod pooled;
mod probe;
#[cfg(feature = "program")]
mod websocket;
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ledger::{Entry, Fate, Ledger, Sender, Unsent, Work};
use crate::random::Random;
use crate::target::Target;

pub use http1::Connection;
#[cfg(feature = "program")]
pub(crate) use once::{Once, once};
#[cfg(feature = "program")]
pub(crate) use probe::PERIOD as PROBE_PERIOD;
pub use probe::Probe;
#[cfg(feature = "program")]
pub(crate) use websocket::open_once;
pub use wire::{Traffic, Wire};

/// The body of a request.
pub type Body = BoxBody<Bytes, Infallible>;

/// For an answer, by default.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two requests of a client, at most, by default.
const PAUSE: Duration = Duration::from_millis(30);
/// After a refused connection, doubled up to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(160)];
/// An upload is sent in this many chunks of this many bytes, with pauses in between.
const CHUNKS: usize = 16;
const CHUNK: usize = 16 * 1024;
const CHUNK_PAUSE: Duration = Duration::from_millis(15);

const UNSENT: Fate = Fate::NeverSent(Unsent::Refused);

/// What all clients know.
#[derive(Debug)]
pub struct Job {
    target: Target,
    /// What each path answers without a restart.
    expected: HashMap<String, Expected>,
    ledger: Ledger,
    answer_within: Duration,
    pause: Duration,
    /// Within what time the clients begin.
    spread: Duration,
}

/// A proper answer.
#[derive(Debug, Clone)]
pub struct Expected {
    status: StatusCode,
    /// Unless it differs from one request to the next.
    body: Option<Bytes>,
    /// Whether no other body is proper.
    is_exact: bool,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    work: Work,
    /// In turn.
    paths: Arc<[String]>,
}

/// Running clients. They are aborted when it is dropped.
#[derive(Debug)]
pub struct Load {
    job: Arc<Job>,
    random: Random,
    number: u32,
    ends: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Job {
    /// Sends requests to a server, and enters their fates into a ledger.
    pub fn new(target: impl Into<Target>, ledger: &Ledger) -> Self {
        Self {
            target: target.into(),
            expected: HashMap::new(),
            ledger: ledger.clone(),
            answer_within: ANSWER_WITHIN,
            pause: PAUSE,
            spread: Duration::ZERO,
        }
    }

    /// Sets what a path answers without a restart.
    #[must_use]
    pub fn expect(mut self, path: impl Into<String>, expected: Expected) -> Self {
        self.expected.insert(path.into(), expected);
        self
    }

    /// Sets how long a client waits for an answer, or for its next part. The default is 10 s.
    #[must_use]
    pub fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    /// Sets how long a client pauses between two requests, at most. The default is 30 ms.
    #[must_use]
    pub fn pause(mut self, time: Duration) -> Self {
        self.pause = time;
        self
    }

    /// Sets within what time the clients begin, each at a random moment. The default is zero.
    ///
    /// Clients that begin at once send their requests to a slow server in step. A signal then meets all of
    /// them in the same moment of their requests.
    #[must_use]
    pub fn spread(mut self, time: Duration) -> Self {
        self.spread = time;
        self
    }
}

impl Expected {
    /// This body and 200, and nothing else.
    pub fn exactly(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(body.into()),
            is_exact: true,
        }
    }

    /// What an unknown server has answered before, twice if there is a body.
    pub fn usual(status: StatusCode, body: Option<Bytes>) -> Self {
        Self {
            status,
            body,
            is_exact: false,
        }
    }
}

impl Ask {
    /// Gets these paths, in turn.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn get(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let paths: Arc<[String]> = paths.into_iter().map(Into::into).collect();
        assert!(!paths.is_empty(), "a client needs a path");
        Self {
            work: Work::Request,
            paths,
        }
    }

    /// Uploads to this path, which takes a quarter of a second.
    pub fn upload(path: impl Into<String>) -> Self {
        Self {
            work: Work::Upload,
            ..Self::get([path])
        }
    }

    /// Reads the events of this path, to their end.
    pub fn events(path: impl Into<String>) -> Self {
        Self {
            work: Work::Events,
            ..Self::get([path])
        }
    }
}

impl Load {
    /// Starts no client yet. Equal seeds make equal pauses.
    #[must_use]
    pub fn new(job: Job, seed: u64) -> Self {
        Self {
            job: Arc::new(job),
            random: Random::new(seed),
            number: 0,
            ends: watch::Sender::new(false),
            clients: JoinSet::new(),
        }
    }

    /// Starts HTTP/1 clients, with a connection each.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn http1(&mut self, count: usize, ask: &Ask) {
        for _ in 0..count {
            let client = self.client(Sender::Http1, ask);
            self.spawn(client, http1::run);
        }
    }

    /// Starts HTTP/2 clients, of which this many share a connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn http2(&mut self, count: usize, streams: usize, ask: &Ask) {
        let mut shared = http2::Shared::default();
        for n in 0..count {
            if n % streams.max(1) == 0 {
                shared = http2::Shared::default();
            }
            let client = self.client(Sender::Http2, ask);
            let shared = shared.clone();
            self.spawn(client, |client| http2::run(client, shared));
        }
    }

    /// Starts reqwest's clients, with a pool each.
    #[cfg(feature = "program")]
    pub(crate) fn pooled(&mut self, sender: Sender, count: usize, ask: &Ask) {
        for _ in 0..count {
            let client = self.client(sender, ask);
            self.spawn(client, pooled::run);
        }
    }

    /// Starts clients that open WebSockets.
    #[cfg(feature = "program")]
    pub(crate) fn websockets(&mut self, count: usize, path: &str) {
        let ask = Ask {
            work: Work::WebSocket,
            ..Ask::get([path])
        };
        for _ in 0..count {
            let client = self.client(Sender::WebSocket, &ask);
            self.spawn(client, websocket::run);
        }
    }

    fn client(&mut self, sender: Sender, ask: &Ask) -> Client {
        self.number += 1;
        Client {
            job: Arc::clone(&self.job),
            number: self.number - 1,
            sender,
            work: ask.work,
            paths: Arc::clone(&ask.paths),
            random: Random::new(self.random.number()),
            end: self.ends.subscribe(),
            turn: usize::from(self.number as u16),
            backoff: BACKOFF[0],
        }
    }

    fn spawn<F>(&mut self, mut client: Client, run: impl FnOnce(Client) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let first_pause = self.random.up_to(self.job.spread);
        self.clients.spawn(async move {
            client.wait(first_pause).await;
            run(client).await;
        });
    }

    /// Waits until each client has the answer to its last request.
    pub async fn end(mut self) {
        self.ends.send_replace(true);
        let all = async { while self.clients.join_next().await.is_some() {} };
        // Each has its own time limit; this one is for a stream that is stuck.
        let _ = timeout(self.job.answer_within + Duration::from_secs(1), all).await;
    }
}

/// What each client has.
#[derive(Debug)]
struct Client {
    job: Arc<Job>,
    number: u32,
    sender: Sender,
    work: Work,
    paths: Arc<[String]>,
    random: Random,
    end: watch::Receiver<bool>,
    /// Whose turn it is, of the paths and the addresses.
    turn: usize,
    backoff: Duration,
}

impl Client {
    fn has_ended(&self) -> bool {
        *self.end.borrow()
    }

    fn now(&self) -> Duration {
        self.job.ledger.now()
    }

    fn next_path(&mut self) -> String {
        self.turn += 1;
        self.paths[self.turn % self.paths.len()].clone()
    }

    fn request(&self, path: &str) -> Request<Body> {
        // HTTP/2 sends the whole URI, HTTP/1 the path and a Host.
        let authority = &self.job.target.authority;
        let mut request = match self.sender {
            Sender::Http2 => Request::builder().uri(self.job.target.url("http", path)),
            _ => Request::builder()
                .uri(path.parse::<Uri>().unwrap_or_default())
                .header(header::HOST, authority.as_str()),
        };
        if self.work != Work::Upload {
            let body = Empty::new().boxed();
            return request.body(body).expect("a parsed path");
        }
        request = request.method(Method::POST);
        let request = request.header(header::CONTENT_LENGTH, CHUNKS * CHUNK);
        request.body(slow_body()).expect("a parsed path")
    }

    fn note(&self, began: Duration, (fate, seen): Seen) {
        self.job.ledger.note(Entry {
            client: self.number,
            sender: self.sender,
            work: self.work,
            began,
            ended: self.now(),
            fate,
            seen: seen.map(String::into_boxed_str),
        });
    }

    /// Waits before the next request.
    async fn pause(&mut self, after: Fate) {
        let pause = if matches!(after, UNSENT | Fate::Refused(_)) {
            let pause = self.backoff;
            self.backoff = (pause * 2).min(BACKOFF[1]);
            pause
        } else {
            self.backoff = BACKOFF[0];
            self.random.up_to(self.job.pause)
        };
        self.wait(pause).await;
    }

    /// Waits this long, or until the load ends.
    async fn wait(&mut self, time: Duration) {
        let _ = timeout(time, ended(&mut self.end)).await;
    }

    /// Connects to the first address that accepts, and notes those that do not.
    async fn connect(&mut self) -> Option<Wire> {
        let job = Arc::clone(&self.job);
        let addresses = &job.target.addresses;
        for _ in addresses {
            self.turn += 1;
            let began = self.now();
            let address = addresses[self.turn % addresses.len()];
            match timeout(job.answer_within, Wire::connect(address)).await {
                Ok(Ok(wire)) => return Some(wire),
                Ok(Err(error)) => self.note(began, (UNSENT, Some(error.to_string()))),
                Err(_) => {
                    let seen = "nobody accepts the connection in time".to_owned();
                    self.note(began, (UNSENT, Some(seen)));
                }
            }
        }
        self.pause(UNSENT).await;
        None
    }
}

/// Waits for the end of the load.
async fn ended(end: &mut watch::Receiver<bool>) {
    // An error says that the load is gone.
    let _ = end.wait_for(|ends| *ends).await;
}

/// A fate, and what the client saw, if it was not answered.
pub type Seen = (Fate, Option<String>);

/// A body that takes a quarter of a second.
fn slow_body() -> Body {
    let chunks = stream::unfold(0, |number| async move {
        if number == CHUNKS {
            return None;
        }
        if number > 0 {
            sleep(CHUNK_PAUSE).await;
        }
        let chunk = Bytes::from_static(&[b'u'; CHUNK]);
        Some((Ok(Frame::data(chunk)), number + 1))
    });
    // `BoxBody` must be `Sync`, which the sleep is.
    StreamBody::new(chunks).boxed()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// Returns when each of twenty clients began, with nobody to answer them.
    async fn beginnings(spread: Duration) -> Vec<Duration> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let ledger = Ledger::default();
        let job = Job::new(Target::of(vec![address], false), &ledger).spread(spread);
        let mut load = Load::new(job, 1);
        load.http1(20, &Ask::get(["/"]));
        sleep(Duration::from_millis(500)).await;
        load.end().await;
        let entries = ledger.take();
        let first = |client| {
            let of_client = entries.iter().filter(|entry| entry.client == client);
            of_client.map(|entry| entry.began).min()
        };
        (0..20).filter_map(first).collect()
    }

    #[tokio::test]
    async fn clients_begin_at_random_moments_of_the_spread() {
        let spread = Duration::from_millis(400);
        let began = beginnings(spread).await;
        assert_eq!(began.len(), 20);
        let in_the = |half: std::ops::Range<Duration>| began.iter().any(|at| half.contains(at));
        assert!(in_the(Duration::ZERO..spread / 2), "{began:?}");
        assert!(in_the(spread / 2..2 * spread), "{began:?}");
    }
}
