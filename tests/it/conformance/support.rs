//! Scripts of raw bytes, the servers that they are sent to, and the page that shows the results.

pub mod frames;
pub mod http1;
pub mod http2;
pub mod http2_requests;
pub mod page;

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::map_request_with_state;
use axum::routing::{any, get};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use portable_atomic::AtomicU64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReport, serve};

use crate::support::loopback::loopback;

/// How long a server may be silent before it is considered idle. Only a script that does not behave
/// as its row says waits this long.
pub const QUIET: Duration = Duration::from_secs(5);

// ===== rows =====

/// A script, and the results from the servers.
///
/// A result is a text: the responses in order, joined by ` + `, and the final state. `open` is a
/// connection on which another request gets a response, `closed` one that the server has closed,
/// `waits` one on which the server waits for more, and `gone` one that the client has closed.
pub struct Row {
    pub name: &'static str,
    pub steps: Vec<Step>,
    /// Completes the input that the server waits for.
    pub rest: Step,
    /// The response to the first request has no body, whatever its head says.
    pub is_head: bool,
    /// Compares only the state of the connection, because the outcome of each request is a race.
    pub is_of_connection: bool,
    /// The result for both, if it differs when the first byte arrives alone.
    pub apart: Option<&'static str>,
    pub serve: &'static str,
    pub axum: &'static str,
    /// Why the two differ, or the reason for the result.
    pub note: &'static str,
}

#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// The same bytes, repeated.
    Flood(Vec<u8>, usize),
    /// Byte by byte, each in a separate packet.
    Drip(Vec<u8>),
    /// Waits for one more response.
    Receive,
    /// Shuts down the write side.
    HalfClose,
    /// Closes the socket, cleanly or by a reset.
    Leave {
        resets: bool,
    },
}

impl Row {
    /// A row with the same result for both servers.
    pub fn new(name: &'static str, steps: Vec<Step>, both: &'static str) -> Self {
        Self {
            name,
            steps,
            rest: Step::HalfClose,
            is_head: false,
            is_of_connection: false,
            apart: None,
            serve: both,
            axum: both,
            note: "",
        }
    }

    /// The result of axum's server, and why this crate's server differs.
    pub fn but_axum(mut self, axum: &'static str, why: &'static str) -> Self {
        self.axum = axum;
        self.note = why;
        self
    }

    pub fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    pub fn rest(mut self, rest: impl AsRef<[u8]>) -> Self {
        self.rest = Step::Send(rest.as_ref().to_vec());
        self
    }

    pub fn apart(mut self, serve: &'static str) -> Self {
        self.apart = Some(serve);
        self
    }

    pub fn about_the_connection(mut self) -> Self {
        self.is_of_connection = true;
        self
    }

    /// Returns how many bytes are sent.
    pub fn length(&self) -> usize {
        let length = |step: &Step| match step {
            Step::Send(bytes) | Step::Drip(bytes) => bytes.len(),
            Step::Flood(bytes, times) => bytes.len() * times,
            _ => 0,
        };
        self.steps.iter().map(length).sum()
    }

    pub fn without_body(mut self) -> Self {
        self.is_head = true;
        self
    }
}

/// Splits a result into responses and final state.
pub fn parts(text: &str) -> (Vec<&str>, &str) {
    let Some((answers, end)) = text.split_once(", ") else {
        return (Vec::new(), text);
    };
    let answers = answers.split(" + ");
    let each = answers.flat_map(|answer| match answer.split_once(" × ") {
        Some((times, answer)) => vec![answer; times.parse().unwrap()],
        None => vec![answer],
    });
    (each.collect(), end)
}

/// The reverse of `parts`.
fn join(answers: &[String], end: &str) -> String {
    let runs = answers.chunk_by(|one, next| one == next);
    let texts = runs.map(|run| match run.len() {
        1 | 2 => run.join(" + "),
        times => format!("{times} × {}", run[0]),
    });
    match texts.collect::<Vec<_>>() {
        texts if texts.is_empty() => end.to_owned(),
        texts => format!("{}, {end}", texts.join(" + ")),
    }
}

// ===== clients =====

/// Parses the server's output into responses.
pub trait Parser: Send {
    fn parse(&mut self, bytes: &mut BytesMut);
    fn answers(&self) -> &[String];
    /// The request that tests whether the connection still works.
    fn probe(&self) -> Vec<u8>;
    /// Whether that request got its response.
    fn is_probe_answered(&self) -> bool;
}

