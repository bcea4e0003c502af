//! What happened, as a value.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::BoxError;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;

/// What happened in a shutdown.
///
/// Everybody who waits for the end of one shutdown gets the same report; a clone is cheap.
/// `println!("{report}")` shows it to a person.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let report = ctl.shutdown(ShutdownReason::Manual).await;
/// assert!(report.is_graceful());
/// assert_eq!(report.reason(), ShutdownReason::Manual);
/// println!("{report}");
/// # }
/// ```
#[derive(Clone)]
pub struct ShutdownReport {
    facts: Arc<Facts>,
}

/// How one shutdown hook fared.
#[derive(Debug, Clone)]
pub struct HookReport {
    pub(crate) name: Arc<str>,
    pub(crate) phase: i32,
    pub(crate) outcome: HookOutcome,
    pub(crate) duration: Duration,
}

/// How one shutdown hook ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HookOutcome {
    /// It returned `Ok`.
    Completed,
    /// It returned this error.
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// It panicked, with this message.
    Panicked(String),
    /// It had not ended by its limit, and was dropped, or left behind if it blocks its thread.
    TimedOut,
    /// Force came while it ran, and it was dropped.
    Cut,
    /// Force came before its phase began, or the runtime ended; it was never started.
    NotStarted,
}

/// The time spent in one state of the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseReport {
    pub(crate) state: LifecycleState,
    pub(crate) duration: Duration,
}

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) reason: ShutdownReason,
    pub(crate) interrupted: bool,
    pub(crate) forced: bool,
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) in_flight_at_trigger: u64,
    pub(crate) in_flight_at_force: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) aborted: u64,
    pub(crate) abandoned_requests: u64,
    pub(crate) abandoned_servers: u64,
    pub(crate) server_errors: Vec<Arc<dyn std::error::Error + Send + Sync>>,
    pub(crate) hooks: Vec<HookReport>,
}

// ===== impl ShutdownReport =====

