//! Drops of the user's values that panic, or that ask the controller. They must run under no lock, and harm
//! only what they belong to.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::mem::forget;
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::yield_now;
use tower_lifecycle::controller::TaskPolicy;
use tower_lifecycle::startup::{StartupCause, step};
use tower_lifecycle::{
    BoxError, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport, Startup, Task,
};

use crate::support::runtime::{in_time, one_thread, threads};
use crate::support::shutdown::{hook_outcomes, ms, settle};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

/// Panics when it is dropped.
#[derive(Debug)]
struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in a drop");
        }
    }
}

/// Panics when it is dropped, with a payload that panics when it is dropped.
struct PanicsTwice;

impl Drop for PanicsTwice {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_any(Panics);
        }
    }
}

/// Takes the locks of the tasks and the services when it is dropped.
#[derive(Debug)]
struct Asks(ShutdownController);

impl Drop for Asks {
    fn drop(&mut self) {
        let _ = self.0.metrics();
        let _ = self.0.in_flight_now();
    }
}

// ===== services =====

/// Forces in the stop of one service, when that of the other, which holds `held`, is spawned and not polled.
fn cut_unpolled<T: Send + 'static>(held: impl FnOnce(&ShutdownController) -> T) -> ShutdownReport {
    threads(1).block_on(async {
        let config = ShutdownConfig::default().shutdown_timeout(ms(2_000));
        let mut startup = Startup::new(config).unwrap();
        let ctl = startup.controller();
        let held = held(&ctl);
        let start = || async { Ok::<_, BoxError>(()) };
        let forces = step("forces", start(), move |()| async move { ctl.force() });
        let holds = step("holds", start(), move |()| async move { drop(held) });
        startup.start_all((forces, holds)).await.unwrap();
        let ctl = startup.finish().await.unwrap();
        ctl.shutdown(MANUAL).await
    })
}

#[test]
fn a_stop_that_is_cut_unpolled_may_ask_the_controller_in_its_drop() {
    let report = in_time(|| cut_unpolled(|ctl| Asks(ctl.clone())));
    assert_ne!(report.reason(), ShutdownReason::Interrupted, "{report}");
}

#[test]
fn a_stop_that_is_cut_unpolled_may_panic_in_its_drop() {
    let report = in_time(|| cut_unpolled(|_| Panics));
    assert_ne!(report.reason(), ShutdownReason::Interrupted, "{report}");
}

#[tokio::test]
async fn a_start_that_panics_with_a_payload_that_panics_is_an_error() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let start = async {
        if true {
            panic_any(Panics);
        }
        Ok::<_, BoxError>(())
    };
    let error = startup.start("a", start, |()| async {}).await.unwrap_err();
    assert!(matches!(error.cause(), StartupCause::Panicked(_)));
}

// ===== tasks =====

/// Runs many tasks of one name that fail, one after another. The last reference to an error is dropped when the
/// next task is spawned, once the report has no room for more.
async fn fail_many_times<E: Error + Send + Sync + 'static>(
    ctl: &ShutdownController,
    error: impl Fn(Alive) -> E,
) {
    let alive = Arc::new(());
    for _ in 0..100 {
        let error = error(Alive {
            _counted: Arc::clone(&alive),
        });
        let task = Task::new("consumer", async { Err::<(), _>(error) });
        let task = task.on_error(TaskPolicy::Note);
        ctl.spawn_task(task).await.unwrap();
        // The report has 64, and health has the last one. The log drops its copy in its thread.
        while Arc::strong_count(&alive) > 66 {
            yield_now().await;
        }
    }
}

#[derive(Debug)]
struct Alive {
    _counted: Arc<()>,
}

#[derive(Debug)]
struct Failure<T> {
    _held: T,
    _alive: Alive,
}

impl<T> Failure<T> {
    fn new(held: T, alive: Alive) -> Self {
        Self {
            _held: held,
            _alive: alive,
        }
    }
}

impl<T> fmt::Display for Failure<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no receiver")
    }
}

impl<T: fmt::Debug> Error for Failure<T> {}

#[test]
fn an_error_of_a_task_may_ask_the_controller_in_its_drop() {
    in_time(|| {
        one_thread().block_on(async {
            let ctl = ShutdownController::new();
            fail_many_times(&ctl, |alive| Failure::new(Asks(ctl.clone()), alive)).await;
        });
    });
}

#[test]
fn an_error_of_a_task_may_panic_in_its_drop() {
    in_time(|| {
        one_thread().block_on(async {
            let ctl = ShutdownController::new();
            fail_many_times(&ctl, |alive| Failure::new(Panics, alive)).await;
            let report = ctl.shutdown(MANUAL).await;
            assert_eq!(report.abandoned(), 0, "{report}");
            // They have the errors.
            forget((ctl, report));
        });
    });
}

// ===== hooks =====

#[tokio::test(start_paused = true)]
async fn a_cut_hook_that_panics_twice_harms_only_itself() {
    let ctl = ShutdownController::new();
    ctl.on_shutdown("bad", |_| async {
        let _bad = PanicsTwice;
        pending().await
    })
    .unwrap();
    let end = ctl.shutdown(MANUAL);
    settle().await;
    ctl.force();
    let report = end.await;
    assert_ne!(report.reason(), ShutdownReason::Interrupted, "{report}");
    let outcomes = hook_outcomes(&report);
    assert!(outcomes[0].starts_with("panicked"), "{outcomes:?}");
}

// ===== servers =====

struct FailingServer(Panics);

impl Future for FailingServer {
    type Output = Result<(), &'static str>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let _ = &self.0;
        Poll::Ready(Err("listener lost"))
    }
}

#[tokio::test]
async fn a_server_that_fails_and_panics_in_its_drop_has_failed() {
    let ctl = ShutdownController::new();
    let panicked = tokio::spawn(ctl.run(FailingServer(Panics))).await;
    assert!(panicked.unwrap_err().is_panic());
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(report.reason(), ShutdownReason::Error);
    assert!(!report.is_graceful(), "{report}");
    assert!(report.to_string().contains("listener lost"), "{report}");
}

/// Dropped since the drain is over.
#[tokio::test(start_paused = true)]
async fn a_server_that_panics_when_it_is_dropped_ends_only_its_own_task() {
    let ctl = ShutdownController::new();
    let held = Panics;
    let server = ctl.run(async move {
        let _held = held;
        pending::<()>().await
    });
    let panicked = tokio::spawn(server);
    settle().await;
    ctl.trigger(MANUAL);
    ctl.force();
    assert!(panicked.await.unwrap_err().is_panic());
    let report = ctl.shutdown(MANUAL).await;
    assert_ne!(report.reason(), ShutdownReason::Interrupted, "{report}");
}
