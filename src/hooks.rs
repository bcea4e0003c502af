//! Shutdown hooks: the clean-up of an application, in phases.
//!
//! Phases run one after another, in ascending order; the hooks of one phase run at the same time,
//! each in a task of its own. A hook that fails, panics, hangs or blocks its thread harms only
//! itself.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::{Future, ready};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::error::BoxError;
use crate::notice::{ShutdownNotice, earlier};
use crate::race::{Either, race, until};
use crate::report::{HookOutcome, HookReport};
use crate::sync::{Arc, Mutex, lock};

/// How much longer than its limit a hook is waited for, in case that its thread is only late. One
/// that blocks its thread is left behind after it.
const LATE: Duration = Duration::from_millis(2);

type BoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A piece of clean-up with a name, to be registered by
/// [`ShutdownController::add_hook`](crate::ShutdownController::add_hook).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{Hook, ShutdownController};
///
/// # fn main() -> Result<(), tower_lifecycle::HookError> {
/// let ctl = ShutdownController::new();
/// ctl.on_shutdown("close pool", |_notice| async { Ok(()) })?;
/// ctl.add_hook(
///     Hook::new("flush metrics", |notice| async move {
///         // The last phase: metrics outlive what they measure.
///         println!("{:?} left", notice.time_remaining());
///         Ok(())
///     })
///     .phase(10)
///     .timeout(Duration::from_secs(1)),
/// )?;
/// # Ok(()) }
/// ```
#[must_use = "a hook does nothing until it is registered"]
pub struct Hook {
    name: Arc<str>,
    phase: i32,
    timeout: Option<Duration>,
    run: Box<dyn FnOnce(ShutdownNotice) -> BoxFuture + Send>,
    made_at: &'static Location<'static>,
}

/// Says why a hook could not be registered.
#[derive(Debug, Clone)]
pub struct HookError {
    name: Arc<str>,
    at: &'static Location<'static>,
    kind: HookErrorKind,
}

#[derive(Debug, Clone)]
enum HookErrorKind {
    Late,
    Duplicate { first: &'static Location<'static> },
}

/// The hooks of one controller, until the shutdown takes them.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    waiting: Mutex<Vec<Hook>>,
    /// Of the hooks that were taken, as far as they have come.
    reports: Mutex<Vec<HookReport>>,
}

// ===== impl Hook =====

impl Hook {
    /// Makes a hook of phase 0 with the default limit.
    ///
    /// `run` is called once, when its phase begins, with the notice of the shutdown.
    #[track_caller]
    pub fn new<F, Fut>(name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce(ShutdownNotice) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self {
            name: name.into().into(),
            phase: 0,
            timeout: None,
            run: Box::new(move |notice| Box::pin(run(notice))),
            made_at: Location::caller(),
        }
    }

    /// Sets the phase; lower ones run first. Default 0.
    pub fn phase(mut self, phase: i32) -> Self {
        self.phase = phase;
        self
    }

    /// Sets a limit of its own, which can only shorten the default: the time that is left, divided
    /// by the number of phases that are left.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn not_run(&self, outcome: HookOutcome) -> HookReport {
        HookReport {
            name: Arc::clone(&self.name),
            phase: self.phase,
            outcome,
            duration: Duration::ZERO,
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .field("phase", &self.phase)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

// ===== impl Hooks =====

impl Hooks {
    /// Adds `hook`, unless its name is taken or `late` says that it comes too late.
    pub(crate) fn add(&self, hook: Hook, late: impl Fn() -> bool) -> Result<(), HookError> {
        let mut hooks = lock(&self.waiting);
        let same_name = |other: &&Hook| other.name == hook.name;
        let kind = if late() {
            HookErrorKind::Late
        } else if let Some(first) = hooks.iter().find(same_name) {
            let first = first.made_at;
            HookErrorKind::Duplicate { first }
        } else {
            hooks.push(hook);
            return Ok(());
        };
        Err(HookError {
            name: hook.name,
            at: hook.made_at,
            kind,
        })
    }

    /// Takes all hooks, in the order in which they run.
    pub(crate) fn take(&self) -> Vec<Hook> {
        let mut hooks = std::mem::take(&mut *lock(&self.waiting));
        hooks.sort_by_key(|hook| hook.phase); // stable: registration order within a phase
        hooks
    }

    /// Takes all hooks to run them. Their reports are kept here, as far as they have come, so that
    /// they are not lost with the runtime.
    fn begin(&self) -> Vec<Hook> {
        let hooks = self.take();
        *lock(&self.reports) = not_started(&hooks);
        hooks
    }

    /// Takes the reports of the hooks that were begun.
    pub(crate) fn reports(&self) -> Vec<HookReport> {
        std::mem::take(&mut *lock(&self.reports))
    }

    /// Until there is more to report, a hook that is running will have been cut.
    fn note_running(&self, first: usize, count: usize) {
        let mut reports = lock(&self.reports);
        for report in reports.iter_mut().skip(first).take(count) {
            report.outcome = HookOutcome::Cut;
        }
    }

    fn note(&self, place: usize, report: HookReport) {
        // There is no such place when the reports were taken, because the shutdown was given up.
        if let Some(noted) = lock(&self.reports).get_mut(place) {
            *noted = report;
        }
    }
}

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
        return HookOutcome::Cut; // cancelled: the runtime is ending
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

// ===== impl HookError =====

impl HookError {
    /// Returns whether the shutdown had already been triggered.
    pub fn is_late(&self) -> bool {
        matches!(self.kind, HookErrorKind::Late)
    }

    /// Returns whether another hook has the same name.
    pub fn is_duplicate(&self) -> bool {
        matches!(self.kind, HookErrorKind::Duplicate { .. })
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, at, kind } = self;
        match kind {
            HookErrorKind::Late => write!(
                f,
                "shutdown hook `{name}` ({at}) comes too late: register hooks before the trigger"
            ),
            HookErrorKind::Duplicate { first } => write!(
                f,
                "shutdown hook `{name}` ({at}) has the name of the one made at {first}: names \
                 must be unique"
            ),
        }
    }
}

impl Error for HookError {}
