//! The shutdown, from the trigger to the report, as one page.
//!
//! ```text
//! trigger ── LameDuck ── Draining ──┬─────────────── Stopping ── hooks ── Stopped
//!                                   └ cut, unwind ──┘
//! ```

use std::future::pending;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::core::Core;
use crate::gate::interest;
use crate::hooks;
use crate::milestones::event;
use crate::notice::{ShutdownNotice, earlier};
use crate::race::{Either, race, until};
use crate::report::{Facts, HookReport, PhaseReport, ShutdownReport};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::Arc;
use crate::wait::Wait;

/// The longest and the shortest time that cut work is given to be gone.
const UNWINDING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// Runs one shutdown, which has been triggered, to its end.
async fn shut_down(core: &Arc<Core>, notice: &ShutdownNotice) -> ShutdownReport {
    let mut account = Account::open(notice);

    // Lame duck: readiness is red, everything is served. Only force ends it early.
    if core.state() == LifecycleState::LameDuck {
        until(notice.lame_duck_deadline(), reached(core, event::FORCED)).await;
        account.close_phase(LifecycleState::LameDuck);
    }

    // Draining: nothing new; what was admitted has until the drain deadline.
    core.begin_draining();
    wake_shards(core, interest::CLOSED).await;
    let force = until(notice.drain_deadline(), reached(core, event::FORCED));
    let cleanup = match race(
        drained_and_served(core, notice),
        race(force, tell_progress(core)),
    )
    .await
    {
        Either::Left(()) if !core.milestones().has(event::FORCED) => notice.clone(),
        _ => {
            account.cut(core).await;
            // The clean-up gets its reserve, not what an early force has left of the drain.
            notice
                .clone()
                .ending_by(account.cut_at.checked_add(core.config.reserve()))
        }
    };
    account.close_phase(LifecycleState::Draining);

    // Stopping: the servers are gone or dropped; the application cleans up.
    core.advance(LifecycleState::Stopping);
    let cut = reached(core, event::CUT_CLEANUP);
    let hooks = hooks::run(core.hooks.take(), &cleanup, cut).await;
    if core.milestones().has(event::FORCED) {
        wake_shards(core, interest::FORCED).await;
    }
    account.close_phase(LifecycleState::Stopping);

    account.report(core, notice.reason(), hooks)
}

/// Waits until nothing is in flight, the listener may close, and every server has ended.
async fn drained_and_served(core: &Arc<Core>, notice: &ShutdownNotice) {
    // At most half of the drain, so that a server has the other half to end in.
    let half = notice
        .drain_remaining()
        .map_or(Duration::MAX, |left| left / 2);
    let refused_until = notice.now().checked_add(core.config.refuse_for.min(half));
    reached(core, event::DRAINED).await;
    // Late clients, and those that wait in the kernel's backlog, are still answered for a while.
    if core.listener_waits() {
        until(refused_until, pending::<()>()).await;
    }
    core.milestones().reach(event::STOP_ACCEPTING);
    gone(core).await;
}

/// Waits until every server has ended and nothing is in flight.
async fn gone(core: &Arc<Core>) {
    let milestones = core.milestones();
    loop {
        // Taken back before looking: an end between the look and the wait is not missed.
        milestones.take_back(event::SERVER_ENDED | event::IDLE);
        core.gate.scan();
        if core.servers.running() > 0 {
            reached(core, event::SERVER_ENDED).await;
        } else if !milestones.has(event::IDLE) {
            reached(core, event::IDLE).await;
        } else {
            return;
        }
    }
}

/// Says now and then what is waited for. Never resolves.
async fn tell_progress(core: &Arc<Core>) {
    loop {
        sleep(core.config.progress_interval).await;
        let drain_remaining = core.notice().and_then(ShutdownNotice::drain_remaining);
        info!(
            in_flight = core.gate.in_flight(),
            servers = core.servers.running(),
            drain_remaining = drain_remaining.map(tracing::field::debug),
            "draining"
        );
    }
}

/// Wakes everybody registered in the shards for `interests`, a batch at a time, so that a hundred
/// thousand of them do not hold this thread.
async fn wake_shards(core: &Arc<Core>, interests: u32) {
    for shard in core.gate.shards() {
        let mut cursor = 0;
        while shard.wake_batch(interests, &mut cursor) {
            yield_now().await;
        }
    }
}

fn reached(core: &Arc<Core>, events: u32) -> Wait {
    Wait::new(core, events)
}

// ===== the account =====

