//! The shutdown, from the trigger to the report, as one page.
//!
//! ```text
//! trigger ── LameDuck ── Draining ──┬─────────────── workers ── Stopping ── hooks ── services ── saves ── Stopped
//!                                   └ cut, unwind ──┘
//! ```

mod admin;
mod drain;
mod record;
mod waiting;
mod workers;

pub(super) use self::record::Record;

use std::future::Future;
use std::mem;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use self::waiting::{none_left, reached, servers_have_ended, standstill, wake_shards};
use super::attempt::Shutdown;
use super::cleanup::{Cleanup, Thaw};
use super::core::Core;
use super::notice::{ShutdownNotice, earlier};
use super::race::{race, until};
use super::report::ShutdownReport;
use crate::in_flight::{event, interest};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Runs one shutdown, which has been announced, to its end; `None` if it was called off.
pub(super) async fn shut_down(
    core: &Arc<Core>,
    shutdown: &Arc<Shutdown>,
) -> Option<ShutdownReport> {
    let notice = &shutdown.notice;
    let mut record = Record::new(shutdown);

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
        record.close_phase(LifecycleState::LameDuck);
    }
    if !core.begin_draining(shutdown) {
        return None;
    }

    // Draining: nothing new is admitted; what was has until the drain deadline.
    drain::run(core, shutdown, &mut record).await;
    // Nothing feeds the workers any more: they do what is left, in their own share of the time.
    workers::stop(core, shutdown, &mut record).await;
    record.close_phase(LifecycleState::Draining);
    record.late_arrivals(core).tell(core.config.lame_duck);

    // Stopping: the servers have ended or are dropped; the application cleans up.
    core.advance(LifecycleState::Stopping);
    let thaw = Thaw::new(shutdown);
    let notice = record.begin_cleanup(core, shutdown, thaw.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let for_saves = core.time_for_saves();
    let mut cleanup = Cleanup::new(thaw, notice.earlier_by(for_saves), cut);
    let stops = core.services.len().min(1);
    core.hooks.run(&mut cleanup, stops).await;
    stop_services(core, &mut cleanup).await;

    // Last of all the state is saved: what may change it has ended.
    let notice = cleanup.notice().later_by(for_saves);
    save_state(core, cleanup.thaw(), notice.clone()).await;
    // Whoever looked on until now is let go.
    admin::close(core, &notice).await;
    close_connections(core, &notice).await;
    record.close_phase(LifecycleState::Stopping);

    Some(record.report(core))
}

/// Rolls back a start-up that failed or was told to end: as a shutdown, without a lame duck and
/// hooks.
pub(super) async fn roll_back(core: &Arc<Core>, shutdown: &Arc<Shutdown>) -> ShutdownReport {
    let mut record = Record::new(shutdown);

    // Whoever is starting a service drops that now, or has just started it: it is waited for as work.
    drain::run(core, shutdown, &mut record).await;
    workers::stop(core, shutdown, &mut record).await;

    let thaw = Thaw::new(shutdown);
    let notice = record.begin_cleanup(core, shutdown, thaw.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let mut cleanup = Cleanup::new(thaw, notice, cut);
    stop_services(core, &mut cleanup).await;
    admin::close(core, &cleanup.notice()).await;
    record.close_phase(LifecycleState::Starting);

    record.report(core)
}

/// Stops the services, the last part of every clean-up; cuts what began since a force.
async fn stop_services<C>(core: &Arc<Core>, cleanup: &mut Cleanup<'_, C>)
where
    C: Future<Output = ()>,
{
    core.services.stop(cleanup).await;
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
        core.saves.run(&mut cleanup, 0).await;
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
