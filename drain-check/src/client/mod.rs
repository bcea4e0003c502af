//! The load: clients that nobody wrote for this purpose, each with a ledger.

mod http1;
mod http2;
mod judge;
mod once;
mod pooled;
mod websocket;
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
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
use crate::options::Options;
use crate::random::Random;
use crate::target::Target;

pub use once::{Once, once};
pub use websocket::open_once;
use wire::Wire;

/// The body of a request.
type Body = BoxBody<Bytes, Infallible>;

/// Between two requests of a client, at most.
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
    pub target: Target,
    /// What GETs ask for, in turn.
    pub paths: Vec<String>,
    /// What each path answers without a restart.
    pub expected: HashMap<String, Expected>,
    pub ledger: Ledger,
    pub answer_within: Duration,
}

/// A proper answer.
#[derive(Debug, Clone)]
pub struct Expected {
    pub status: StatusCode,
    /// Unless it differs from one request to the next.
    pub body: Option<Bytes>,
}

/// Running clients. They are aborted when it is dropped.
#[derive(Debug)]
pub struct Load {
    ends: watch::Sender<bool>,
    clients: JoinSet<()>,
    answer_within: Duration,
}

impl Load {
    /// Starts the clients that the options ask for.
    pub fn start(job: Job, options: &Options, random: &mut Random) -> Self {
        let (ends, end) = watch::channel(false);
        let answer_within = job.answer_within;
        let mut load = Self {
            ends,
            clients: JoinSet::new(),
            answer_within,
        };
        let (job, mut number) = (Arc::new(job), 0);
        let mut client = |sender, work, path: Option<&String>| {
            number += 1;
            Client {
                job: Arc::clone(&job),
                number: number - 1,
                sender,
                work,
                path: path.cloned(),
                random: Random::new(random.number()),
                end: end.clone(),
                turn: usize::from(number as u16),
                backoff: BACKOFF[0],
            }
        };
        let count = usize::from(options.clients);
        let few = count.div_ceil(3);
        if options.has_http1() {
            for _ in 0..count {
                let client = client(Sender::Http1, Work::Request, None);
                load.clients.spawn(http1::run(client));
            }
            for _ in 0..few {
                let client = client(Sender::Reqwest1, Work::Request, None);
                load.clients.spawn(pooled::run(client));
            }
        }
        if options.has_http2() {
            for _ in 0..count.div_ceil(http2::STREAMS) {
                let shared = http2::Shared::default();
                for _ in 0..http2::STREAMS {
                    let client = client(Sender::Http2, Work::Request, None);
                    load.clients.spawn(http2::run(client, shared.clone()));
                }
            }
            for _ in 0..few {
                let client = client(Sender::Reqwest2, Work::Request, None);
                load.clients.spawn(pooled::run(client));
            }
        }
        for path in options
            .upload
            .iter()
            .flat_map(|path| std::iter::repeat_n(path, few))
        {
            if options.has_http1() {
                let client = client(Sender::Http1, Work::Upload, Some(path));
                load.clients.spawn(http1::run(client));
            }
            if options.has_http2() {
                let client = client(Sender::Http2, Work::Upload, Some(path));
                load.clients
                    .spawn(http2::run(client, http2::Shared::default()));
            }
        }
        for path in options
            .sse
            .iter()
            .flat_map(|path| std::iter::repeat_n(path, few))
        {
            let client = client(Sender::Http1, Work::Events, Some(path));
            load.clients.spawn(http1::run(client));
        }
        for path in options
            .ws
            .iter()
            .flat_map(|path| std::iter::repeat_n(path, few))
        {
            let client = client(Sender::WebSocket, Work::WebSocket, Some(path));
            load.clients.spawn(websocket::run(client));
        }
        load
    }

    /// Waits until each client has the answer to its last request.
    pub async fn end(mut self) {
        self.ends.send_replace(true);
        let all = async { while self.clients.join_next().await.is_some() {} };
        // Each has its own time limit; this one is for a stream that is stuck.
        let _ = timeout(self.answer_within + Duration::from_secs(1), all).await;
    }
}

/// What each client has.
#[derive(Debug)]
struct Client {
    job: Arc<Job>,
    number: u32,
    sender: Sender,
    work: Work,
    /// Instead of the job's.
    path: Option<String>,
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
        let paths = &self.job.paths;
        let path = self.path.as_ref();
        path.unwrap_or_else(|| &paths[self.turn % paths.len()])
            .clone()
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
        let pause = if matches!(after, UNSENT | Fate::Refused) {
            let pause = self.backoff;
            self.backoff = (pause * 2).min(BACKOFF[1]);
            pause
        } else {
            self.backoff = BACKOFF[0];
            self.random.up_to(PAUSE)
        };
        let _ = timeout(pause, ended(&mut self.end)).await;
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
type Seen = (Fate, Option<String>);

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
