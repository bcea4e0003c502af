//! The thread of a store, which does its work on the disk.
//!
//! It is the store's own: tokio's blocking pool may be full of what hangs when the last state is to
//! be saved. It does one thing after another. What has to wait for another process waits in turn,
//! and what needs no turn goes on meanwhile.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// How often it is tried anew what has to wait.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// A handle to the thread, which ends with the last one, when its work is done.
#[derive(Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

enum Job {
    Now(Box<dyn FnOnce() + Send>),
    InTurn(Box<dyn Turn>),
}

/// Work that may have to wait.
trait Turn: Send {
    /// Returns whether it is done.
    fn attempt(&mut self) -> bool;

    /// Returns whether nobody waits for it any more.
    fn is_given_up(&self) -> bool;
}

struct Attempts<F, T> {
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

    /// Does `work` as soon as the thread has time; it is done whether or not the future is dropped.
    pub(super) async fn now<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (caller, result) = oneshot::channel();
        let work = move || drop(caller.send(work()));
        self.send(Job::Now(Box::new(work)))?;
        result.await.map_err(|_| has_ended())
    }

    /// Calls `attempt` until it breaks, after all that came here before; if the future is dropped
    /// it is called once more at most.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        attempt: impl FnMut() -> ControlFlow<T> + Send + 'static,
    ) -> io::Result<T> {
        let (caller, result) = oneshot::channel();
        self.send(Job::InTurn(Box::new(Attempts {
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
    let mut turns = VecDeque::<Box<dyn Turn>>::new();
    loop {
        let next = match turns.is_empty() {
            true => jobs.recv().map_err(RecvTimeoutError::from),
            false => jobs.recv_timeout(RETRY),
        };
        match next {
            Ok(Job::Now(work)) => work(),
            Ok(Job::InTurn(turn)) => turns.push_back(turn),
            Err(RecvTimeoutError::Timeout) => {}
            // With the last handle went the last caller, so no turn waits.
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while turns.front_mut().is_some_and(|turn| turn.attempt()) {
            turns.pop_front();
        }
        // What is left waits for the first of them.
        turns.retain(|turn| !turn.is_given_up());
    }
}

fn has_ended() -> io::Error {
    io::Error::other("it has ended")
}

// ===== impl Attempts =====

impl<F, T> Turn for Attempts<F, T>
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
        // First: what it holds may be the last of an exclusive folder, which is then free.
        self.attempt = None;
        if let Some(caller) = self.caller.take() {
            // A caller that is gone needs no result.
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

    /// Is slow to be dropped, and tells when it was.
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

    /// It may be the last that keeps a folder from others.
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
        block_on(worker.in_turn(attempt)).expect("it runs");
        assert!(dropped.load(Ordering::SeqCst));
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_behind_what_is_blocked() {
        let worker = Worker::start().expect("a thread");
        let blocked = worker.in_turn(|| ControlFlow::<()>::Continue(()));
        let mut blocked = Box::pin(blocked);
        assert!(blocked.as_mut().now_or_never().is_none());

        let (held, dropped) = held();
        let behind = worker.in_turn(move || {
            let _held = &held;
            ControlFlow::Break(())
        });
        assert!(behind.now_or_never().is_none());
        while !dropped.load(Ordering::SeqCst) {
            // What needs no turn goes on.
            block_on(worker.now(|| ())).expect("it runs");
        }
        assert!(blocked.now_or_never().is_none());
    }
}
