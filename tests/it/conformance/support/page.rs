//! The tables as a page, `docs/conformance.md`.

use super::{Row, Step, http1, http2};

const INTRODUCTION: &str = "\
# What is answered to what

Raw bytes and frames, and what `tower_lifecycle::serve` and `axum::serve` do with them. `tests/it/conformance.rs` plays each row to
both, and compares this page with its tables; `UPDATE=1 cargo test --all-features --test it conformance::` writes it anew.

The answers are in their order. Then the connection is *open*, and another request is answered on it; or *closed* by the server; or
the server *waits* for more; or the client was *gone*. Where a connection is closed by `serve`, it is closed in order, never by a
reset: a client that is still sending loses no answer. While `serve` drains, the first answer is the last, whatever the row, and a
connection that waits is closed after `grace`. The parsers are hyper's and h2's, so both columns are theirs, faults included, and may
change with their versions.
";

const MOST: usize = 90;

pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page += "\n## HTTP/1\n\n| what is sent | its bytes | `serve` | `axum::serve` |\n|---|---|---|---|\n";
    let rows = http1::rows();
    for row in &rows {
        let (serve, axum) = (row.serve, axum(row));
        page += &format!("| {} | {} | {serve} | {axum} |\n", label(row), bytes(row));
    }
    push_notes(&mut page, &rows);
    page += "\n## HTTP/2\n\n| what is sent | `serve` | `axum::serve` |\n|---|---|---|\n";
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
