//! What a request costs in instructions, through each service that is compared, and through a whole
//! server; and whether any of ours costs more than is recorded in `instructions.json`.
//!
//! ```text
//! cargo bench --all-features --bench instructions
//! cargo bench --all-features --bench instructions -- --record
//! ```
//!
//! It needs valgrind, and gungraun's runner in the version that is locked, in the `PATH`:
//!
//! ```text
//! cargo install gungraun-runner --version =0.18.2
//! ```
//!
//! Instructions are counted, not timed, and are the same at each run of the same program. They are
//! others after another compiler, so that figures are compared only with those of the same one.

mod common;
#[path = "instructions/hello.rs"]
mod hello;
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
use hello::Connected;
use verdict::{Case, Figures, Verdict};

/// How many are measured at once, so that what is around them is nothing to speak of.
const REQUESTS: u32 = 1000;

/// A service that has been called before: what it makes once is made.
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

/// What gungraun runs, each case in a process of its own under valgrind.
mod suite {
    use gungraun::prelude::*;
    use gungraun::{Callgrind, Dhat};

    use super::*;

    // ===== one service =====

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

    // A clone of it for each.
    #[library_benchmark]
    #[benches::cloned(iter = 0..peers::COUNT, setup = ready)]
    fn cloned(warm: Warm) -> Warm {
        let cx = &mut Context::from_waker(&warm.waker);
        black_box(&warm.peer.service).requests_on_clones(REQUESTS, cx);
        warm
    }

    // ===== a whole server =====

    fn http1(number: usize) -> Connected {
        hello::ways().swap_remove(number).http1(hello::AT_ONCE)
    }

    fn http1_later(number: usize) -> Connected {
        hello::ways().swap_remove(number).http1(hello::LATER)
    }

    fn http2(number: usize) -> Connected {
        hello::ways().swap_remove(number).http2(hello::AT_ONCE)
    }

    #[library_benchmark]
    #[benches::http1(iter = 0..hello::COUNT, setup = http1)]
    #[benches::http1_later(iter = 0..hello::COUNT, setup = http1_later)]
    #[benches::http2(iter = 0..hello::COUNT, setup = http2)]
    fn server(mut connected: Connected) -> Connected {
        black_box(&mut connected).requests(REQUESTS);
        connected
    }

    library_benchmark_group!(name = services, benchmarks = [same, cloned]);
    library_benchmark_group!(name = servers, benchmarks = server);

    main!(
        config = LibraryBenchmarkConfig::default()
            .tool(Callgrind::with_args(["collect-bus=yes"]));
        library_benchmark_groups = services, servers
    );

    /// gungraun's own `main`.
    pub fn run() {
        main();
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args
        .iter()
        .any(|arg| arg == "--gungraun-run" || arg == MEASURE)
    {
        suite::run();
        return ExitCode::SUCCESS;
    }
    // `cargo test --all-targets` starts it as well, and not to measure.
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

/// Has gungraun write each case's figures as one line.
const MEASURE: &str = "--output-format=json";

/// Has the figures written to the file that they are compared with.
const RECORD: &str = "--record";

/// Has gungraun measure, and compares.
fn judge(mut args: Vec<String>) -> io::Result<ExitCode> {
    let is_to_record = args.iter().any(|arg| arg == RECORD);
    args.retain(|arg| arg != RECORD);
    // What is no option of gungraun's names the cases that are to be measured.
    let are_all = args.iter().all(|arg| arg.starts_with("--"));
    if is_to_record && !are_all {
        return Err(io::Error::other("only all cases together are recorded"));
    }

    eprintln!("measuring; this takes some two minutes");
    let output = Command::new(env::current_exe()?)
        .args(args)
        .arg(MEASURE)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Ok(ExitCode::FAILURE);
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines = lines.lines();
    let cases = lines.map(|line| Case::read(line, REQUESTS, names));
    let mut figures = Figures::new(cases.collect());
    figures.derive_further_pending("pending_once", "pending_11", 10.0);
    println!("{figures}");
    for Peer { name, covers, .. } in peers::all(request::ready()) {
        println!("{name:36} {covers}");
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = root.join("target/bench-results");
    fs::create_dir_all(&results)?;
    figures.write(&results.join("instructions.json"))?;

    let recorded = root.join("benches/instructions.json");
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

/// The names of a group's cases, in the order of their numbers.
fn names(group: &str) -> Vec<&'static str> {
    if group.starts_with("http") {
        hello::ways().iter().map(|way| way.name).collect()
    } else {
        let peers = peers::all(request::ready());
        peers.iter().map(|peer| peer.name).collect()
    }
}
