//! Shared code for tests of the shutdown: controllers, their times, and the outcomes of tasks.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tower_lifecycle::report::{HookReport, TaskReport};
use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport};

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A total of 10 s, with a reserve of 2 s.
pub fn ten_seconds() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(10_000))
        .cleanup_reserve(ms(2_000))
}

pub fn controller(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config).unwrap()
}

/// A controller whose listener stays open while draining, and whose layers refuse all requests.
pub fn refusing() -> ShutdownController {
    controller(ShutdownConfig::default().refuse_for(ms(200)))
}

/// Lets every other task run until it is idle. The clock is paused, so no real time passes.
pub async fn settle() {
    sleep(ms(1)).await;
}

/// Waits for the report; fails after a time limit.
pub async fn shut_down(ctl: &ShutdownController) -> ShutdownReport {
    let shutdown = ctl.shutdown(ShutdownReason::Manual);
    let report = timeout(Duration::from_secs(3_600), shutdown).await;
    report.expect("it never ends")
}

/// Returns the name and the outcome of each task of a report.
pub fn ends(report: &ShutdownReport) -> Vec<String> {
    let end = |task: &TaskReport| format!("{}: {}", task.name(), task.outcome());
    report.tasks().iter().map(end).collect()
}

/// Returns the outcome of each hook of a report.
pub fn hook_outcomes(report: &ShutdownReport) -> Vec<String> {
    let outcome = |hook: &HookReport| hook.outcome().to_string();
    report.hooks().iter().map(outcome).collect()
}

/// Records that it was dropped.
pub struct Dropped(Arc<AtomicBool>);

impl Dropped {
    pub fn new() -> (Self, Arc<AtomicBool>) {
        let told = Arc::default();
        (Self(Arc::clone(&told)), told)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
