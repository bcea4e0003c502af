//! The shutdown, from the trigger to the report, as one page.
//!
//! ```text
//! trigger ── LameDuck ── Draining ──┬─────────────── workers ── Stopping ── hooks ── services ── saves ── Stopped
//!                                   └ cut, unwind ──┘
//! ```

use std::future::{Future, pending};
use std::mem;
use std::pin::pin;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::arrivals::Arrivals;
use crate::cleanup::{Cleanup, Thaw};
use crate::core::Core;
use crate::gate::interest;
use crate::hooks;
use crate::log::tell;
use crate::milestones::event;
use crate::notice::{ShutdownNotice, earlier};
use crate::outcome::SaveReport;
use crate::race::{Either, let_others_run, race, until};
use crate::report::{Facts, PhaseReport, ShutdownReport};
use crate::services;
use crate::shutdown::Shutdown;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;
use crate::tasks::{Role, admin, none_left, workers};
use crate::wait::Wait;

/// The shortest and the longest time that cut work is given to be gone, if none of it goes.
const UNWINDING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// When that time is over, what is left is waited for while one after another goes. The longest pause
/// between two of them is this part of it, and somewhat more for each connection that is being closed.
const STANDSTILL: u32 = 5;
const STANDSTILL_EACH: Duration = Duration::from_micros(50);

