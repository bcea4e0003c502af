//! Records the course of a shutdown for its report.

use std::time::Duration;

use tokio::time::Instant;

use super::waiting::used_of_share;
use crate::in_flight::{Arrivals, InFlightItem, InFlightStage, event};
use crate::log::tell;
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::core::Core;
use crate::shutdown::lame_duck::LameDuckEnd;
use crate::shutdown::notice::ShutdownNotice;
use crate::shutdown::outcome::SaveReport;
use crate::shutdown::report::{Facts, PhaseReport, ShutdownReport};
use crate::shutdown::tasks::Role;
use crate::state::{LifecycleState, ShutdownReason};

/// How much abandoned work is named.
const MAX_ABANDONED: usize = 100;

/// The course of a shutdown so far, for its report.
pub(crate) struct Record {
    pub(crate) reason: ShutdownReason,
    triggered_at: Instant,
    phases: Vec<PhaseReport>,
    pub(super) phase_began: Instant,
    /// When work was cut, and how long the process had not run until then.
    pub(super) cut_at: Option<(Instant, Duration)>,
    pub(super) in_flight_at_trigger: u64,
    abandoned_requests: u64,
    abandoned_work: Vec<InFlightItem>,
    abandoned_servers: u64,
    abandoned_starts: u64,
    abandoned_connections: u64,
    pub(super) connections_cut: u64,
    pub(crate) interrupted: bool,
}

impl Record {
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        let notice = &shutdown.notice;
        Self {
            reason: notice.reason(),
            triggered_at: notice.triggered_at(),
            phases: Vec::new(),
            phase_began: notice.triggered_at(),
            cut_at: None,
            in_flight_at_trigger: shutdown.in_flight_at_trigger,
            abandoned_requests: 0,
            abandoned_work: Vec::new(),
            abandoned_servers: 0,
            abandoned_starts: 0,
            abandoned_connections: 0,
            connections_cut: 0,
            interrupted: false,
        }
    }

    /// Ends the phase that was spent in `state`, and returns how long it was.
    pub(crate) fn close_phase(&mut self, state: LifecycleState) -> Duration {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.phase_began);
        self.phases.push(PhaseReport { state, duration });
        self.phase_began = now;
        duration
    }

    /// Records what is left when the waiting ends: `in_flight` requests and guards, after `aborted` requests
    /// had been cut.
    pub(crate) fn note_abandoned(&mut self, core: &Core, in_flight: u64, aborted: u64) {
        core.note_aborted(aborted);
        self.abandoned_requests = in_flight;
        self.abandoned_work = core.oldest_in_flight(MAX_ABANDONED);
        // Not work yet, and refused by now.
        self.abandoned_work
            .retain(|item| item.stage != InFlightStage::Readiness);
        self.abandoned_servers = core.servers.abandoned();
        self.abandoned_starts = core.services.starting();
        self.abandoned_connections = core.watched_connections();
        let (requests, servers) = (self.abandoned_requests, self.abandoned_servers);
        let (tasks, starts) = (core.tasks.running(&[Role::Task]), self.abandoned_starts);
        let connections = core.open_connections();
        if requests + tasks + servers + connections + starts > 0 {
            tell!(
                warn,
                requests,
                tasks,
                servers,
                connections,
                starts,
                "abandoned: still alive after being cut"
            );
        }
    }

    /// Logs what became of the requests, before the hooks: one of them may flush the telemetry.
    pub(super) fn tell_drained(&self, core: &Core) {
        let gate = &core.gate;
        let (admitted, refused) = (gate.admitted(), gate.refused());
        let (aborted, abandoned) = (core.aborted(), self.abandoned_requests);
        let late_requests = gate.late_requests();
        tell!(
            info,
            admitted,
            refused,
            late_requests,
            aborted,
            abandoned,
            "drained: cleaning up"
        );
    }

    /// Begins the clean-up, and returns its notice. After a force it has the reserve, but not the time that
    /// an early force has saved in the drain. A force during the clean-up cuts it.
    ///
    /// Time in which the process did not run is not taken from the reserve.
    pub(super) fn begin_cleanup(
        &self,
        core: &Core,
        shutdown: &Shutdown,
        frozen: Duration,
    ) -> ShutdownNotice {
        core.tasks.cut(&[Role::Task, Role::Worker]);
        // Published before the check for a force; see `Core::cut`.
        core.milestones().reach(event::CLEANUP);
        let notice = shutdown.notice.clone();
        let reserve = core.config.reserve();
        let used = used_of_share(notice.final_deadline(), notice.now(), reserve);
        let notice = notice.later_by(frozen.min(used));
        if !core.milestones().has(event::FORCED) {
            return notice;
        }
        let (cut_at, frozen_before) = self.cut_at.unwrap_or((notice.now(), frozen));
        let frozen = frozen.saturating_sub(frozen_before);
        notice.ending_by(cut_at.checked_add(reserve.saturating_add(frozen)))
    }

    /// Returns the requests that arrived in the lame duck. The counts are exact after the drain, since each
    /// request is counted before it ends.
    pub(super) fn late_arrivals(&self, core: &Core) -> Arrivals {
        let first = self.phases.first();
        let lame_duck = first.filter(|phase| phase.state == LifecycleState::LameDuck);
        let lasted = lame_duck.map(|phase| phase.duration);
        let ran_in_full = lasted.is_some() && self.lame_duck_end(core) == Some(LameDuckEnd::InFull);
        let full = ran_in_full.then_some(core.config.lame_duck);
        Arrivals::of(&core.gate, self.triggered_at, lasted, full)
    }

    fn lame_duck_end(&self, core: &Core) -> Option<LameDuckEnd> {
        let (end, _) = core.shutdown()?.lame_duck()?;
        Some(end)
    }

    pub(crate) fn report(self, core: &Core) -> ShutdownReport {
        core.note_aborted(core.gate.aborted());
        let late_arrivals = self.late_arrivals(core);
        let lame_duck_end = self.lame_duck_end(core);
        ShutdownReport::new(Facts {
            reason: self.reason,
            interrupted: self.interrupted,
            startup_failure: core.startup_failure(),
            forced: core.milestones().has(event::FORCED),
            phases: self.phases,
            in_flight_at_trigger: self.in_flight_at_trigger,
            lame_duck_end,
            late_arrivals,
            late_requests: core.gate.late_requests(),
            in_flight_at_force: core.in_flight_at_force(),
            admitted: core.gate.admitted(),
            refused: core.gate.refused(),
            aborted: core.aborted(),
            aborted_work: core.roster.cut(),
            abandoned_work: self.abandoned_work,
            abandoned_requests: self.abandoned_requests,
            abandoned_servers: self.abandoned_servers,
            abandoned_starts: self.abandoned_starts,
            abandoned_connections: self.abandoned_connections,
            connections_cut: self.connections_cut,
            server_errors: core.servers.errors(),
            tasks: core.tasks.reports(),
            tasks_forgotten: core.tasks.forgotten(),
            hooks: core.hooks.reports(),
            services: core.services.reports(),
            saves: (core.saves.reports().into_iter())
                .map(SaveReport::of)
                .collect(),
        })
    }
}
