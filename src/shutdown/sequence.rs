//! The sequence of a shutdown, from the trigger to the report.
//!
//! ```text
//! trigger ── LameDuck ── Draining ──┬─────────────── workers ── Stopping ── hooks ── services ── saves ── Stopped
//!                                   └ cut, unwind ──┘
//! ```

mod admin;
mod drain;
mod lame_duck;
mod record;
mod waiting;
mod workers;

pub(super) use self::record::Record;

use std::future::Future;
use std::mem;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use self::waiting::{none_left, reached, stall_timeout, wake_shards};
use super::attempt::Shutdown;
use super::cleanup::{Cleanup, Extension};
use super::core::Core;
use super::notice::{ShutdownNotice, earlier};
use super::race::until;
use super::report::ShutdownReport;
use crate::in_flight::{event, interest};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Runs a shutdown that has been announced to its end. Returns `None` if it was called off.
pub(super) async fn shut_down(
    core: &Arc<Core>,
    shutdown: &Arc<Shutdown>,
) -> Option<ShutdownReport> {
    let mut record = Record::new(shutdown);

    // Lame duck: the service is not ready, but still serves all requests.
    if core.state() == LifecycleState::LameDuck {
        lame_duck::run(core, shutdown, &mut record).await;
    }
    if !core.begin_draining(shutdown) {
        return None;
    }
    lame_duck::tell_end(core, shutdown);

    // Draining: late requests are served for a while, then nothing new is admitted. Admitted work has
    // until the drain deadline.
    drain::run(core, shutdown, &mut record).await;
    // No new work reaches the workers. They finish theirs in their own share of the time.
    workers::stop(core, shutdown, &mut record).await;
    record.close_phase(LifecycleState::Draining);
    record.late_arrivals(core).tell(core.config.lame_duck);
    record.tell_drained(core);

    // Stopping: the servers have ended or were dropped. The application cleans up.
    core.advance(LifecycleState::Stopping);
    let extension = Extension::new(shutdown);
    let notice = record.begin_cleanup(core, shutdown, extension.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let for_saves = core.time_for_saves();
    let mut cleanup = Cleanup::new(extension, notice.earlier_by(for_saves), cut);
    let stops = core.services.len().min(1);
    core.hooks.run(&mut cleanup, stops).await;
    stop_services(core, &mut cleanup).await;

    // Save the state last, since everything that could change it has ended.
    let notice = cleanup.notice().later_by(for_saves);
    save_state(core, cleanup.extension(), notice.clone()).await;
    // Admin servers answer until now.
    admin::close(core, &notice).await;
    close_connections(core, &notice).await;
    record.close_phase(LifecycleState::Stopping);

    Some(record.report(core))
}

/// Rolls back a start-up that failed or was triggered to end. Like a shutdown, but without a lame duck,
/// hooks and saves.
pub(super) async fn roll_back(core: &Arc<Core>, shutdown: &Arc<Shutdown>) -> ShutdownReport {
    let mut record = Record::new(shutdown);

    // Services that are being started are dropped, unless they have just been started. The drain
    // waits for that.
    drain::run(core, shutdown, &mut record).await;
    workers::stop(core, shutdown, &mut record).await;

    let extension = Extension::new(shutdown);
    let notice = record.begin_cleanup(core, shutdown, extension.frozen());
    let cut = pin!(reached(core, event::CUT_CLEANUP));
    let mut cleanup = Cleanup::new(extension, notice, cut);
    stop_services(core, &mut cleanup).await;
    admin::close(core, &cleanup.notice()).await;
    record.close_phase(LifecycleState::Starting);

    record.report(core)
}

/// Stops the services. After a force, also cuts work that began since.
async fn stop_services<C>(core: &Arc<Core>, cleanup: &mut Cleanup<'_, C>)
where
    C: Future<Output = ()>,
{
    core.services.stop(cleanup).await;
    if core.milestones().has(event::FORCED) {
        wake_shards(core, interest::FORCED).await;
    }
}

/// Saves the state, in the time that is kept for it. A force that cut the clean-up before it does not cut
/// the saves.
async fn save_state(core: &Arc<Core>, extension: Extension, notice: ShutdownNotice) {
    if core.saves.len() > 0 {
        core.milestones().reach(event::SAVING);
        let cut = pin!(reached(core, event::CUT_SAVES));
        let mut cleanup = Cleanup::new(extension, notice, cut);
        core.saves.run(&mut cleanup, 0).await;
    }
}

/// Waits for connections of this crate's servers that did not close before the clean-up, as long as some
/// keep closing.
async fn close_connections(core: &Arc<Core>, notice: &ShutdownNotice) {
    let mut open = core.served_connections();
    while open > 0 {
        let next_check = Some(Instant::now() + stall_timeout(core));
        let closed = none_left(core, || core.served_connections());
        until(earlier(next_check, notice.final_deadline()), closed).await;
        let before = mem::replace(&mut open, core.served_connections());
        if open == before || notice.time_remaining() == Some(Duration::ZERO) {
            return;
        }
    }
}
