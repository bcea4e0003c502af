//! HTTP/1, byte by byte.

use bytes::{Buf, BytesMut};

use super::Step::{Drip, Flood, HalfClose, Leave, Receive, Send};
use super::{Parser, Row, Step};

// ===== responses =====

/// Parses responses into their statuses.
#[derive(Default)]
pub struct Responses {
    answers: Vec<String>,
    /// The heads of the responses.
    pub heads: Vec<String>,
    is_probe_answered: bool,
    is_head: bool,
}

impl Responses {
    pub fn new(row: &Row) -> Self {
        Self {
            is_head: row.is_head,
            ..Self::default()
        }
    }

    /// Takes one response from the bytes, if it is complete.
    fn take(&mut self, bytes: &mut BytesMut) -> Option<()> {
        if !bytes.starts_with(&b"HTTP/1."[..bytes.len().min(7)]) {
            self.answers.push(format!("{:?}", bytes.split()));
            return None;
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head[9..12].to_owned();
        let has_no_body =
            self.is_head || status.starts_with('1') || status == "204" || status == "304";
        let length = match head.split("\r\ncontent-length: ").nth(1) {
            Some(value) if !has_no_body => value.split("\r\n").next()?.parse().ok()?,
            _ => 0,
        };
        if bytes.len() < end + length {
            return None;
        }
        bytes.advance(end);
        if !status.starts_with('1') {
            self.is_head = false;
        }
        match &bytes.split_to(length)[..] {
            b"probe" => self.is_probe_answered = true,
            _ => {
                self.answers.push(status);
                self.heads.push(head);
            }
        }
        Some(())
    }
}

impl Parser for Responses {
    fn parse(&mut self, bytes: &mut BytesMut) {
        while !bytes.is_empty() && self.take(bytes).is_some() {}
    }

    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn probe(&self) -> Vec<u8> {
        b"GET /probe HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()
    }

    fn is_probe_answered(&self) -> bool {
        self.is_probe_answered
    }
}

/// The possible results of a row while draining: the first response is the last.
///
/// A response of the application is a refusal, if it `refuses`. hyper's own responses are
/// unchanged.
pub fn while_draining(row: &Row, refuses: bool) -> Vec<String> {
    let columns = [Some(row.serve), row.apart].into_iter().flatten();
    columns.map(|column| last_answer(column, refuses)).collect()
}

fn last_answer(column: &str, refuses: bool) -> String {
    let (answers, _) = super::parts(column);
    let (interim, finals): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.starts_with('1'));
    let by_hyper = ["400", "414", "431"];
    match finals.first() {
        _ if column == "gone" => "gone".to_owned(),
        None => "closed".to_owned(),
        Some(answer) if refuses && !by_hyper.contains(answer) => "503, closed".to_owned(),
        Some(answer) if interim.is_empty() => format!("{answer}, closed"),
        Some(answer) => format!("{} + {answer}, closed", interim[0]),
    }
}

// ===== scripts =====

fn send(bytes: impl AsRef<[u8]>) -> Step {
    Send(bytes.as_ref().to_vec())
}

/// A row of one packet.
fn row(name: &'static str, bytes: impl AsRef<[u8]>, both: &'static str) -> Row {
    Row::new(name, vec![send(bytes)], both)
}

/// A GET with this header line.
fn line(name: &'static str, line: &str, both: &'static str) -> Row {
    row(
        name,
        format!("GET / HTTP/1.1\r\nhost: test\r\n{line}\r\n\r\n"),
        both,
    )
}

/// A POST that is echoed, with these headers and this body, after which no more comes.
fn post(name: &'static str, headers: &str, body: &str, both: &'static str) -> Row {
    let bytes = format!("POST /echo HTTP/1.1\r\nhost: test\r\n{headers}\r\n\r\n{body}");
    row(name, bytes, both)
}

/// The same, with a chunked body.
fn chunked(name: &'static str, body: &str, both: &'static str) -> Row {
    post(name, "transfer-encoding: chunked", body, both)
}

