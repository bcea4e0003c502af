//! Shutdown hooks: the clean-up of an application, in phases.
//!
//! Phases run one after another, in ascending order; the hooks of one phase run at the same time,
//! each in its own task. A hook that fails, panics, hangs or blocks its thread does not affect the
//! others.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use super::cleanup::{BoxFuture, Cleanup, Job, Note, Progress};
use super::notice::ShutdownNotice;
use super::outcome::{HookReport, Outcome};
use crate::error::BoxError;
use crate::log::{millis, tell};
use crate::panic;
use crate::sync::{Arc, Mutex, lock};

/// How many late hooks are stored for the report.
const REMEMBERED: usize = 64;

/// A piece of clean-up with a name.
///
/// [`ShutdownController::add_hook`](crate::ShutdownController::add_hook) registers it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{Hook, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_lifecycle::controller::HookError> {
/// let ctl = ShutdownController::new();
/// ctl.add_hook(
///     Hook::new("flush metrics", |notice| async move {
///         println!("{:?} left", notice.time_remaining());
///         Ok(())
///     })
///     .phase(10) // runs last, after everything that still records metrics
///     .timeout(Duration::from_secs(1)),
/// )?;
///
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert!(report.hooks()[0].is_completed());
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

/// The reason why a hook could not be registered.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
///
/// let ctl = ShutdownController::new();
/// ctl.on_shutdown("close pool", |_notice| async { Ok(()) }).unwrap();
///
/// let error = ctl.on_shutdown("close pool", |_notice| async { Ok(()) }).unwrap_err();
/// assert!(error.is_duplicate());
/// assert!(!error.is_late());
/// ```
#[derive(Debug, Clone)]
pub struct HookError {
    of: HookKind,
    name: Arc<str>,
    at: &'static Location<'static>,
    kind: HookErrorKind,
}

#[derive(Debug, Clone)]
enum HookErrorKind {
    Late,
    Duplicate {
        first: &'static Location<'static>,
    },
    #[cfg(feature = "persist")]
    Key(Arc<dyn Error + Send + Sync>),
}

/// The hooks of one controller, or the saves of its state, until the shutdown takes them.
#[derive(Debug)]
pub(crate) struct Hooks {
    kind: HookKind,
    /// In the order in which they run.
    waiting: Mutex<Vec<Hook>>,
    /// The hooks that were taken, and their reports so far.
    taken: Mutex<Vec<Taken>>,
    /// Hooks that were added after the trigger. They will not run.
    late: Mutex<Vec<HookReport>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookKind {
    Hook,
    Save,
}

#[derive(Debug)]
struct Taken {
    report: HookReport,
    /// Since when the hook has been running.
    since: Option<Instant>,
    has_ended: bool,
}

/// What a hook or save does at this moment.
#[cfg(feature = "admin")]
#[derive(Debug)]
pub(crate) struct HookStatus {
    pub(crate) name: Arc<str>,
    pub(crate) phase: i32,
    /// `registered`, `running`, or the name of its outcome.
    pub(crate) status: &'static str,
}

// ===== impl Hook =====

impl Hook {
    /// Creates a hook of phase 0 with the default limit.
    ///
    /// `run` is called with the notice of the shutdown when the phase begins. It is called once, or not
    /// at all if the clean-up is cut before. It runs in its own task, so an error, a panic or a hang
    /// does not affect other hooks.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{Hook, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let hook = Hook::new("deregister", |_notice| async { Err("no such host".into()) });
    /// ctl.add_hook(hook).unwrap();
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(report.hooks()[0].outcome().to_string(), "failed: no such host");
    /// # }
    /// ```
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

    /// Sets the phase; lower phases run first. Default 0.
    ///
    /// The hooks of one phase run at the same time.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{Hook, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let flush = Hook::new("flush metrics", |_notice| async { Ok(()) });
    /// let close = Hook::new("close pool", |_notice| async { Ok(()) });
    /// ctl.add_hook(flush.phase(10)).unwrap();
    /// ctl.add_hook(close).unwrap();
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// let order: Vec<_> = report.hooks().iter().map(|hook| hook.name()).collect();
    /// assert_eq!(order, ["close pool", "flush metrics"]);
    /// # }
    /// ```
    pub fn phase(mut self, phase: i32) -> Self {
        self.phase = phase;
        self
    }