/// Runs one shutdown, which has been announced, to its end; `None` if it was called off.
pub(crate) async fn shut_down(
    core: &Arc<Core>,
    shutdown: &Arc<Shutdown>,
) -> Option<ShutdownReport> {
    let notice = &shutdown.notice;
    let mut account = Account::open(shutdown);

    // Lame duck: readiness is red, everything is served, until its time is over.
    if core.state() == LifecycleState::LameDuck {
        // Requests that wait for the readiness of an inner service count from now on.
        wake_shards(core, interest::SHEDDING).await;
        let early = race(reached(core, event::FORCED), servers_have_ended(core));
        until(
            notice.lame_duck_deadline(),
            race(shutdown.called_off(), early),
        )
        .await;
        account.close_phase(LifecycleState::LameDuck);
    }
    if !core.begin_draining(shutdown) {
        return None;
    }

    // Draining: nothing new is admitted; what was has until the drain deadline.
    account.drain(core, shutdown).await;
    // Nothing feeds the workers any more: they do what is left, in their own share of the time.
    account.stop_workers(core, shutdown).await;
    account.close_phase(LifecycleState::Draining);
    account.late_arrivals(core).tell(core);

    // Stopping: the servers have ended or are dropped; the application cleans up.
    core.advance(LifecycleState::Stopping);
    let thaw = Thaw::new(shutdown);
    let notice = account.begin_cleanup(core, shutdown, thaw.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let for_saves = core.time_for_saves();
    let mut cleanup = Cleanup::new(thaw, notice.earlier_by(for_saves), cut);
    let stops = core.services.len().min(1);
    hooks::run(core, |core| &core.hooks, &mut cleanup, stops).await;
    stop_services(core, &mut cleanup).await;

    // Last of all the state is saved: what may change it has ended.
    let notice = cleanup.notice().later_by(for_saves);
    save_state(core, cleanup.thaw(), notice.clone()).await;
    // Whoever looked on until now is let go.
    admin::close(core, &notice).await;
    close_connections(core, &notice).await;
    account.close_phase(LifecycleState::Stopping);

    Some(account.report(core))
}

/// Rolls back a start-up that failed or was told to end: as a shutdown, without a lame duck and
/// hooks.
pub(crate) async fn roll_back(core: &Arc<Core>, shutdown: &Arc<Shutdown>) -> ShutdownReport {
    let mut account = Account::open(shutdown);

    // Whoever is starting a service drops that now, or has just started it: it is waited for as work.
    account.drain(core, shutdown).await;
    account.stop_workers(core, shutdown).await;

    let thaw = Thaw::new(shutdown);
    let notice = account.begin_cleanup(core, shutdown, thaw.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let mut cleanup = Cleanup::new(thaw, notice, cut);
    stop_services(core, &mut cleanup).await;
    admin::close(core, &cleanup.notice()).await;
    account.close_phase(LifecycleState::Starting);

    account.report(core)
}

/// Stops the services, the last part of every clean-up; cuts what began since a force.
async fn stop_services<C>(core: &Arc<Core>, cleanup: &mut Cleanup<'_, C>)
where
    C: Future<Output = ()>,
{
    services::stop(core, cleanup).await;
    if core.milestones().has(event::FORCED) {
        wake_shards(core, interest::FORCED).await;
    }
}

/// Saves the state, last of all, in the time that is kept for it. A force that cut the rest of the
/// clean-up does not cut it.
async fn save_state(core: &Arc<Core>, thaw: Thaw, notice: ShutdownNotice) {
    if core.saves.len() > 0 {
        core.milestones().reach(event::SAVING);
        let cut = pin!(reached(core, event::CUT_SAVES));
        let mut cleanup = Cleanup::new(thaw, notice, cut);
        hooks::run(core, |core| &core.saves, &mut cleanup, 0).await;
    }
}

/// Waits for connections of our own servers that have not come to their end before the clean-up, as long
/// as one after another does.
async fn close_connections(core: &Arc<Core>, notice: &ShutdownNotice) {
    let mut open = core.served_connections();
    while open > 0 {
        let look = Some(Instant::now() + standstill(core));
        let closed = none_left(core, || core.served_connections());
        until(earlier(look, notice.final_deadline()), closed).await;
        let before = mem::replace(&mut open, core.served_connections());
        if open == before || notice.time_remaining() == Some(Duration::ZERO) {
            return;
        }
    }
}

/// Waits until nothing is in flight, and every server and task has ended.
async fn drained_and_served(core: &Arc<Core>, notice: &ShutdownNotice) {
    let refused_until = core.refused_until(notice);
    reached(core, event::DRAINED).await;
    // With `refuse_for`, the listener is open until now.
    if core.listener_waits() {
        until(refused_until, pending::<()>()).await;
    }
    core.milestones().reach(event::STOP_ACCEPTING);
    gone(core).await;
    // A late request may have come since the last look. No more can.
    core.gate.end_drain();
    gone(core).await;
}

/// Refuses late requests when their time is over. Never resolves.
async fn refuse_late(core: &Arc<Core>, notice: &ShutdownNotice) {
    until(core.late_until(notice), pending::<()>()).await;
    core.gate.refuse_late();
    pending().await
}

/// Waits until every server, task and start of a service has ended and nothing is in flight.
async fn gone(core: &Arc<Core>) {
    let milestones = core.milestones();
    loop {
        // Taken back before looking: an end between the look and the wait is not missed.
        milestones.take_back(event::WORK_ENDED | event::IDLE);
        core.gate.scan();
        let tasks = core.tasks.running(&[Role::Task]);
        let running = core.servers.running() + tasks + core.open_connections();
        if running > 0 || core.services.is_starting() {
            reached(core, event::WORK_ENDED).await;
        } else if !milestones.has(event::IDLE) {
            reached(core, event::IDLE).await;
        } else {
            return;
        }
    }
}

/// Waits for [`gone`] until `end`; for connections of our own servers, of which there may be thousands,
/// longer than that, as long as one after another ends, until `at_most`. Gives whether all have gone.
async fn gone_in_time(core: &Arc<Core>, end: Instant, at_most: Option<Instant>) -> bool {
    let mut gone = pin!(gone(core));
    // Those that went long before the end do not tell that others will.
    let mut fell_at = Instant::now();
    if let Some(last_part) = end.checked_sub(standstill(core)) {
        fell_at = fell_at.max(last_part);
    }
    if until(Some(fell_at), gone.as_mut()).await.is_some() {
        return true;
    }
    let mut left = core.left();
    if until(Some(end), gone.as_mut()).await.is_some() {
        return true;
    }
    // Other servers are not known to go on.
    while core.served_connections() > 0 {
        let now = Instant::now();
        if mem::replace(&mut left, core.left()) > left {
            fell_at = now;
        }
        let standstill = standstill(core);
        if now >= fell_at + standstill || at_most.is_some_and(|at_most| now >= at_most) {
            break;
        }
        let next = earlier(Some(now + standstill / 2), at_most);
        if until(next, gone.as_mut()).await.is_some() {
            return true;
        }
    }
    false
}

/// Waits until there were servers, and all of them have ended.
async fn servers_have_ended(core: &Arc<Core>) {
    while !core.servers.have_ended() {
        // Taken back before looking, as in `gone`.
        core.milestones().take_back(event::WORK_ENDED);
        if core.servers.have_ended() {
            return;
        }
        reached(core, event::WORK_ENDED).await;
    }
}

/// Says now and then what is waited for. Never resolves.
pub(crate) async fn tell_progress(core: &Arc<Core>, notice: &ShutdownNotice) {
    loop {
        sleep(core.config.progress_interval).await;
        let in_flight = core.gate.in_flight();
        let [tasks, workers] = [Role::Task, Role::Worker].map(|role| core.tasks.running(&[role]));
        let (servers, connections) = (core.servers.running(), core.open_connections());
        let drain_remaining = notice.drain_remaining();
        tell!(
            info,
            in_flight,
            tasks,
            workers,
            servers,
            connections,
            drain_remaining = drain_remaining.map(tracing::field::debug),
            "draining"
        );
    }
}

/// Wakes everybody registered in the shards for `interests`, a batch at a time, so that a hundred
/// thousand of them do not hold this thread.
async fn wake_shards(core: &Arc<Core>, interests: u32) {
    for shard in core.gate.all_shards() {
        let mut cursor = 0;
        while shard.wake_batch(interests, &mut cursor) {
            let_others_run().await;
        }
    }
}

/// Returns how much of `share`, which ends at `end`, is over at `now`.
pub(crate) fn missing(end: Option<Instant>, now: Instant, share: Duration) -> Duration {
    let full = now.checked_add(share).zip(end);
    full.map_or(Duration::ZERO, |(full, end)| {
        full.saturating_duration_since(end)
    })
}

/// Returns how long cut work is given to be gone, out of the reserve.
pub(crate) fn unwinding(core: &Core) -> Duration {
    let (shortest, longest) = UNWINDING;
    (core.config.reserve() / 4).clamp(shortest, longest)
}

/// Returns how long what is left is waited for when none of it goes.
fn standstill(core: &Core) -> Duration {
    let closing = match core.milestones().has(event::DISCONNECT) {
        true => u32::try_from(core.served_connections()).unwrap_or(u32::MAX),
        false => 0,
    };
    (unwinding(core) / STANDSTILL).saturating_add(STANDSTILL_EACH.saturating_mul(closing))
}

fn reached(core: &Arc<Core>, events: u32) -> Wait {
    Wait::new(core, events)
}

// ===== the account =====

/// What will be reported, gathered on the way.
pub(crate) struct Account {
    pub(crate) reason: ShutdownReason,
    triggered_at: Instant,
    phases: Vec<PhaseReport>,
    phase_began: Instant,
    /// With how long the process had not run until then.
    cut_at: Option<(Instant, Duration)>,
    in_flight_at_trigger: u64,
    abandoned_requests: u64,
    abandoned_servers: u64,
    abandoned_starts: u64,
    abandoned_connections: u64,
    connections_cut: u64,
    pub(crate) interrupted: bool,
}

impl Account {
    pub(crate) fn open(shutdown: &Shutdown) -> Self {
        let notice = &shutdown.notice;
        Self {
            reason: notice.reason(),
            triggered_at: notice.triggered_at(),
            phases: Vec::new(),
            phase_began: notice.triggered_at(),
            cut_at: None,
            in_flight_at_trigger: shutdown.in_flight_at_trigger,
            abandoned_requests: 0,
            abandoned_servers: 0,
            abandoned_starts: 0,
            abandoned_connections: 0,
            connections_cut: 0,
            interrupted: false,
        }
    }

    pub(crate) fn close_phase(&mut self, state: LifecycleState) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.phase_began);
        self.phases.push(PhaseReport { state, duration });
        self.phase_began = now;
    }

    /// Waits for what was admitted, until the drain deadline, and cuts what is left then.
    async fn drain(&mut self, core: &Arc<Core>, shutdown: &Shutdown) {
        let notice = &shutdown.notice;
        let late = refuse_late(core, notice);
        let cut_off = until(notice.drain_deadline(), reached(core, event::FORCED));
        let cut_off = race(cut_off, race(late, tell_progress(core, notice)));
        wake_shards(
            core,
            interest::SHEDDING | interest::CLOSED | interest::DRAINING,
        )
        .await;
        // Requests that wait for the readiness of an inner service are counted at their next poll.
        yield_now().await;
        if let Either::Right(_) = race(drained_and_served(core, notice), cut_off).await {
            self.cut(core, shutdown).await;
        }
    }

    /// Cuts what is in flight, gives it a short time to be gone, and notes what was not.
    async fn cut(&mut self, core: &Arc<Core>, shutdown: &Shutdown) {
        let now = Instant::now();
        self.cut_at = Some((now, shutdown.frozen()));
        core.cut();
        core.tasks.cut(&[Role::Task]);
        wake_shards(core, interest::FORCED).await;
        let unwinding = unwinding(core);
        let (told_by, gone_by) = (now + unwinding / 2, now + unwinding);
        // Thousands take longer. The last quarter of the reserve is the hooks' in any case.
        let reserve = core.config.reserve();
        let told_at_most = now.checked_add(reserve / 2);
        let gone_at_most = now.checked_add(reserve / 4 * 3);
        // Only admitted work is cut at once: after an early force, late clients are still refused
        // for a while, as they would be without it.
        if core.listener_waits() {
            let refused_until = self.phase_began.checked_add(core.config.refuse_for);
            let refused_until = earlier(refused_until, Some(told_by));
            until(refused_until, pending::<()>()).await;
        }
        core.milestones().reach(event::STOP_ACCEPTING);
        // Those who were cut are told so, before their connections are closed.
        if gone_in_time(core, told_by, told_at_most).await {
            return;
        }
        self.connections_cut = core.served_connections();
        core.milestones().reach(event::DISCONNECT);
        if !gone_in_time(core, gone_by, gone_at_most).await {
            self.note_abandoned(core, core.gate.in_flight(), core.gate.aborted());
        }
    }

    /// Stops the workers; after a force the clean-up's reserve begins when they are over.
    async fn stop_workers(&mut self, core: &Arc<Core>, shutdown: &Arc<Shutdown>) {
        let is_forced = core.milestones().has(event::FORCED);
        let forced_at = is_forced.then(|| {
            let now = || (Instant::now(), shutdown.frozen());
            self.cut_at.unwrap_or_else(now)
        });
        if let Some(over_at) = workers::stop(core, shutdown, forced_at).await {
            self.cut_at = Some((over_at, shutdown.frozen()));
        }
    }

    /// Notes what is left when it is waited for no more: so many of what was in flight, after so many had
    /// been cut.
    pub(crate) fn note_abandoned(&mut self, core: &Core, in_flight: u64, aborted: u64) {
        core.note_aborted(aborted);
        self.abandoned_requests = in_flight;
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
                "abandoned: still alive after they were cut"
            );
        }
    }

    /// Begins the clean-up; gives what it is told. After a force it gets the reserve, not what an
    /// early force has left of the drain; a later force cuts it instead.
    ///
    /// Time in which the process did not run is not taken from the reserve.
    fn begin_cleanup(&self, core: &Core, shutdown: &Shutdown, frozen: Duration) -> ShutdownNotice {
        core.tasks.cut(&[Role::Task, Role::Worker]);
        // Published before looking for a force: see `Core::cut`.
        core.milestones().reach(event::CLEANUP);
        let notice = shutdown.notice.clone();
        let reserve = core.config.reserve();
        let missing = missing(notice.final_deadline(), notice.now(), reserve);
        let notice = notice.later_by(frozen.min(missing));
        if !core.milestones().has(event::FORCED) {
            return notice;
        }
        let (cut_at, frozen_before) = self.cut_at.unwrap_or((notice.now(), frozen));
        let frozen = frozen.saturating_sub(frozen_before);
        notice.ending_by(cut_at.checked_add(reserve.saturating_add(frozen)))
    }

    /// Gives who came in the lame duck. Exact once it has drained: each is noted before it leaves.
    fn late_arrivals(&self, core: &Core) -> Arrivals {
        let first = self.phases.first();
        let lame_duck = first.filter(|phase| phase.state == LifecycleState::LameDuck);
        Arrivals::of(
            core,
            self.triggered_at,
            lame_duck.map(|phase| phase.duration),
        )
    }

    pub(crate) fn report(self, core: &Core) -> ShutdownReport {
        core.note_aborted(core.gate.aborted());
        let late_arrivals = self.late_arrivals(core);
        ShutdownReport::new(Facts {
            reason: self.reason,
            interrupted: self.interrupted,
            startup_failure: core.startup_failure(),
            forced: core.milestones().has(event::FORCED),
            phases: self.phases,
            in_flight_at_trigger: self.in_flight_at_trigger,
            late_arrivals,
            late_requests: core.gate.late_requests(),
            in_flight_at_force: core.in_flight_at_force(),
            admitted: core.gate.admitted(),
            refused: core.gate.refused(),
            aborted: core.aborted(),
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
