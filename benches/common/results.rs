//! The results that benches write for the results page, as JSON in `target/bench-results`.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::stats::Median;

/// The results of a bench, with their time and kind of run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured<T> {
    /// In UTC.
    pub date: String,
    /// From a short run, which only tries the bench. Its figures mean little.
    pub quick: bool,
    pub figures: T,
}

/// The results of `contention`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contention {
    pub cores: usize,
    /// The number of threads of each column.
    pub threads: Vec<usize>,
    pub rounds: usize,
    /// Rounds in which the two processors were not two cores.
    pub dropped_rounds: usize,
    /// Measurements of two threads in which one of them had to wait for its core.
    pub dropped_samples: usize,
    pub services: Vec<Contended>,
    pub router: Vec<Contended>,
    pub watched: Option<Watched>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Contended {
    pub name: String,
    /// CPU time per request and thread in ns, a column for each number of threads.
    pub ns: Vec<Option<f64>>,
    /// Two threads relative to one, for each round.
    pub ratio: Option<Median>,
}

/// The time of a request in ns, while another thread reads the number in flight.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watched {
    pub alone: f64,
    pub every_millisecond: f64,
    pub without_pause: f64,
}

/// The results of `deadline`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Deadline {
    pub cases: Vec<Lateness>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Lateness {
    pub name: String,
    /// How late each run ended, in ms.
    pub ms: Vec<f64>,
}

/// The results of `heap`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heap {
    /// The number of pending requests, each in its own task.
    pub pending: usize,
    pub ways: Vec<HeapOf>,
}

/// Heap per request, including its task.
#[derive(Debug, Serialize, Deserialize)]
pub struct HeapOf {
    pub name: String,
    /// With one service.
    pub bytes: f64,
    /// The average over services whose futures are larger by different amounts.
    pub average: f64,
}

/// The results of `scale`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scale {
    /// The number of pending requests, each in its own task.
    pub pending: usize,
    /// Each time is the median of this many processes.
    pub processes: usize,
    pub force: Vec<Force>,
    pub drained: Vec<Drained>,
    pub further: Vec<Further>,
    pub questions: Vec<Questions>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Force {
    pub runtime: String,
    pub name: String,
    /// How long the call took.
    pub caller_ms: Median,
    /// From the call to the end of the last task.
    pub resolved_ms: Median,
    /// The previous figure relative to the time that aborting bare tasks takes, for each round.
    pub ratio: Median,
}

/// From the drop of the last guard to the waiter's next step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drained {
    pub runtime: String,
    /// In µs, one for each shutdown.
    pub us: Vec<f64>,
}

/// The cost of one more request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Further {
    pub name: String,
    pub in_flight: usize,
    pub ready_ns: f64,
    pub pending_ns: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Questions {
    pub in_flight: usize,
    pub in_flight_ns: f64,
    pub health_ns: f64,
}

/// The results of `throughput`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub seconds: u64,
    pub connections: u32,
    pub rounds: usize,
    /// Rounds in which the client's processor and the server's were not two cores.
    pub dropped: usize,
    pub servers: Vec<Server>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    pub requests_per_second: Median,
    /// Requests per second relative to the bare server in the same round.
    pub ratio: Median,
    /// The server's CPU time for a request, in ns.
    pub cpu_ns: Option<Median>,
    pub cpu_ratio: Option<Median>,
}

/// The results of `instructions`, which writes its own file.
#[derive(Debug, Deserialize)]
pub struct Instructions {
    pub rustc: String,
    pub valgrind: String,
    pub cases: Vec<Counted>,
}

/// The cost of a request.
#[derive(Debug, Deserialize)]
pub struct Counted {
    pub group: String,
    pub name: String,
    pub instructions: f64,
    /// Operations that lock the bus.
    pub locked: f64,
    pub allocations: Option<f64>,
}

/// Returns whether the run is short: with `--quick`.
pub fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// Writes the results of the bench of that name.
///
/// # Panics
///
/// If the file cannot be written.
pub fn write<T: Serialize>(name: &str, figures: T) {
    let measured = Measured {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        quick: quick(),
        figures,
    };
    let json = serde_json::to_string_pretty(&measured).expect("figures are plain data");
    fs::create_dir_all(folder()).expect("a place for the results");
    fs::write(path(name), json).expect("a file of results");
}

/// Returns the results of the bench of that name; `None` if it has not been run.
///
/// # Errors
///
/// If the file cannot be read, or was written by another version.
pub fn read<T: DeserializeOwned>(name: &str) -> Result<Option<T>, String> {
    let json = match fs::read(path(name)) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{name}.json: {error}")),
    };
    let figures = serde_json::from_slice(&json);
    figures.map_err(|error| {
        format!("{name}.json: {error}; run `cargo bench -p benches --features page --bench {name}` again")
    })
}

fn path(name: &str) -> PathBuf {
    folder().join(name).with_extension("json")
}

/// The directory of the results.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-results")
}