/// For faults that are detected at once only if they arrive at once.
const APART: &str = "when it arrives in several packets, the server waits: hyper then checks only for the end of the head";

pub fn rows() -> Vec<Row> {
    let mut rows = request_lines();
    rows.extend(headers());
    rows.extend(lengths());
    rows.extend(chunks());
    rows.extend(conversations());
    rows.extend(strangers());
    rows
}

fn request_lines() -> Vec<Row> {
    let host = "\r\nhost: test\r\n\r\n";
    let start = |name, start: &str, both| row(name, format!("{start}{host}"), both);
    vec![
        start("a good request", "GET / HTTP/1.1", "200, open"),
        start("no method", " / HTTP/1.1", "400, closed"),
        start(
            "a method with a parenthesis",
            "GE(T / HTTP/1.1",
            "400, closed",
        ),
        start("an unknown method", "BREW / HTTP/1.1", "405, open"),
        start("a method in lower case", "get / HTTP/1.1", "405, open"),
        start("no target", "GET HTTP/1.1", "400, closed"),
        start(
            "two spaces before the target",
            "GET  / HTTP/1.1",
            "400, closed",
        ),
        start("a tab for a space", "GET\t/ HTTP/1.1", "400, closed"),
        start("a space in the target", "GET /a b HTTP/1.1", "400, closed"),
        start("a DEL in the target", "GET /\x7f HTTP/1.1", "400, closed"),
        row(
            "no UTF-8 in the target",
            b"GET /\xff HTTP/1.1\r\nhost: test\r\n\r\n",
            "400, closed",
        ),
        start(
            "a fragment in the target",
            "GET /#top HTTP/1.1",
            "200, open",
        ),
        start(
            "a target of 70,000 bytes",
            &format!("GET /{} HTTP/1.1", "a".repeat(70_000)),
            "414, closed",
        ),
        start(
            "two spaces after the target",
            "GET /  HTTP/1.1",
            "400, closed",
        ),
        start(
            "a space after the version",
            "GET / HTTP/1.1 ",
            "400, closed",
        ),
        start("a version in lower case", "GET / http/1.1", "400, closed"),
        start("version 1.2", "GET / HTTP/1.2", "400, closed"),
        start("version 2.0", "GET / HTTP/2.0", "400, closed"),
        row("HTTP/0.9", "GET /\r\n", "400, closed")
            .apart("waits")
            .note(APART),
        start("HTTP/1.0", "GET / HTTP/1.0", "200, closed"),
        start(
            "HTTP/1.0 that is to be kept alive",
            "GET / HTTP/1.0\r\nconnection: keep-alive",
            "200, open",
        )
        .note(
            "while draining, the response has `Connection: close, keep-alive`, since hyper adds the \
             second, and the connection is closed",
        ),
        row(
            "HTTP/1.0 without Host",
            "GET / HTTP/1.0\r\n\r\n",
            "200, closed",
        ),
        start(
            "a target with scheme and authority",
            "GET http://test/ HTTP/1.1",
            "200, open",
        ),
        start(
            "a target of another host than Host",
            "GET http://other/ HTTP/1.1",
            "200, open",
        ),
        start("OPTIONS *", "OPTIONS * HTTP/1.1", "404, open"),
        start("GET *", "GET * HTTP/1.1", "404, open"),
        start("CONNECT", "CONNECT test:443 HTTP/1.1", "404, open"),
        start("CONNECT of a path", "CONNECT / HTTP/1.1", "405, open"),
        start("an empty line before", "\r\nGET / HTTP/1.1", "200, open"),
        start(
            "many empty lines before",
            &format!("{}GET / HTTP/1.1", "\r\n".repeat(1000)),
            "200, open",
        ),
        row(
            "lines that end in LF alone",
            "GET / HTTP/1.1\nhost: test\n\n",
            "200, open",
        ),
    ]
}

