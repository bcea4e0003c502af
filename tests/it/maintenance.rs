//! Maintenance: cancelling a shutdown, and refusing work for a while.

/// Asserts that none of the futures that a shutdown resolves is ready.
macro_rules! none_resolves {
    ($($wait:expr),* $(,)?) => {$(
        assert!(
            tokio::time::timeout(Duration::ZERO, $wait).await.is_err(),
            stringify!($wait)
        );
    )*};
}

mod figures;
mod idle;
mod many_threads;
mod pause;
mod paused_shutdown;
mod resume;

use std::future::{Future, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use portable_atomic::{AtomicI64, AtomicU64};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::future::Wait;
use tower_lifecycle::report::PhaseReport;
use tower_lifecycle::{
    LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

use crate::support::runtime::one_thread;
use crate::support::shutdown::{controller, ms, settle, ten_seconds};
use LifecycleState::*;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const ERROR: ShutdownReason = ShutdownReason::Error;

/// The same, with a lame duck of 3 s.
fn lame_duck() -> ShutdownController {
    controller(ten_seconds().lame_duck(ms(3_000)))
}

/// For controllers that are used by many threads without a runtime.
fn one_worker() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// Waits, and fails if a wake-up was lost.
fn within_a_minute<F: Future>(wait: F) -> F::Output {
    let minute = Duration::from_secs(60);
    let result = one_thread().block_on(async { tokio::time::timeout(minute, wait).await });
    result.expect("a lost wake-up")
}

/// Polls a condition that another thread will set without signalling.
fn until(holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        thread::yield_now();
    }
}

/// Records every change.
fn record(ctl: &ShutdownController) -> Arc<Mutex<Vec<(LifecycleState, LifecycleState)>>> {
    let moves = Arc::new(Mutex::new(Vec::new()));
    ctl.on_state_change({
        let moves = Arc::clone(&moves);
        move |old, new| moves.lock().unwrap().push((old, new))
    });
    moves
}

// ===== health =====

#[cfg(feature = "health")]
#[tokio::test(start_paused = true)]
async fn readiness_is_green_again_after_a_resume_and_red_in_a_pause() {
    use tower::ServiceExt;
    let ctl = lame_duck();
    let status = async |liveness: bool| {
        let health = tower_lifecycle::HealthService::new(ctl.clone());
        let health = if liveness { health.liveness() } else { health };
        let answer = health.oneshot(http::Request::new(())).await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(status(false).await, 200);
    ctl.trigger(MANUAL);
    assert_eq!(status(false).await, 503);
    ctl.resume().unwrap();
    assert_eq!(status(false).await, 200);
    ctl.pause();
    assert_eq!(status(false).await, 503);
    assert_eq!(status(true).await, 200);
    ctl.unpause();
    assert_eq!(status(false).await, 200);
}

// ===== shared helpers =====

/// Ends the threads even when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
