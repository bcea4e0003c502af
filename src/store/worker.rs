//! The thread of a store, which does the disk I/O.
//!
//! The store has its own thread because tokio's blocking pool may be full of blocked work when the last
//! state is saved. The thread runs one job at a time. Jobs that may have to wait for another process are
//! queued. Other jobs run meanwhile.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long to wait before a queued job is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// A handle to the thread. The thread ends when all handles are dropped and its work is done.
#[derive(Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

enum Job {
    Now(Box<dyn FnOnce() + Send>),
    Queued(Box<dyn Attempt>),
}

/// A job that may have to wait.
trait Attempt: Send {
    /// Tries to do the job. Returns whether it is done.
    fn attempt(&mut self) -> bool;

    /// Returns whether the caller has stopped waiting.
    fn is_given_up(&self) -> bool;
}

struct QueuedJob<F, T> {
    attempt: Option<F>,
    caller: Option<oneshot::Sender<T>>,
}

// ===== impl Worker =====

impl Worker {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        let thread = thread::Builder::new().name("lifecycle-store".into());
        thread.spawn(move || run(&received))?;
        Ok(Self { jobs })
    }

    /// Does `work` as soon as the thread is free, even if the future is dropped.
    pub(super) async fn now<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (caller, result) = oneshot::channel();
        let work = move || {
            // Fails if the caller has stopped waiting.
            let _ = caller.send(work());
        };
        self.send(Job::Now(Box::new(work)))?;
        result.await.map_err(|_| has_ended())
    }

    /// Queues `attempt`. Calls it repeatedly until it returns `Break`, after all earlier queued jobs.
    ///
    /// After the future is dropped, `attempt` is called at most once more.
    pub(super) async fn queue<T: Send + 'static>(
        &self,
        attempt: impl FnMut() -> ControlFlow<T> + Send + 'static,
    ) -> io::Result<T> {
        let (caller, result) = oneshot::channel();
        self.send(Job::Queued(Box::new(QueuedJob {
            attempt: Some(attempt),
            caller: Some(caller),
        })))?;
        result.await.map_err(|_| has_ended())
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| has_ended())
    }
}

fn run(jobs: &mpsc::Receiver<Job>) {
    let mut queue = VecDeque::<Box<dyn Attempt>>::new();
    loop {
        let next = if queue.is_empty() {
            jobs.recv().map_err(RecvTimeoutError::from)
        } else {
            jobs.recv_timeout(RETRY)
        };
        match next {
            Ok(Job::Now(work)) => work(),
            Ok(Job::Queued(job)) => queue.push_back(job),
            Err(RecvTimeoutError::Timeout) => {}
            // No handle is left, so no caller waits for a queued job.
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while queue.front_mut().is_some_and(|job| job.attempt()) {
            queue.pop_front();
        }
        // The first job has to wait, and so do the others. Drop those whose caller has stopped waiting.
        queue.retain(|job| !job.is_given_up());
    }
}

fn has_ended() -> io::Error {
    io::Error::other("it has ended")
}

// ===== impl QueuedJob =====

impl<F, T> Attempt for QueuedJob<F, T>
where
    F: FnMut() -> ControlFlow<T> + Send,
    T: Send,
{
    fn attempt(&mut self) -> bool {
        let Some(attempt) = &mut self.attempt else {
            return true;
        };
        let ControlFlow::Break(result) = attempt() else {
            return self.is_given_up();
        };
        // Drop the closure before sending the result. It may hold the last reference to an exclusive
        // folder, which is then released.
        self.attempt = None;
        if let Some(caller) = self.caller.take() {
            // Fails if the caller has stopped waiting.
            let _ = caller.send(result);
        }
        true
    }

    fn is_given_up(&self) -> bool {
        self.caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use tokio_test::block_on;

    use super::*;
    use crate::sync::Arc;

    /// A value whose drop is slow and sets a flag.
    struct Held(Arc<AtomicBool>);

    impl Drop for Held {
        fn drop(&mut self) {
            thread::sleep(10 * RETRY);
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn held() -> (Held, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        (Held(Arc::clone(&dropped)), dropped)
    }

    /// The value may hold the lock of an exclusive folder.
    #[test]
    fn what_work_holds_is_dropped_before_its_result_is_there() {
        let worker = Worker::start().expect("a thread");
        let (held, dropped) = held();
        block_on(worker.now(move || drop(held))).expect("it runs");
        assert!(dropped.load(Ordering::SeqCst));

        let (held, dropped) = self::held();
        let attempt = move || {
            let _held = &held;
            ControlFlow::Break(())
        };
        block_on(worker.queue(attempt)).expect("it runs");
        assert!(dropped.load(Ordering::SeqCst));
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_behind_what_is_blocked() {
        let worker = Worker::start().expect("a thread");
        let blocked = worker.queue(|| ControlFlow::<()>::Continue(()));
        let mut blocked = Box::pin(blocked);
        assert!(blocked.as_mut().now_or_never().is_none());

        let (held, dropped) = held();
        let behind = worker.queue(move || {
            let _held = &held;
            ControlFlow::Break(())
        });
        assert!(behind.now_or_never().is_none());
        while !dropped.load(Ordering::SeqCst) {
            // Jobs that are not queued still run.
            block_on(worker.now(|| ())).expect("it runs");
        }
        assert!(blocked.now_or_never().is_none());
    }
}
