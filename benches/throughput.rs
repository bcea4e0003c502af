//! The cost of a layer in a whole server: requests per second by `wrk`, over loopback, of an axum
//! app with the layer and without.
//!
//! ```text
//! cargo bench -p benches --bench throughput            # five minutes; needs the program `wrk`
//! cargo bench -p benches --bench throughput -- --quick
//! ```
//!
//! Each server is its own process with a single-threaded runtime, on one processor; `wrk` runs on
//! another. They take turns in short slices, so that each is compared with the bare server within
//! the same few seconds. The bare server runs twice, which shows how much equal servers differ. A
//! round counts only if the two processors were two cores before and after it.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};

use axum::Router;
use axum::ServiceExt;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_http::metrics::InFlightRequestsLayer;
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController};

mod common;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/results.rs"]
mod results;
#[path = "common/stats.rs"]
mod stats;

use cpu::{pin, processors, two_cores};
use results::{Server, Throughput};
use stats::Median;

/// The others are compared with the first; the second is its control.
const SERVERS: [&str; 7] = [
    "bare",
    "bare again",
    "empty wrapper",
    "RequestTrackingLayer",
    "DrainLayer",
    "DrainLayer around the router",
    "tower-http InFlightRequests",
];
const CONNECTIONS: u32 = 32;
const SECONDS: u64 = 1;
/// The argument of a process that runs one of the servers.
const SERVE: &str = "serve";

fn main() {
    let arguments: Vec<_> = env::args().collect();
    if let [_, serve, name] = &arguments[..] {
        if serve == SERVE {
            return serve_until_left(name);
        }
    }
    if Command::new("wrk").arg("-v").output().is_err() {
        println!("not measured: there is no `wrk` here (Debian has it: apt-get install wrk)");
        return;
    }
    let processors = processors();
    let &[first, second, ..] = &processors[..] else {
        println!("not measured: server and client need a processor each");
        return;
    };
    let rounds = if results::quick() { 3 } else { 40 };

    // Processes started here run on the first processor, and so do the servers.
    pin(first);
    let mut servers = SERVERS.map(Running::start);
    pin(second);
    for server in &servers {
        server.slice();
    }
    let (mut kept, mut dropped) = (Vec::new(), 0);
    while kept.len() < rounds && dropped < 2 * rounds {
        let two = two_cores(&processors);
        pin(second);
        let turn = (kept.len() + dropped) % servers.len();
        servers.rotate_left(turn);
        let mut round = servers.each_ref().map(Running::slice);
        servers.rotate_right(turn);
        round.rotate_right(turn);
        if two && two_cores(&processors) {
            kept.push(round);
        } else {
            dropped += 1;
        }
    }
    drop(servers);
    let Some(figures) = figures(&kept, dropped) else {
        println!("not measured: {dropped} rounds dropped, the processors were one core");
        return;
    };
    print(&figures);
    results::write("throughput", figures);
}

fn figures(rounds: &[[Slice; SERVERS.len()]], dropped: usize) -> Option<Throughput> {
    let servers = SERVERS.iter().enumerate().map(|(server, name)| {
        let median = |figure: &dyn Fn(&[Slice]) -> Option<f64>| {
            Median::of(rounds.iter().filter_map(|round| figure(round)))
        };
        Some(Server {
            name: (*name).to_owned(),
            requests_per_second: median(&|round| Some(round[server].per_second))?,
            ratio: median(&|round| Some(round[server].per_second / round[0].per_second))?,
            cpu_ns: median(&|round| round[server].cpu_ns),
            cpu_ratio: median(&|round| Some(round[server].cpu_ns? / round[0].cpu_ns?)),
        })
    });
    Some(Throughput {
        seconds: SECONDS,
        connections: CONNECTIONS,
        rounds: rounds.len(),
        dropped,
        servers: servers.collect::<Option<_>>()?,
    })
}

