//! Running clean-up: phase after phase, the jobs of one phase at the same time, each in a task of its
//! own. A job that fails, panics, hangs or blocks its thread harms only itself.

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::error::BoxError;
use crate::notice::{ShutdownNotice, earlier};
use crate::outcome::Outcome;
use crate::panic;
use crate::race::{Either, race, until};

/// How much longer than its limit a job is waited for, in case that its thread is only late. One
/// that blocks its thread is left behind after it.
const LATE: Duration = Duration::from_millis(2);

pub(crate) type BoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A piece of clean-up.
pub(crate) struct Job {
    pub(crate) run: Box<dyn FnOnce(ShutdownNotice) -> BoxFuture + Send>,
    /// A limit of its own.
    pub(crate) timeout: Option<Duration>,
}

/// How a job fares.
pub(crate) enum Progress {
    Running,
    Ended(Outcome, Duration),
}

/// The clean-up of one shutdown, until the notice's final deadline or `cut`.
pub(crate) struct Cleanup<'a, C> {
    notice: &'a ShutdownNotice,
    cut: Pin<&'a mut C>,
    /// Once it is cut: when what was running must be gone.
    gone_by: Option<Instant>,
}

impl<'a, C: Future<Output = ()>> Cleanup<'a, C> {
    pub(crate) fn new(notice: &'a ShutdownNotice, cut: Pin<&'a mut C>) -> Self {
        Self {
            notice,
            cut,
            gone_by: None,
        }
    }

    /// Runs `phases`, which share the time that is left with `later` others that come after them.
    /// `note` is told of each job by its place, counted through all phases.
    pub(crate) async fn run(
        &mut self,
        phases: Vec<Vec<Job>>,
        later: usize,
        note: impl Fn(usize, Progress),
    ) {
        let mut phases = VecDeque::from(phases);
        let mut place = 0;
        while let Some(mut phase) = phases.pop_front() {
            if self.gone_by.is_some() || self.is_cut().await {
                return;
            }
            if self.notice.time_remaining() == Some(Duration::ZERO) {
                // Each gets as far as its first wait, without a tick of the timer for each phase.
                phase.extend(phases.drain(..).flatten());
            }
            let limit = share_of_what_is_left(self.notice, phases.len() + 1 + later);
            let running: Vec<_> = (phase.into_iter())
                .map(|job| job.start(self.notice, limit))
                .collect();
            (place..place + running.len()).for_each(|place| note(place, Progress::Running));
            let tasks: Vec<_> = running.iter().map(|job| job.task.abort_handle()).collect();
            for job in running {
                // They run at the same time; only their ends are looked at one after another.
                let (outcome, duration) = self.finish(job, &tasks).await;
                note(place, Progress::Ended(outcome, duration));
                place += 1;
            }
        }
    }

    async fn is_cut(&mut self) -> bool {
        matches!(race(self.cut.as_mut(), ready(())).await, Either::Left(()))
    }

    async fn finish(&mut self, mut job: Running, phase: &[AbortHandle]) -> (Outcome, Duration) {
        let patience = job.limit.and_then(|limit| limit.checked_add(LATE));
        if self.gone_by.is_none() {
            match race(until(patience, &mut job.task), self.cut.as_mut()).await {
                Either::Left(Some(Ok(end))) => return end,
                Either::Left(Some(Err(error))) => match error.try_into_panic() {
                    Ok(panic) => return (Outcome::panicked(&panic), job.started_at.elapsed()),
                    // Cancelled, and not by us: the runtime is ending, and this task with it. What
                    // there is to report then is reported by the driver, as it is dropped.
                    Err(_) => pending().await,
                },
                Either::Left(None) => {
                    job.task.abort();
                    return (Outcome::TimedOut, job.started_at.elapsed());
                }
                Either::Right(()) => {
                    // All at once, so that blocked ones are waited for together.
                    phase.iter().for_each(AbortHandle::abort);
                    self.gone_by = Some(Instant::now() + LATE);
                }
            }
        }
        // It was aborted, and is gone soon, unless it had just ended.
        match until(self.gone_by, &mut job.task).await {
            Some(Ok(end)) => end,
            Some(Err(error)) => {
                let outcome = match error.try_into_panic() {
                    Ok(panic) => Outcome::panicked(&panic),
                    Err(_) => Outcome::Cut,
                };
                (outcome, job.started_at.elapsed())
            }
            None => (Outcome::Cut, job.started_at.elapsed()),
        }
    }
}

/// When a phase must be over so that each that is left gets the same; what one leaves goes on to
/// the next.
fn share_of_what_is_left(notice: &ShutdownNotice, phases_left: usize) -> Option<Instant> {
    let left = notice.time_remaining()?;
    let phases_left = u32::try_from(phases_left).unwrap_or(u32::MAX);
    notice.now().checked_add(left / phases_left)
}

/// A job that is running in its own task.
struct Running {
    started_at: Instant,
    limit: Option<Instant>,
    task: JoinHandle<(Outcome, Duration)>,
}

impl Job {
    fn start(self, notice: &ShutdownNotice, phase_limit: Option<Instant>) -> Running {
        let started_at = Instant::now();
        let own_limit = self.timeout.and_then(|t| started_at.checked_add(t));
        let limit = earlier(phase_limit, own_limit);
        let (run, notice) = (self.run, notice.clone());
        Running {
            started_at,
            limit,
            // The limit is kept inside the task, where the job is polled before the clock is
            // looked at: with no time left at all, it still gets as far as its first wait.
            task: tokio::spawn(async move {
                let job = panic::caught(async move {
                    let result = until(limit, async move { run(notice).await }).await;
                    result.map_or(Outcome::TimedOut, Outcome::of)
                });
                let outcome = job.await.unwrap_or_else(|panic| Outcome::panicked(&panic));
                (outcome, started_at.elapsed())
            }),
        }
    }
}
