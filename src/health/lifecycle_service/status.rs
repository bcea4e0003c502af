//! The lifecycle as data. The JSON and the page show the same.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::action::Action;
use crate::controller::ShutdownController;
use crate::health::services;
use crate::in_flight::{ConnectionItem, InFlightItem, event};
use crate::shutdown::{Core, HookStatus, LameDuckEnd, Role, ServiceHealth, ShutdownNotice};
use crate::state::LifecycleState;

/// The fields are serialized in this order. Their names are part of the public API.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) state: &'static str,
    pub(super) ready: bool,
    pub(super) paused: bool,
    pub(super) forced: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) signal: Option<&'static str>,
    pub(super) result: Option<&'static str>,
    pub(super) elapsed_seconds: Option<f64>,
    pub(super) deadlines: Option<Deadlines>,
    pub(super) lame_duck_end: Option<&'static str>,
    pub(super) lame_duck_lasted_seconds: Option<f64>,
    pub(super) in_flight: InFlight,
    pub(super) oldest: Vec<Item>,
    pub(super) connections: Vec<Connection>,
    pub(super) tasks: TasksRunning,
    pub(super) services: Vec<Service>,
    pub(super) hooks: Vec<Hook>,
    pub(super) saves: Vec<Hook>,
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) late_arrivals: u64,
    pub(super) late_requests: u64,
    pub(super) aborted: u64,
    pub(super) abandoned: u64,
    pub(super) shutdown_timeout_seconds: f64,
    pub(super) uptime_seconds: f64,
    pub(super) actions: Vec<&'static str>,
}

/// The deadlines that are still ahead.
#[derive(Debug, Serialize)]
pub(super) struct Deadlines {
    pub(super) lame_duck: Option<Deadline>,
    pub(super) drain: Option<Deadline>,
    pub(super) total: Option<Deadline>,
}

#[derive(Debug, Serialize)]
pub(super) struct Deadline {
    /// From the trigger to the deadline.
    pub(super) limit_seconds: f64,
    pub(super) remaining_seconds: f64,
}

/// What a drain waits for.
#[derive(Debug, Serialize)]
pub(super) struct InFlight {
    pub(super) total: u64,
    pub(super) requests: u64,
    pub(super) connections: u64,
    pub(super) tasks: u64,
    pub(super) servers: u64,
    pub(super) starts: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Item {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) stage: &'static str,
    pub(super) age_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Connection {
    pub(super) peer: String,
    pub(super) stage: &'static str,
    pub(super) age_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct TasksRunning {
    pub(super) task: u64,
    pub(super) worker: u64,
    pub(super) admin: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// A hook or a save.
#[derive(Debug, Serialize)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) phase: i32,
    pub(super) status: &'static str,
}

/// How many pieces of work are listed, and how many connections.
const OLDEST: usize = 20;

// ===== impl Status =====

impl Status {
    pub(super) fn of(ctl: &ShutdownController, has_actions: bool) -> Self {
        let core = ctl.core();
        let metrics = ctl.metrics();
        let (notice, report) = (core.notice(), core.report());
        let (reason, by_signal) = notice.as_ref().map(|notice| notice.reason().word()).unzip();
        let running = |role| core.tasks.running(&[role]);
        Self {
            state: metrics.state.name(),
            ready: core.is_ready(),
            paused: metrics.paused,
            forced: core.milestones().has(event::FORCED),
            reason,
            signal: by_signal.flatten().or(metrics.signal_received),
            result: report.map(|report| report.result().1),
            elapsed_seconds: match (report, &notice) {
                (Some(report), _) => Some(report.duration().as_secs_f64()),
                (None, Some(notice)) => Some(since(notice, notice.now())),
                (None, None) => None,
            },
            deadlines: notice
                .filter(|_| report.is_none())
                .map(|notice| Deadlines::of(&notice, metrics.state)),
            lame_duck_end: metrics.lame_duck_end.map(LameDuckEnd::name),
            lame_duck_lasted_seconds: metrics.lame_duck_lasted.as_ref().map(Duration::as_secs_f64),
            in_flight: InFlight::of(core),
            oldest: (core.oldest_in_flight(OLDEST).into_iter())
                .map(Item::of)
                .collect(),
            connections: (core.oldest_connections(OLDEST).into_iter())
                .map(Connection::of)
                .collect(),
            tasks: TasksRunning {
                task: running(Role::Task),
                worker: running(Role::Worker),
                admin: running(Role::Admin),
            },
            services: services::health(core)
                .into_iter()
                .map(Service::of)
                .collect(),
            hooks: Hook::all(core.hooks.statuses(report.is_some())),
            saves: Hook::all(core.saves.statuses(report.is_some())),
            admitted: metrics.admitted,
            refused: metrics.refused,
            late_arrivals: metrics.late_arrivals,
            late_requests: metrics.late_requests,
            aborted: metrics.aborted,
            abandoned: metrics.abandoned,
            shutdown_timeout_seconds: metrics.shutdown_timeout.as_secs_f64(),
            uptime_seconds: metrics.uptime.as_secs_f64(),
            actions: (Action::ALL.into_iter())
                .filter(|action| has_actions && action.is_possible(ctl))
                .map(Action::name)
                .collect(),
        }
    }
}

impl Deadlines {
    fn of(notice: &ShutdownNotice, state: LifecycleState) -> Self {
        let now = notice.now();
        let deadline = |at: Option<Instant>| {
            let at = at?;
            Some(Deadline {
                limit_seconds: since(notice, at),
                remaining_seconds: at.saturating_duration_since(now).as_secs_f64(),
            })
        };
        let is_lame_duck = state == LifecycleState::LameDuck;
        let is_drain_ahead = is_lame_duck || state == LifecycleState::Draining;
        Self {
            lame_duck: deadline(notice.lame_duck_deadline().filter(|_| is_lame_duck)),
            drain: deadline(notice.drain_deadline().filter(|_| is_drain_ahead)),
            total: deadline(notice.final_deadline()),
        }
    }
}

/// Returns the seconds from the trigger to `at`.
fn since(notice: &ShutdownNotice, at: Instant) -> f64 {
    at.saturating_duration_since(notice.triggered_at())
        .as_secs_f64()
}

impl InFlight {
    fn of(core: &Core) -> Self {
        let (requests, connections) = (core.gate.in_flight(), core.open_connections());
        let tasks = core.tasks.running(&[Role::Task]);
        let (servers, starts) = (core.servers.running(), core.services.starting());
        Self {
            total: requests + connections + tasks + servers + starts,
            requests,
            connections,
            tasks,
            servers,
            starts,
        }
    }
}

impl Item {
    fn of(item: InFlightItem) -> Self {
        Self {
            kind: item.kind.name(),
            name: item.name.to_string(),
            stage: item.stage.name(),
            age_seconds: item.age.as_secs_f64(),
        }
    }
}

impl Connection {
    fn of(item: ConnectionItem) -> Self {
        Self {
            peer: item.peer.to_string(),
            stage: item.stage.name(),
            age_seconds: item.age.as_secs_f64(),
        }
    }
}

impl Service {
    fn of(service: ServiceHealth) -> Self {
        Self {
            name: service.name.to_string(),
            status: service.status,
            error: service.error,
        }
    }
}

impl Hook {
    fn all(hooks: Vec<HookStatus>) -> Vec<Self> {
        let hook = |hook: HookStatus| Self {
            name: hook.name.to_string(),
            phase: hook.phase,
            status: hook.status,
        };
        hooks.into_iter().map(hook).collect()
    }
}
