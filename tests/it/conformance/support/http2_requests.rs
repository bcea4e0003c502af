//! Invalid HTTP/2 requests, or too many of them.

use super::Row;
use super::Step::{Flood, Send};
use super::frames::*;
use super::http2::{CALM, PROTOCOL_ERROR, STREAM_ERROR, beginning, fields, row};

/// A GET with an extra field.
fn extra(name: &'static str, field: (&str, &str), both: &'static str) -> Row {
    fields(name, &request_block("GET", "/", &[field]), both)
}

pub(super) fn requests() -> Vec<Row> {
    let of = |fields: &[(&str, &str)]| block(fields);
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    vec![
        fields("no :method", &of(&[scheme, path]), STREAM_ERROR),
        fields("no :scheme", &of(&[method, path]), STREAM_ERROR),
        fields("no :path", &of(&[method, scheme]), "404, open")
            .note("RFC 9113 §8.3.1 calls it malformed; h2 takes it for an empty path"),
        fields("no :authority", &of(&[method, scheme, path]), "200, open"),
        fields(
            "an empty :path",
            &of(&[method, scheme, (":path", "")]),
            STREAM_ERROR,
        ),
        fields(
            ":method twice",
            &of(&[method, method, scheme, path]),
            STREAM_ERROR,
        ),
        fields(
            ":path twice",
            &of(&[method, scheme, path, path]),
            STREAM_ERROR,
        ),
        fields(
            ":status in a request",
            &of(&[method, scheme, path, (":status", "200")]),
            STREAM_ERROR,
        ),
        fields(
            "an unknown :field",
            &of(&[method, scheme, path, (":what", "x")]),
            PROTOCOL_ERROR,
        ),
        fields(
            "a :field after another",
            &of(&[method, scheme, ("x", "y"), path]),
            STREAM_ERROR,
        ),
        fields(
            "a :method with a space",
            &of(&[(":method", "G T"), scheme, path]),
            PROTOCOL_ERROR,
        ),
        fields(
            "a :path with a space",
            &of(&[method, scheme, (":path", "/a b")]),
            STREAM_ERROR,
        ),
        fields(
            ":path *",
            &of(&[(":method", "OPTIONS"), scheme, (":path", "*")]),
            "404, open",
        ),
        fields(
            "an :authority with a space",
            &of(&[method, scheme, path, (":authority", "a b")]),
            STREAM_ERROR,
        ),
        fields(
            "CONNECT with a :path",
            &of(&[(":method", "CONNECT"), scheme, path]),
            STREAM_ERROR,
        ),
        fields(
            "CONNECT of an unknown :protocol",
            &of(&[
                (":method", "CONNECT"),
                scheme,
                path,
                (":authority", "t"),
                (":protocol", "tea"),
            ]),
            "405, open",
        )
        .but_axum(
            STREAM_ERROR,
            "axum allows extended CONNECT (RFC 8441) only if built with its feature `http2`",
        ),
        extra("a name in capitals", ("X", "y"), PROTOCOL_ERROR)
            .note("RFC 9113 §8.2 requires a stream error; h2 reports a connection error"),
        extra("no name", ("", "y"), PROTOCOL_ERROR),
        extra("a name with a space", ("x y", "z"), PROTOCOL_ERROR),
        extra("a LF in a value", ("x", "y\nz"), PROTOCOL_ERROR),
        extra("a NUL in a value", ("x", "y\0z"), PROTOCOL_ERROR),
        extra("connection", ("connection", "close"), STREAM_ERROR),
        extra("keep-alive", ("keep-alive", "x"), STREAM_ERROR),
        extra(
            "transfer-encoding",
            ("transfer-encoding", "chunked"),
            STREAM_ERROR,
        ),
        extra("upgrade", ("upgrade", "tea"), STREAM_ERROR),
        extra("te: trailers", ("te", "trailers"), "200, open"),
        extra("te: gzip", ("te", "gzip"), STREAM_ERROR),
        extra("an unknown expectation", ("expect", "tea"), "200, open"),
        extra(
            "a field of 10,000 bytes",
            ("x", &"y".repeat(10_000)),
            "200, open",
        ),
        large_head("a head of 30,000 bytes", 2, "431, open"),
        large_head("a head of 1,000,000 bytes", 66, CALM),
    ]
}

/// A head in this many frames, too large for any request.
fn large_head(name: &'static str, count: usize, both: &'static str) -> Row {
    let block = request_block("GET", "/", &[("x", &"y".repeat(15_000))]);
    let more = field("x", "y".repeat(15_000));
    let mut frames = frame(HEADERS, END_STREAM, 1, &block);
    for number in 1..count {
        let flags = if number + 1 == count { END_HEADERS } else { 0 };
        frames.extend(frame(CONTINUATION, flags, 1, &more));
    }
    row(name, &[&frames], both)
}

