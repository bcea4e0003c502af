//! Draining: waiting for what is in flight, and cutting what is left at the deadline.

use std::future::pending;
use std::mem;
use std::pin::pin;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::record::Record;
use super::waiting::{reached, standstill, tell_progress, unwinding, wake_shards};
use crate::in_flight::{event, interest};
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::core::Core;
use crate::shutdown::notice::{ShutdownNotice, earlier};
use crate::shutdown::race::{Either, race, until};
use crate::shutdown::tasks::Role;
use crate::sync::Arc;

/// Waits for what was admitted, until the drain deadline, and cuts what is left then.
pub(super) async fn run(core: &Arc<Core>, shutdown: &Shutdown, record: &mut Record) {
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
        cut(core, shutdown, record).await;
    }
}

/// Cuts what is in flight, gives it a short time to be gone, and notes what was not.
async fn cut(core: &Arc<Core>, shutdown: &Shutdown, record: &mut Record) {
    let now = Instant::now();
    record.cut_at = Some((now, shutdown.frozen()));
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
        let refused_until = record.phase_began.checked_add(core.config.refuse_for);
        let refused_until = earlier(refused_until, Some(told_by));
        until(refused_until, pending::<()>()).await;
    }
    core.milestones().reach(event::STOP_ACCEPTING);
    // Those who were cut are told so, before their connections are closed.
    if gone_in_time(core, told_by, told_at_most).await {
        return;
    }
    record.connections_cut = core.served_connections();
    core.milestones().reach(event::DISCONNECT);
    if !gone_in_time(core, gone_by, gone_at_most).await {
        record.note_abandoned(core, core.gate.in_flight(), core.gate.aborted());
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