/// The result of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub text: String,
    /// The server has reset the connection, possibly while the client was sending, after all of its
    /// output. A client that reads late may lose the response.
    pub is_reset: bool,
    /// How many bytes were received.
    pub received: usize,
}

/// Runs the steps of a script, of which this many bytes were already sent. Returns the result.
///
/// The expected result says how many responses to wait for before the connection is tested.
pub async fn play(
    socket: TcpStream,
    row: &Row,
    sent: usize,
    parser: &mut impl Parser,
    expected: &str,
) -> Seen {
    socket.set_nodelay(true).unwrap();
    let (expected, expected_end) = parts(expected);
    let waits = expected_end == "waits";
    let (mut reader, writer) = socket.into_split();
    let (told, heard) = watch::channel(0);
    let mut writing = pin!(write(writer, &row.steps, sent, heard));
    let mut writer: Option<Writer> = None; // returned when everything is written
    let mut buffer = BytesMut::new();
    let mut is_overdue = false;
    let mut tested_after = None;
    let mut is_reset = false;
    let mut received = 0;
    let end = loop {
        let has_all = parser.answers().len() >= expected.len();
        let is_due = is_overdue || (has_all && expected_end != "closed");
        if let (Some(writer), true, None) = (&mut writer, is_due, tested_after) {
            tested_after = Some(parser.answers().len());
            let probe = Step::Send(parser.probe());
            writer.take(if waits { &row.rest } else { &probe }).await;
        }
        let event = async {
            tokio::select! {
                written = &mut writing, if writer.is_none() => Event::Written(written),
                read = reader.read_buf(&mut buffer) => Event::Read(read),
            }
        };
        match timeout(QUIET, event).await {
            Ok(Event::Written(None)) => break "gone",
            Ok(Event::Written(half)) => writer = half,
            Ok(Event::Read(Ok(count))) if count > 0 => {
                received += count;
                parser.parse(&mut buffer);
                told.send_replace(parser.answers().len());
                match tested_after {
                    _ if parser.is_probe_answered() => break "open",
                    Some(before) if waits && parser.answers().len() > before => break "waits",
                    _ => {}
                }
            }
            Ok(Event::Read(result)) => {
                is_reset = result.is_err();
                if writer.is_none() {
                    told.send_replace(usize::MAX);
                    let rest = timeout(QUIET, &mut writing).await;
                    writer = rest.expect("it is not read");
                }
                is_reset |= writer.as_ref().is_some_and(|writer| writer.is_refused);
                let was_told = waits && tested_after.is_some();
                break match row.rest {
                    Step::HalfClose if was_told => "waits",
                    _ => "closed",
                };
            }
            // The server behaves differently from what is expected.
            Err(_) if tested_after.is_none() && writer.is_some() => is_overdue = true,
            Err(_) => break "waits",
        }
    };
    let answers = match (end, tested_after) {
        ("waits", Some(before)) => &parser.answers()[..before],
        _ => parser.answers(),
    };
    Seen {
        text: join(answers, end),
        is_reset,
        received,
    }
}

enum Event {
    Written(Option<Writer>),
    Read(io::Result<usize>),
}

struct Writer {
    half: OwnedWriteHalf,
    /// The server has not accepted everything.
    is_refused: bool,
}

/// Runs all steps. Returns the socket, unless the client closes it.
async fn write(
    half: OwnedWriteHalf,
    steps: &[Step],
    sent: usize,
    mut heard: watch::Receiver<usize>,
) -> Option<Writer> {
    let is_refused = false;
    let mut writer = Writer { half, is_refused };
    let mut to_hear = 0;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Receive => {
                to_hear += 1;
                let _ = heard.wait_for(|heard| *heard >= to_hear).await;
            }
            Step::Leave { resets } => {
                if *resets {
                    writer.half.as_ref().set_zero_linger().unwrap();
                }
                return None;
            }
            Step::Send(bytes) if number == 0 => {
                writer.take(&Step::Send(bytes[sent..].to_vec())).await;
            }
            Step::Drip(bytes) if number == 0 => {
                writer.take(&Step::Drip(bytes[sent..].to_vec())).await;
            }
            step => writer.take(step).await,
        }
    }
    Some(writer)
}

