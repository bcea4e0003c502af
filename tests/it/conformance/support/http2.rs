//! HTTP/2, frame by frame.

use bytes::{Buf, BytesMut};

use super::Step::{HalfClose, Send};
use super::frames::*;
use super::{Parser, Row, http2_requests};

/// The stream that tests whether the connection still works.
const PROBE: u32 = 0x10_0001;

// ===== responses =====

/// Parses the responses, and the frames that report errors.
#[derive(Default)]
pub struct Responses {
    answers: Vec<String>,
    /// The status of the stream whose head has arrived, but not its end.
    statuses: Vec<(u32, String)>,
    is_probe_answered: bool,
    /// Compares only the state of the connection.
    is_of_connection: bool,
}

impl Responses {
    pub fn new(row: &Row) -> Self {
        Self {
            is_of_connection: row.is_of_connection,
            ..Self::default()
        }
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let error =
            |at: usize| error_name(u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
        match kind {
            HEADERS if !self.statuses.iter().any(|(id, _)| *id == stream) => {
                self.statuses.push((stream, status(payload)));
            }
            RST_STREAM if self.is_of_connection => {}
            RST_STREAM => self.answers.push(format!("RST_STREAM {}", error(0))),
            GOAWAY => self.answers.push(format!("GOAWAY {}", error(4))),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let at = self.statuses.iter().position(|(id, _)| *id == stream);
            let (stream, status) = self.statuses.remove(at.expect("a head"));
            match stream {
                PROBE => self.is_probe_answered = status == "200",
                _ if self.is_of_connection => {}
                _ => self.answers.push(status),
            }
        }
    }
}

impl Parser for Responses {
    fn parse(&mut self, bytes: &mut BytesMut) {
        if bytes.starts_with(b"HTTP/1.1 ") {
            self.answers.push(format!(
                "HTTP/1.1 {}",
                String::from_utf8_lossy(&bytes[9..12])
            ));
            bytes.clear();
        }
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + length {
                break;
            }
            let (kind, flags) = (bytes[3], bytes[4]);
            let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
            bytes.advance(9);
            let payload = bytes.split_to(length);
            self.take(kind, flags, stream, &payload);
        }
    }

    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn probe(&self) -> Vec<u8> {
        get(PROBE, "/probe")
    }

    fn is_probe_answered(&self) -> bool {
        self.is_probe_answered
    }
}

/// Reads the status, which comes first: an entry of the static table, or a literal of its digits in
/// the Huffman code (RFC 7541, appendices A and B).
fn status(mut block: &[u8]) -> String {
    if let [0x20..=0x3f, rest @ ..] = block {
        block = rest; // the size of the dynamic table
    }
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            const STATUSES: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
            STATUSES[usize::from(indexed - 0x88)].to_owned()
        }
        [0x48 | 0x08, length, rest @ ..] if length & 0x80 != 0 => {
            let bits = rest[..usize::from(length & 0x7f)].iter();
            digits(&bits.map(|byte| format!("{byte:08b}")).collect::<String>())
        }
        [0x48 | 0x08, 3, rest @ ..] => String::from_utf8_lossy(&rest[..3]).into_owned(),
        _ => format!("a status as {block:02x?}"),
    }
}

fn digits(mut bits: &str) -> String {
    const SHORT: [&str; 3] = ["00000", "00001", "00010"];
    let mut digits = String::new();
    while digits.len() < 3 {
        if let Some(digit) = SHORT.iter().position(|code| bits.starts_with(code)) {
            digits += &digit.to_string();
            bits = &bits[5..];
        } else {
            // 3 is 011001, and so on.
            let code = u8::from_str_radix(&bits[..6], 2).unwrap();
            digits += &(code - 0b011001 + 3).to_string();
            bits = &bits[6..];
        }
    }
    digits
}

// ===== scripts =====

/// The preface of every client.
pub fn beginning() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()
}

/// A row of these bytes, without the preface.
pub(super) fn bare(name: &'static str, bytes: impl AsRef<[u8]>, both: &'static str) -> Row {
    Row::new(name, vec![Send(bytes.as_ref().to_vec())], both)
}

/// A row of these frames, after the preface and the settings.
pub(super) fn row(name: &'static str, frames: &[&[u8]], both: &'static str) -> Row {
    Row::new(name, vec![Send(beginning()), Send(frames.concat())], both)
}

