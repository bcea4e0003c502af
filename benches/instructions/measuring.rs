//! How programs are measured: the same for all that count instructions.

use std::env;

/// How many requests are measured at once, so that the surrounding code does not matter.
pub const REQUESTS: u32 = 1000;

/// Configures gungraun to write each case's figures as one line.
pub const MEASURE: &str = "--output-format=json";

/// Returns whether this program should measure, or was started by gungraun to be measured. Other
/// callers, such as `cargo bench` and `cargo test --all-targets`, do not have gungraun's runner.
pub fn is_asked() -> bool {
    env::args().any(|arg| arg == MEASURE || arg == "--gungraun-run")
}