pub(super) fn bodies() -> Vec<Row> {
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let of_3 = post(1, &[("content-length", "3")]);
    let trailers = |flags, fields: &[(&str, &str)]| frame(HEADERS, flags, 1, &block(fields));
    vec![
        row("a body", &[&of_3, &data(END_STREAM, b"abc")], "200, open"),
        row(
            "more DATA than content-length",
            &[&of_3, &data(END_STREAM, b"abcd")],
            STREAM_ERROR,
        ),
        row(
            "less DATA than content-length",
            &[&of_3, &data(END_STREAM, b"ab")],
            STREAM_ERROR,
        ),
        row(
            "no DATA, but a content-length",
            &[&headers(
                1,
                &request_block("GET", "/", &[("content-length", "3")]),
            )],
            STREAM_ERROR,
        ),
        row(
            "a content-length in letters",
            &[
                &post(1, &[("content-length", "abc")]),
                &data(END_STREAM, b"abc"),
            ],
            STREAM_ERROR,
        ),
        row(
            "trailers",
            &[
                &post(1, &[]),
                &data(0, b"abc"),
                &trailers(END_STREAM | END_HEADERS, &[("x", "y")]),
            ],
            "200, open",
        ),
        row(
            "trailers without END_STREAM",
            &[
                &post(1, &[]),
                &data(0, b"abc"),
                &trailers(END_HEADERS, &[("x", "y")]),
            ],
            STREAM_ERROR,
        ),
        row(
            "a :field in trailers",
            &[
                &post(1, &[]),
                &trailers(END_STREAM | END_HEADERS, &[(":path", "/")]),
            ],
            "200, open",
        )
        .note("RFC 9113 §8.1 calls it malformed; h2 drops it"),
        row(
            "a body that nobody reads",
            &[
                &frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &request_block("POST", "/early", &[]),
                ),
                &data(0, b"abc"),
            ],
            "200 + RST_STREAM NO_ERROR, open",
        ),
        row(
            "HEAD",
            &[&headers(1, &request_block("HEAD", "/", &[]))],
            "200, open",
        ),
        row(
            "204 with a body from the handler",
            &[&get(1, "/empty")],
            "204, open",
        ),
        row(
            "304 with a body from the handler",
            &[&get(1, "/same")],
            "304, open",
        ),
    ]
}

pub(super) fn floods() -> Vec<Row> {
    let flood = |name, before: Vec<u8>, frame: Vec<u8>, times, both| {
        let steps = vec![Send(beginning()), Send(before), Flood(frame, times)];
        Row::new(name, steps, both).about_the_connection()
    };
    let resets = |of: fn(u32) -> Vec<u8>| (0..3000).flat_map(|n| of(2 * n + 1)).collect();
    let half = frame(HEADERS, END_STREAM, 1, &request_block("GET", "/", &[]));
    vec![
        flood(
            "requests that are reset",
            Vec::new(),
            resets(|id| [get(id, "/never"), reset(id)].concat()),
            1,
            CALM,
        ),
        flood(
            "requests that the server has to reset",
            Vec::new(),
            resets(|id| [post(id, &[]), window(id, (1 << 31) - 1)].concat()),
            1,
            CALM,
        ),
        flood(
            "requests that are wrong",
            Vec::new(),
            resets(|id| headers(id, &request_block("GET", "/", &[("te", "gzip")]))),
            1,
            CALM,
        ),
        flood(
            "PING",
            Vec::new(),
            frame(PING, 0, 0, &[7; 8]),
            20_000,
            "open",
        ),
        flood("SETTINGS", Vec::new(), setting(1, 4096), 10_000, "open"),
        flood(
            "empty DATA",
            post(1, &[]),
            frame(DATA, 0, 1, b""),
            50_000,
            CALM,
        ),
        flood("PRIORITY", Vec::new(), priority(3, 1), 50_000, "open"),
        flood("WINDOW_UPDATE", Vec::new(), window(0, 1), 50_000, "open"),
        flood(
            "an unknown kind",
            Vec::new(),
            frame(0x42, 0, 0, b"x"),
            50_000,
            "open",
        ),
        flood(
            "empty CONTINUATION",
            half,
            frame(CONTINUATION, 0, 1, b""),
            50_000,
            CALM,
        ),
        flood(
            "answers to no PING",
            Vec::new(),
            frame(PING, ACK, 0, &[0; 8]),
            50_000,
            "open",
        ),
    ]
}