fn headers() -> Vec<Row> {
    let many = |count| "x: y\r\n".repeat(count) + "z: z";
    vec![
        row("no Host", "GET / HTTP/1.1\r\n\r\n", "200, open")
            .note("RFC 9112 §3.2 requires 400; hyper leaves the check to the application"),
        line("Host twice", "host: other", "200, open").note("the same"),
        line("an invalid Host", "x: y\r\nhost: a b", "200, open").note("the same"),
        line("a space before the colon", "x : y", "400, closed"),
        line("a space before the first name", " x: y", "400, closed"),
        line(
            "a value on two lines (obs-fold)",
            "x: y\r\n z",
            "400, closed",
        ),
        line("a NUL in a value", "x: y\0z", "400, closed"),
        line("a CR in a value", "x: y\rz", "400, closed"),
        row(
            "bytes above 127 in a value",
            b"GET / HTTP/1.1\r\nx: \xe4\xff\r\n\r\n",
            "200, open",
        ),
        line("no name", ": y", "400, closed"),
        line("no colon", "x", "400, closed"),
        line("a name with a bracket", "x[]: y", "400, closed"),
        line("no value", "x:", "200, open"),
        line(
            "a name of 70,000 bytes",
            &format!("{}: y", "x".repeat(70_000)),
            "431, closed",
        ),
        line("100 headers", &many(98), "200, open"),
        line("101 headers", &many(99), "431, closed"),
        line(
            "a head of 300,000 bytes",
            &format!("x: {}", "y".repeat(300_000)),
            "200, open",
        ),
        Row::new(
            "a head without end",
            vec![send("GET / HTTP/1.1\r\nx: "), Flood(vec![b'y'; 1000], 1000)],
            "431, closed",
        ),
    ]
}

fn lengths() -> Vec<Row> {
    let late = |name, headers: &str, body: &str, both| {
        let mut row = post(name, headers, body, both);
        row.steps.push(HalfClose);
        row
    };
    vec![
        post("a body", "content-length: 3", "abc", "200, open"),
        post(
            "Content-Length twice, the same",
            "content-length: 3\r\ncontent-length: 3",
            "abc",
            "200, open",
        ),
        post(
            "Content-Length twice, another",
            "content-length: 3\r\ncontent-length: 4",
            "abcd",
            "400, closed",
        ),
        post(
            "a list of the same length",
            "content-length: 3, 3",
            "abc",
            "400, closed",
        ),
        post(
            "a length in letters",
            "content-length: abc",
            "abc",
            "400, closed",
        ),
        post("an empty length", "content-length:", "", "400, closed"),
        post(
            "a negative length",
            "content-length: -1",
            "a",
            "400, closed",
        ),
        post(
            "a length with a plus",
            "content-length: +3",
            "abc",
            "400, closed",
        ),
        post(
            "a length in hexadecimal",
            "content-length: 0x3",
            "abc",
            "400, closed",
        ),
        post(
            "a length of 2^64",
            "content-length: 18446744073709551616",
            "abc",
            "400, closed",
        ),
        post(
            "a length of 2^64 - 1",
            "content-length: 18446744073709551615",
            "abc",
            "431, closed",
        )
        .note("hyper reserves the two highest lengths for bodies of unknown length"),
        post(
            "Content-Length, then Transfer-Encoding",
            "content-length: 3\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
            "200, closed",
        ),
        post(
            "Transfer-Encoding, then Content-Length",
            "transfer-encoding: chunked\r\ncontent-length: 3",
            "0\r\n\r\n",
            "200, closed",
        ),
        post(
            "an unknown Transfer-Encoding",
            "transfer-encoding: tea",
            "",
            "400, closed",
        ),
        post(
            "Transfer-Encoding: identity",
            "transfer-encoding: identity",
            "",
            "400, closed",
        ),
        post(
            "chunked, but not at last",
            "transfer-encoding: chunked, gzip",
            "",
            "400, closed",
        ),
        post(
            "chunked after gzip",
            "transfer-encoding: gzip, chunked",
            "0\r\n\r\n",
            "200, open",
        )
        .note("the application receives the compressed body"),
        post(
            "chunked twice",
            "transfer-encoding: chunked, chunked",
            "0\r\n\r\n",
            "200, open",
        )
        .note("RFC 9112 §6.1 forbids it"),
        post(
            "gzip, and chunked in a line of its own",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
            "200, open",
        ),
        post(
            "chunked after a vertical tab",
            "transfer-encoding:\x0bchunked",
            "0\r\n\r\n",
            "400, closed",
        ),
        post(
            "a space after Transfer-Encoding",
            "transfer-encoding : chunked",
            "0\r\n\r\n",
            "400, closed",
        ),
        post(
            "xchunked",
            "transfer-encoding: xchunked",
            "0\r\n\r\n",
            "400, closed",
        ),
        row(
            "chunked on HTTP/1.0",
            "POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400, closed",
        ),
        post(
            "more bytes than the length says",
            "content-length: 3",
            "abcGARBAGE\r\n\r\n",
            "200 + 400, closed",
        ),
        late(
            "fewer bytes than the length says",
            "content-length: 9",
            "abc",
            "422, closed",
        ),
        post(
            "no length, and bytes",
            "x: y",
            "abc\r\n\r\n",
            "200 + 400, closed",
        ),
    ]
}

