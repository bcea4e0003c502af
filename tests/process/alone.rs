//! Tests that inspect the whole process, or could end it. Each runs alone in a separate process.

use std::any::type_name;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use portable_atomic::AtomicU64;
use tokio::runtime::Builder;
use tower::{Layer, Service, service_fn};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason};

/// Marks a child process.
const ALONE: &str = "TOWER_LIFECYCLE_TEST_ALONE";

/// Returns whether this process runs only `test`. If not, the test was run in such a process.
#[track_caller]
fn alone<T>(_test: &T) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let (_program, name) = type_name::<T>().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A name that matches no test succeeds, too.
    let ran = output.status.success() && said.contains("1 passed");
    assert!(ran, "{}: {said}{errors}", output.status);
    false
}

// ===== signals to the own process =====

#[cfg(all(unix, feature = "signal"))]
mod signals {
    use std::future::pending;

    use nix::sys::signal::{Signal, raise};
    use tokio::time::timeout;
    use tower_lifecycle::BoxError;

    use super::*;
    use crate::support::startup::{Log, startup};

    /// AC1 of the story in `it`: handle SIGTERM and SIGINT, and begin a graceful shutdown.
    #[tokio::test]
    async fn ac1_a_signal_begins_the_shutdown() {
        if !alone(&ac1_a_signal_begins_the_shutdown) {
            return;
        }
        let config = ShutdownConfig::default().late_for(Duration::ZERO);
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.listen_for_signals().unwrap();
        let request = ctl.try_admit().unwrap();
        raise(Signal::SIGTERM).unwrap();

        let notice = ctl.triggered().await;
        assert_eq!(notice.reason(), ShutdownReason::Signal("SIGTERM"));
        ctl.draining().await; // nothing else had to begin it
        assert_eq!(ctl.metrics().signal_received, Some("SIGTERM"));
        drop(request);
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert_eq!(report.reason(), ShutdownReason::Signal("SIGTERM"));
        assert!(report.is_graceful());
    }

    #[tokio::test]
    async fn a_signal_rolls_back() {
        if !alone(&a_signal_rolls_back) {
            return;
        }
        let (mut startup, log) = (startup(), Log::new());
        startup.controller().listen_for_signals().unwrap();
        log.start(&mut startup, "a").await;
        let start = async {
            raise(Signal::SIGTERM)?;
            pending::<Result<(), BoxError>>().await
        };
        let start = startup.start("b", start, |()| async {});
        let ended = timeout(Duration::from_secs(20), start.into_future()).await;
        let error = ended.expect("the signal was not heard").unwrap_err();
        assert_eq!(
            error.to_string(),
            "start-up ended: a shutdown was triggered (reason: signal SIGTERM)"
        );
        assert_eq!(log.names(), ["+a", "-a"]);
    }
}

// ===== a panic in a drop =====

/// A panic payload that panics when it is dropped.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("the payload of a panic");
        }
    }
}

struct BadDrop;

impl Wake for BadDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for BadDrop {
    fn drop(&mut self) {
        panic_any(Payload);
    }
}

/// Alone, because a panic that escapes the drop of a guard ends the process.
#[test]
fn the_drop_of_a_waker_does_not_end_the_process() {
    if !alone(&the_drop_of_a_waker_does_not_end_the_process) {
        return;
    }
    let ctl = ShutdownController::new();
    let stalls = service_fn(|_: Request<Empty<Bytes>>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let mut service = DrainLayer::new(ctl.clone()).layer(stalls);
    let waker = Waker::from(Arc::new(BadDrop));
    let cx = &mut Context::from_waker(&waker);
    assert!(service.poll_ready(cx).is_ready());
    let mut request = Box::pin(service.call(Request::new(Empty::new())));
    assert!(request.as_mut().poll(cx).is_pending());
    // The remaining reference is the layer's.
    assert!(catch_unwind(AssertUnwindSafe(|| drop(waker))).is_ok());
    let _ = catch_unwind(AssertUnwindSafe(|| drop(request)));
    assert_eq!(ctl.in_flight(), 0);
}

// ===== what a shutdown leaves behind =====

#[test]
fn rounds_of_trigger_and_resume_leave_nothing_behind() {
    const ROUNDS: usize = 1_000;
    if !alone(&rounds_of_trigger_and_resume_leave_nothing_behind) {
        return;
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let held = Arc::new(());
    let (ctl, tasks) = runtime.block_on(async {
        let config = ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(10))
            .cleanup_reserve(Duration::from_secs(2))
            .lame_duck(Duration::from_secs(3));
        let ctl = ShutdownController::with_config(config).unwrap();
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = tasks();
        let keep = Arc::clone(&held);
        ctl.on_shutdown("keeps", move |_| ready(drop_ok(keep)))
            .unwrap();
        let moves = Arc::new(AtomicU64::new(0));
        ctl.on_state_change({
            let moves = Arc::clone(&moves);
            move |_, _| {
                moves.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..ROUNDS {
            assert!(ctl.trigger(ShutdownReason::Manual));
            if round % 3 == 0 {
                // Some are already driven, and others are not.
                tokio::task::yield_now().await;
            }
            ctl.resume().unwrap();
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(moves.load(Ordering::Relaxed), 2 * ROUNDS as u64);
        (ctl, tasks() - before)
    });
    assert_eq!(tasks, 0);
    #[cfg(target_os = "linux")]
    until(|| watching() == 0);
    // The tasks that drove and watched them held the controller.
    drop((ctl, runtime));
    until(|| Arc::strong_count(&held) == 1);
}

fn drop_ok<T>(value: T) -> Result<(), tower_lifecycle::BoxError> {
    drop(value);
    Ok(())
}

/// Returns how many threads of this process watch a deadline, or drive a shutdown.
#[cfg(target_os = "linux")]
fn watching() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| {
        let comm = thread.ok()?.path().join("comm");
        // The thread may end meanwhile.
        std::fs::read_to_string(comm).ok()
    });
    names
        .filter(|name| name.starts_with("tower-lifecycle"))
        .count()
}

/// Polls a condition that another thread will set without signalling.
fn until(holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        thread::yield_now();
    }
}