/// A request of this header block.
pub(super) fn fields(name: &'static str, block: &[u8], both: &'static str) -> Row {
    row(name, &[&headers(1, block)], both)
}

pub fn rows() -> Vec<Row> {
    let mut rows = beginnings();
    rows.extend(settings());
    rows.extend(streams());
    rows.extend(windows());
    rows.extend(connection_frames());
    rows.extend(blocks());
    rows.extend(http2_requests::requests());
    rows.extend(http2_requests::bodies());
    rows.extend(http2_requests::floods());
    rows
}

pub(super) const PROTOCOL_ERROR: &str = "GOAWAY PROTOCOL_ERROR, closed";
pub(super) const FRAME_SIZE_ERROR: &str = "GOAWAY FRAME_SIZE_ERROR, closed";
pub(super) const CALM: &str = "GOAWAY ENHANCE_YOUR_CALM, closed";
pub(super) const STREAM_ERROR: &str = "RST_STREAM PROTOCOL_ERROR, open";

fn beginnings() -> Vec<Row> {
    let first = |name, frame: &[u8], both| bare(name, [PREFACE, frame].concat(), both);
    vec![
        row("a good request", &[&get(1, "/")], "200, open"),
        bare(
            "a preface with a fault",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!",
            "HTTP/1.1 400, closed",
        ),
        first("no SETTINGS, but a request", &get(1, "/"), "200, open")
            .note("RFC 9113 §3.4 requires PROTOCOL_ERROR; h2 does not check the order"),
        first(
            "no SETTINGS, but a PING",
            &frame(PING, 0, 0, &[0; 8]),
            "open",
        ),
        first(
            "an ACK for the first SETTINGS",
            &frame(SETTINGS, ACK, 0, b""),
            "open",
        ),
        first(
            "HTTP/1 after the preface",
            b"GET / HTTP/1.1\r\n\r\n",
            FRAME_SIZE_ERROR,
        ),
        Row::new(
            "the end of sending after the preface",
            vec![Send(PREFACE.into()), HalfClose],
            "closed",
        ),
        Row::new(
            "the end of sending after the settings",
            vec![Send(beginning()), HalfClose],
            "closed",
        ),
        Row::new(
            "the end of sending amid a frame",
            vec![
                Send(beginning()),
                Send(get(1, "/")[..12].to_vec()),
                HalfClose,
            ],
            "closed",
        ),
    ]
}

fn settings() -> Vec<Row> {
    vec![
        row(
            "an ACK of 6 bytes",
            &[&frame(SETTINGS, ACK, 0, &[0; 6])],
            PROTOCOL_ERROR,
        )
        .note(
            "RFC 9113 §6.5 requires FRAME_SIZE_ERROR; h2 reports a wrong length of any frame as \
             PROTOCOL_ERROR",
        ),
        row(
            "an ACK that nobody waits for",
            &[&frame(SETTINGS, ACK, 0, b"").repeat(2)],
            PROTOCOL_ERROR,
        ),
        row(
            "SETTINGS of 5 bytes",
            &[&frame(SETTINGS, 0, 0, &[0; 5])],
            PROTOCOL_ERROR,
        ),
        row(
            "SETTINGS on a stream",
            &[&frame(SETTINGS, 0, 1, b"")],
            PROTOCOL_ERROR,
        ),
        row("ENABLE_PUSH of 2", &[&setting(2, 2)], PROTOCOL_ERROR),
        row(
            "INITIAL_WINDOW_SIZE of 2^31",
            &[&setting(4, 1 << 31)],
            PROTOCOL_ERROR,
        )
        .note("RFC 9113 §6.5.2 requires FLOW_CONTROL_ERROR"),
        row("MAX_FRAME_SIZE of 100", &[&setting(5, 100)], PROTOCOL_ERROR),
        row(
            "MAX_FRAME_SIZE of 2^24",
            &[&setting(5, 1 << 24)],
            PROTOCOL_ERROR,
        ),
        row(
            "an unknown setting",
            &[&setting(0x99, 1), &get(1, "/")],
            "200, open",
        ),
    ]
}

