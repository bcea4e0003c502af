//! Background tasks: counted apart from requests, waited for, cut at force, and named when they end
//! badly.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

use crate::controller::ShutdownController;
use crate::core::Core;
use crate::into_result::IntoResult;
use crate::log::tell;
use crate::milestones::event;
use crate::outcome::{Outcome, TaskReport};
use crate::shutdown::Shutdown;
use crate::sync::{Arc, Mutex, lock};

/// How many that ended badly are remembered for the report, so that a task that is spawned again and
/// again does not fill the memory. Each is logged as it ends.
const REMEMBERED: usize = 64;

/// The tasks of one lifecycle.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<u64, Running>,
    spawned: u64,
    ended_badly: Vec<BadEnd>,
    forgotten: u64,
    /// The latest shutdown during which one was forgotten.
    forgotten_in: Option<Arc<Shutdown>>,
    /// Nothing runs any more: what is running is being cut, and what comes is cut at once.
    cut: bool,
}

#[derive(Debug)]
struct BadEnd {
    report: TaskReport,
    /// Which may be called off yet.
    shutdown: Option<Arc<Shutdown>>,
}

#[derive(Debug)]
struct Running {
    name: Arc<str>,
    started_at: Instant,
    /// Missing for the moment between its entry and the runtime's answer.
    abort: Option<AbortHandle>,
}

pin_project! {
    /// A task's future, with its entry, which goes after it.
    struct Task<F> {
        #[pin]
        future: F,
        entry: Entry,
    }
}

struct Entry {
    core: Arc<Core>,
    id: u64,
    /// How it ended by itself.
    ended: Option<Outcome>,
}

impl ShutdownController {
    /// Spawns a background task that the shutdown waits for, and cuts at force.
    ///
    /// It runs on the runtime of the caller, or else on the one that drives the shutdown. It is
    /// counted apart from requests: [`drained`](Self::drained) takes no notice of it, but the drain
    /// is over only when it has ended. It learns of the shutdown by [`triggered`](Self::triggered) or
    /// [`draining`](Self::draining), and should then come to its end. At the drain deadline, or at
    /// force, it is dropped where it waits, and named in the [report](crate::ShutdownReport::tasks).
    /// So is one that fails or panics, whenever that happens. Several may have one name.
    ///
    /// One that is spawned after a force, or while stopping, is cut before its first poll.
    ///
    /// A task must not await [`shutdown`](Self::shutdown), which waits for the task. One that ends at
    /// `triggered` is gone if that shutdown is [called off](Self::resume); `draining` comes only when
    /// there is no way back.
    ///
    /// A future with `?` has to say what its error is: `Ok::<_, BoxError>(())` at its end.
    ///
    /// What is not promised: a task that blocks its thread cannot be cut. It is reported as
    /// abandoned.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the controller was never used inside one either.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let triggered = ctl.triggered();
    /// let outbox = ctl.spawn("outbox", async move {
    ///     let mut tick = tokio::time::interval(Duration::from_millis(1));
    ///     tokio::pin!(triggered);
    ///     loop {
    ///         tokio::select! {
    ///             notice = &mut triggered => break println!("flushing, until {notice:?}"),
    ///             _ = tick.tick() => { /* send the next message */ }
    ///         }
    ///     }
    /// });
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(outbox.is_finished());
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, name: impl Into<String>, future: F) -> JoinHandle<()>
    where
        F: Future<Output: IntoResult> + Send + 'static,
    {
        let core = self.core();
        let runtime = core.capture_runtime();
        let tasks = &core.tasks;
        let (id, is_cut) = tasks.begin(name.into().into());
        let entry = Entry {
            core: Arc::clone(core),
            id,
            ended: is_cut.then_some(Outcome::Cut),
        };
        let here = Handle::try_current();
        let runtime = runtime.filter(|_| here.is_err());
        if is_cut {
            // Here and now, and not when its runtime comes to it.
            drop(Task { future, entry });
            let handle = match runtime {
                Some(runtime) => runtime.spawn(pending()),
                None => tokio::spawn(pending()),
            };
            handle.abort();
            return handle;
        }
        let task = Task { future, entry };
        let handle = match runtime {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        };
        tasks.spawned(id, handle.abort_handle());
        handle
    }
}

// ===== impl Tasks =====

impl Tasks {
    /// Enters a task; gives its number, and whether it is cut at once.
    fn begin(&self, name: Arc<str>) -> (u64, bool) {
        let mut tasks = lock(&self.0);
        let id = tasks.spawned;
        tasks.spawned += 1;
        let running = Running {
            name,
            started_at: Instant::now(),
            abort: None,
        };
        tasks.running.insert(id, running);
        (id, tasks.cut)
    }

