//! Running the hooks: phase after phase, each hook in a task of its own.

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Hook, Hooks};
use crate::notice::{ShutdownNotice, earlier};
use crate::race::{Either, race, until};
use crate::report::{HookOutcome, HookReport};
use crate::sync::Arc;

/// How much longer than its limit a hook is waited for, in case that its thread is only late. One
/// that blocks its thread is left behind after it.
const LATE: Duration = Duration::from_millis(2);

/// Runs the hooks, phase after phase, until the notice's final deadline or `cut`.
pub(crate) async fn run(
    hooks: &Hooks,
    notice: &ShutdownNotice,
    cut: impl Future<Output = ()>,
) -> Vec<HookReport> {
    let mut cut = pin!(cut);
    // Once it is cut: when what was running must be gone.
    let mut gone_by = None;
    let mut phases = VecDeque::from(split_by_phase(hooks.begin()));
    let mut place = 0;
    while let Some(mut phase) = phases.pop_front() {
        if let Either::Left(()) = race(cut.as_mut(), ready(())).await {
            break;
        }
        if notice.time_remaining() == Some(Duration::ZERO) {
            // Each gets as far as its first wait, without a tick of the timer for each phase.
            phase.extend(phases.drain(..).flatten());
        }
        let limit = share_of_what_is_left(notice, phases.len() + 1);
        let running: Vec<_> = phase.into_iter().map(|h| h.start(notice, limit)).collect();
        hooks.note_running(place, running.len());
        let tasks: Vec<_> = running.iter().map(|h| h.task.abort_handle()).collect();
        for hook in running {
            // They run at the same time; only their ends are looked at one after another.
            let report = hook.finish(cut.as_mut(), &mut gone_by, &tasks).await;
            log(&report);
            hooks.note(place, report);
            place += 1;
        }
        if gone_by.is_some() {
            break;
        }
    }
    hooks.reports()
}

/// Reports hooks that will never run.
pub(crate) fn not_started(hooks: &[Hook]) -> Vec<HookReport> {
    let report = |hook: &Hook| hook.not_run(HookOutcome::NotStarted);
    hooks.iter().map(report).collect()
}

fn split_by_phase(hooks: Vec<Hook>) -> Vec<Vec<Hook>> {
    let mut phases: Vec<Vec<Hook>> = Vec::new();
    for hook in hooks {
        match phases.last_mut() {
            Some(phase) if phase[0].phase == hook.phase => phase.push(hook),
            _ => phases.push(vec![hook]),
        }
    }
    phases
}

/// When a phase must be over so that each that is left gets the same; what one leaves goes on to
/// the next.
fn share_of_what_is_left(notice: &ShutdownNotice, phases_left: usize) -> Option<Instant> {
    let left = notice.time_remaining()?;
    let phases_left = u32::try_from(phases_left).unwrap_or(u32::MAX);
    notice.now().checked_add(left / phases_left)
}

/// A hook that is running in its own task.
struct RunningHook {
    name: Arc<str>,
    phase: i32,
    started_at: Instant,
    limit: Option<Instant>,
    task: JoinHandle<(HookOutcome, Duration)>,
}

impl Hook {
    fn start(self, notice: &ShutdownNotice, phase_limit: Option<Instant>) -> RunningHook {
        let started_at = Instant::now();
        let own_limit = self.timeout.and_then(|t| started_at.checked_add(t));
        let limit = earlier(phase_limit, own_limit);
        let (run, notice) = (self.run, notice.clone());
        RunningHook {
            name: self.name,
            phase: self.phase,
            started_at,
            limit,
            // The limit is kept inside the task, where the hook is polled before the clock is
            // looked at: with no time left at all, it still gets as far as its first wait.
            task: tokio::spawn(async move {
                let outcome = match until(limit, async move { run(notice).await }).await {
                    Some(result) => HookOutcome::of(result),
                    None => HookOutcome::TimedOut,
                };
                (outcome, started_at.elapsed())
            }),
        }
    }
}

impl RunningHook {
    async fn finish(
        mut self,
        cut: Pin<&mut impl Future<Output = ()>>,
        gone_by: &mut Option<Instant>,
        phase: &[AbortHandle],
    ) -> HookReport {
        let patience = self.limit.and_then(|limit| limit.checked_add(LATE));
        let mut ended = None;
        if gone_by.is_none() {
            match race(until(patience, &mut self.task), cut).await {
                Either::Left(result) => ended = Some(result),
                Either::Right(()) => {
                    // All at once, so that blocked ones are waited for together.
                    phase.iter().for_each(AbortHandle::abort);
                    *gone_by = Some(Instant::now() + LATE);
                }
            }
        }
        let (outcome, duration) = match ended {
            Some(Some(Ok(end))) => end,
            // Cancelled, and not by us: the runtime is ending, and this task with it. What there is to
            // report then is reported by the driver, as it is dropped.
            Some(Some(Err(error))) if error.is_cancelled() => pending().await,
            Some(Some(Err(error))) => (panicked(error), self.started_at.elapsed()),
            Some(None) => {
                self.task.abort();
                (HookOutcome::TimedOut, self.started_at.elapsed())
            }
            None => self.cut_now(*gone_by).await,
        };
        HookReport {
            name: self.name,
            phase: self.phase,
            outcome,
            duration,
        }
    }

    /// Sees to it that a hook that was aborted is gone, unless it had just ended.
    async fn cut_now(&mut self, by: Option<Instant>) -> (HookOutcome, Duration) {
        match until(by, &mut self.task).await {
            Some(Ok(end)) => end,
            Some(Err(error)) if error.is_panic() => (panicked(error), self.started_at.elapsed()),
            _ => (HookOutcome::Cut, self.started_at.elapsed()),
        }
    }
}

fn panicked(error: JoinError) -> HookOutcome {
    let Ok(panic) = error.try_into_panic() else {
        return HookOutcome::Cut;
    };
    let message = match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "(a value that is no text)".to_owned(),
        },
    };
    HookOutcome::Panicked(message)
}

fn log(report: &HookReport) {
    let (hook, phase, took) = (report.name(), report.phase(), report.duration());
    if report.is_completed() {
        info!(hook, phase, ?took, "shutdown hook completed");
    } else {
        warn!(hook, phase, ?took, outcome = %report.outcome(), "shutdown hook did not complete");
    }
}
