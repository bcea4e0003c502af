//! Runs the clean-up, phase after phase. The jobs of one phase run at the same time, each in its own task.
//! A job that fails, panics, hangs or blocks its thread does not affect the others.

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::mem;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::attempt::Shutdown;
use super::notice::{ShutdownNotice, earlier};
use super::outcome::Outcome;
use super::race::{Either, race, until};
use crate::error::BoxError;
use crate::log::Spans;
use crate::panic;
use crate::spawn;
use crate::sync::Arc;

/// How long to wait for a job after its limit, in case its thread is only late. After that, a job that
/// blocks its thread is left running.
const GRACE: Duration = Duration::from_millis(2);

pub(crate) type BoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A piece of clean-up.
pub(crate) struct Job {
    pub(crate) run: Box<dyn FnOnce(ShutdownNotice) -> BoxFuture + Send>,
    /// The job's own limit.
    pub(crate) timeout: Option<Duration>,
}

/// The progress of a job.
pub(crate) enum Progress {
    Running,
    /// Only the first end that is reported counts.
    Ended(Outcome, Duration),
}

/// Receives the progress of each job, by its index across all phases.
pub(crate) type Note = Arc<dyn Fn(usize, Progress) + Send + Sync>;

/// The clean-up of one shutdown, until the notice's final deadline or `cut`.
pub(crate) struct Cleanup<'a, C> {
    notice: ShutdownNotice,
    extension: Extension,
    cut: Pin<&'a mut C>,
    /// Once the clean-up is cut: until when to wait for the jobs that were running.
    abort_deadline: Option<Instant>,
}

impl<'a, C: Future<Output = ()>> Cleanup<'a, C> {
    /// The jobs receive `notice`, whose final deadline includes the time that `extension` has counted.
    pub(crate) fn new(extension: Extension, notice: ShutdownNotice, cut: Pin<&'a mut C>) -> Self {
        Self {
            notice,
            extension,
            cut,
            abort_deadline: None,
        }
    }

    /// Runs `phases`. They share the time that is left with `later` phases that come after them.
    pub(crate) async fn run(&mut self, phases: Vec<Vec<Job>>, later: usize, note: &Note) {
        let mut phases = VecDeque::from(phases);
        let mut place = 0;
        while let Some(mut phase) = phases.pop_front() {
            if self.was_cut() || self.is_cut().await {
                self.abort_deadline.get_or_insert_with(Instant::now);
                // These jobs will not run. Dropping user code may panic.
                phase.into_iter().for_each(panic::dropped);
                phases.into_iter().flatten().for_each(panic::dropped);
                return;
            }
            if self.is_out_of_time() {
                // Each job is polled once, without a timer tick for each phase.
                phase.extend(phases.drain(..).flatten());
            }
            let limit = phase_deadline(&self.notice, phases.len() + 1 + later);
            let first = place;
            place += phase.len();
            let running: Vec<_> = (phase.into_iter().zip(first..))
                .map(|(job, place)| job.start(place, &self.notice, limit, &self.extension, note))
                .collect();
            let tasks: Vec<_> = running.iter().map(|job| job.task.abort_handle()).collect();
            for job in running {
                // The jobs run at the same time; only waiting for their ends is sequential.
                let started_at = job.started_at;
                if let Some((place, outcome)) = self.finish(job, &tasks).await {
                    note(place, Progress::Ended(outcome, started_at.elapsed()));
                }
            }
        }
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.abort_deadline.is_some()
    }

    /// Returns whether no time is left. Jobs that start now are polled once.
    pub(crate) fn is_out_of_time(&mut self) -> bool {
        self.notice().time_remaining() == Some(Duration::ZERO)
    }

    /// Returns the notice for jobs that start now, with the final deadline extended by the time in which
    /// nothing could run.
    pub(crate) fn notice(&mut self) -> ShutdownNotice {
        if let Some(frozen) = self.extension.since_last() {
            self.notice = self.notice.clone().later_by(frozen);
        }
        self.notice.clone()
    }

    /// Returns the extension that the last [`notice`](Self::notice) includes.
    pub(crate) fn extension(&self) -> Extension {
        self.extension.clone()
    }

    async fn is_cut(&mut self) -> bool {
        matches!(race(self.cut.as_mut(), ready(())).await, Either::Left(()))
    }

