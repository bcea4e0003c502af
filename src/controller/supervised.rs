//! A running task, and its entry in the registry.

use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::controller::ShutdownController;
use crate::in_flight::{event, runtime_is_ending};
use crate::log::{millis, tell};
use crate::panic;
use crate::shutdown::{BoxFuture, Outcome, Role, TaskId, TaskPolicy, TaskReport};
use crate::state::ShutdownReason;
use crate::sync::Arc;

/// A task's future, with its entry.
pub(super) struct Supervised {
    // Declared first, so that a future that is cut is dropped before its end is reported.
    future: Option<BoxFuture>,
    entry: Entry,
}

/// The entry of a task in the registry. It ends with the task, at the latest when it is dropped.
pub(super) struct Entry {
    ctl: ShutdownController,
    id: TaskId,
    /// The name of the watched service, if the task watches one.
    watches: Option<Arc<str>>,
    has_ended: bool,
}

// ===== impl Supervised =====

impl Supervised {
    pub(super) fn new(future: BoxFuture, entry: Entry) -> Self {
        Self {
            future: Some(future),
            entry,
        }
    }
}

impl Future for Supervised {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(future) = &mut this.future else {
            return Poll::Ready(());
        };
        let poll = || future.as_mut().poll(cx).map(Outcome::of);
        let (outcome, panic) = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => (outcome, None),
            Err(panic) => (Outcome::Panicked(panic::message(&panic)), Some(panic)),
        };
        // Drops what the task held before its end is reported.
        panic::dropped(this.future.take());
        this.entry.end(Some(outcome));
        if let Some(panic) = panic {
            // The `JoinHandle` returns the panic, as for any other task.
            resume_unwind(panic);
        }
        Poll::Ready(())
    }
}

// ===== impl Entry =====

impl Entry {
    pub(super) fn new(ctl: &ShutdownController, id: TaskId, role: Role, name: &Arc<str>) -> Self {
        Self {
            ctl: ctl.clone(),
            id,
            watches: (role == Role::Watch).then(|| Arc::clone(name)),
            has_ended: false,
        }
    }

    /// Reports the end, and applies the task's policy. `outcome` is `None` if the task was dropped.
    fn end(&mut self, mut outcome: Option<Outcome>) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        let core = self.ctl.core();
        // A service that was told to stop may end in any way.
        let services = &core.services;
        if (self.watches.as_ref()).is_some_and(|name| services.stop_has_begun(name)) {
            outcome = None;
        }
        let shutdown = core.shutdown();
        let is_killed = outcome.is_none() && shutdown.is_some() && runtime_is_ending();
        let end = core.tasks.end(self.id, outcome, is_killed, shutdown);
        core.milestones().reach(event::WORK_ENDED);
        let Some((report, policy)) = end else {
            return;
        };
        if policy == TaskPolicy::Shutdown {
            self.ctl.trigger(match report.outcome {
                Outcome::Completed => ShutdownReason::TaskEnded,
                _ => ShutdownReason::Error,
            });
        }
        log(report, policy);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn log(report: TaskReport, policy: TaskPolicy) {
    let TaskReport {
        name,
        outcome,
        duration,
        ..
    } = report;
    let took_ms = millis(duration);
    match outcome {
        _ if policy == TaskPolicy::Ignore => {
            tell!(debug, task = &*name, took_ms, %outcome, "task failed, ignored by its policy");
        }
        Outcome::Cut => tell!(warn, task = &*name, took_ms, %outcome, "task cut"),
        Outcome::Completed => tell!(warn, task = &*name, took_ms, "task ended by itself"),
        _ => tell!(error, task = &*name, took_ms, %outcome, "task failed"),
    }
}