fn chunks() -> Vec<Row> {
    let mut early_end = chunked("no last chunk", "3\r\nabc\r\n", "422, closed");
    early_end.steps.push(HalfClose);
    vec![
        chunked("chunks", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "200, open"),
        chunked(
            "a size in capitals, with zeros",
            "00A\r\n0123456789\r\n0\r\n\r\n",
            "200, open",
        ),
        chunked(
            "a size that is no number",
            "x\r\nabc\r\n0\r\n\r\n",
            "422, closed",
        ),
        chunked("no size", "\r\nabc\r\n0\r\n\r\n", "422, closed"),
        chunked("a negative size", "-3\r\nabc\r\n0\r\n\r\n", "422, closed"),
        chunked("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n", "422, closed"),
        chunked(
            "a size of 2^64",
            "10000000000000000\r\nabc\r\n0\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "a space after the size",
            "3 \r\nabc\r\n0\r\n\r\n",
            "200, open",
        ),
        chunked(
            "a chunk that is longer than its size",
            "3\r\nabcd\r\n0\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "a chunk that ends in LF alone",
            "3\r\nabc\n0\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "a size that ends in LF alone",
            "3\nabc\r\n0\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "chunk extensions",
            "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n",
            "200, open",
        ),
        chunked(
            "a LF in an extension",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "extensions of 20,000 bytes",
            &format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(20_000)),
            "422, closed",
        ),
        chunked("trailers", "3\r\nabc\r\n0\r\nx: y\r\n\r\n", "200, open"),
        chunked(
            "a trailer without colon",
            "3\r\nabc\r\n0\r\nx\r\n\r\n",
            "422, closed",
        ),
        chunked(
            "trailers of 20,000 bytes",
            &format!("0\r\nx: {}\r\n\r\n", "y".repeat(20_000)),
            "422, closed",
        ),
        early_end,
    ]
}

