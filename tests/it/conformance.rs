//! What `serve` and `axum::serve` answer to raw bytes and frames, as a table: `docs/conformance.md`.
//!
//! Both are hyper, so the two columns are the same but for what `serve` adds: its limits, and that a
//! client that is still sending is heard out. `UPDATE=1` writes the page anew.

use std::fmt::Write as _;
use std::fs;
use std::future::{IntoFuture, pending};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{any, get};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, serve};

use crate::support::server::{
    ACK, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, pipes,
};

/// For how long nothing comes from a server that waits, on the paused clock.
const SILENCE: Duration = Duration::from_millis(500);

// ===== HTTP/1 =====

/// One who sends this, all at once.
fn http1() -> Vec<(&'static str, Vec<u8>)> {
    let host = "host: a\r\n";
    let get = |rest: &str| format!("GET / HTTP/1.1\r\n{host}{rest}\r\n").into_bytes();
    let post = |rest: &str| format!("POST /echo HTTP/1.1\r\n{host}{rest}").into_bytes();
    let line = |line: &str| format!("{line}\r\n{host}\r\n").into_bytes();
    let many = |count: usize| "x: y\r\n".repeat(count);
    vec![
        ("a request", get("")),
        (
            "a request, one empty line before it",
            [b"\r\n", &*get("")].concat(),
        ),
        ("two requests at once", get("").repeat(2)),
        (
            "a request and garbage",
            [&*get(""), b"\x00\x01\x02\r\n\r\n"].concat(),
        ),
        (
            "lines that end in LF alone",
            b"GET / HTTP/1.1\nhost: a\n\n".to_vec(),
        ),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("two Hosts", get("host: b\r\n")),
        ("an empty Host", b"GET / HTTP/1.1\r\nhost:\r\n\r\n".to_vec()),
        ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        (
            "HTTP/1.0 with keep-alive",
            b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_vec(),
        ),
        ("HTTP/0.9", b"GET /\r\n".to_vec()),
        ("HTTP/1.2", line("GET / HTTP/1.2")),
        ("HTTP/2.0 in a request line", line("GET / HTTP/2.0")),
        ("a method in lower case", line("get / HTTP/1.1")),
        ("a method that is no token", line("G(T / HTTP/1.1")),
        ("a space before the method", line(" GET / HTTP/1.1")),
        ("two spaces in the request line", line("GET  / HTTP/1.1")),
        ("a target with a NUL", line("GET /\0 HTTP/1.1")),
        ("a target with a space", line("GET /a b HTTP/1.1")),
        ("a target that is no URI", line("GET a{ HTTP/1.1")),
        ("the absolute form", line("GET http://a/ HTTP/1.1")),
        ("OPTIONS *", line("OPTIONS * HTTP/1.1")),
        ("CONNECT", line("CONNECT a:443 HTTP/1.1")),
        (
            "a target of 70,000 bytes",
            line(&format!("GET /{} HTTP/1.1", "a".repeat(70_000))),
        ),
        ("Connection: close", get("connection: close\r\n")),
        ("a header without a colon", get("nothing\r\n")),
        ("a space before the colon", get("x : y\r\n")),
        ("a header without a name", get(": y\r\n")),
        ("a folded header", get("x: y\r\n z\r\n")),
        ("a NUL in a header", get("x: \0\r\n")),
        ("a CR in a header", get("x: a\rb\r\n")),
        (
            "bytes above 127 in a header",
            b"GET / HTTP/1.1\r\nhost: a\r\nx: \xff\xfe\r\n\r\n".to_vec(),
        ),
        ("99 headers", get(&many(98))),
        ("101 headers", get(&many(100))),
        (
            "headers of 500,000 bytes",
            get(&format!("x: {}\r\n", "y".repeat(500_000))),
        ),
        ("a body", post("content-length: 5\r\n\r\nhello")),
        (
            "a body in chunks",
            post("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "a body in chunks, with an extension and a trailer",
            post("transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n"),
        ),
        (
            "a body and one more request",
            [&*post("content-length: 5\r\n\r\nhello"), &*get("")].concat(),
        ),
        (
            "less of a body than announced",
            post("content-length: 10\r\n\r\nhello"),
        ),
        (
            "a Content-Length that is no number",
            post("content-length: five\r\n\r\nhello"),
        ),
        (
            "a Content-Length below zero",
            post("content-length: -1\r\n\r\nhello"),
        ),
        (
            "a Content-Length with a plus",
            post("content-length: +5\r\n\r\nhello"),
        ),
        (
            "a Content-Length beyond 64 bits",
            post("content-length: 99999999999999999999\r\n\r\nhello"),
        ),
        (
            "the same Content-Length twice",
            post("content-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        (
            "two Content-Lengths",
            post("content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        ),
        (
            "Content-Length and chunks",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "a Transfer-Encoding that nobody knows",
            post("transfer-encoding: rot13\r\n\r\nhello"),
        ),
        (
            "chunked, and not at the end",
            post("transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked twice",
            post("transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunks in HTTP/1.0",
            b"POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        (
            "a chunk size that is no number",
            post("transfer-encoding: chunked\r\n\r\nz\r\nhello"),
        ),
        (
            "a chunk size beyond 64 bits",
            post("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello"),
        ),
        (
            "a chunk without its end",
            post("transfer-encoding: chunked\r\n\r\n5\r\nhelloX"),
        ),
        (
            "Expect: 100-continue, and the body is read",
            post("content-length: 5\r\nexpect: 100-continue\r\n\r\n"),
        ),
        (
            "Expect: 100-continue, and it is not",
            get("content-length: 5\r\nexpect: 100-continue\r\n"),
        ),
        ("an Expect that nobody knows", get("expect: tea\r\n")),
        (
            "an Upgrade that nobody knows",
            get("connection: upgrade\r\nupgrade: tea\r\n"),
        ),
        (
            "an Upgrade to h2c",
            get("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n"),
        ),
        ("HEAD", line("HEAD / HTTP/1.1")),
        (
            "204 for which the handler has a body",
            line("GET /204 HTTP/1.1"),
        ),
        (
            "304 for which the handler has a body",
            line("GET /304 HTTP/1.1"),
        ),
        ("half a request line", b"GET / HT".to_vec()),
        ("half a head", b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec()),
        (
            "half a preface of HTTP/2",
            PREFACE.as_bytes()[..10].to_vec(),
        ),
        (
            "a TLS handshake",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("nothing", Vec::new()),
    ]
}

/// The status of each answer, and what becomes of the connection.
fn http1_outcome(said: &[u8], is_closed: bool) -> String {
    let mut statuses = Vec::new();
    let mut rest = said;
    while let Some(at) = rest
        .windows(9)
        .position(|window| window == b"HTTP/1.1 " || window == b"HTTP/1.0 ")
    {
        statuses.push(String::from_utf8_lossy(&rest[at + 9..at + 12]).into_owned());
        rest = &rest[at + 9..];
    }
    let end = if is_closed { "closed" } else { "open" };
    match statuses.is_empty() {
        true => format!("nothing, {end}"),
        false => format!("{}, {end}", statuses.join(", ")),
    }
}

// ===== HTTP/2 =====

const CONTINUATION: u8 = 9;
const PRIORITY: u8 = 2;
const END_HEADERS: u8 = 4;

/// A field that no table has, by literals (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.as_bytes());
    bytes
}

fn head(method: &str, path: &str) -> Vec<u8> {
    [
        field(":method", method),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "a"),
    ]
    .concat()
}

/// One who sends these after the preface and its SETTINGS.
fn http2() -> Vec<(&'static str, Vec<Frame>)> {
    let frame = |kind, flags, stream, payload: &[u8]| Frame::new(kind, flags, stream, payload);
    let whole = END_STREAM | END_HEADERS;
    let request = |stream| frame(HEADERS, whole, stream, &head("GET", "/"));
    let with = |more: Vec<u8>| frame(HEADERS, whole, 1, &[head("GET", "/"), more].concat());
    let upload = |more: Vec<u8>| {
        let block = [head("POST", "/echo"), more].concat();
        frame(HEADERS, END_HEADERS, 1, &block)
    };
    let self_dependent = 1_u32.to_be_bytes();
    let open = || frame(HEADERS, END_HEADERS, 1, &head("POST", "/never"));
    vec![
        ("a request", vec![request(1)]),
        ("two requests", vec![request(1), request(3)]),
        (
            "an upload",
            vec![upload(vec![]), frame(DATA, END_STREAM, 1, b"hello")],
        ),
        ("a PING", vec![frame(PING, 0, 0, &[7; 8])]),
        ("a PING of 7 bytes", vec![frame(PING, 0, 0, &[7; 7])]),
        ("a PING on a stream", vec![frame(PING, 0, 1, &[7; 8])]),
        (
            "a frame of an unknown type",
            vec![frame(99, 0, 0, b"tea"), request(1)],
        ),
        ("SETTINGS of 5 bytes", vec![frame(SETTINGS, 0, 0, &[0; 5])]),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, b"")]),
        (
            "an ACK of SETTINGS with a payload",
            vec![frame(SETTINGS, ACK, 0, &[0; 6])],
        ),
        (
            "an initial window beyond 2^31",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])],
        ),
        (
            "a frame size that is too small",
            vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])],
        ),
        ("DATA on stream 0", vec![frame(DATA, 0, 0, b"hello")]),
        ("DATA on an idle stream", vec![frame(DATA, 0, 1, b"hello")]),
        (
            "DATA after the end of a stream",
            vec![request(1), frame(DATA, 0, 1, b"hello")],
        ),
        ("HEADERS on stream 0", vec![request(0)]),
        ("HEADERS on an even stream", vec![request(2)]),
        ("a stream below the last one", vec![request(5), request(3)]),
        (
            "HEADERS without their end, then DATA",
            vec![
                frame(HEADERS, 0, 1, &head("GET", "/")),
                frame(DATA, 0, 1, b""),
            ],
        ),
        (
            "HEADERS in two parts",
            vec![
                frame(HEADERS, END_STREAM, 1, &head("GET", "/")),
                frame(CONTINUATION, END_HEADERS, 1, &field("x", "y")),
            ],
        ),
        (
            "a CONTINUATION by itself",
            vec![frame(CONTINUATION, END_HEADERS, 1, b"")],
        ),
        (
            "an index that no table has",
            vec![frame(HEADERS, whole, 1, &[0xff, 0xff, 0xff, 0x7f])],
        ),
        (
            "a frame of 20,000 bytes",
            vec![upload(vec![]), frame(DATA, 0, 1, &[b'x'; 20_000])],
        ),
        (
            "a WINDOW_UPDATE by nothing",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
        ),
        (
            "a window beyond 2^31",
            vec![Frame::window(0, (1 << 31) - 1)],
        ),
        (
            "a WINDOW_UPDATE by nothing on a stream",
            vec![open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
        ),
        (
            "a stream that depends on itself",
            vec![frame(PRIORITY, 0, 1, &[&self_dependent[..], &[0]].concat())],
        ),
        (
            "RST_STREAM on an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0; 4])],
        ),
        (
            "RST_STREAM of 3 bytes",
            vec![request(1), frame(RST_STREAM, 0, 1, &[0; 3])],
        ),
        (
            "GOAWAY, then a request",
            vec![frame(GOAWAY, 0, 0, &[0; 8]), request(1)],
        ),
        (
            "a PUSH_PROMISE",
            vec![frame(5, END_HEADERS, 1, &[0, 0, 0, 2])],
        ),
        ("a header in upper case", vec![with(field("X", "y"))]),
        (
            "a header of the connection",
            vec![with(field("connection", "close"))],
        ),
        ("TE that is not trailers", vec![with(field("te", "gzip"))]),
        ("an unknown pseudo-header", vec![with(field(":x", "y"))]),
        (
            "a pseudo-header after the others",
            vec![with([field("x", "y"), field(":path", "/")].concat())],
        ),
        ("a pseudo-header twice", vec![with(field(":path", "/"))]),
        (
            "no :path",
            vec![frame(
                HEADERS,
                whole,
                1,
                &[field(":method", "GET"), field(":scheme", "http")].concat(),
            )],
        ),
        (
            "no :method",
            vec![frame(
                HEADERS,
                whole,
                1,
                &[field(":scheme", "http"), field(":path", "/")].concat(),
            )],
        ),
        (
            "less of a body than announced",
            vec![
                upload(field("content-length", "9")),
                frame(DATA, END_STREAM, 1, b"hello"),
            ],
        ),
        (
            "more of a body than announced",
            vec![
                upload(field("content-length", "1")),
                frame(DATA, END_STREAM, 1, b"hello"),
            ],
        ),
        (
            "trailers that do not end the stream",
            vec![
                upload(vec![]),
                frame(HEADERS, END_HEADERS, 1, &field("x", "y")),
            ],
        ),
        (
            "a HEADERS frame padded beyond its end",
            vec![frame(HEADERS, whole | 8, 1, &[200, 0x82])],
        ),
        (
            "2,000 requests that are reset at once",
            (0..2000)
                .flat_map(|n| {
                    [
                        request(2 * n + 1),
                        frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]),
                    ]
                })
                .collect(),
        ),
        (
            "5,000 PINGs",
            (0..5000).map(|_| frame(PING, 0, 0, &[7; 8])).collect(),
        ),
        (
            "5,000 SETTINGS",
            (0..5000).map(|_| frame(SETTINGS, 0, 0, b"")).collect(),
        ),
        (
            "5,000 empty DATA frames",
            [
                vec![open()],
                (0..5000).map(|_| frame(DATA, 0, 1, b"")).collect(),
            ]
            .concat(),
        ),
        (
            "a header block without an end",
            [
                vec![frame(HEADERS, 0, 1, &head("GET", "/"))],
                (0..2000)
                    .map(|_| frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100))))
                    .collect(),
            ]
            .concat(),
        ),
    ]
}

