//! Spawns the tasks and threads of this crate.
//!
//! All are boxed, so that they are of one type. For each type of a future, the compiler makes tokio's code
//! for a task anew, and once for each of its schedulers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
#[cfg(feature = "server")]
use tokio::task::JoinSet;

/// The future of a task.
pub(crate) type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns a task on `runtime`.
#[track_caller]
pub(crate) fn task<F>(runtime: &Handle, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    boxed(runtime, Box::pin(future))
}

/// Spawns a task that is already boxed.
#[track_caller]
pub(crate) fn boxed(runtime: &Handle, future: Boxed) -> JoinHandle<()> {
    runtime.spawn(future)
}

/// Adds a task to `set`.
#[cfg(feature = "server")]
pub(crate) fn in_set(set: &mut JoinSet<()>, future: Boxed) {
    set.spawn(future);
}

/// Starts a thread.
pub(crate) fn thread<F>(name: &str, run: F) -> io::Result<thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    start(name, Box::new(run))
}

fn start(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}
