//! Bytes on a connection of `serve`.

use std::convert::Infallible;
use std::future::{IntoFuture, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, duplex, split};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, service_fn};
use tower_lifecycle::health::HealthLayer;
use tower_lifecycle::server::Listener;
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, serve};

use crate::on_paused_clock;

#[derive(Debug, Arbitrary)]
pub struct Input {
    /// The capacity of the pipe in each direction.
    pipe: u16,
    reads: bool,
    closes: bool,
    /// Lets the server finish its work before the next step.
    settles: bool,
    // Last, because the steps take most of the bytes.
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Bytes(Vec<u8>),
    Request(Line, Vec<Field>),
    Preface,
    Frame {
        kind: u8,
        flags: u8,
        stream: u8,
        payload: Vec<u8>,
    },
    Get {
        stream: u8,
        slow: bool,
    },
    Wait(u16),
    Pause,
    Unpause,
    Trigger,
    Force,
}

#[derive(Debug, Arbitrary)]
enum Line {
    Get,
    Head,
    Slow,
    Post,
    Connect,
    Health,
    Http10,
}

#[derive(Debug, Arbitrary)]
enum Field {
    KeepAlive,
    Close,
    Upgrade,
    Chunked,
    Expect,
    Length(u8),
    Grpc,
}

/// A listener with one connection.
struct One(Option<DuplexStream>);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

const TOTAL: Duration = Duration::from_secs(10);
const ANSWER: &str = "an answer";
const REFUSED: &str = r#"{"error":"service is"#;

pub fn check(input: &Input) {
    on_paused_clock(input.holds());
}

impl Input {
    async fn holds(&self) {
        let config = ShutdownConfig::default()
            .shutdown_timeout(TOTAL)
            .lame_duck(Duration::from_secs(1));
        let ctl = ShutdownController::with_config(config).expect("it fits");
        let (client, connection) = duplex(usize::from(self.pipe) + 1);
        let alive = Arc::new(());
        let app = HealthLayer::new(ctl.clone())
            .layer(DrainLayer::new(ctl.clone()).layer(service_fn(app_of(&alive))));
        let server = serve(One(Some(connection)), app, ctl.clone()).into_future();
        let server = tokio::spawn(server);

        let (from, mut to) = split(client);
        let reader = tokio::spawn(read(from, self.reads));
        for step in self.steps.iter().take(64) {
            if self.settles {
                // The clock moves when all tasks are idle.
                sleep(Duration::from_millis(1)).await;
            }
            let bytes = match step {
                Step::Wait(millis) => {
                    sleep(Duration::from_millis((*millis).into())).await;
                    continue;
                }
                Step::Pause => {
                    ctl.pause();
                    continue;
                }
                Step::Unpause => {
                    ctl.unpause();
                    continue;
                }
                Step::Trigger => {
                    ctl.trigger(ShutdownReason::Manual);
                    continue;
                }
                Step::Force => {
                    ctl.force();
                    continue;
                }
                step => step.bytes(),
            };
            // The server may have closed, or may have stopped reading.
            let _ = timeout(Duration::from_millis(10), to.write_all(&bytes)).await;
        }
        if self.closes && !self.begins_with_get() {
            let _ = timeout(Duration::from_millis(10), to.shutdown()).await;
        }

        let asked = Instant::now();
        ctl.trigger(ShutdownReason::Manual);
        let report = timeout(2 * TOTAL, server).await.expect("it ends in time");
        let report = report.expect("it does not panic");
        let late = TOTAL + Duration::from_millis(5);
        assert!(asked.elapsed() <= late, "{:?}", asked.elapsed());
        assert!(report.duration() <= late, "{report}");
        assert_eq!(ctl.in_flight(), 0);
        assert_eq!(report.abandoned(), 0, "{report}");
        assert_eq!(Arc::strong_count(&alive), 1, "nothing of ours still runs");
        drop(to);
        let read = reader.await.expect("it only reads");
        if self.reads && self.is_http2() {
            assert_sends_goaway(&read);
        }
        let read = String::from_utf8_lossy(&read);
        assert_answers(&read);
        if self.begins_with_get() && self.settles && self.reads {
            assert!(read.starts_with("HTTP/1.1 200 OK\r\n"), "{read}");
            assert!(read.contains(ANSWER), "{read}");
        }
    }
}

impl Input {
    /// The server is running, so the request is not refused.
    fn begins_with_get(&self) -> bool {
        matches!(self.steps.first(), Some(Step::Request(Line::Get, fields)) if fields.is_empty())
    }

