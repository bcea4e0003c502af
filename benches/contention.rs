//! The cost of a second core: the same requests on one thread, and on two, four and eight at a
//! time.
//!
//! If a layer counts in one place, all cores share that cache line, and each request gets more
//! expensive with every core. The ratio of two threads to one shows it. Compare it with the ratio
//! of the bare service, which shares nothing.
//!
//! ```text
//! cargo bench -p benches --bench contention            # two minutes
//! cargo bench -p benches --bench contention -- --quick
//! ```
//!
//! Every thread has a clone of the service, as a connection has, and calls a clone of that for each
//! request, as servers do. The figures are CPU time per request and thread. With more threads than
//! cores, this leaves out the waiting for a core, but only as many threads as cores run at once. So
//! four and eight threads on two cores say nothing about four and eight cores.
//!
//! The candidates take turns, round after round, so that a busy moment of the machine affects all
//! of them. A round counts only if the two processors were two cores before and after it: those of
//! a virtual machine may be threads of one core. A measurement of two threads counts only if
//! neither had to wait for its core.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::thread;
use std::time::{Duration, Instant};

use tower::Layer;
use tower_lifecycle::{DrainLayer, ShutdownController};

mod common;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/results.rs"]
mod results;
#[path = "contention/services.rs"]
mod services;
#[path = "common/stats.rs"]
mod stats;

use common::request::{ready, request_on_clone, waker};
use cpu::{pin, processors, thread_time, two_cores};
use results::{Contended, Contention, Watched};
use stats::Median;

const THREADS: [usize; 4] = [1, 2, 4, 8];
/// The CPU time of each thread in each measurement.
const SPAN: Duration = Duration::from_millis(3);
const BATCH: u32 = 200;
/// The fraction of the time during which a thread has to be on its core.
const UNDISTURBED: f64 = 0.95;
/// How many times a measurement of two threads is tried in a round.
const TRIES: usize = 8;

/// Sends a number of requests, one after the other, on one thread.
type Work = Box<dyn FnMut(u32) + Send>;

struct Candidate {
    name: &'static str,
    /// Makes the work for one more thread.
    connect: Box<dyn Fn() -> Work + Sync>,
    /// In ns, a column for each number of threads.
    ns: [Vec<f64>; THREADS.len()],
    /// Two threads relative to one.
    ratios: Vec<f64>,
}

/// The measurement of one of several threads.
struct Sample {
    ns: f64,
    /// The fraction of the time during which it was on its core.
    presence: f64,
}

fn main() {
    let processors = processors();
    if processors.len() < 2 {
        println!("not measured: it takes two processors");
        return;
    }
    let rounds = if results::quick() { 4 } else { 100 };
    let mut candidates = services::services();
    let bare_router = candidates.len();
    candidates.extend(services::routers());

    let [mut kept, mut dropped_rounds, mut dropped_samples] = [0; 3];
    while kept < rounds && dropped_rounds < 4 * rounds {
        // A different candidate begins each round.
        let turn = (kept + dropped_rounds) % candidates.len();
        candidates.rotate_left(turn);
        let two = two_cores(&processors);
        let pairs: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                let one = undisturbed(candidate, 1, &processors);
                one.zip(undisturbed(candidate, 2, &processors))
            })
            .collect();
        if two && two_cores(&processors) {
            kept += 1;
            for (candidate, pair) in candidates.iter_mut().zip(pairs) {
                match pair {
                    Some(pair) => candidate.note_pair(pair),
                    None => dropped_samples += 1,
                }
                candidate.measure_more(&processors);
            }
        } else {
            dropped_rounds += 1;
        }
        candidates.rotate_right(turn);
    }

    let router = candidates.split_off(bare_router);
    let [services, router] = [candidates, router]
        .map(|candidates| candidates.into_iter().map(Candidate::result).collect());
    let figures = Contention {
        cores: processors.len(),
        threads: THREADS.to_vec(),
        rounds: kept,
        dropped_rounds,
        dropped_samples,
        services,
        router,
        watched: watched(&processors),
    };
    print(&figures);
    results::write("contention", figures);
}

fn print(figures: &Contention) {
    let Contention {
        cores,
        rounds,
        dropped_rounds,
        dropped_samples,
        ..
    } = figures;
    println!(
        "ns of processor time per request and thread, medians of {rounds} rounds on {cores} cores \
         ({dropped_rounds} rounds and {dropped_samples} measurements of two threads dropped)\n"
    );
    print!("{:32}", "");
    for threads in &figures.threads {
        print!(" {threads:>8}");
    }
    println!("  two over one (95 %)");
    let tables = [
        ("", &figures.services),
        ("through an axum Router", &figures.router),
    ];
    for (title, table) in tables {
        println!("{title}");
        for Contended { name, ns, ratio } in table {
            print!("{name:32}");
            for ns in ns {
                print!(" {}", ns.map_or("-".to_owned(), |ns| format!("{ns:8.1}")));
            }
            match ratio {
                Some(Median { median, low, high }) => {
                    println!("  {median:.2} ({low:.2} to {high:.2})");
                }
                None => println!("  too few undisturbed rounds"),
            }
        }
    }
    if let Some(Watched {
        alone,
        every_millisecond,
        without_pause,
    }) = figures.watched
    {
        println!(
            "\nDrainLayer while another thread asks for in_flight(): {alone:.1} ns with nobody \
             asking, {every_millisecond:.1} ns every millisecond, {without_pause:.1} ns without pause"
        );
    }
}

