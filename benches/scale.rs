//! The cost of a hundred thousand requests that are pending at once, each in its own task: how long
//! a force takes to end them all, and the cost of one more request. `heap` measures their memory.
//!
//! ```text
//! cargo bench -p benches --bench scale            # two minutes
//! cargo bench -p benches --bench scale -- --quick
//! ```
//!
//! Each measurement runs in its own process, which is this program again. The compared processes
//! take turns, round after round: a force is compared with aborting bare tasks in the same round.

use std::env;
use std::process::Command;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod common;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "scale/here.rs"]
mod here;
#[path = "common/pending.rs"]
mod pending;
#[path = "common/results.rs"]
mod results;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/ways.rs"]
mod ways;

use results::{Force, Further, Questions, Scale};
use stats::{Median, quantile, sorted};
use ways::{Bare, ByHand, Ours, Select, UntilCancelled, Way};

const WAYS: [&str; 5] = [
    Bare::NAME,
    Ours::NAME,
    Select::NAME,
    UntilCancelled::NAME,
    ByHand::NAME,
];
const RUNTIMES: [&str; 2] = ["current_thread", "multi_thread, 2 workers"];
/// The argument of a process that measures.
const MEASURE: &str = "measure";

/// The measurement of one process.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Measurement {
    Force { runtime: String, pending: usize },
    Drained { runtime: String, times: usize },
    Further { most: usize },
}

/// Its result.
#[derive(Debug, Serialize, Deserialize)]
struct Cut {
    caller_ms: f64,
    resolved_ms: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Load {
    further: Vec<Further>,
    questions: Vec<Questions>,
}

fn main() {
    let arguments: Vec<_> = env::args().collect();
    if let [_, measure, way, measurement] = &arguments[..] {
        if measure == MEASURE {
            let measurement = serde_json::from_str(measurement).expect("as it was written");
            return match &way[..] {
                Bare::NAME => here::measure::<Bare>(measurement),
                Ours::NAME => here::measure::<Ours>(measurement),
                Select::NAME => here::measure::<Select>(measurement),
                UntilCancelled::NAME => here::measure::<UntilCancelled>(measurement),
                ByHand::NAME => here::measure::<ByHand>(measurement),
                _ => panic!("nothing is called {way:?}"),
            };
        }
    }
    let quick = results::quick();
    let (pending, processes) = if quick { (10_000, 3) } else { (100_000, 15) };
    let (times, most) = if quick {
        (30, 10_000)
    } else {
        (1_000, 1_000_000)
    };

    let force = RUNTIMES.map(|runtime| force(runtime, pending, processes));
    let drained = RUNTIMES.map(|runtime| results::Drained {
        runtime: runtime.to_owned(),
        us: elsewhere(
            Ours::NAME,
            &Measurement::Drained {
                runtime: runtime.to_owned(),
                times,
            },
        ),
    });
    let Load { further, questions } = load(most, if quick { 1 } else { 7 });
    let figures = Scale {
        pending,
        processes,
        force: force.into_iter().flatten().collect(),
        drained: drained.into(),
        further,
        questions,
    };
    print(&figures);
    results::write("scale", figures);
}

/// Measures in another process.
fn elsewhere<T: DeserializeOwned>(way: &str, measurement: &Measurement) -> T {
    let measurement = serde_json::to_string(measurement).expect("plain data");
    let output = Command::new(env::current_exe().expect("this program"))
        .args([MEASURE, way, &measurement])
        .output()
        .expect("this program again");
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{way}, {measurement}: {failure}");
    serde_json::from_slice(&output.stdout).expect("as it is written below")
}

fn force(runtime: &str, pending: usize, processes: usize) -> Vec<Force> {
    let measurement = Measurement::Force {
        runtime: runtime.to_owned(),
        pending,
    };
    let rounds: Vec<[Cut; WAYS.len()]> = (0..processes)
        .map(|round| {
            // A different one begins each round.
            let mut ways = WAYS;
            let turn = round % ways.len();
            ways.rotate_left(turn);
            let mut cuts = ways.map(|way| elsewhere(way, &measurement));
            cuts.rotate_right(turn);
            cuts
        })
        .collect();
    let forces = WAYS.iter().enumerate().map(|(way, name)| {
        let median = |figure: &dyn Fn(&[Cut; WAYS.len()]) -> f64| {
            Median::of(rounds.iter().map(figure)).expect("enough rounds")
        };
        Force {
            runtime: runtime.to_owned(),
            name: (*name).to_owned(),
            caller_ms: median(&|round| round[way].caller_ms),
            resolved_ms: median(&|round| round[way].resolved_ms),
            ratio: median(&|round| round[way].resolved_ms / round[0].resolved_ms),
        }
    });
    forces.collect()
}

/// Compares medians, as the speed of the machine varies.
fn load(most: usize, rounds: usize) -> Load {
    let rounds: Vec<[Load; WAYS.len()]> = (0..rounds)
        .map(|_| WAYS.map(|way| elsewhere(way, &Measurement::Further { most })))
        .collect();
    let mut all = Load {
        further: Vec::new(),
        questions: Vec::new(),
    };
    for way in 0..WAYS.len() {
        let of = &rounds[0][way];
        all.further
            .extend(of.further.iter().enumerate().map(|(place, further)| {
                let median = |ns: fn(&Further) -> f64| {
                    middle(rounds.iter().map(|round| ns(&round[way].further[place])))
                };
                Further {
                    name: further.name.clone(),
                    in_flight: further.in_flight,
                    ready_ns: median(|further| further.ready_ns),
                    pending_ns: median(|further| further.pending_ns),
                }
            }));
        all.questions
            .extend(of.questions.iter().enumerate().map(|(place, questions)| {
                let median = |ns: fn(&Questions) -> f64| {
                    middle(rounds.iter().map(|round| ns(&round[way].questions[place])))
                };
                Questions {
                    in_flight: questions.in_flight,
                    in_flight_ns: median(|questions| questions.in_flight_ns),
                    health_ns: median(|questions| questions.health_ns),
                }
            }));
    }
    all
}

fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    quantile(&sorted(figures), 0.5)
}

