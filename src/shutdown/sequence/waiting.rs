//! What the parts of the sequence wait for, and for how long.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::in_flight::event;
use crate::log::{millis, tell};
use crate::shutdown::core::Core;
use crate::shutdown::notice::ShutdownNotice;
use crate::shutdown::race::let_others_run;
use crate::shutdown::tasks::Role;
use crate::shutdown::wait::Wait;
use crate::sync::Arc;

/// The shortest and the longest time that cut work has to end, if none of it ends.
const CUT_GRACE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// After that time, the sequence waits only while work keeps ending. The longest pause between two ends is
/// the time divided by this.
const STALL_DIVISOR: u32 = 5;
/// Added to that pause for each connection that is being closed.
const STALL_PER_CONNECTION: Duration = Duration::from_micros(50);

/// How much of what is in flight the log names.
const SHOWN: usize = 3;

pub(super) fn reached(core: &Arc<Core>, events: u32) -> Wait {
    Wait::new(core, events)
}

/// Waits until no task of `roles` is running.
pub(super) async fn ended(core: &Arc<Core>, roles: &[Role]) {
    none_left(core, || core.tasks.running(roles)).await;
}

/// Waits until `left` returns zero. Each change to it must be published as `WORK_ENDED`.
pub(super) async fn none_left(core: &Arc<Core>, left: impl Fn() -> u64) {
    loop {
        // Taken back before the check, so that an end between the check and the wait is not missed.
        core.milestones().take_back(event::WORK_ENDED);
        if left() == 0 {
            return;
        }
        let one_has_ended: Wait = Wait::new(core, event::WORK_ENDED);
        one_has_ended.await;
    }
}

/// Waits until there were servers, and all of them have ended.
pub(super) async fn servers_have_ended(core: &Arc<Core>) {
    while !core.servers.have_ended() {
        // Taken back before the check, as in `none_left`.
        core.milestones().take_back(event::WORK_ENDED);
        if core.servers.have_ended() {
            return;
        }
        reached(core, event::WORK_ENDED).await;
    }
}

/// Wakes everything registered in the shards for `interests`, in batches, so that a hundred thousand wakers
/// do not block this thread.
pub(super) async fn wake_shards(core: &Arc<Core>, interests: u32) {
    for shard in core.gate.all_shards() {
        let mut cursor = 0;
        while shard.wake_batch(interests, &mut cursor) {
            let_others_run().await;
        }
    }
}

/// Logs periodically what the drain waits for. Never resolves.
pub(super) async fn log_progress(core: &Arc<Core>, notice: &ShutdownNotice) {
    loop {
        sleep(core.config.progress_interval).await;
        let in_flight = core.gate.in_flight();
        let [tasks, workers] = [Role::Task, Role::Worker].map(|role| core.tasks.running(&[role]));
        let (servers, connections) = (core.servers.running(), core.open_connections());
        let (drain_remaining, oldest) = (notice.drain_remaining(), oldest(core));
        tell!(
            info,
            in_flight,
            tasks,
            workers,
            servers,
            connections,
            drain_remaining_ms = drain_remaining.map(millis),
            oldest,
            "still draining"
        );
    }
}

/// Returns the oldest named work as a text, such as `GET /export (body, 31.5s), mail (4.0s)`. If no work has
/// a name, it returns connections, such as `10.1.2.3:40112 (stalled, 31.5s)`.
fn oldest(core: &Core) -> Option<String> {
    let mut oldest = texts(&core.oldest_in_flight(SHOWN));
    if oldest.is_empty() {
        oldest = texts(&core.oldest_connections(SHOWN));
    }
    (!oldest.is_empty()).then(|| oldest.join(", "))
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// Returns how much of `share`, which ends at `end`, has been used up at `now`.
pub(super) fn used_of_share(end: Option<Instant>, now: Instant, share: Duration) -> Duration {
    let full = now.checked_add(share).zip(end);
    full.map_or(Duration::ZERO, |(full, end)| {
        full.saturating_duration_since(end)
    })
}

/// Returns how long cut work has to end. The time is taken from the reserve.
pub(super) fn cut_grace(core: &Core) -> Duration {
    let (shortest, longest) = CUT_GRACE;
    (core.config.reserve() / 4).clamp(shortest, longest)
}

/// Returns how long to wait for the work that is left while none of it ends.
pub(super) fn stall_timeout(core: &Core) -> Duration {
    let closing = if core.milestones().has(event::DISCONNECT) {
        u32::try_from(core.served_connections()).unwrap_or(u32::MAX)
    } else {
        0
    };
    (cut_grace(core) / STALL_DIVISOR).saturating_add(STALL_PER_CONNECTION.saturating_mul(closing))
}
