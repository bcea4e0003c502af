//! The programs in `benches/hello`, each with one server.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A bench, and its server's name in tables. The others are compared with the first.
const SERVERS: [(&str, &str); 11] = [
    ("hello_axum", "axum"),
    ("hello_wrapper_inside", "empty wrapper"),
    ("hello_tracking_inside", "RequestTrackingLayer"),
    ("hello_drain_inside", "DrainLayer"),
    ("hello_gauge_inside", "tower-http InFlightRequests"),
    ("hello_wrapper_around", "empty wrapper, around"),
    ("hello_tracking_around", "RequestTrackingLayer, around"),
    ("hello_drain_around", "DrainLayer, around"),
    ("hello_gauge_around", "tower-http InFlightRequests, around"),
    ("hello_ours", "tower_lifecycle::serve"),
    ("hello_ours_drain", "tower_lifecycle::serve, DrainLayer"),
];

/// The path of a server's program.
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
}

/// What a quick check builds: the first one, and those with most of this crate.
const OWN: [&str; 3] = ["hello_axum", "hello_drain_inside", "hello_ours_drain"];

/// Builds the programs: all, or only those in `OWN`.
///
/// # Errors
///
/// If cargo cannot be started, or fails. Cargo prints the reason.
pub fn build(is_own: bool) -> io::Result<Vec<Program>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    // Without cargo's variables for this package: build scripts would see them and run again.
    let told = |name: &str| {
        ["CARGO_MANIFEST_", "CARGO_PKG_"]
            .iter()
            .any(|of| name.starts_with(of))
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(told) {
            command.env_remove(name);
        }
    }
    let is_wanted = |(bench, _): &(&str, &str)| !is_own || OWN.contains(bench);
    let servers: Vec<_> = SERVERS.into_iter().filter(is_wanted).collect();
    let benches = servers.iter().flat_map(|(bench, _)| ["--bench", bench]);
    let output = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["bench", "--no-run"])
        .args(benches)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("the servers cannot be built"));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let find = |(bench, name)| {
        let of_bench = |message: &&Value| message["target"]["name"] == bench;
        let built = messages.iter().find(of_bench);
        let path = built.and_then(|message| message["executable"].as_str());
        let path = path.ok_or_else(|| io::Error::other(format!("{bench} was not built")))?;
        Ok(Program {
            name,
            path: path.into(),
        })
    };
    servers.into_iter().map(find).collect()
}
