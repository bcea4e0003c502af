//! How long after its deadline a shutdown ends, in real time: with a hook that never ends, and with
//! a guard that is never dropped as well.
//!
//! ```text
//! cargo bench -p benches --bench deadline            # a minute and a half
//! cargo bench -p benches --bench deadline -- --quick
//! ```
//!
//! Each run has its own runtime with two workers. The figures are the time from the deadline until
//! the waiter has the report. A guard alone does not hold a shutdown until its deadline, since it
//! is cut when the drain's own time is over. In that case the figure is the time from then to the
//! cut. The cases take turns with a bare timer of the runtime, which shows how much of the delay
//! comes from the runtime and the machine. runtime's and the machine's.

use std::future::pending;
use std::time::Duration;

use tokio::time::Instant;
use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};

#[path = "common/results.rs"]
mod results;
#[path = "common/stats.rs"]
mod stats;

use results::{Deadline, Lateness};
use stats::{quantile, sorted};

const CASES: [Case; 4] = [Case::Timer, Case::Guard, Case::Hook, Case::Both];

#[derive(Debug, Clone, Copy)]
enum Case {
    Timer,
    Guard,
    Hook,
    Both,
}

fn main() {
    let runs = if results::quick() { 10 } else { 200 };
    let mut late = CASES.map(|_| Vec::new());
    for number in 0..runs {
        for (case, late) in CASES.iter().zip(&mut late) {
            late.push(case.run(number));
        }
    }

    println!("late by, in ms, in {runs} runs each of some 100 ms:\n");
    let columns = ["least", "median", "90 %", "99 %", "most"];
    let [least, median, ninety, ninety_nine, most] = columns;
    println!(
        "{:36} {least:>8} {median:>8} {ninety:>8} {ninety_nine:>8} {most:>8}",
        ""
    );
    let cases = CASES.iter().zip(late).map(|(case, ms)| Lateness {
        name: case.name().to_owned(),
        ms: sorted(ms),
    });
    let cases: Vec<_> = cases.collect();
    for Lateness { name, ms } in &cases {
        let [least, median, ninety, ninety_nine, most] =
            [0.0, 0.5, 0.9, 0.99, 1.0].map(|part| quantile(ms, part));
        println!("{name:36} {least:8.2} {median:8.2} {ninety:8.2} {ninety_nine:8.2} {most:8.2}");
    }
    results::write("deadline", Deadline { cases });
}

// ===== impl Case =====

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Timer => "a timer of tokio's alone",
            Case::Guard => "the cut of a guard that stays",
            Case::Hook => "the end, with a hook that hangs",
            Case::Both => "the end, with both",
        }
    }

    /// Returns by how many milliseconds this run was late.
    fn run(self, number: u64) -> f64 {
        // The time varies, so that it does not coincide with a rhythm of the machine.
        let total = Duration::from_millis(100 + number % 7);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (due, at) = runtime.block_on(async move {
            match self {
                Case::Timer => timer(total).await,
                Case::Guard => cut(total).await,
                Case::Hook => end(total, false).await,
                Case::Both => end(total, true).await,
            }
        });
        let late = at.saturating_duration_since(due).as_secs_f64();
        let early = due.saturating_duration_since(at).as_secs_f64();
        (late - early) * 1e3
    }
}

/// Each returns when it was due, and when it ended.
async fn timer(total: Duration) -> (Instant, Instant) {
    let due = Instant::now() + total;
    // In a task, as a shutdown is, with a waiter.
    let timer = tokio::spawn(tokio::time::sleep_until(due));
    timer.await.expect("no panic in a timer");
    (due, Instant::now())
}

async fn cut(total: Duration) -> (Instant, Instant) {
    let ctl = controller(total);
    let _stuck = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let notice = ctl.notice().expect("triggered");
    ctl.forced().await;
    let at = Instant::now();
    (notice.drain_deadline().expect("a limited time"), at)
}

async fn end(total: Duration, guard: bool) -> (Instant, Instant) {
    let ctl = controller(total);
    let _stuck = guard.then(|| ctl.track());
    ctl.on_shutdown("hang", |_| pending())
        .expect("the only hook");
    let due = Instant::now() + total;
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let at = Instant::now();
    assert_eq!(report.is_forced(), guard, "{report}");
    assert!(!report.is_graceful(), "{report}");
    (due, at)
}

fn controller(total: Duration) -> ShutdownController {
    let config = ShutdownConfig::default().shutdown_timeout(total);
    ShutdownController::with_config(config).expect("legal times")
}
