//! How a program is told to measure, and how much of it: the same for all that are counted.

use std::env;

/// How many are measured at once, so that what is around them is nothing to speak of.
pub const REQUESTS: u32 = 1000;

/// Has gungraun measure, and write each case's figures as one line.
pub const MEASURE: &str = "--output-format=json";

/// Tells whether this program is to measure, or was started by gungraun to be measured. All others who
/// start it, as `cargo bench` and `cargo test --all-targets` do, do not have gungraun's runner.
pub fn is_asked() -> bool {
    env::args().any(|arg| arg == MEASURE || arg == "--gungraun-run")
}
