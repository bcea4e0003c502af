//! The operations of a plan.

use super::*;

/// All times are in milliseconds. Operations happen at multiples of twenty. Deadlines, ends of
/// guards and ends of tasks each have a different remainder, so that no two events that exclude
/// each other happen at the same time.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) times: Times,
    pub(super) moves: Vec<Move>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) lame_duck: u64,
    /// From the trigger to the drain deadline.
    pub(super) drain: u64,
    pub(super) reserve: u64,
    pub(super) late_for: u64,
    pub(super) refuse_for: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) op: Op,
    /// Polls the waiters before anything else can run.
    pub(super) poll: bool,
    pub(super) then: Then,
    pub(super) poll_then: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// No task runs before the next operation.
    Nothing,
    /// All ready tasks run, and no time passes.
    Settle,
    Sleep(u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Trigger(ShutdownReason),
    Force,
    Resume,
    Pause,
    Unpause,
    Admit,
    Track,
    /// Its handler responds immediately, or never.
    Request {
        layer: Through,
        hangs: bool,
    },
    /// The client of a pending request disconnects.
    HangUp(usize),
    Release(usize),
    Lend(Lease),
    Spawn(When, How),
    AddHook(HookPlan),
    Wait(Kind),
    Cancel(usize),
    Observe(React),
}

/// What an observer does at the first change to a lame duck, or back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum React {
    Not,
    Panics,
    Pauses,
    Resumes,
    Forces,
    Triggers,
}

impl React {
    pub(super) fn is_at(self, state: LifecycleState) -> bool {
        match self {
            Self::Pauses | Self::Resumes | Self::Forces => state == LameDuck,
            Self::Triggers => state == Running,
            Self::Not | Self::Panics => false,
        }
    }
}

/// The layer of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Through {
    /// Refuses, and cuts.
    Drain,
    /// Counts, including late requests.
    Tracking,
}

/// How long a task holds a guard.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lease {
    For(u64),
    AfterDraining(u64),
    UntilForced,
    /// It waits for the force half of the time, then continues.
    Impatient(u64),
}

/// When a task ends, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    Triggered,
    Draining,
    After(u64),
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum How {
    Completes,
    Fails,
    Panics,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HookPlan {
    pub(super) name: usize,
    pub(super) phase: i32,
    pub(super) timeout: Option<u64>,
    /// When it ends, unless it hangs.
    pub(super) takes: Option<u64>,
    pub(super) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    LameDuck,
    Draining,
    Drained,
    Forced,
    Stopped,
    StopAccepting,
    Idle,
    Triggered,
    State(LifecycleState),
    Shutdown(ShutdownReason),
}