/// What will be reported, gathered on the way.
struct Account {
    phases: Vec<PhaseReport>,
    phase_began: Instant,
    cut_at: Instant,
    forced: bool,
    abandoned_requests: u64,
    abandoned_servers: u64,
}

impl Account {
    fn open(notice: &ShutdownNotice) -> Self {
        Self {
            phases: Vec::new(),
            phase_began: notice.triggered_at(),
            cut_at: notice.triggered_at(),
            forced: false,
            abandoned_requests: 0,
            abandoned_servers: 0,
        }
    }

    fn close_phase(&mut self, state: LifecycleState) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.phase_began);
        self.phases.push(PhaseReport { state, duration });
        self.phase_began = now;
    }

    /// Cuts what is in flight, gives it a short time to be gone, and notes what was not.
    async fn cut(&mut self, core: &Arc<Core>) {
        self.forced = true;
        self.cut_at = Instant::now();
        core.cut();
        wake_shards(core, interest::FORCED).await;
        let (shortest, longest) = UNWINDING;
        let unwinding = (core.config.reserve() / 4).clamp(shortest, longest);
        // Only admitted work is cut at once: after an early force, late clients are still refused
        // for a while, as they would be without it.
        if core.listener_waits() {
            let refused_until = self.phase_began.checked_add(core.config.refuse_for);
            let refused_until = earlier(refused_until, Some(self.cut_at + unwinding / 2));
            until(refused_until, pending::<()>()).await;
        }
        core.milestones().reach(event::STOP_ACCEPTING);
        if until(Some(self.cut_at + unwinding), gone(core))
            .await
            .is_none()
        {
            self.abandoned_requests = core.gate.in_flight();
            self.abandoned_servers = core.servers.running();
            warn!(
                requests = self.abandoned_requests,
                servers = self.abandoned_servers,
                "abandoned: still alive after they were cut"
            );
        }
    }

    fn report(self, core: &Core, reason: ShutdownReason, hooks: Vec<HookReport>) -> ShutdownReport {
        ShutdownReport::new(Facts {
            reason,
            forced: self.forced || core.milestones().has(event::FORCED),
            phases: self.phases,
            in_flight_at_trigger: core.in_flight_at_trigger(),
            in_flight_at_force: core.in_flight_at_force(),
            admitted: core.gate.admitted(),
            refused: core.gate.refused(),
            aborted: core.gate.aborted(),
            abandoned_requests: self.abandoned_requests,
            abandoned_servers: self.abandoned_servers,
            server_errors: core.servers.errors(),
            hooks,
        })
    }
}

// ===== who drives =====

/// Has the shutdown run by the controller's runtime or, if it has none, by a thread of its own.
pub(crate) fn drive(core: Arc<Core>) {
    let runtime = core.capture_runtime().cloned();
    let driver = Driver { core };
    let shutdown = async move {
        let core = &driver.core;
        if let Some(notice) = core.notice() {
            let report = shut_down(core, notice).await;
            log_end(&report);
            core.finish(report);
        }
    };
    match runtime {
        Some(runtime) => drop(runtime.spawn(shutdown)),
        None => {
            let run = move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(shutdown),
                    Err(cause) => error!(%cause, "no runtime for the shutdown"),
                }
            };
            let thread = std::thread::Builder::new().name("tower-lifecycle".to_owned());
            if let Err(cause) = thread.spawn(run) {
                error!(%cause, "no thread for the shutdown");
            }
        }
    }
}

/// Lives as long as the shutdown is driven. If that ends early, because its runtime does, those who
/// wait are told so instead of waiting for ever.
struct Driver {
    core: Arc<Core>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let (core, Some(notice)) = (&*self.core, self.core.notice()) else {
            return;
        };
        if core.report().is_some() {
            return;
        }
        let mut account = Account::open(notice);
        account.abandoned_requests = core.gate.in_flight();
        account.abandoned_servers = core.servers.running();
        core.begin_draining();
        core.advance(LifecycleState::Stopping);
        let hooks = hooks::not_started(&core.hooks.take());
        let report = account.report(core, ShutdownReason::Interrupted, hooks);
        log_end(&report);
        core.finish(report);
    }
}

fn log_end(report: &ShutdownReport) {
    let (reason, took) = (report.reason(), report.duration());
    let (aborted, abandoned) = (report.aborted(), report.abandoned());
    if report.is_graceful() {
        info!(%reason, ?took, "shutdown complete");
    } else {
        let forced = report.is_forced();
        warn!(%reason, ?took, forced, aborted, abandoned, "shutdown not graceful");
    }
}
