//! One run of a check, as a task of its own, so that one that panics or blocks its thread does not
//! take the probe with it.
//!
//! A run is not dropped when its time is over: what it has given to another thread, as
//! `spawn_blocking` does, would go on unseen, and each further run would add to it. It goes on until
//! it ends, or until the check and all who wait for it are gone.

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::BoxError;
use crate::shutdown::{Either, race};
use crate::sync::Arc;

/// How a check ended, with the text of its error.
pub(super) type Outcome = Result<(), Arc<str>>;

pub(super) type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// It is aborted when nobody can ask for its result any more.
pub(super) struct Run {
    begun: Instant,
    end: watch::Receiver<Option<End>>,
    task: AbortHandle,
}

#[derive(Clone)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    at: Instant,
}

/// The sending half of a run, inside its task.
struct Ending(watch::Sender<Option<End>>);

// ===== impl Run =====

impl Run {
    pub(super) fn start(
        run: impl FnOnce() -> CheckFuture + Send + 'static,
        runtime: &Handle,
    ) -> Self {
        let (sender, end) = watch::channel(None);
        let task = runtime.spawn(async move {
            let ending = Ending(sender);
            let result = run().await;
            ending.send(result.map_err(|error| error.to_string().into()));
        });
        Self {
            begun: Instant::now(),
            end,
            task: task.abort_handle(),
        }
    }

    /// Returns how it ended, once it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Returns whether there will be a result: neither is it there, nor was the task lost with its
    /// runtime.
    pub(super) fn is_under_way(&self) -> bool {
        // The task first: one that ends in between has left its result.
        let is_finished = self.task.is_finished();
        !is_finished && self.end.borrow().is_none()
    }

    /// Returns what is left of `limit` since it was begun.
    pub(super) fn remaining(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.begun.elapsed())
    }

    /// Waits for the end, until `clock` says that `limit` has passed.
    pub(super) async fn wait(self: Arc<Self>, limit: Duration, clock: Pin<Box<Sleep>>) -> Outcome {
        let mut end = self.end.clone();
        // A result that has come is shown, however late.
        match race(end.wait_for(Option::is_some), clock).await {
            Either::Left(Ok(end)) => match &*end {
                Some(end) => end.outcome.clone(),
                None => Err(LOST.into()),
            },
            Either::Left(Err(_)) => Err(LOST.into()),
            Either::Right(()) => Err(no_answer_within(limit)),
        }
    }
}

const LOST: &str = "the runtime of the check has ended";

pub(super) fn no_answer_within(limit: Duration) -> Arc<str> {
    format!("no answer within {limit:?}").into()
}

/// Makes a clock; `None` in a runtime without a timer, where tokio panics.
pub(super) fn clock(time: Duration) -> Option<Pin<Box<Sleep>>> {
    catch_unwind(|| Box::pin(sleep(time))).ok()
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl End {
    pub(super) fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

// ===== impl Ending =====

impl Ending {
    fn send(&self, outcome: Outcome) {
        let at = Instant::now();
        self.0.send_replace(Some(End { outcome, at }));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Otherwise it has ended as it should, or was aborted.
        if thread::panicking() {
            self.send(Err("panicked".into()));
        }
    }
}