impl ShutdownReport {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts: Arc::new(facts),
        }
    }

    /// Returns whether everything went as it should: nothing was cut or abandoned, every hook
    /// completed, no server failed, and the shutdown itself ran to its end.
    pub fn is_graceful(&self) -> bool {
        let facts = &*self.facts;
        !facts.forced
            && !facts.interrupted
            && facts.server_errors.is_empty()
            && facts.hooks.iter().all(HookReport::is_completed)
    }

    /// Returns whether it was forced: by the drain deadline, or by `force`, in whatever state.
    pub fn is_forced(&self) -> bool {
        self.facts.forced
    }

    /// Returns why the shutdown began, or `Interrupted` if it could not come to its end.
    pub fn reason(&self) -> ShutdownReason {
        self.facts.reason
    }

    /// Returns how many requests we cut, in their handler or in their body.
    pub fn aborted(&self) -> u64 {
        self.facts.aborted
    }

    /// Returns how much was still alive when we stopped waiting: requests and guards that did not
    /// let go (a blocked thread), and servers that did not end (a stalled socket).
    pub fn abandoned(&self) -> u64 {
        self.facts.abandoned_requests + self.facts.abandoned_servers
    }

    /// Returns how many requests were admitted since the start (a figure that wraps at 2^32).
    pub fn admitted(&self) -> u64 {
        self.facts.admitted
    }

    /// Returns how many requests were refused since the start.
    pub fn refused(&self) -> u64 {
        self.facts.refused
    }

    /// Returns how many requests were in flight when the shutdown began.
    pub fn in_flight_at_trigger(&self) -> u64 {
        self.facts.in_flight_at_trigger
    }

    /// Returns how many requests were in flight when admitted work was cut; zero if it was not.
    pub fn in_flight_at_force(&self) -> u64 {
        self.facts.in_flight_at_force
    }

    /// Returns the states that the shutdown went through, in order, with the time spent in each.
    pub fn phases(&self) -> &[PhaseReport] {
        &self.facts.phases
    }

    /// Returns the hooks, in the order of their phases and, within one, of their registration.
    pub fn hooks(&self) -> &[HookReport] {
        &self.facts.hooks
    }

    /// Returns the errors that servers given to `run` ended with.
    pub fn server_errors(
        &self,
    ) -> impl ExactSizeIterator<Item = &(dyn std::error::Error + 'static)> {
        let errors = self.facts.server_errors.iter();
        errors.map(|error| &**error as &(dyn std::error::Error + 'static))
    }

    /// Returns how long the shutdown took.
    pub fn duration(&self) -> Duration {
        self.facts.phases.iter().map(|phase| phase.duration).sum()
    }

    /// Returns 0 if the shutdown was graceful, else 1, to be returned from `main`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// Ends the process now, with [`exit_code`](Self::exit_code).
    ///
    /// For programs in which something abandoned, such as a blocked thread, would hold the
    /// runtime's drop for ever. Destructors do not run.
    pub fn exit(&self) -> ! {
        std::process::exit(self.status().into())
    }

    fn status(&self) -> u8 {
        u8::from(!self.is_graceful())
    }
}

impl fmt::Debug for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.fmt(f)
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.facts;
        let manner = match (facts.interrupted, facts.forced, self.is_graceful()) {
            (true, ..) => "interrupted",
            (_, true, _) => "forced",
            (.., true) => "graceful",
            (.., false) => "drained, with errors",
        };
        write!(
            f,
            "shutdown: {manner} in {:.3?} (reason: {})",
            self.duration(),
            facts.reason
        )?;
        for PhaseReport { state, duration } in &facts.phases {
            write!(f, "\n  {state:<13} {duration:.3?}")?;
        }
        write!(
            f,
            "\n  requests      {} admitted, {} refused, {} in flight at the trigger",
            facts.admitted, facts.refused, facts.in_flight_at_trigger
        )?;
        if facts.forced {
            let gone = facts.aborted + facts.abandoned_requests;
            write!(
                f,
                "\n  forced        {} in flight: {} cut, {} ended by themselves, {} abandoned",
                facts.in_flight_at_force,
                facts.aborted,
                facts.in_flight_at_force.saturating_sub(gone),
                facts.abandoned_requests,
            )?;
        }
        if facts.abandoned_servers > 0 {
            write!(
                f,
                "\n  servers       {} had not ended",
                facts.abandoned_servers
            )?;
        }
        for error in &facts.server_errors {
            write!(f, "\n  server error  {error}")?;
        }
        for hook in &facts.hooks {
            write!(f, "\n  hook          {hook}")?;
        }
        Ok(())
    }
}

// ===== impl HookReport =====

impl HookReport {
    /// Returns the name that the hook was registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the phase that the hook ran in.
    pub fn phase(&self) -> i32 {
        self.phase
    }

    /// Returns how the hook ended.
    pub fn outcome(&self) -> &HookOutcome {
        &self.outcome
    }

    /// Returns how long the hook ran.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns whether the hook returned `Ok`.
    pub fn is_completed(&self) -> bool {
        matches!(self.outcome, HookOutcome::Completed)
    }
}

impl fmt::Display for HookReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            phase,
            outcome,
            duration,
        } = self;
        write!(
            f,
            "`{name}` (phase {phase}): {outcome} after {duration:.3?}"
        )
    }
}

impl fmt::Display for HookOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Cut => f.write_str("cut by force"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

impl HookOutcome {
    /// To be called in the hook's own task, so that an error that cannot be shown harms only it.
    pub(crate) fn of(result: Result<(), BoxError>) -> Self {
        match result {
            Ok(()) => Self::Completed,
            Err(error) => {
                let _ = error.to_string();
                Self::Failed(error.into())
            }
        }
    }
}

// ===== impl PhaseReport =====

impl PhaseReport {
    /// Returns the state: `LameDuck`, `Draining` or `Stopping`.
    pub fn state(&self) -> LifecycleState {
        self.state
    }

    /// Returns how long the service was in it.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
