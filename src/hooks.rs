//! Shutdown hooks: the clean-up of an application, in phases.
//!
//! Phases run one after another, in ascending order; the hooks of one phase run at the same time,
//! each in a task of its own. A hook that fails, panics, hangs or blocks its thread harms only
//! itself.

mod run;

pub(crate) use self::run::{not_started, run};

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::time::Duration;

use crate::error::BoxError;
use crate::notice::ShutdownNotice;
use crate::report::{HookOutcome, HookReport};
use crate::sync::{Arc, Mutex, lock};

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