fn streams() -> Vec<Row> {
    let good = request_block("GET", "/", &[]);
    let flags = END_STREAM | END_HEADERS;
    let prioritized = |on: u32| [&on.to_be_bytes()[..], &[15], &good].concat();
    vec![
        row(
            "DATA on stream 0",
            &[&frame(DATA, 0, 0, b"x")],
            PROTOCOL_ERROR,
        ),
        row(
            "DATA on an idle stream",
            &[&frame(DATA, 0, 1, b"x")],
            PROTOCOL_ERROR,
        ),
        row("HEADERS on stream 0", &[&headers(0, &good)], PROTOCOL_ERROR),
        row(
            "HEADERS on an even stream",
            &[&headers(2, &good)],
            PROTOCOL_ERROR,
        ),
        row(
            "a stream that is less than the one before",
            &[&get(3, "/"), &get(1, "/")],
            PROTOCOL_ERROR,
        ),
        row(
            "a stream twice",
            &[&get(1, "/"), &get(1, "/")],
            PROTOCOL_ERROR,
        ),
        row(
            "DATA after the end of a stream",
            &[&get(1, "/"), &frame(DATA, 0, 1, b"x")],
            PROTOCOL_ERROR,
        ),
        row(
            "HEADERS that depend on themselves",
            &[&frame(HEADERS, flags | PRIORITIZED, 1, &prioritized(1))],
            STREAM_ERROR,
        ),
        row(
            "HEADERS with a priority",
            &[&frame(HEADERS, flags | PRIORITIZED, 1, &prioritized(0))],
            "200, open",
        ),
        row(
            "padding that is longer than HEADERS",
            &[&frame(HEADERS, flags | PADDED, 1, &[255, 0x82])],
            PROTOCOL_ERROR,
        ),
        row(
            "padding that is longer than DATA",
            &[&post(1, &[]), &frame(DATA, PADDED, 1, &[9, b'x'])],
            PROTOCOL_ERROR,
        ),
        row("PRIORITY on itself", &[&priority(1, 1)], STREAM_ERROR),
        row("PRIORITY on stream 0", &[&priority(0, 1)], PROTOCOL_ERROR),
        row(
            "PRIORITY of 4 bytes",
            &[&frame(PRIORITY, 0, 1, &[0; 4])],
            PROTOCOL_ERROR,
        ),
        row(
            "PRIORITY of an idle stream",
            &[&priority(5, 3), &get(1, "/")],
            "200, open",
        ),
        row("RST_STREAM of an idle stream", &[&reset(1)], PROTOCOL_ERROR),
        row("RST_STREAM of stream 0", &[&reset(0)], PROTOCOL_ERROR),
        row(
            "RST_STREAM of 3 bytes",
            &[&get(1, "/"), &frame(RST_STREAM, 0, 1, &[0; 3])],
            PROTOCOL_ERROR,
        ),
        row(
            "RST_STREAM of a request",
            &[&post(1, &[]), &reset(1)],
            "open",
        ),
        row(
            "PUSH_PROMISE",
            &[&frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2], &good[..]].concat(),
            )],
            PROTOCOL_ERROR,
        ),
    ]
}