fn code(payload: &[u8], at: usize) -> String {
    let name = |code: u32| match code {
        0 => "NO_ERROR",
        1 => "PROTOCOL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        _ => "another error",
    };
    let bytes = payload.get(at..at + 4).map(|code| code.try_into().unwrap());
    name(bytes.map_or(u32::MAX, u32::from_be_bytes)).to_owned()
}

/// Each kind of frame that is an answer, and what becomes of the connection.
fn http2_outcome(said: &[u8], is_closed: bool) -> String {
    let mut outcome = Vec::<(String, usize)>::new();
    let mut rest = said;
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let (kind, flags) = (rest[3], rest[4]);
        let payload = &rest[9..rest.len().min(9 + length)];
        rest = &rest[rest.len().min(9 + length)..];
        let told = match kind {
            HEADERS => match payload.first() {
                Some(0x88) => "200".to_owned(),
                Some(0x8c) => "400".to_owned(),
                _ => "another status".to_owned(),
            },
            RST_STREAM => format!("RST_STREAM {}", code(payload, 0)),
            GOAWAY => format!("GOAWAY {}", code(payload, 4)),
            PING if flags & ACK != 0 => "PONG".to_owned(),
            _ => continue,
        };
        match outcome.iter_mut().find(|(other, _)| *other == told) {
            Some((_, count)) => *count += 1,
            None => outcome.push((told, 1)),
        }
    }
    let end = if is_closed { "closed" } else { "open" };
    let told = outcome.into_iter().map(|(told, count)| match count {
        1 => told,
        // How many get through before the limit is hyper's affair.
        2..=10 => format!("{told} ({count} times)"),
        _ => format!("{told} (many)"),
    });
    let told: Vec<_> = told.collect();
    match told.is_empty() {
        true => format!("nothing, {end}"),
        false => format!("{}, {end}", told.join(", ")),
    }
}