    fn spawned(&self, id: u64, abort: AbortHandle) {
        let mut tasks = lock(&self.0);
        let cut = tasks.cut;
        // It may have ended meanwhile.
        if let Some(running) = tasks.running.get_mut(&id) {
            if !cut {
                running.abort = Some(abort);
                return;
            }
        }
        drop(tasks);
        if cut {
            abort.abort();
        }
    }

    fn end(&self, id: u64, ended: Option<Outcome>, shutdown: Option<Arc<Shutdown>>) {
        let mut tasks = lock(&self.0);
        let Some(task) = tasks.running.remove(&id) else {
            return;
        };
        let outcome = match ended {
            Some(outcome) => outcome,
            None if tasks.cut => Outcome::Cut,
            // Aborted by its owner, or dropped with its runtime: not ours to report.
            None => return,
        };
        if matches!(outcome, Outcome::Completed) {
            return;
        }
        let report = TaskReport {
            name: task.name,
            outcome,
            duration: task.started_at.elapsed(),
            in_shutdown: shutdown.is_some(),
        };
        if tasks.ended_badly.len() < REMEMBERED {
            let report = report.clone();
            tasks.ended_badly.push(BadEnd { report, shutdown });
        } else {
            tasks.forgotten += 1;
            tasks.forgotten_in = shutdown.or(tasks.forgotten_in.take());
        }
        drop((tasks, task.abort));
        log(report);
    }

    /// Returns how many are running.
    pub(crate) fn running(&self) -> u64 {
        lock(&self.0).running.len() as u64
    }

    /// Has all that comes cut.
    pub(crate) fn close(&self) {
        lock(&self.0).cut = true;
    }

    /// Cuts what is running, and all that comes.
    pub(crate) fn cut(&self) {
        let mut tasks = lock(&self.0);
        tasks.cut = true;
        let aborts: Vec<_> = (tasks.running.values_mut())
            .filter_map(|task| task.abort.take())
            .collect();
        drop(tasks);
        for abort in aborts {
            abort.abort();
        }
    }

    /// Returns the reports of those that ended badly, and of those that have not ended at all.
    pub(crate) fn reports(&self) -> Vec<TaskReport> {
        let tasks = lock(&self.0);
        let alive = tasks.running.values().map(|task| TaskReport {
            name: Arc::clone(&task.name),
            outcome: Outcome::Abandoned,
            duration: task.started_at.elapsed(),
            in_shutdown: true,
        });
        let ended = tasks.ended_badly.iter().map(|end| TaskReport {
            in_shutdown: is_of_the_end(&end.shutdown),
            ..end.report.clone()
        });
        ended.chain(alive).collect()
    }

    /// Returns whether one that ended badly during the shutdown is not among the reported.
    pub(crate) fn forgotten_in_shutdown(&self) -> bool {
        is_of_the_end(&lock(&self.0).forgotten_in)
    }

    /// Returns how many ended badly beyond those that are reported.
    pub(crate) fn forgotten(&self) -> u64 {
        lock(&self.0).forgotten
    }
}

/// Whether it is the shutdown that has come to its end: there was one, and it was not called off.
fn is_of_the_end(shutdown: &Option<Arc<Shutdown>>) -> bool {
    shutdown.as_ref().is_some_and(|s| !s.is_called_off())
}

fn log(report: TaskReport) {
    let TaskReport {
        name,
        outcome,
        duration: took,
        ..
    } = report;
    if matches!(outcome, Outcome::Cut) {
        tell!(warn, task = &*name, ?took, %outcome, "task cut");
    } else {
        tell!(error, task = &*name, ?took, %outcome, "task failed");
    }
}

// ===== impl Task =====

impl<F: Future<Output: IntoResult>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx).map(ended))) {
            Ok(Poll::Ready(outcome)) => this.entry.ended = Some(outcome),
            Ok(Poll::Pending) => return Poll::Pending,
            Err(panic) => {
                this.entry.ended = Some(Outcome::panicked(&panic));
                // Who holds the `JoinHandle` is told as by any other task.
                resume_unwind(panic);
            }
        }
        Poll::Ready(())
    }
}

fn ended(output: impl IntoResult) -> Outcome {
    Outcome::of(output.into_result())
}

impl Drop for Entry {
    fn drop(&mut self) {
        let core = &self.core;
        core.tasks
            .end(self.id, mem::take(&mut self.ended), core.shutdown());
        core.milestones().reach(event::WORK_ENDED);
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
