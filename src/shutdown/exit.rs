//! Exits a process that does not exit by itself.

use std::process;
use std::thread;
use std::time::{Duration, Instant};

use super::attempt::Shutdown;
use crate::log;
use crate::log::tell;
use crate::spawn;
use crate::sync::Arc;

/// How often the thread checks whether the shutdown is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long `process::exit` may take: its exit handlers may block, for example on a full pipe.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The exit code when there is no report.
const NO_REPORT: u8 = 1;

/// Starts a thread that exits the process `after` the report of `shutdown`, or after its final deadline.
pub(crate) fn guard(shutdown: &Arc<Shutdown>, after: Duration) {
    let guarded = Arc::clone(shutdown);
    let thread = spawn::thread("tower-lifecycle-exit", move || {
        if let Some(code) = wait(&guarded, after) {
            end(code);
        }
    });
    if let Err(cause) = thread {
        tell!(error, %cause, "cannot start a thread to end the process");
    }
}

/// Waits until the process should have exited. Returns the exit code, or `None` if the shutdown was
/// called off.
fn wait(shutdown: &Shutdown, after: Duration) -> Option<u8> {
    while shutdown.exit_code().is_none() {
        if shutdown.is_called_off() {
            return None;
        }
        let notice = shutdown.notice.clone().later_by(shutdown.frozen());
        if notice.time_remaining() == Some(Duration::ZERO) {
            break;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let over = Instant::now();
    while over.elapsed() < after {
        // `after` may be longer than a thread can sleep.
        thread::sleep((after - over.elapsed().min(after)).min(Duration::from_secs(3600)));
    }
    Some(shutdown.exit_code().unwrap_or(NO_REPORT))
}

fn end(code: u8) {
    tell!(
        error,
        code,
        "the process did not exit by itself: something blocks its runtime"
    );
    log::flush();
    let watchdog = spawn::thread("tower-lifecycle-exit", move || {
        thread::sleep(EXIT_TIMEOUT);
        exit_now(code);
    });
    match watchdog {
        Ok(_) => process::exit(code.into()),
        Err(_) => exit_now(code),
    }
}

/// Exits the process without running exit handlers.
#[cfg(all(unix, feature = "signal"))]
fn exit_now(code: u8) {
    signal_hook::low_level::exit(code.into());
}

#[cfg(not(all(unix, feature = "signal")))]
fn exit_now(_code: u8) {
    process::abort();
}