fn conversations() -> Vec<Row> {
    let get = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let expecting = |path: &str, what: &str| {
        send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nexpect: {what}\r\ncontent-length: 3\r\n\r\n"
        ))
    };
    vec![
        row(
            "two requests in a packet",
            format!("{get}{get}"),
            "200 + 200, open",
        ),
        row(
            "a good one and a bad one in a packet",
            format!("{get}BAD\r\n\r\n"),
            "200 + 400, closed",
        ),
        row(
            "a bad one and a good one in a packet",
            format!("BAD\r\n\r\n{get}"),
            "400, closed",
        ),
        row(
            "a hundred requests in a packet",
            get.repeat(100),
            "100 × 200, open",
        ),
        line("Connection: close", "connection: close", "200, closed"),
        row(
            "Connection: close, and another request",
            format!("GET / HTTP/1.1\r\nconnection: close\r\n\r\n{get}"),
            "200, closed",
        ),
        Row::new(
            "a request byte by byte",
            vec![Drip(get.into())],
            "200, open",
        ),
        Row::new(
            "the end of sending after an answer",
            vec![send(get), Receive, HalfClose],
            "200, closed",
        ),
        Row::new(
            "the end of sending while the handler works",
            vec![send("GET /never HTTP/1.1\r\n\r\n"), HalfClose],
            "closed",
        )
        .note("hyper treats it as a disconnect, unless its `half_close` is set"),
        Row::new(
            "a body after 100 Continue",
            vec![expecting("/echo", "100-continue"), Receive, send("abc")],
            "100 + 200, open",
        ),
        Row::new(
            "a body that waits for 100 Continue, and nobody reads",
            vec![expecting("/early", "100-continue")],
            "200, closed",
        ),
        Row::new(
            "an unknown expectation",
            vec![expecting("/echo", "tea"), send("abc")],
            "200, open",
        )
        .note("RFC 9110 §10.1.1 allows 417"),
        row(
            "100 Continue on HTTP/1.0",
            "POST /echo HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
            "200, closed",
        ),
        line(
            "an unknown Upgrade",
            "connection: upgrade\r\nupgrade: tea",
            "200, open",
        ),
        line(
            "Upgrade: h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA",
            "200, open",
        ),
        row("HEAD", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n", "200, open").without_body(),
        row(
            "HEAD with a body",
            "HEAD /echo HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "200, open",
        )
        .without_body(),
        row(
            "a GET with a body that nobody reads",
            "GET /early HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "200, open",
        ),
        row(
            "an early answer, and the rest of the body is to come",
            "POST /early HTTP/1.1\r\ncontent-length: 9000\r\n\r\nabc",
            "200, closed",
        ),
        Row::new(
            "an early answer in the middle of an upload",
            vec![
                send("POST /early HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n"),
                Flood(vec![b'u'; 1000], 10_000),
            ],
            "200, closed",
        ),
        row(
            "204 with a body from the handler",
            "GET /empty HTTP/1.1\r\n\r\n",
            "204, open",
        ),
        row(
            "304 with a body from the handler",
            "GET /same HTTP/1.1\r\n\r\n",
            "304, open",
        ),
    ]
}

fn strangers() -> Vec<Row> {
    // A ClientHello: its head, a random number, two ciphers, and no more.
    let mut hello = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\x00\x04\x13\x01\x13\x02\x01\x00\x00\x00");
    vec![
        Row::new("nothing, and the end of sending", vec![HalfClose], "closed"),
        row("half a head", "GET / HTTP/1.1\r\nho", "waits").rest("st: test\r\n\r\n"),
        Row::new(
            "half a head, and the end of sending",
            vec![send("GET / HTTP/1.1\r\nho"), HalfClose],
            "closed",
        ),
        row(
            "half of the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM",
            "waits",
        ),
        row(
            "a preface of HTTP/2 with a fault",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r!",
            "400, closed",
        ),
        row("a ClientHello of TLS", hello, "400, closed"),
        row(
            "the banner of SSH",
            "SSH-2.0-OpenSSH_9.6\r\n",
            "400, closed",
        )
        .apart("waits")
        .note(APART),
        row(
            "a PROXY line before",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
            "400, closed",
        ),
        row("NULs", [0; 100], "400, closed"),
        Row::new(
            "a socket that is closed at once",
            vec![Leave { resets: false }],
            "gone",
        ),
        Row::new("a reset at once", vec![Leave { resets: true }], "gone"),
        Row::new(
            "half a head, and a reset",
            vec![send("GET / HT"), Leave { resets: true }],
            "gone",
        ),
        Row::new(
            "a request, and a reset",
            vec![send("GET / HTTP/1.1\r\n\r\n"), Leave { resets: true }],
            "gone",
        ),
        Row::new(
            "half a body, and a reset",
            vec![
                send("POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc"),
                Leave { resets: true },
            ],
            "gone",
        ),
    ]
}