    /// Sets the hook's own limit, after which it is dropped.
    ///
    /// It can only shorten the default, which is the time that is left, divided by the number of phases
    /// that are left. The services that [`Startup`](crate::Startup) started count as one phase.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{future::pending, time::Duration};
    /// use tower_lifecycle::report::Outcome;
    /// use tower_lifecycle::{Hook, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # tokio::time::pause();
    /// let ctl = ShutdownController::new();
    /// let hook = Hook::new("notify peers", |_notice| pending()); // no peer answers
    /// ctl.add_hook(hook.timeout(Duration::from_secs(1))).unwrap();
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(matches!(report.hooks()[0].outcome(), Outcome::TimedOut));
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn not_started(&self) -> HookReport {
        HookReport {
            name: Arc::clone(&self.name),
            phase: self.phase,
            outcome: Outcome::NotStarted,
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
    pub(crate) fn new(kind: HookKind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            waiting: Mutex::default(),
            taken: Mutex::default(),
            late: Mutex::default(),
        })
    }

    /// Adds `hook`, unless its name is taken or `late` returns `true`.
    pub(crate) fn add(&self, hook: Hook, late: impl Fn() -> bool) -> Result<(), HookError> {
        let mut hooks = lock(&self.waiting);
        let same_name = |other: &&Hook| other.name == hook.name;
        let kind = if late() {
            self.note_late(&hook);
            HookErrorKind::Late
        } else if let Some(first) = hooks.iter().find(same_name) {
            let first = first.made_at;
            HookErrorKind::Duplicate { first }
        } else {
            // It may have been late for a shutdown that was called off.
            lock(&self.late).retain(|late| late.name != hook.name);
            let at = hooks.partition_point(|other| other.phase <= hook.phase);
            hooks.insert(at, hook);
            return Ok(());
        };
        Err(HookError {
            of: self.kind,
            name: hook.name,
            at: hook.made_at,
            kind,
        })
    }

    fn note_late(&self, hook: &Hook) {
        let mut late = lock(&self.late);
        if late.len() < REMEMBERED && late.iter().all(|other| other.name != hook.name) {
            late.push(hook.not_started());
        }
    }

    /// Takes all hooks, in the order in which they run. Their reports so far are kept here, so that they
    /// are not lost with the runtime.
    fn take(&self) -> Vec<Hook> {
        let hooks = std::mem::take(&mut *lock(&self.waiting));
        let taken = hooks.iter().map(|hook| Taken {
            report: hook.not_started(),
            since: None,
            has_ended: false,
        });
        lock(&self.taken).extend(taken);
        hooks
    }

    /// Returns the reports of all hooks. Hooks that were not taken until now will not run.
    pub(crate) fn reports(&self) -> Vec<HookReport> {
        self.take().into_iter().for_each(panic::dropped);
        let taken = lock(&self.taken);
        let late = lock(&self.late);
        let taken = taken.iter().map(|hook| {
            let mut report = hook.report.clone();
            if let Some(since) = hook.since {
                report.duration = since.elapsed();
            }
            report
        });
        taken.chain(late.iter().cloned()).collect()
    }

    /// Returns what each hook does, in the order in which they run. `is_over` says whether the shutdown is.
    #[cfg(feature = "admin")]
    pub(crate) fn statuses(&self, is_over: bool) -> Vec<HookStatus> {
        let status = |report: &HookReport, status| HookStatus {
            name: Arc::clone(&report.name),
            phase: report.phase,
            status,
        };
        let waiting: Vec<_> = {
            let waiting = lock(&self.waiting);
            let waiting = waiting.iter().map(Hook::not_started);
            waiting.map(|hook| status(&hook, "registered")).collect()
        };
        let mut all: Vec<_> = {
            let taken = lock(&self.taken);
            let taken = taken.iter().map(|hook| {
                let what = match &hook.report.outcome {
                    Outcome::NotStarted if !is_over => "registered",
                    Outcome::Cut if !is_over && !hook.has_ended => "running",
                    outcome => outcome.name(),
                };
                status(&hook.report, what)
            });
            taken.collect()
        };
        all.extend(waiting);
        let late = lock(&self.late);
        all.extend(late.iter().map(|hook| status(hook, hook.outcome.name())));
        all
    }

