//! The cost of a request in instructions, for each compared service and for a whole server. Fails
//! if one of this crate's costs more than recorded in `instructions.json`.
//!
//! ```text
//! cargo bench -p benches --bench instructions
//! cargo bench -p benches --bench instructions -- --own       # what is checked, without peers
//! cargo bench -p benches --bench instructions -- --record
//! ```
//!
//! It needs valgrind and gungraun's runner, in the locked version, in the `PATH`:
//!
//! ```text
//! cargo install gungraun-runner --version =0.18.2
//! ```
//!
//! Instructions are counted, not timed, and are the same in each run of the same program. They
//! differ between compilers, so figures are compared only if the compiler is the same.

mod common;
#[path = "instructions/measuring.rs"]
mod measuring;
#[path = "instructions/servers.rs"]
mod servers;
#[path = "instructions/verdict.rs"]
mod verdict;

use std::env;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::task::{Context, Waker};

use bytes::Bytes;
use http_body_util::Full;

use common::peers::{self, Peer};
use common::request::{self, Served};
use measuring::{MEASURE, REQUESTS};
use verdict::{Case, Figures, Verdict};

/// A service that has been called before, so that one-time work is done.
pub struct Warm {
    peer: Peer,
    waker: Waker,
}

impl Warm {
    fn new(inner: impl Served<Full<Bytes>>, number: usize) -> Self {
        let mut peer = peers::all(inner).swap_remove(number);
        let waker = request::waker();
        peer.service.requests(10, &mut Context::from_waker(&waker));
        Self { peer, waker }
    }
}

/// The cases that gungraun runs, each in its own process under valgrind.
mod suite {
    use gungraun::prelude::*;
    use gungraun::{Callgrind, Dhat};

    use super::*;

    fn ready(number: usize) -> Warm {
        Warm::new(request::ready(), number)
    }

    fn pending_once(number: usize) -> Warm {
        Warm::new(request::pending(1), number)
    }

    fn pending_11(number: usize) -> Warm {
        Warm::new(request::pending(11), number)
    }

    // The same service for each request.
    #[library_benchmark(config = LibraryBenchmarkConfig::default().tool(Dhat::default()))]
    #[benches::ready(iter = 0..peers::COUNT, setup = ready)]
    #[benches::pending_once(iter = 0..peers::COUNT, setup = pending_once)]
    #[benches::pending_11(iter = 0..peers::COUNT, setup = pending_11)]
    fn same(mut warm: Warm) -> Warm {
        let cx = &mut Context::from_waker(&warm.waker);
        black_box(&mut warm.peer.service).requests(REQUESTS, cx);
        warm
    }

    // A new clone for each request.
    #[library_benchmark]
    #[benches::cloned(iter = 0..peers::COUNT, setup = ready)]
    #[benches::cloned_pending(iter = 0..peers::COUNT, setup = pending_once)]
    fn cloned(warm: Warm) -> Warm {
        let cx = &mut Context::from_waker(&warm.waker);
        black_box(&warm.peer.service).requests_on_clones(REQUESTS, cx);
        warm
    }

    library_benchmark_group!(name = services, benchmarks = [same, cloned]);

    main!(
        config = LibraryBenchmarkConfig::default()
            .tool(Callgrind::with_args(["collect-bus=yes"]));
        library_benchmark_groups = services
    );

    /// gungraun's own `main`.
    pub fn run() {
        main();
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if measuring::is_asked() {
        suite::run();
        return ExitCode::SUCCESS;
    }
    // `cargo test --all-targets` also starts it, but not to measure.
    if !args.iter().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    match judge(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the figures to the file that later runs compare with.
const RECORD: &str = "--record";
/// Leaves out what is only there for comparison, and what other figures show too, to be fast.
const OWN: &str = "--own";
/// Selects the first six services in gungraun: the bare ones, the empty wrapper, and this crate's.
const OWN_SERVICES: &str = "*_[0-5]";
/// Selects what is checked of the servers.
const OWN_SERVERS: &str = "*http1*";

/// Runs gungraun, and compares.
fn judge(mut args: Vec<String>) -> io::Result<ExitCode> {
    let is_to_record = args.iter().any(|arg| arg == RECORD);
    let is_own = args.iter().any(|arg| arg == OWN);
    args.retain(|arg| arg != RECORD && arg != OWN);
    // An argument that is not an option of gungraun selects the cases to measure.
    let are_all = !is_own && args.iter().all(|arg| arg.starts_with("--"));
    if is_to_record && !are_all {
        return Err(io::Error::other("only all cases together are recorded"));
    }

    eprintln!("measuring; this takes two minutes, and one more to build the servers");
    let mut of_services = args.clone();
    of_services.extend(is_own.then(|| OWN_SERVICES.to_owned()));
    let mut cases = measure(&env::current_exe()?, &of_services, numbered)?;
    args.extend(is_own.then(|| OWN_SERVERS.to_owned()));
    let mut of_servers = Vec::new();
    for server in servers::build(is_own)? {
        let name = |id: &str| (id.to_owned(), server.name.to_owned());
        of_servers.extend(measure(&server.path, &args, name)?);
    }
    of_servers.sort_by(|a, b| a.group.cmp(&b.group));
    cases.extend(of_servers);
    if cases.is_empty() {
        return Err(io::Error::other("no case is called so"));
    }
    let mut figures = Figures::new(cases);
    figures.derive_further_pending("pending_once", "pending_11", 10.0);
    println!("{figures}");
    for Peer { name, covers, .. } in peers::all(request::ready()) {
        println!("{name:36} {covers}");
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = root.join("../target/bench-results");
    fs::create_dir_all(&results)?;
    figures.write(&results.join("instructions.json"))?;

    let recorded = root.join("instructions.json");
    if is_to_record {
        figures.write(&recorded)?;
        println!("\nrecorded in {}", recorded.display());
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = figures.verdict(&Figures::read(&recorded)?, are_all);
    println!("\n{verdict}");
    Ok(match verdict {
        Verdict::Bad(_) => ExitCode::FAILURE,
        Verdict::Good(_) | Verdict::Incomparable { .. } => ExitCode::SUCCESS,
    })
}

/// Runs gungraun on a program; `name` maps the ids of its cases to names.
fn measure(
    program: &Path,
    args: &[String],
    name: impl Fn(&str) -> (String, String),
) -> io::Result<Vec<Case>> {
    let output = Command::new(program)
        .args(args)
        .arg(MEASURE)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("gungraun has failed"));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let read = |line| Case::read(line, REQUESTS, &name);
    Ok(lines.lines().map(read).collect())
}

/// Returns the group and the name of a service's case, from the group and the service's number.
fn numbered(id: &str) -> (String, String) {
    let (group, number) = id.rsplit_once('_').expect("`benches` numbers its cases");
    let number: usize = number.parse().expect("`benches` numbers its cases");
    let name = peers::all(request::ready()).swap_remove(number).name;
    (group.to_owned(), name.to_owned())
}
