//! One run of a check.
//!
//! A run is its own task, so that a check that panics or blocks its thread does not break the probe.
//!
//! A run is not dropped at its timeout. Work that it moved to another thread, with `spawn_blocking` for
//! example, would continue unseen, and each further run would add more. A run continues until it ends, or
//! until the check and every probe that waits for it are dropped.

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
use crate::spawn;
use crate::sync::Arc;

/// The result of a check, with the text of its error.
pub(super) type Outcome = Result<(), Arc<str>>;

pub(super) type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A handle to the task of a run. Dropping it aborts the task.
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

/// The sending half of a run, owned by its task.
struct EndSender(watch::Sender<Option<End>>);

// ===== impl Run =====

impl Run {
    pub(super) fn start(
        run: impl FnOnce() -> CheckFuture + Send + 'static,
        runtime: &Handle,
    ) -> Self {
        let (sender, end) = watch::channel(None);
        let task = spawn::task(runtime, async move {
            let sender = EndSender(sender);
            let result = run().await;
            sender.send(result.map_err(|error| error.to_string().into()));
        });
        Self {
            begun: Instant::now(),
            end,
            task: task.abort_handle(),
        }
    }

    /// Returns how the run ended, or `None` if it has not.
    pub(super) fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Returns whether the run is in progress: it has no result yet, and its task was not dropped with
    /// its runtime.
    pub(super) fn is_in_progress(&self) -> bool {
        // Look at the task first. If it ends right after that, its result is there.
        let is_finished = self.task.is_finished();
        !is_finished && self.end.borrow().is_none()
    }

    /// Returns how much of `limit` is left since the start of the run.
    pub(super) fn remaining(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.begun.elapsed())
    }

    /// Waits until the run has ended or `timer` has elapsed, which is set to `limit`.
    pub(super) async fn wait(self: Arc<Self>, limit: Duration, timer: Pin<Box<Sleep>>) -> Outcome {
        let mut end = self.end.clone();
        // Prefer a result, even a late one, to the timeout.
        match race(end.wait_for(Option::is_some), timer).await {
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

/// Creates a `Sleep`. Returns `None` in a runtime without a timer, where tokio panics.
pub(super) fn timer(time: Duration) -> Option<Pin<Box<Sleep>>> {
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

// ===== impl EndSender =====

impl EndSender {
    fn send(&self, outcome: Outcome) {
        let at = Instant::now();
        self.0.send_replace(Some(End { outcome, at }));
    }
}

impl Drop for EndSender {
    fn drop(&mut self) {
        // Without a panic the result was sent, or the task was aborted.
        if thread::panicking() {
            self.send(Err("panicked".into()));
        }
    }
}
