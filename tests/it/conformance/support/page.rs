//! The tables as a page, `docs/conformance.md`.

use super::{Row, Step, http1, http2};

const INTRODUCTION: &str = "\
# How input is answered

These tables list bytes of HTTP/1 and frames of HTTP/2, with the results of `tower_lifecycle::serve` and `axum::serve`. The test
`tests/it/conformance.rs` sends each row to both servers and compares the results with this page.
`UPDATE=1 cargo test --all-features --test it conformance::` writes the page anew.

A result is the responses in order, followed by the state of the connection:

- *open*: another request was answered on the connection.
- *closed*: the server closed the connection.
- *waits*: the server waits for more input.
- *gone*: the client closed the connection.

`serve` does not reset the connections that it closes, so a client that is still sending does not lose a response. While `serve` drains,
each connection is closed after its first response. A connection that waits is closed after `grace`. hyper and h2 parse the input, so the
results of both servers may change with their versions, and both have the same faults.
";

const MOST: usize = 90;

pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page += "\n## HTTP/1\n\n| input | bytes | `serve` | `axum::serve` |\n|---|---|---|---|\n";
    let rows = http1::rows();
    for row in &rows {
        let (serve, axum) = (row.serve, axum(row));
        page += &format!("| {} | {} | {serve} | {axum} |\n", label(row), bytes(row));
    }
    push_notes(&mut page, &rows);
    page += "\n## HTTP/2\n\n| input | `serve` | `axum::serve` |\n|---|---|---|\n";
    let rows = http2::rows();
    for row in &rows {
        page += &format!("| {} | {} | {} |\n", label(row), row.serve, axum(row));
    }
    push_notes(&mut page, &rows);
    page
}

fn axum(row: &Row) -> &str {
    if row.axum == row.serve {
        "the same"
    } else {
        row.axum
    }
}

fn label(row: &Row) -> String {
    let mark = if row.note.is_empty() { "" } else { " \\*" };
    format!("{}{mark}", row.name.replace('*', "\\*"))
}

fn push_notes(page: &mut String, rows: &[Row]) {
    page.push('\n');
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        *page += &format!("- \\* {}: {}\n", row.name.replace('*', "\\*"), row.note);
    }
}

/// The beginning of the bytes sent.
fn bytes(row: &Row) -> String {
    let mut text = String::new();
    for step in &row.steps {
        let more = match step {
            Step::Send(bytes) | Step::Drip(bytes) => escaped(bytes),
            Step::Flood(bytes, times) => format!("{} × {times}", escaped(&bytes[..1])),
            Step::Receive => " … ".to_owned(),
            Step::HalfClose => " FIN".to_owned(),
            Step::Leave { resets: false } => " close".to_owned(),
            Step::Leave { resets: true } => " RST".to_owned(),
        };
        text += &more;
    }
    format!("`{}`", text.trim())
}

fn escaped(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