fn windows() -> Vec<Row> {
    const MOST: u32 = (1 << 31) - 1;
    let never = frame(
        HEADERS,
        END_HEADERS,
        1,
        &request_block("POST", "/never", &[]),
    );
    vec![
        row(
            "WINDOW_UPDATE of 0 for the connection",
            &[&window(0, 0)],
            PROTOCOL_ERROR,
        ),
        row(
            "WINDOW_UPDATE of 0 for a stream",
            &[&post(1, &[]), &window(1, 0)],
            PROTOCOL_ERROR,
        ),
        row(
            "WINDOW_UPDATE of an idle stream",
            &[&window(1, 1)],
            PROTOCOL_ERROR,
        ),
        row(
            "WINDOW_UPDATE of 3 bytes",
            &[&frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            PROTOCOL_ERROR,
        ),
        row(
            "a window of the connection past 2^31",
            &[&window(0, MOST)],
            "GOAWAY FLOW_CONTROL_ERROR, closed",
        ),
        row(
            "a window of a stream past 2^31",
            &[&post(1, &[]), &window(1, MOST)],
            "RST_STREAM FLOW_CONTROL_ERROR, open",
        ),
        row(
            "windows past 2^31 by SETTINGS",
            &[&post(1, &[]), &window(1, MOST - 65535), &setting(4, MOST)],
            "GOAWAY FLOW_CONTROL_ERROR, closed",
        ),
        row(
            "more DATA than the window",
            &[&never, &frame(DATA, 0, 1, &[0; 16384]).repeat(200)],
            "GOAWAY FLOW_CONTROL_ERROR, closed",
        )
        .about_the_connection(),
    ]
}

fn connection_frames() -> Vec<Row> {
    let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
    vec![
        row(
            "PING of 7 bytes",
            &[&frame(PING, 0, 0, &[0; 7])],
            PROTOCOL_ERROR,
        ),
        row(
            "PING on a stream",
            &[&frame(PING, 0, 1, &[0; 8])],
            PROTOCOL_ERROR,
        ),
        row(
            "the answer to no PING",
            &[&frame(PING, ACK, 0, &[0; 8])],
            "open",
        ),
        row(
            "GOAWAY, then a request",
            &[&goaway, &get(1, "/")],
            "200 + GOAWAY NO_ERROR, closed",
        ),
        row("GOAWAY", &[&goaway], "GOAWAY NO_ERROR, closed"),
        row(
            "GOAWAY on a stream",
            &[&frame(GOAWAY, 0, 1, &[0; 8])],
            PROTOCOL_ERROR,
        ),
        row(
            "GOAWAY of 4 bytes",
            &[&frame(GOAWAY, 0, 0, &[0; 4])],
            PROTOCOL_ERROR,
        ),
        row(
            "an unknown kind of frame",
            &[&frame(0x42, 0xff, 0, b"what"), &get(1, "/")],
            "200, open",
        ),
        row(
            "an unknown kind on an idle stream",
            &[&frame(0x42, 0, 7, b"what"), &get(1, "/")],
            "200, open",
        ),
        row(
            "a reserved bit",
            &[&frame(PING, 0, 1 << 31, &[0; 8]), &get(1, "/")],
            "200, open",
        ),
        row(
            "DATA of 16,385 bytes",
            &[&post(1, &[]), &frame(DATA, 0, 1, &[0; 16385])],
            FRAME_SIZE_ERROR,
        ),
        row(
            "an unknown kind of 16,385 bytes",
            &[&frame(0x42, 0, 0, &[0; 16385])],
            FRAME_SIZE_ERROR,
        ),
    ]
}

fn blocks() -> Vec<Row> {
    let good = request_block("GET", "/", &[]);
    let (first, second) = good.split_at(good.len() / 2);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let rest = |stream| frame(CONTINUATION, END_HEADERS, stream, second);
    vec![
        row("a block in two frames", &[&begun, &rest(1)], "200, open"),
        row("CONTINUATION of nothing", &[&rest(1)], PROTOCOL_ERROR),
        row(
            "CONTINUATION after the end",
            &[&get(1, "/"), &rest(1)],
            PROTOCOL_ERROR,
        ),
        row(
            "half a block, then DATA",
            &[&begun, &frame(DATA, 0, 1, b"x")],
            PROTOCOL_ERROR,
        ),
        row(
            "half a block, then PING",
            &[&begun, &frame(PING, 0, 0, &[0; 8])],
            PROTOCOL_ERROR,
        ),
        row(
            "half a block, then another request",
            &[&begun, &get(3, "/")],
            PROTOCOL_ERROR,
        ),
        row(
            "half a block, then that of another stream",
            &[&begun, &rest(3)],
            PROTOCOL_ERROR,
        ),
        row(
            "half a block, then an unknown kind",
            &[&begun, &frame(0x42, 0, 0, b"")],
            PROTOCOL_ERROR,
        ),
        row("half a block", &[&begun], "waits").rest(rest(1)),
        fields("an index that nothing has", &[0x80 | 70], PROTOCOL_ERROR),
        fields("index 0", &[0x80], PROTOCOL_ERROR).note(
            "RFC 9113 §4.3 requires COMPRESSION_ERROR; h2 reports any fault of a field block as \
             PROTOCOL_ERROR",
        ),
        fields("a literal that is cut short", &[0, 5, b'x'], PROTOCOL_ERROR),
        fields(
            "a length without end",
            &[&[0, 127][..], &[255; 20]].concat(),
            PROTOCOL_ERROR,
        ),
        fields(
            "a Huffman code of 8 bits of padding",
            &[0, 0x82, 0x1f, 0xff, 1, b'x'],
            PROTOCOL_ERROR,
        ),
        fields(
            "a table that is larger than allowed",
            &[&[0x3f, 0xe2, 0x1f][..], &good].concat(),
            PROTOCOL_ERROR,
        ),
    ]
}
