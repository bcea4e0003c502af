//! Clients of the load balancer, and the ledger in which they record the outcome of each request.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portable_atomic::AtomicU64;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::app::{QUICK, STREAM_CHUNK, STREAM_CHUNKS};
use super::process::LIFE;
use super::random;

const CONNECTIONS: usize = 64;
/// The time limit of a response. HAProxy's retries alone may take three seconds.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the number of requests that `TOWER_LIFECYCLE_TEST_REQUESTS` asks for, or else `default`.
pub fn requests_or(default: u64) -> u64 {
    number("TOWER_LIFECYCLE_TEST_REQUESTS", default)
}

/// The same for restarts, by `TOWER_LIFECYCLE_TEST_RESTARTS`.
pub fn restarts_or(default: u64) -> u64 {
    number("TOWER_LIFECYCLE_TEST_RESTARTS", default)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Clients that send one request after another, each on a connection that it reuses.
pub struct Load {
    runtime: Runtime,
    book: Arc<Book>,
    clients: JoinSet<Ledger>,
}

/// What the clients share.
struct Book {
    address: SocketAddr,
    sent: AtomicU64,
    ends: AtomicBool,
}

/// The outcomes of the requests.
#[derive(Debug, Default)]
pub struct Ledger {
    pub whole: u64,
    /// By what the client saw.
    pub failed: BTreeMap<String, u64>,
    /// The orders that got a response.
    pub orders: Vec<u64>,
    /// The longest time until a response.
    pub longest: Duration,
}

impl Ledger {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    pub fn requests(&self) -> u64 {
        self.whole + self.failures()
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        for (seen, times) in other.failed {
            *self.failed.entry(seen).or_default() += times;
        }
        self.orders.extend(other.orders);
        self.longest = self.longest.max(other.longest);
    }
}

impl Load {
    pub fn start(address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let book = Arc::new(Book {
            address,
            sent: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn_on(client(Arc::clone(&book)), runtime.handle());
        }
        Self {
            runtime,
            book,
            clients,
        }
    }

    /// Waits until the clients have sent this many requests.
    pub fn wait_for_sent(&self, requests: u64) {
        let deadline = Instant::now() + LIFE;
        while self.book.sent.load(Ordering::Relaxed) < requests {
            assert!(Instant::now() < deadline, "the clients are stuck");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets the clients complete their current requests. Returns what they saw.
    pub fn end(mut self) -> Ledger {
        self.book.ends.store(true, Ordering::Relaxed);
        self.runtime.block_on(async {
            let mut ledger = Ledger::default();
            while let Some(of_one) = self.clients.join_next().await {
                ledger += of_one.unwrap();
            }
            ledger
        })
    }
}

// ===== one client =====

type Connection = SendRequest<Full<Bytes>>;

async fn client(book: Arc<Book>) -> Ledger {
    let mut ledger = Ledger::default();
    let mut connection = None;
    while !book.ends.load(Ordering::Relaxed) {
        let number = book.sent.fetch_add(1, Ordering::Relaxed);
        let wanted = Wanted::choose(number);
        let began = Instant::now();
        let answer = timeout(TIMEOUT, send(&mut connection, book.address, &wanted)).await;
        ledger.longest = ledger.longest.max(began.elapsed());
        match answer.unwrap_or_else(|_| Err("nothing in time".into())) {
            Ok(()) => {
                ledger.whole += 1;
                if let Wanted::Order(id, _) = wanted {
                    ledger.orders.push(id);
                }
            }
            Err(seen) => {
                let seen = format!("{}: {seen}", wanted.parts().0);
                *ledger.failed.entry(seen).or_default() += 1;
                connection = None;
            }
        }
    }
    ledger
}

/// Sends a request and checks the response. Only a request that was never written is written again.
async fn send(
    connection: &mut Option<Connection>,
    balancer: SocketAddr,
    wanted: &Wanted,
) -> Result<(), String> {
    loop {
        // The load balancer may have closed it after an earlier response.
        let is_open = match connection {
            Some(kept) => kept.ready().await.is_ok(),
            None => false,
        };
        let kept = match connection {
            Some(kept) if is_open => kept,
            _ => connection.insert(connect(balancer).await),
        };
        match kept.try_send_request(wanted.request()).await {
            Ok(answer) => {
                let status = answer.status();
                let body = answer.into_body().collect().await;
                let body = body.map_err(|error| format!("{status}, then {}", root(&error)))?;
                return wanted.check(status, &body.to_bytes());
            }
            Err(mut error) => {
                if error.take_message().is_none() {
                    return Err(root(error.error()));
                }
                *connection = None;
            }
        }
    }
}

async fn connect(balancer: SocketAddr) -> Connection {
    let stream = TcpStream::connect(balancer).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    connection
}

/// Returns the root cause.
fn root(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => root(source),
        None => error.to_string(),
    }
}

/// A request, with its expected response.
enum Wanted {
    Quick,
    Slow(u64),
    Stream,
    /// With this id and this many bytes.
    Order(u64, usize),
}

impl Wanted {
    /// 78 % quick ones, 5 % slow ones, 2 % streams, 15 % orders.
    fn choose(number: u64) -> Self {
        let random = random();
        match random % 100 {
            0..78 => Self::Quick,
            78..83 => Self::Slow(100 + random / 100 % 300),
            83..85 => Self::Stream,
            _ => Self::Order(number, 1 + usize::try_from(random / 100 % 8192).unwrap()),
        }
    }

    /// The method, the path, and the length of the body.
    fn parts(&self) -> (&'static str, String, usize) {
        match self {
            Self::Quick => ("GET", "/".into(), 0),
            Self::Slow(millis) => ("GET", format!("/slow/{millis}"), 0),
            Self::Stream => ("GET", "/stream".into(), 0),
            Self::Order(id, length) => ("POST", format!("/orders/{id}"), *length),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let (method, path, body) = self.parts();
        let request = Request::builder().method(method).uri(path);
        let body = Full::from(vec![b'o'; body]);
        request.header(HOST, "balancer").body(body).unwrap()
    }

    fn check(&self, status: StatusCode, body: &[u8]) -> Result<(), String> {
        if status != StatusCode::OK {
            return Err(status.as_str().into());
        }
        let whole = match self {
            Self::Quick => body == QUICK.as_bytes(),
            Self::Slow(millis) => body == format!("slow {millis}").as_bytes(),
            Self::Stream => {
                let chunks = (0..STREAM_CHUNKS).map(|number| [number; STREAM_CHUNK]);
                chunks.eq(body.chunks(STREAM_CHUNK))
            }
            Self::Order(id, length) => body == format!("order {id} of {length}").as_bytes(),
        };
        whole.then_some(()).ok_or_else(|| "200, not whole".into())
    }
}
