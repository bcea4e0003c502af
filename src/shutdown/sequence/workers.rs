//! Stops the workers: after everything that can give them work, and before the clean-up.

use std::pin::pin;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::record::Record;
use super::waiting::{cut_grace, ended, log_progress, none_left, used_of_share};
use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::cleanup::Extension;
use crate::shutdown::core::Core;
use crate::shutdown::notice::earlier;
use crate::shutdown::race::{Either, race, until};
use crate::shutdown::tasks::Role;
use crate::shutdown::wait::Wait;
use crate::sync::Arc;

/// Stops the workers. After a force, the reserve of the clean-up begins when they have ended.
pub(super) async fn stop(core: &Arc<Core>, shutdown: &Arc<Shutdown>, record: &mut Record) {
    if let Some(ended_at) = stop_and_wait(core, shutdown, record.cut_at).await {
        record.cut_at = Some((ended_at, shutdown.frozen()));
    }
}

/// Tells the workers to stop, waits until their share of the time is over, and cuts those that are
/// left. Returns when the wait was over; `None` if there was no worker.
///
/// `cut_at` is when the drain was cut, and how long the process had not run until then.
async fn stop_and_wait(
    core: &Arc<Core>,
    shutdown: &Arc<Shutdown>,
    cut_at: Option<(Instant, Duration)>,
) -> Option<Instant> {
    core.milestones().reach(event::DROP_SERVERS);
    let has_workers = core.tasks.running(&[Role::Worker]) > 0;
    if has_workers {
        // A server that has not ended is dropped where it is polled.
        let dropped = none_left(core, || core.servers.running());
        until(Some(Instant::now() + cut_grace(core)), dropped).await;
    }
    // Published before the check for a force; see `Core::cut`.
    core.milestones().reach(event::STOP_WORKERS);
    if !has_workers {
        return None;
    }
    let is_forced = core.milestones().has(event::FORCED);
    let forced_at = is_forced.then(|| {
        let now = || (Instant::now(), shutdown.frozen());
        cut_at.unwrap_or_else(now)
    });
    // Each worker is polled once, even if no time is left.
    yield_now().await;
    let roles: &[Role] = match forced_at {
        // A worker may have spawned tasks.
        None => &[Role::Worker, Role::Task],
        // Tasks that could not be cut may be left.
        Some(_) => &[Role::Worker],
    };
    let extension = Extension::new(shutdown);
    let deadline = deadline(core, shutdown, extension.frozen(), forced_at);
    let ended = pin!(race(
        ended(core, roles),
        race(
            Wait::<()>::new(core, event::CUT_WORKERS),
            log_progress(core, &shutdown.notice)
        )
    ));
    let ended = extension.until(deadline, ended).await;
    let ended_at = Instant::now();
    if !matches!(ended, Some(Either::Left(()))) {
        cut(core, roles, ended_at + cut_grace(core)).await;
    }
    Some(ended_at)
}

/// Returns when workers that are told to stop now are cut. After a force they have their reserve. Time
/// in which the process did not run is not taken from it.
fn deadline(
    core: &Core,
    shutdown: &Shutdown,
    frozen: Duration,
    forced_at: Option<(Instant, Duration)>,
) -> Option<Instant> {
    let reserve = core.config.reserve_for_workers();
    let notice = &shutdown.notice;
    let end = notice.worker_deadline();
    let used = used_of_share(end, notice.now(), reserve);
    let end = end.and_then(|end| end.checked_add(frozen.min(used)));
    let after_force = forced_at.and_then(|(at, frozen_before)| {
        let frozen = frozen.saturating_sub(frozen_before);
        at.checked_add(reserve.saturating_add(frozen))
    });
    earlier(end, after_force)
}

async fn cut(core: &Arc<Core>, roles: &[Role], deadline: Instant) {
    core.tasks.cut(roles);
    if until(Some(deadline), ended(core, roles)).await.is_none() {
        let [workers, tasks] = [Role::Worker, Role::Task].map(|role| core.tasks.running(&[role]));
        tell!(
            warn,
            workers,
            tasks,
            "abandoned: still alive after being cut"
        );
    }
}
