//! Draining: waits for work in flight, and cuts what is left at the deadline.

use std::future::pending;
use std::mem;
use std::pin::pin;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::record::Record;
use super::waiting::{cut_grace, log_progress, reached, stall_timeout, wake_shards};
use crate::in_flight::{event, interest};
use crate::log::{millis, tell};
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::core::Core;
use crate::shutdown::notice::{ShutdownNotice, earlier};
use crate::shutdown::race::{Either, race, until};
use crate::shutdown::tasks::Role;
use crate::sync::Arc;

/// Waits for admitted work until the drain deadline, and then cuts what is left.
pub(super) async fn run(core: &Arc<Core>, shutdown: &Shutdown, record: &mut Record) {
    let notice = &shutdown.notice;
    let (in_flight, drain) = (core.gate.in_flight(), notice.drain_remaining());
    tell!(
        info,
        in_flight,
        drain_ms = drain.map(millis),
        "draining: waiting for work in flight"
    );
    let late = refuse_late(core, notice);
    let cut_off = until(notice.drain_deadline(), reached(core, event::FORCED));
    let cut_off = race(cut_off, race(late, log_progress(core, notice)));
    wake_shards(
        core,
        interest::SHEDDING | interest::CLOSED | interest::DRAINING,
    )
    .await;
    // Requests that wait for the readiness of an inner service are counted at their next poll.
    yield_now().await;
    if let Either::Right(_) = race(drained(core, notice), cut_off).await {
        cut(core, shutdown, record).await;
    }
}

/// Cuts the work in flight, gives it a short time to end, and records what has not ended.
async fn cut(core: &Arc<Core>, shutdown: &Shutdown, record: &mut Record) {
    let now = Instant::now();
    record.cut_at = Some((now, shutdown.frozen()));
    core.cut();
    core.tasks.cut(&[Role::Task]);
    wake_shards(core, interest::FORCED).await;
    let grace = cut_grace(core);
    let (reply_by, end_by) = (now + grace / 2, now + grace);
    // Thousands of connections take longer. The last quarter of the reserve is left to the hooks.
    let reserve = core.config.reserve();
    let reply_at_most = now.checked_add(reserve / 2);
    let end_at_most = now.checked_add(reserve / 4 * 3);
    // Only admitted work is cut at once. After an early force, late clients are still refused for a
    // while, as without a force.
    if core.listener_waits() {
        let refused_until = record.phase_began.checked_add(core.config.refuse_for);
        let refused_until = earlier(refused_until, Some(reply_by));
        until(refused_until, pending::<()>()).await;
    }
    core.milestones().reach(event::STOP_ACCEPTING);
    // Responses to cut requests are sent before the connections are closed.
    if work_ended_in_time(core, reply_by, reply_at_most).await {
        return;
    }
    record.connections_cut = core.served_connections();
    core.milestones().reach(event::DISCONNECT);
    if !work_ended_in_time(core, end_by, end_at_most).await {
        record.note_abandoned(core, core.gate.in_flight(), core.gate.aborted());
    }
}

/// Waits until nothing is in flight, and all servers and tasks have ended.
async fn drained(core: &Arc<Core>, notice: &ShutdownNotice) {
    let refused_until = core.refused_until(notice);
    reached(core, event::DRAINED).await;
    // With `refuse_for`, the listener stays open until now.
    if core.listener_waits() {
        until(refused_until, pending::<()>()).await;
    }
    core.milestones().reach(event::STOP_ACCEPTING);
    work_ended(core).await;
    // A late request may have been admitted since the check. No more can be after this.
    core.gate.end_drain();
    work_ended(core).await;
}

/// Refuses late requests once `late_for` is over. Never resolves.
async fn refuse_late(core: &Arc<Core>, notice: &ShutdownNotice) {
    until(core.late_until(notice), pending::<()>()).await;
    core.gate.refuse_late();
    pending().await
}

/// Waits until all servers, tasks and starts of services have ended and nothing is in flight.
async fn work_ended(core: &Arc<Core>) {
    let milestones = core.milestones();
    loop {
        // Taken back before the check, so that an end between the check and the wait is not missed.
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

/// Waits for [`work_ended`] until `end`. Waits longer for connections of this crate's servers, of which
/// there may be thousands: as long as they keep closing, but until `at_most`. Returns whether all work
/// has ended.
async fn work_ended_in_time(core: &Arc<Core>, end: Instant, at_most: Option<Instant>) -> bool {
    let mut ended = pin!(work_ended(core));
    // Other servers do not show whether they make progress.
    let shows_progress = core.served_connections() > 0;
    // Work that ended long before `end` does not show that more will end.
    let mut progress_at = Instant::now();
    if let Some(last_part) = end.checked_sub(stall_timeout(core)) {
        progress_at = progress_at.max(last_part);
    }
    if until(Some(progress_at), ended.as_mut()).await.is_some() {
        return true;
    }
    let mut left = core.left();
    if until(Some(end), ended.as_mut()).await.is_some() {
        return true;
    }
    if !shows_progress {
        return false;
    }
    // Closing the last connection is progress, too: its server has yet to end.
    loop {
        let now = Instant::now();
        if mem::replace(&mut left, core.left()) > left {
            progress_at = now;
        }
        let stall_timeout = stall_timeout(core);
        if now >= progress_at + stall_timeout || at_most.is_some_and(|at_most| now >= at_most) {
            return false;
        }
        let next = earlier(Some(now + stall_timeout / 2), at_most);
        if until(next, ended.as_mut()).await.is_some() {
            return true;
        }
    }
}