    fn note(&self, place: usize, progress: Progress) {
        let mut taken = lock(&self.taken);
        let hook = &mut taken[place];
        match progress {
            // Counts as cut until the hook reports its end.
            Progress::Running => {
                hook.report.outcome = Outcome::Cut;
                hook.since = Some(Instant::now());
            }
            Progress::Ended(outcome, duration) => {
                if mem::replace(&mut hook.has_ended, true) {
                    return;
                }
                hook.since = None;
                (hook.report.outcome, hook.report.duration) = (outcome, duration);
                let report = hook.report.clone();
                drop(taken);
                match self.kind {
                    HookKind::Hook => log(report),
                    HookKind::Save => log_save(report),
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// Runs the hooks, phase after phase. `later` other phases come after them.
    pub(super) async fn run<C>(self: &Arc<Self>, cleanup: &mut Cleanup<'_, C>, later: usize)
    where
        C: Future<Output = ()>,
    {
        let mut phases: Vec<(i32, Vec<Job>)> = Vec::new();
        for hook in self.take() {
            let Hook { run, timeout, .. } = hook;
            let job = Job { run, timeout };
            match phases.binary_search_by_key(&hook.phase, |phase| phase.0) {
                Ok(place) => phases[place].1.push(job),
                Err(place) => phases.insert(place, (hook.phase, vec![job])),
            }
        }
        let phases = phases.into_iter().map(|(_, jobs)| jobs).collect();
        let hooks = Arc::clone(self);
        let note: Note = Arc::new(move |place, progress| hooks.note(place, progress));
        cleanup.run(phases, later, &note).await;
    }
}

fn log(report: HookReport) {
    let is_completed = report.is_completed();
    let HookReport {
        name,
        phase,
        outcome,
        duration: took,
    } = report;
    if is_completed {
        tell!(
            info,
            hook = &*name,
            phase,
            took_ms = millis(took),
            "shutdown hook completed"
        );
    } else {
        tell!(warn, hook = &*name, phase, took_ms = millis(took), %outcome, "shutdown hook did not complete");
    }
}

fn log_save(report: HookReport) {
    let is_completed = report.is_completed();
    let HookReport {
        name,
        outcome,
        duration: took,
        ..
    } = report;
    if is_completed {
        tell!(info, key = &*name, took_ms = millis(took), "state saved");
    } else {
        tell!(warn, key = &*name, took_ms = millis(took), %outcome, "state not saved");
    }
}

// ===== impl HookError =====

impl HookError {
    /// Returns whether the shutdown had already been triggered.
    pub fn is_late(&self) -> bool {
        matches!(self.kind, HookErrorKind::Late)
    }

    #[cfg(feature = "persist")]
    #[track_caller]
    pub(crate) fn bad_key(error: impl Error + Send + Sync + 'static) -> Self {
        Self {
            of: HookKind::Save,
            name: "".into(),
            at: Location::caller(),
            kind: HookErrorKind::Key(Arc::new(error)),
        }
    }

    /// Returns whether another hook has the same name.
    pub fn is_duplicate(&self) -> bool {
        matches!(self.kind, HookErrorKind::Duplicate { .. })
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, name, at, kind } = self;
        match (kind, of) {
            (HookErrorKind::Late, HookKind::Hook) => write!(
                f,
                "shutdown hook `{name}` ({at}) was added too late: register hooks before the trigger"
            ),
            (HookErrorKind::Late, HookKind::Save) => write!(
                f,
                "state `{name}` ({at}) was added too late: call `persist` before the trigger"
            ),
            (HookErrorKind::Duplicate { first }, HookKind::Hook) => write!(
                f,
                "shutdown hook `{name}` ({at}) has the same name as the one made at {first}: names \
                 must be unique"
            ),
            (HookErrorKind::Duplicate { first }, HookKind::Save) => write!(
                f,
                "state `{name}` ({at}) has the same key as the one persisted at {first}: keys must be \
                 unique"
            ),
            #[cfg(feature = "persist")]
            (HookErrorKind::Key(error), _) => write!(f, "cannot persist state ({at}): {error}"),
        }
    }
}

impl Error for HookError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            HookErrorKind::Late | HookErrorKind::Duplicate { .. } => None,
            // `Display` already includes the text of this error.
            #[cfg(feature = "persist")]
            HookErrorKind::Key(error) => error.source(),
        }
    }
}