fn print(figures: &Throughput) {
    let Throughput {
        seconds,
        connections,
        rounds,
        dropped,
        servers,
    } = figures;
    println!(
        "{rounds} rounds of {seconds} s for each, {connections} connections, medians ({dropped} rounds \
         dropped)\n"
    );
    println!(
        "{:30} {:>10} {:>28} {:>12} {:>10}",
        "", "requests/s", "over bare (95 %)", "control's?", "cpu ns"
    );
    let control = &servers[1].ratio;
    for server in servers {
        let Median { median, low, high } = server.ratio;
        let ratio = format!("{median:.3} ({low:.3} to {high:.3})");
        let inside = if control.contains(median) {
            "inside"
        } else {
            "outside"
        };
        let cpu = server
            .cpu_ns
            .map_or("-".to_owned(), |cpu| format!("{:.0}", cpu.median));
        let per_second = server.requests_per_second.median;
        println!(
            "{:30} {per_second:10.0} {ratio:>28} {inside:>12} {cpu:>10}",
            server.name
        );
    }
}

// ===== the client =====

/// The output of `wrk` for one slice.
struct Slice {
    per_second: f64,
    /// The server's CPU time for a request.
    cpu_ns: Option<f64>,
}

/// A server in its own process, which ends when this is dropped.
struct Running {
    process: Child,
    url: String,
}

impl Running {
    fn start(name: &str) -> Self {
        let program = env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args([SERVE, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program again");
        let mut url = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut url)
            .expect("the server says where it is");
        let url = url.trim().to_owned();
        assert!(!url.is_empty(), "{name} did not begin to serve");
        Self { process, url }
    }

    fn slice(&self) -> Slice {
        let had = self.cpu_ns();
        let output = Command::new("wrk")
            .args([
                "-t1",
                &format!("-c{CONNECTIONS}"),
                &format!("-d{SECONDS}s"),
                &self.url,
            ])
            .output()
            .expect("it was there before");
        let told = String::from_utf8_lossy(&output.stdout);
        let is_clean = !told.contains("Socket errors") && !told.contains("Non-2xx");
        assert!(output.status.success() && is_clean, "wrk says: {told}");
        let requests = told
            .lines()
            .find_map(|line| line.split_once(" requests in "));
        let requests: f64 = number(requests.expect("as wrk 4 says it").0);
        let per_second = told
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:"));
        Slice {
            per_second: number(per_second.expect("as wrk 4 says it")),
            cpu_ns: had
                .zip(self.cpu_ns())
                .map(|(had, has)| (has - had) / requests),
        }
    }

    /// The CPU time of all its threads; `None` where the system does not report it.
    fn cpu_ns(&self) -> Option<f64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).ok()?;
        let times = threads.map(|thread| {
            let told = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            told.split(' ').next()?.parse::<f64>().ok()
        });
        times.sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The server ends when its stdin is closed.
        drop(self.process.stdin.take());
        let ended = self.process.wait();
        assert!(ended.as_ref().is_ok_and(ExitStatus::success), "{ended:?}");
    }
}

fn number(text: &str) -> f64 {
    text.trim().parse().expect("a number")
}

// ===== the servers =====

fn serve_until_left(name: &str) {
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        println!("http://{}/", listener.local_addr().expect("bound"));
        serve(name, listener).await.expect("axum does not fail");
    });
}

async fn serve(name: &str, listener: TcpListener) -> io::Result<()> {
    let app = Router::new().route("/", get(async || "hello, world"));
    let controller = ShutdownController::new();
    // One handle is kept, as in a program that means to shut down.
    let ctl = controller.clone();
    let app = match name {
        "bare" | "bare again" => app,
        "empty wrapper" => app.layer(tower::layer::layer_fn(|inner| {
            common::keep::keep(inner, common::keep::NoGuard::new)
        })),
        "RequestTrackingLayer" => app.layer(RequestTrackingLayer::new(ctl)),
        "DrainLayer" => app.layer(DrainLayer::new(ctl)),
        "tower-http InFlightRequests" => app.layer(InFlightRequestsLayer::pair().0),
        "DrainLayer around the router" => {
            let around = ServiceBuilder::new()
                .map_response(|response: Response<ResponseBody<Body>>| response.map(Body::new))
                .layer(DrainLayer::new(ctl))
                .service(app);
            let make = ServiceExt::<Request>::into_make_service(around);
            return axum::serve(listener, make).await;
        }
        _ => panic!("no server is called {name:?}"),
    };
    axum::serve(listener, app).await
}