impl Writer {
    /// Runs a step.
    async fn take(&mut self, step: &Step) {
        let result = match step {
            Step::Send(bytes) => self.half.write_all(bytes).await,
            Step::Flood(bytes, times) => self.half.write_all(&bytes.repeat(*times)).await,
            Step::Drip(bytes) => {
                for byte in bytes {
                    let result = self.half.write_all(&[*byte]).await;
                    self.is_refused |= result.is_err();
                }
                Ok(())
            }
            Step::HalfClose => self.half.shutdown().await,
            Step::Receive | Step::Leave { .. } => {
                unreachable!("{step:?} is not about what is sent")
            }
        };
        self.is_refused |= result.is_err();
    }
}

// ===== servers =====

/// The server to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Serve,
    Axum,
}

impl Kind {
    pub fn column(self, row: &Row) -> &'static str {
        match self {
            Self::Serve => row.serve,
            Self::Axum => row.axum,
        }
    }
}

pub struct Server {
    pub ctl: ShutdownController,
    pub address: SocketAddr,
    /// How many requests have reached the application.
    handled: Arc<AtomicU64>,
    /// Releases one held request.
    pub release: Arc<Semaphore>,
    run: JoinHandle<ShutdownReport>,
}

impl Server {
    pub async fn start(kind: Kind, config: ShutdownConfig, grace: Duration) -> Self {
        let ctl = ShutdownController::with_config(config).unwrap();
        let handled = Arc::<AtomicU64>::default();
        let release = Arc::new(Semaphore::new(0));
        let app = app(&handled, &release);
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let run = match kind {
            Kind::Serve => {
                let app = app.layer(DrainLayer::new(ctl.clone())).with_state(());
                tokio::spawn(serve(listener, app, ctl.clone()).grace(grace).into_future())
            }
            Kind::Axum => {
                let server = axum::serve(listener, app);
                tokio::spawn(ctl.run(server.with_graceful_shutdown(ctl.stop_accepting())))
            }
        };
        Self {
            ctl,
            address,
            handled,
            release,
            run,
        }
    }

    /// Sends a request that is held, and waits until it has reached the application.
    pub async fn hold(&self) -> TcpStream {
        let before = self.handled();
        let mut socket = self.connect().await;
        let request = b"GET /held HTTP/1.1\r\nhost: test\r\n\r\n";
        socket.write_all(request).await.unwrap();
        while self.handled() == before {
            sleep(Duration::from_millis(1)).await;
        }
        socket
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::SeqCst)
    }

    /// Asserts that other clients are served.
    pub async fn assert_alive(&self, after: &str) {
        let request = "GET /probe HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(QUIET, socket.read_to_string(&mut answer)).await;
        read.expect("no answer").unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 "),
            "after {after}: {answer}"
        );
    }

    pub async fn report(self) -> ShutdownReport {
        let report = timeout(Duration::from_secs(30), self.run).await;
        report.expect("it does not end").unwrap()
    }
}

/// An application with a route for each relevant kind of response.
fn app(handled: &Arc<AtomicU64>, release: &Arc<Semaphore>) -> Router {
    let release = Arc::clone(release);
    let held = async move || {
        release.acquire().await.unwrap().forget();
        "at last"
    };
    let count = async |State(handled): State<Arc<AtomicU64>>, request: Request| {
        handled.fetch_add(1, Ordering::SeqCst);
        request
    };
    // With a known length, so that HEAD keeps it.
    let echo =
        async |request: Request| match axum::body::to_bytes(request.into_body(), 1 << 20).await {
            Ok(body) => (StatusCode::OK, body),
            Err(_) => (StatusCode::UNPROCESSABLE_ENTITY, Bytes::new()),
        };
    Router::new()
        .route("/", get(async || "hello"))
        .route("/probe", any(async || "probe"))
        .route("/echo", any(echo))
        .route("/held", get(held))
        .route("/never", any(std::future::pending::<()>))
        // Ignores the request's body.
        .route("/early", any(async || "early"))
        .route(
            "/empty",
            any(async || (StatusCode::NO_CONTENT, "not to be sent")),
        )
        .route(
            "/same",
            any(async || (StatusCode::NOT_MODIFIED, "not to be sent")),
        )
        .layer(map_request_with_state(Arc::clone(handled), count))
}
