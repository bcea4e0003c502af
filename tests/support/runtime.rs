//! Runtimes, and a limit for tests that may block one.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on a thread of its own, and fails if it takes for ever, also if that is because the
/// thread is blocked.
pub fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (over, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        over.send(()).unwrap();
        result
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(PATIENCE) {
        panic!("it takes for ever");
    }
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// One whose clock moves only when everybody waits.
pub fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

pub fn threads(count: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(count).enable_all().build().unwrap()
}
