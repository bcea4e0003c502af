//! The machine and the versions that the figures were measured with.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use toml::{Table, Value};

/// The crates whose versions are shown.
const CRATES: [&str; 12] = [
    "axum",
    "criterion",
    "drain",
    "gungraun",
    "http-body-util",
    "hyper",
    "hyper-util",
    "swansong",
    "tokio",
    "tokio-util",
    "tower",
    "tower-http",
];

/// Returns the facts, each with its name.
pub fn facts() -> Vec<(&'static str, String)> {
    vec![
        (
            "processor",
            processor().unwrap_or_else(|| env::consts::ARCH.to_owned()),
        ),
        ("system", system()),
        ("compiler", output("rustc", "--version")),
        ("valgrind", output("valgrind", "--version")),
    ]
}

/// Returns the versions of the compared crates, from `Cargo.lock`.
pub fn versions() -> Result<Vec<(&'static str, String)>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = fs::read_to_string(path).map_err(|error| format!("Cargo.lock: {error}"))?;
    let lock: Table = lock
        .parse()
        .map_err(|error| format!("Cargo.lock: {error}"))?;
    let packages = lock.get("package").and_then(Value::as_array);
    let packages = packages.ok_or("Cargo.lock: no packages")?;
    let version = |name: &'static str| {
        // The newest of several versions: older ones come from other dependencies.
        let package = packages.iter().rev();
        let mut named =
            package.filter(|package| package.get("name").and_then(Value::as_str) == Some(name));
        let version = named.next()?.get("version")?.as_str()?;
        Some((name, version.to_owned()))
    };
    Ok(CRATES.into_iter().filter_map(version).collect())
}

fn processor() -> Option<String> {
    let told = fs::read_to_string("/proc/cpuinfo").ok()?;
    let is = |name: &str| {
        let of_name =
            move |line: &str| Some(line.strip_prefix(name)?.split_once(": ")?.1.to_owned());
        told.lines().find_map(of_name)
    };
    let model = is("model name")?;
    let family = is("cpu family").zip(is("model\t"));
    let family = family.map(|(family, model)| format!(" (family {family}, model {model})"));
    let guest = is("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let kind = if guest {
        "virtual processors"
    } else {
        "processors"
    };
    let count = thread::available_parallelism().map_or(1, usize::from);
    Some(format!(
        "{model}{}, {count} {kind}",
        family.unwrap_or_default()
    ))
}

fn system() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The text after the version is the build's name.
    let version = kernel.trim().split('-').next().unwrap_or_default();
    format!("{} {version} {}", env::consts::OS, env::consts::ARCH)
}

fn output(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => "not here".to_owned(),
    }
}
