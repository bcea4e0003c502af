//! Runtimes, and a time limit for tests that may block.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The time limit of a test.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a test on a separate thread, and fails if it exceeds the time limit, even when it blocks.
pub fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (over, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        over.send(()).unwrap();
        result
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(TIMEOUT) {
        panic!("it takes for ever");
    }
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A runtime with a paused clock.
pub fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

pub fn threads(count: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(count).enable_all().build().unwrap()
}
