//! What must hold for whatever comes from outside: the properties of the fuzz targets.
//!
//! Each module has an `Input`, made of arbitrary bytes, and a `check` that panics when a promise of
//! the crate is broken. `fuzz/run` has libFuzzer look for such inputs; `cargo test --lib` tries a
//! bounded number of random ones, without coverage to guide it.

#![forbid(unsafe_code)]

pub mod config;
pub mod connection;
pub mod env;
pub mod health;
pub mod http_input;
pub mod phase;
pub mod refusal;
pub mod response;
pub mod store;

use std::error::Error;
use std::future::Future;

/// The names of the configuration's fields.
const FIELDS: [&str; 10] = [
    "shutdown_timeout",
    "lame_duck",
    "late_for",
    "refuse_for",
    "cleanup_reserve",
    "worker_reserve",
    "retry_after",
    "progress_interval",
    "force_after",
    "exit_after",
];

/// How long the text of an error may be, whatever it is about.
const LONGEST_TEXT: usize = 1024;

/// Runs a property on a clock that moves only when everybody waits for it.
fn on_paused_clock<T>(property: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    runtime.block_on(property)
}

/// Asserts that a text can be shown in a log or a terminal as it is.
#[track_caller]
fn assert_showable(text: &str) {
    assert!(text.len() <= LONGEST_TEXT, "{} bytes: {text}", text.len());
    let breaks_out = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let found = text.chars().find(|c| breaks_out(*c));
    assert_eq!(found, None, "in {text:?}");
}

/// Asserts the same of an error and all its causes.
#[track_caller]
fn assert_error_showable(error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert_showable(&error.to_string());
        next = error.source();
    }
}

#[cfg(test)]
mod tests;