    /// Waits for a job. Returns how it ended, or `None` if the job has reported that itself.
    async fn finish(
        &mut self,
        mut job: Running,
        phase: &[AbortHandle],
    ) -> Option<(usize, Outcome)> {
        let deadline = job.limit.and_then(|limit| limit.checked_add(GRACE));
        if self.abort_deadline.is_none() {
            let ended = self
                .extension
                .clone()
                .until(deadline, Pin::new(&mut job.task));
            match race(ended, self.cut.as_mut()).await {
                Either::Left(Some(Ok(()))) => return None,
                Either::Left(Some(Err(error))) => match error.try_into_panic() {
                    Ok(panic) => return Some((job.place, Outcome::panicked(panic))),
                    // Cancelled, but not here: the runtime is shutting down, and this task with it.
                    // `Driver::drop` makes the report.
                    Err(_) => pending().await,
                },
                Either::Left(None) => {
                    job.task.abort();
                    return Some((job.place, Outcome::TimedOut));
                }
                Either::Right(()) => {
                    // Abort all jobs first, so that blocked ones share one wait.
                    phase.iter().for_each(AbortHandle::abort);
                    self.abort_deadline = Some(Instant::now() + GRACE);
                }
            }
        }
        // The job was aborted, so it ends soon, unless it had just ended or blocks its thread.
        let outcome = match until(self.abort_deadline, &mut job.task).await {
            Some(Ok(())) => return None,
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => Outcome::panicked(panic),
                Err(_) => Outcome::Cut,
            },
            None => Outcome::Cut,
        };
        Some((job.place, outcome))
    }
}

/// Returns the deadline of a phase, if all phases that are left get equal shares. Time that a phase does
/// not use goes to the next ones.
fn phase_deadline(notice: &ShutdownNotice, phases_left: usize) -> Option<Instant> {
    let left = notice.time_remaining()?;
    let phases_left = u32::try_from(phases_left).unwrap_or(u32::MAX);
    notice.now().checked_add(left / phases_left)
}

/// Extends limits by the time in which the process did not run.
#[derive(Clone)]
pub(crate) struct Extension {
    shutdown: Arc<Shutdown>,
    /// How much of that time the limits already include.
    frozen: Duration,
}

impl Extension {
    /// Must be called before the limits are computed, so that no time is lost in between.
    pub(crate) fn new(shutdown: &Arc<Shutdown>) -> Self {
        Self {
            shutdown: Arc::clone(shutdown),
            frozen: shutdown.frozen(),
        }
    }

    /// Returns how long the process had not run, which the limits have to include.
    pub(crate) fn frozen(&self) -> Duration {
        self.frozen
    }

    /// Returns how long the process did not run since the last call; `None` if it ran all the time.
    fn since_last(&mut self) -> Option<Duration> {
        let frozen = self.shutdown.frozen();
        let more = frozen.checked_sub(mem::replace(&mut self.frozen, frozen))?;
        (!more.is_zero()).then_some(more)
    }

    /// Like [`until`], but extends the deadline.
    pub(crate) async fn until<F: Future>(
        mut self,
        mut deadline: Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        loop {
            if let Some(output) = until(deadline, future.as_mut()).await {
                return Some(output);
            }
            let frozen = self.since_last()?;
            deadline = deadline.and_then(|deadline| deadline.checked_add(frozen));
        }
    }
}

/// A job that is running in its own task.
struct Running {
    place: usize,
    started_at: Instant,
    limit: Option<Instant>,
    task: JoinHandle<()>,
}

impl Job {
    fn start(
        self,
        place: usize,
        notice: &ShutdownNotice,
        phase_limit: Option<Instant>,
        extension: &Extension,
        note: &Note,
    ) -> Running {
        let started_at = Instant::now();
        let own_limit = self.timeout.and_then(|t| started_at.checked_add(t));
        let limit = earlier(phase_limit, own_limit);
        let (run, notice, note) = (self.run, notice.clone(), Arc::clone(note));
        let extension = extension.clone();
        let spans = Spans::current();
        note(place, Progress::Running);
        Running {
            place,
            started_at,
            limit,
            // The limit is checked inside the task, which polls the job before it reads the clock.
            // So a job without any time left is still polled once.
            task: spawn::task(&Handle::current(), async move {
                let job = panic::caught(async move {
                    let run = pin!(async move { run(notice).await });
                    let result = extension.until(limit, run).await;
                    result.map_or(Outcome::TimedOut, Outcome::of)
                });
                let outcome = job.await.unwrap_or_else(Outcome::panicked);
                // Reported by the job's own task: code that blocks another thread cannot prevent it.
                let ended = || note(place, Progress::Ended(outcome, started_at.elapsed()));
                match &spans {
                    Some(spans) => spans.in_scope(ended),
                    None => ended(),
                }
            }),
        }
    }
}