// ===== impl Candidate =====

impl Candidate {
    fn new(name: &'static str, connect: impl Fn() -> Work + Sync + 'static) -> Self {
        Self {
            name,
            connect: Box::new(connect),
            ns: Default::default(),
            ratios: Vec::new(),
        }
    }

    fn note_pair(&mut self, (one, two): (f64, f64)) {
        self.ns[0].push(one);
        self.ns[1].push(two);
        self.ratios.push(two / one);
    }

    /// With more than two threads.
    fn measure_more(&mut self, processors: &[usize]) {
        for (column, threads) in THREADS.into_iter().enumerate().skip(2) {
            let samples = measure(self, threads, processors);
            self.ns[column].push(mean(&samples));
        }
    }

    fn result(self) -> Contended {
        let median = |figures| Some(Median::of(figures)?.median);
        Contended {
            name: self.name.to_owned(),
            ns: self.ns.into_iter().map(median).collect(),
            ratio: Median::of(self.ratios),
        }
    }
}

// ===== measuring =====

/// Returns the mean over the threads, if none of them had to wait for its core.
fn undisturbed(candidate: &Candidate, threads: usize, processors: &[usize]) -> Option<f64> {
    (0..TRIES).find_map(|_| {
        let samples = measure(candidate, threads, processors);
        let present = samples.iter().all(|sample| sample.presence >= UNDISTURBED);
        present.then(|| mean(&samples))
    })
}

/// Runs the work on this many threads at once, each on the next processor.
fn measure(candidate: &Candidate, threads: usize, processors: &[usize]) -> Vec<Sample> {
    let start = Barrier::new(threads);
    let over = AtomicBool::new(false);
    // All threads stop with the first, so that none runs alone at the end. With more threads than
    // processors, each has to get its turn instead.
    let together = threads <= processors.len();
    let run = |number: usize| {
        pin(processors[number % processors.len()]);
        let mut work = (candidate.connect)();
        work(BATCH);
        start.wait();
        let (began, had) = (Instant::now(), thread_time());
        let mut requests = 0;
        let time = loop {
            work(BATCH);
            requests += BATCH;
            let time = thread_time() - had;
            if time >= SPAN || together && over.load(Ordering::Relaxed) {
                over.store(true, Ordering::Relaxed);
                break time.as_secs_f64();
            }
        };
        Sample {
            ns: time * 1e9 / f64::from(requests),
            presence: time / began.elapsed().as_secs_f64(),
        }
    };
    let run = &run;
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || run(number)))
            .collect();
        let samples = running.into_iter().map(|thread| thread.join());
        samples.map(|sample| sample.expect("no panic")).collect()
    })
}

fn mean(samples: &[Sample]) -> f64 {
    let total: f64 = samples.iter().map(|sample| sample.ns).sum();
    total / samples.len() as f64
}

/// The cost of a request while a thread on another core reads the counts that it changes.
fn watched(processors: &[usize]) -> Option<Watched> {
    let &[first, second, ..] = processors else {
        return None;
    };
    let ctl = ShutdownController::new();
    let service = DrainLayer::new(ctl.clone()).layer(ready());
    let over = AtomicBool::new(false);
    let ask = |pause: Duration| {
        pin(second);
        while !over.load(Ordering::Relaxed) {
            assert!(ctl.in_flight() <= 1);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    };
    let work = || {
        pin(first);
        let waker = waker();
        let mut cx = Context::from_waker(&waker);
        let (had, requests) = (thread_time(), 100_000);
        for _ in 0..requests {
            request_on_clone(&service, &mut cx);
        }
        let time = thread_time() - had;
        over.store(true, Ordering::Relaxed);
        time.as_secs_f64() * 1e9 / f64::from(requests)
    };
    let measure = |pause: Option<Duration>| {
        let times = (0..9).map(|_| {
            over.store(false, Ordering::Relaxed);
            thread::scope(|scope| {
                if let Some(pause) = pause {
                    scope.spawn(move || ask(pause));
                }
                scope.spawn(work).join().expect("no panic")
            })
        });
        Some(Median::of(times)?.median)
    };
    Some(Watched {
        alone: measure(None)?,
        every_millisecond: measure(Some(Duration::from_millis(1)))?,
        without_pause: measure(Some(Duration::ZERO))?,
    })
}
