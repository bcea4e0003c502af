//! How long after its deadline a shutdown ends, in real time, at its worst: with a guard that is never
//! dropped and a hook that never ends.
//!
//! ```text
//! cargo bench --bench deadline
//! ```
//!
//! Each run has a runtime of its own with two workers. What is shown is the time from the deadline to
//! the report in the hands of the one who waits for it.

use std::future::pending;
use std::time::{Duration, Instant};

use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};

const RUNS: u64 = 200;

fn main() {
    let mut late: Vec<Duration> = (0..RUNS).map(run).collect();
    late.sort_unstable();
    let at = |percent: usize| late[(late.len() - 1) * percent / 100];
    println!("late by, in {RUNS} runs of some 100 ms each:");
    for (name, percent) in [("least", 0), ("median", 50), ("95 %", 95), ("most", 100)] {
        println!("  {name:<7} {:.1?}", at(percent));
    }
}

fn run(number: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    // Not always the same, so that no rhythm of the machine is met each time.
    let total = Duration::from_millis(100 + number % 7);
    runtime.block_on(async move {
        let config = ShutdownConfig::default().shutdown_timeout(total);
        let ctl = ShutdownController::with_config(config).expect("legal times");
        let _stuck = ctl.track();
        ctl.on_shutdown("hang", |_| pending())
            .expect("the only hook");
        let began = Instant::now();
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert!(report.is_forced());
        began.elapsed().saturating_sub(total)
    })
}
