//! The properties of the fuzz targets: what must hold for any external input.
//!
//! Each module has an `Input`, made of arbitrary bytes, and a `check` that panics when a guarantee
//! of the crate is broken. `fuzz/run` searches for such inputs with libFuzzer; `cargo test --lib`
//! tries a fixed number of random ones, without coverage guidance.

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

/// The only field of the configuration that is a number.
const PROBES: &str = "lame_duck_probes";

/// The names of the fields that are durations.
const FIELDS: [&str; 11] = [
    "shutdown_timeout",
    "lame_duck",
    "lame_duck_quiet",
    "late_for",
    "refuse_for",
    "cleanup_reserve",
    "worker_reserve",
    "retry_after",
    "progress_interval",
    "force_after",
    "exit_after",
];

/// The maximum length of an error's text, whatever the cause.
const LONGEST_TEXT: usize = 1024;

/// Runs a property on a paused clock, which advances only when all tasks are idle.
fn on_paused_clock<T>(property: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    runtime.block_on(property)
}

/// Asserts that a text can be shown in a log or a terminal without escaping.
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
