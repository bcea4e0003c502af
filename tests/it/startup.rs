//! P8: a failed start-up leaves nothing behind; a successful one is stopped in reverse order.

mod admitted_work;
mod bad_stops;
mod blocked;
mod dropped;
mod failed_steps;
mod shutdown;
mod success;
mod triggered;
mod waits;

use std::error::Error;
use std::future::{IntoFuture, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::report::{Outcome, ServiceReport};
use tower_lifecycle::startup::{StartupCause, StartupError, Step, step};
use tower_lifecycle::{BoxError, Hook, LifecycleState, ShutdownConfig, ShutdownReason, Startup};

use crate::support::log::Lines;
use crate::support::runtime::{in_time, one_thread, threads};
use crate::support::shutdown::{ms, ten_seconds};
use crate::support::startup::{Log, Name, Stop, outcomes, startup, timed_outcomes};
use LifecycleState::{Failed, Initializing, Running, Starting, Stopped};
use ShutdownReason::Manual;

/// Waits for an end that must come, for at most an hour of the paused clock.
async fn end<F: IntoFuture>(future: F) -> F::Output {
    timeout(Duration::from_secs(3_600), future.into_future())
        .await
        .expect("it never ends")
}

async fn fail(startup: &mut Startup) -> StartupError {
    let start = async { Err::<(), _>("connection refused") };
    // If its stop ran, it would be in the rollback's list.
    let error = end(startup.start("broken", start, |()| async {})).await;
    error.unwrap_err()
}

fn is_triggered(error: &StartupError) -> bool {
    matches!(error.cause(), StartupCause::Triggered(Manual)) && error.step().is_none()
}