fn print(figures: &Scale) {
    for runtime in RUNTIMES {
        println!(
            "\nforce on {runtime}, medians of {} processes\n",
            figures.processes
        );
        println!(
            "{:36} {:>12} {:>12} {:>28}",
            "", "caller ms", "resolved ms", "over abort (95 %)"
        );
        for force in figures
            .force
            .iter()
            .filter(|force| force.runtime == runtime)
        {
            let Median { median, low, high } = force.ratio;
            let (caller, resolved) = (force.caller_ms.median, force.resolved_ms.median);
            let ratio = format!("{median:.2} ({low:.2} to {high:.2})");
            println!(
                "{:36} {caller:12.2} {resolved:12.2} {ratio:>28}",
                force.name
            );
        }
    }
    println!("\ndrained, in µs after the last guard\n");
    for results::Drained { runtime, us } in &figures.drained {
        let [median, most] = [0.5, 0.99].map(|part| quantile(us, part));
        println!("{runtime:36} median {median:.1}, 99 % {most:.1}");
    }
    println!("\nns per further request\n");
    println!(
        "{:36} {:>10} {:>10} {:>14}",
        "", "in flight", "ready", "pending once"
    );
    for Further {
        name,
        in_flight,
        ready_ns,
        pending_ns,
    } in &figures.further
    {
        println!("{name:36} {in_flight:10} {ready_ns:10.1} {pending_ns:14.1}");
    }
    println!("\nns per answer\n");
    println!("{:>10} {:>14} {:>14}", "in flight", "in_flight()", "health");
    for Questions {
        in_flight,
        in_flight_ns,
        health_ns,
    } in &figures.questions
    {
        println!("{in_flight:10} {in_flight_ns:14.1} {health_ns:14.1}");
    }
}
