//! Running clean-up: phase after phase, the jobs of one phase at the same time, each in a task of its
//! own. A job that fails, panics, hangs or blocks its thread harms only itself.

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::mem;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::attempt::Shutdown;
use super::notice::{ShutdownNotice, earlier};
use super::outcome::Outcome;
use super::race::{Either, race, until};
use crate::error::BoxError;
use crate::panic;
use crate::sync::Arc;

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
    /// The first end that is told counts.
    Ended(Outcome, Duration),
}

/// Is told of each job by its place, counted through all phases.
pub(crate) type Note = Arc<dyn Fn(usize, Progress) + Send + Sync>;

/// The clean-up of one shutdown, until the notice's final deadline or `cut`.
pub(crate) struct Cleanup<'a, C> {
    notice: ShutdownNotice,
    thaw: Thaw,
    cut: Pin<&'a mut C>,
    /// Once it is cut: when what was running must be gone.
    gone_by: Option<Instant>,
}

impl<'a, C: Future<Output = ()>> Cleanup<'a, C> {
    /// The jobs are handed `notice`, whose limits allow for the same time as `thaw`.
    pub(crate) fn new(thaw: Thaw, notice: ShutdownNotice, cut: Pin<&'a mut C>) -> Self {
        Self {
            notice,
            thaw,
            cut,
            gone_by: None,
        }
    }

    /// Runs `phases`, which share the time that is left with `later` others that come after them.
    pub(crate) async fn run(&mut self, phases: Vec<Vec<Job>>, later: usize, note: &Note) {
        let mut phases = VecDeque::from(phases);
        let mut place = 0;
        while let Some(mut phase) = phases.pop_front() {
            if self.was_cut() || self.is_cut().await {
                self.gone_by.get_or_insert_with(Instant::now);
                // They are foreign, and will not run.
                phase.into_iter().for_each(panic::dropped);
                phases.into_iter().flatten().for_each(panic::dropped);
                return;
            }
            if self.is_out_of_time() {
                // Each gets as far as its first wait, without a tick of the timer for each phase.
                phase.extend(phases.drain(..).flatten());
            }
            let limit = share_of_what_is_left(&self.notice, phases.len() + 1 + later);
            let first = place;
            place += phase.len();
            let running: Vec<_> = (phase.into_iter().zip(first..))
                .map(|(job, place)| job.start(place, &self.notice, limit, &self.thaw, note))
                .collect();
            let tasks: Vec<_> = running.iter().map(|job| job.task.abort_handle()).collect();
            for job in running {
                // They run at the same time; only their ends are waited for one after another.
                let started_at = job.started_at;
                if let Some((place, outcome)) = self.finish(job, &tasks).await {
                    note(place, Progress::Ended(outcome, started_at.elapsed()));
                }
            }
        }
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.gone_by.is_some()
    }

    /// Nothing is left of the time: what runs now gets as far as its first wait.
    pub(crate) fn is_out_of_time(&mut self) -> bool {
        self.notice().time_remaining() == Some(Duration::ZERO)
    }

    /// Returns what jobs that are begun now are handed: put off by the time in which nothing could run.
    pub(crate) fn notice(&mut self) -> ShutdownNotice {
        if let Some(frozen) = self.thaw.since_last() {
            self.notice = self.notice.clone().later_by(frozen);
        }
        self.notice.clone()
    }

    /// Returns for what time the limits of the last [`notice`](Self::notice) allow.
    pub(crate) fn thaw(&self) -> Thaw {
        self.thaw.clone()
    }

    async fn is_cut(&mut self) -> bool {
        matches!(race(self.cut.as_mut(), ready(())).await, Either::Left(()))
    }

    /// Waits for a job; gives how it ended if it was not by itself, which it notes itself.
    async fn finish(
        &mut self,
        mut job: Running,
        phase: &[AbortHandle],
    ) -> Option<(usize, Outcome)> {
        let patience = job.limit.and_then(|limit| limit.checked_add(LATE));
        if self.gone_by.is_none() {
            let ended = self.thaw.clone().until(patience, Pin::new(&mut job.task));
            match race(ended, self.cut.as_mut()).await {
                Either::Left(Some(Ok(()))) => return None,
                Either::Left(Some(Err(error))) => match error.try_into_panic() {
                    Ok(panic) => return Some((job.place, Outcome::panicked(&panic))),
                    // Cancelled, and not by us: the runtime is ending, and this task with it. What
                    // there is to report then is reported by the driver, as it is dropped.
                    Err(_) => pending().await,
                },
                Either::Left(None) => {
                    job.task.abort();
                    return Some((job.place, Outcome::TimedOut));
                }
                Either::Right(()) => {
                    // All at once, so that blocked ones are waited for together.
                    phase.iter().for_each(AbortHandle::abort);
                    self.gone_by = Some(Instant::now() + LATE);
                }
            }
        }
        // It was aborted, and is gone soon, unless it had just ended.
        let outcome = match until(self.gone_by, &mut job.task).await {
            Some(Ok(())) => return None,
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => Outcome::panicked(&panic),
                Err(_) => Outcome::Cut,
            },
            None => Outcome::Cut,
        };
        Some((job.place, outcome))
    }
}

/// When a phase must be over so that each that is left gets the same; what one leaves goes on to
/// the next.
fn share_of_what_is_left(notice: &ShutdownNotice, phases_left: usize) -> Option<Instant> {
    let left = notice.time_remaining()?;
    let phases_left = u32::try_from(phases_left).unwrap_or(u32::MAX);
    notice.now().checked_add(left / phases_left)
}

/// Puts limits off by the time in which the process did not run.
#[derive(Clone)]
pub(crate) struct Thaw {
    shutdown: Arc<Shutdown>,
    /// What of it the limits allow for.
    frozen: Duration,
}

impl Thaw {
    /// Made before the limits are, so that no time is lost in between.
    pub(crate) fn new(shutdown: &Arc<Shutdown>) -> Self {
        Self {
            shutdown: Arc::clone(shutdown),
            frozen: shutdown.frozen(),
        }
    }

    /// Returns how long the process had not run, for which the limits have to allow.
    pub(crate) fn frozen(&self) -> Duration {
        self.frozen
    }

    /// Returns how long the process did not run since the last call, if it did not.
    fn since_last(&mut self) -> Option<Duration> {
        let frozen = self.shutdown.frozen();
        let more = frozen.checked_sub(mem::replace(&mut self.frozen, frozen))?;
        (!more.is_zero()).then_some(more)
    }

    /// As [`until`], with a deadline that is put off.
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
        thaw: &Thaw,
        note: &Note,
    ) -> Running {
        let started_at = Instant::now();
        let own_limit = self.timeout.and_then(|t| started_at.checked_add(t));
        let limit = earlier(phase_limit, own_limit);
        let (run, notice, note) = (self.run, notice.clone(), Arc::clone(note));
        let thaw = thaw.clone();
        note(place, Progress::Running);
        Running {
            place,
            started_at,
            limit,
            // The limit is kept inside the task, where the job is polled before the clock is
            // looked at: with no time left at all, it still gets as far as its first wait.
            task: tokio::spawn(async move {
                let job = panic::caught(async move {
                    let run = pin!(async move { run(notice).await });
                    let result = thaw.until(limit, run).await;
                    result.map_or(Outcome::TimedOut, Outcome::of)
                });
                let outcome = job.await.unwrap_or_else(|panic| Outcome::panicked(&panic));
                // Here, where nothing that blocks its own thread can keep it from being noted.
                note(place, Progress::Ended(outcome, started_at.elapsed()));
            }),
        }
    }
}
