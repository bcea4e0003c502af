//! What systemd is to know about the lifecycle at one moment.

use std::time::Duration;

use crate::config::ShutdownConfig;
use crate::shutdown::{Core, HandOverState, ShutdownNotice};
use crate::state::LifecycleState;

/// How often time is asked for during a start-up or a shutdown.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);

/// What systemd is to know about the lifecycle at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    /// `true` if the start-up is done, even if the shutdown has begun since.
    pub(super) is_started: bool,
    /// `true` if the shutdown can no longer be called off.
    pub(super) is_stopping: bool,
    pub(super) is_over: bool,
    pub(super) hand_over: HandOverState,
    pub(super) status: String,
    /// How long the start-up or the shutdown takes from now, at most. `None` if no time is asked for.
    pub(super) time_left: Option<Duration>,
    /// When to look again, if nothing changes before. `None` if nothing can be told without a change.
    pub(super) next: Option<Duration>,
}

impl Moment {
    pub(super) fn of(core: &Core) -> Self {
        let state = core.state();
        let notice = core.notice().filter(|_| !state.is_terminal());
        let is_starting = state < LifecycleState::Running;
        let time_left = match &notice {
            // Without a limit, each message asks for the time until the next one.
            Some(notice) => Some(notice.time_remaining().unwrap_or_default()),
            None if is_starting => core.services.time_left(),
            None => None,
        };
        let is_moving = is_starting || notice.is_some();
        Self {
            is_started: core.milestones().has(LifecycleState::Running.bit()),
            is_stopping: state >= LifecycleState::Draining || (is_starting && notice.is_some()),
            is_over: state.is_terminal(),
            hand_over: core.hand_over.state(),
            status: status(core, state, notice.as_ref()),
            time_left,
            next: is_moving.then(|| interval(&core.config)),
        }
    }
}

fn interval(config: &ShutdownConfig) -> Duration {
    config.progress_interval.min(EXTEND_INTERVAL)
}

/// Describes the lifecycle in a line, for `systemctl status`.
fn status(core: &Core, state: LifecycleState, notice: Option<&ShutdownNotice>) -> String {
    let Some(notice) = notice else {
        return match state {
            LifecycleState::Running if core.gate.is_paused() => "paused: refusing new work".into(),
            state => state.name().into(),
        };
    };
    let in_flight = core.gate.in_flight();
    let what = match state {
        LifecycleState::Initializing | LifecycleState::Starting => {
            format!("rolling back the start-up: {in_flight} in flight")
        }
        LifecycleState::Draining => format!("draining: {in_flight} in flight"),
        LifecycleState::Stopping => "stopping: cleaning up".to_owned(),
        _ => format!("lame duck: not ready, {in_flight} in flight"),
    };
    let left = match state {
        LifecycleState::Stopping => notice.time_remaining(),
        LifecycleState::LameDuck => notice.lame_duck_remaining(),
        _ => notice.drain_remaining(),
    };
    match left {
        Some(left) => format!("{what}, {} s left", whole_seconds(left)),
        None => what,
    }
}

/// Rounds up, so that zero means that no time is left.
fn whole_seconds(time: Duration) -> u64 {
    let begun = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(begun)
}