// ===== servers =====

/// `axum::serve`'s listener, of pipes.
struct AxumPipes(mpsc::UnboundedReceiver<DuplexStream>);

impl axum::serve::Listener for AxumPipes {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> (DuplexStream, u32) {
        match self.0.recv().await {
            Some(io) => (io, 0),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<u32> {
        Ok(0)
    }
}

fn app() -> Router {
    let echo = async |request: Request| match request.into_body().collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    };
    Router::new()
        .route("/", any(|| async { "hello" }))
        .route("/echo", any(echo))
        .route("/never", any(pending::<()>))
        .route(
            "/204",
            get(|| async { (StatusCode::NO_CONTENT, Body::from("hello")) }),
        )
        .route(
            "/304",
            get(|| async { (StatusCode::NOT_MODIFIED, Body::from("hello")) }),
        )
}

/// What a server says to this, until it is silent, and whether it has closed then.
async fn exchange(mut io: DuplexStream, said: &[u8]) -> (Vec<u8>, bool) {
    let (mut answer, mut is_closed) = (Vec::new(), false);
    let mut unsaid = said;
    let mut chunk = vec![0; 64 * 1024];
    while !is_closed {
        let (mut reads, mut writes) = tokio::io::split(&mut io);
        tokio::select! {
            read = timeout(SILENCE, reads.read(&mut chunk)) => match read {
                Ok(Ok(0) | Err(_)) => is_closed = true,
                Ok(Ok(count)) => answer.extend_from_slice(&chunk[..count]),
                Err(_silent) => break,
            },
            written = writes.write(unsaid), if !unsaid.is_empty() => match written {
                Ok(count) => unsaid = &unsaid[count..],
                Err(_) => unsaid = &[],
            },
        }
    }
    (answer, is_closed)
}

/// A row of a table: what is sent, and what each server says to it.
struct Row {
    name: &'static str,
    ours: String,
    axum: String,
}

/// Has both servers answer each of `scripts`, and live on.
async fn play(
    scripts: Vec<(&'static str, Vec<u8>)>,
    outcome: fn(&[u8], bool) -> String,
) -> Vec<Row> {
    let ctl = ShutdownController::new();
    let (connector, listener) = pipes();
    let layered = app().layer(DrainLayer::new(ctl.clone())).with_state(());
    let server = tokio::spawn(serve(listener, layered, ctl.clone()).into_future());
    let (axum_connector, listener) = mpsc::unbounded_channel();
    let axum = axum::serve(AxumPipes(listener), app());
    let axum = tokio::spawn(axum.into_future());

    let mut rows = Vec::new();
    for (name, bytes) in scripts {
        let (said, is_closed) = exchange(connector.pipe(64 * 1024), &bytes).await;
        let ours = outcome(&said, is_closed);
        let (client, io) = duplex(64 * 1024);
        axum_connector.send(io).unwrap();
        let (said, is_closed) = exchange(client, &bytes).await;
        let axum = outcome(&said, is_closed);
        rows.push(Row { name, ours, axum });

        let next = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let (said, is_closed) = exchange(connector.pipe(1024), next).await;
        assert_eq!(http1_outcome(&said, is_closed), "200, open", "after {name}");
    }
    axum.abort();
    // Whatever they have done, nobody of them is left, and nothing is in flight.
    assert_eq!(ctl.in_flight(), 0);
    ctl.trigger(ShutdownReason::Manual);
    let report = timeout(Duration::from_secs(60), server)
        .await
        .unwrap()
        .unwrap();
    assert!(report.is_graceful(), "{report}");
    assert!(report.duration() <= Duration::from_secs(2), "{report}");
    rows
}

fn table(page: &mut String, title: &str, rows: &[Row]) {
    writeln!(
        page,
        "## {title}\n\n| what is sent | `serve` | `axum::serve` |\n|---|---|---|"
    )
    .unwrap();
    for Row { name, ours, axum } in rows {
        let axum = if axum == ours { "the same" } else { axum };
        writeln!(page, "| {name} | {ours} | {axum} |").unwrap();
    }
    page.push('\n');
}

#[tokio::test(start_paused = true)]
async fn the_page_says_what_is_answered() {
    let http1 = play(http1(), http1_outcome).await;
    let frames = http2().into_iter().map(|(name, frames)| {
        let settings = Frame::new(SETTINGS, 0, 0, b"");
        let frames = [settings].into_iter().chain(frames);
        let bytes = frames.flat_map(|frame| frame.bytes());
        (name, PREFACE.bytes().chain(bytes).collect())
    });
    let http2 = play(frames.collect(), http2_outcome).await;

    let mut page = String::from(
        "# What is answered to raw bytes and frames\n\n\
         Written by the test `conformance`, which compares it at each run. \"Open\" is a connection on \
         which nothing more came for half a second; nobody has closed it yet.\n\n",
    );
    table(&mut page, "HTTP/1", &http1);
    table(&mut page, "HTTP/2", &http2);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let page = format!("{}\n", page.trim_end());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        page,
        "see `UPDATE` in the test"
    );
}