    /// The client speaks HTTP/2 and is not cut.
    fn is_http2(&self) -> bool {
        let is_calm = |step: &Step| {
            use Step::{Get, Pause, Trigger, Unpause, Wait};
            matches!(step, Wait(_) | Get { .. } | Pause | Unpause | Trigger)
        };
        let calm = self.steps.iter().skip(1).all(is_calm) && !self.closes;
        matches!(self.steps.first(), Some(Step::Preface)) && calm && self.settles
    }
}

/// Reads the request to its end. Then responds at once, or after a while at `/slow`.
fn app_of<B>(alive: &Arc<()>) -> impl FnMut(Request<B>) -> Answer + Clone + Send + use<B>
where
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    let alive = Arc::clone(alive);
    move |request: Request<B>| {
        let alive = Arc::clone(&alive);
        Box::pin(async move {
            let _alive = alive;
            let (head, body) = request.into_parts();
            let _ = body.collect().await;
            if head.uri.path() == "/slow" {
                sleep(Duration::from_secs(2)).await;
            }
            Ok(Response::new(Full::from(ANSWER)))
        })
    }
}

/// In HTTP/1 a refusal asks the client to close, and no response follows one that does.
fn assert_answers(read: &str) {
    let mut has_closed = false;
    for answer in read.split("HTTP/1.").skip(1) {
        assert!(!has_closed, "one more answer: {read}");
        // Skips an incomplete head.
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        has_closed = head.contains("\r\nconnection: close");
        if body.starts_with(REFUSED) || head.contains("grpc-status: 14") {
            assert!(has_closed, "{answer}");
        }
    }
}

/// In HTTP/2 the server sends whole frames, and a GOAWAY before it closes.
fn assert_sends_goaway(mut read: &[u8]) {
    let mut sent_goaway = false;
    while let Some((head, rest)) = read.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= rest.len(), "a part of a frame: {read:?}");
        sent_goaway |= head[3] == 7;
        read = &rest[length..];
    }
    assert!(read.is_empty() && sent_goaway, "{read:?}");
}

impl Step {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Request(line, fields) => {
                let mut head = format!("{}host: test\r\n", line.text());
                fields.iter().for_each(|field| head.push_str(&field.text()));
                head.push_str("\r\n");
                head.into_bytes()
            }
            Self::Preface => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            Self::Frame {
                kind,
                flags,
                stream,
                payload,
            } => frame(*kind, *flags, *stream, payload),
            Self::Get { stream, slow } => {
                let path: &[u8] = if *slow {
                    b"\x04\x05/slow"
                } else {
                    b"\x04\x01/"
                };
                // :method GET and :scheme http, from HPACK's static table.
                let fields = [b"\x82\x86", path, b"\x01\x04test"].concat();
                frame(1, 5, stream | 1, &fields)
            }
            _ => Vec::new(),
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

impl Line {
    fn text(&self) -> &'static str {
        match self {
            Self::Get => "GET / HTTP/1.1\r\n",
            Self::Head => "HEAD / HTTP/1.1\r\n",
            Self::Slow => "GET /slow HTTP/1.1\r\n",
            Self::Post => "POST / HTTP/1.1\r\n",
            Self::Connect => "CONNECT test:443 HTTP/1.1\r\n",
            Self::Health => "GET /readyz HTTP/1.1\r\n",
            Self::Http10 => "GET / HTTP/1.0\r\n",
        }
    }
}

impl Field {
    fn text(&self) -> String {
        match self {
            Self::KeepAlive => "connection: keep-alive\r\n".to_owned(),
            Self::Close => "connection: close\r\n".to_owned(),
            Self::Upgrade => "connection: upgrade\r\nupgrade: websocket\r\n".to_owned(),
            Self::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
            Self::Expect => "expect: 100-continue\r\n".to_owned(),
            Self::Length(length) => format!("content-length: {length}\r\n"),
            Self::Grpc => "content-type: application/grpc\r\n".to_owned(),
        }
    }
}

async fn read(mut from: ReadHalf<DuplexStream>, reads: bool) -> Vec<u8> {
    let mut read = Vec::new();
    if reads {
        let _ = from.read_to_end(&mut read).await;
    }
    read
}

impl Listener for One {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
        match self.0.take() {
            Some(connection) => Ok((connection, ())),
            None => pending().await,
        }
    }
}
