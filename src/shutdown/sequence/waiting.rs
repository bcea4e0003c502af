//! What the parts of the sequence wait for, and how long.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::core::Core;
use crate::shutdown::notice::ShutdownNotice;
use crate::shutdown::race::let_others_run;
use crate::shutdown::tasks::Role;
use crate::shutdown::wait::Wait;
use crate::sync::Arc;

/// The shortest and the longest time that cut work is given to be gone, if none of it goes.
const UNWINDING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// When that time is over, what is left is waited for while one after another goes. The longest pause
/// between two of them is this part of it, and somewhat more for each connection that is being closed.
const STANDSTILL: u32 = 5;
const STANDSTILL_EACH: Duration = Duration::from_micros(50);

pub(super) fn reached(core: &Arc<Core>, events: u32) -> Wait {
    Wait::new(core, events)
}

/// Waits until none of `roles` is running.
pub(super) async fn ended(core: &Arc<Core>, roles: &[Role]) {
    none_left(core, || core.tasks.running(roles)).await;
}

/// Waits until `left`, of which each end is told as `WORK_ENDED`, is none.
pub(super) async fn none_left(core: &Arc<Core>, left: impl Fn() -> u64) {
    loop {
        // Taken back before looking: an end between the look and the wait is not missed.
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
        // Taken back before looking, as in `gone`.
        core.milestones().take_back(event::WORK_ENDED);
        if core.servers.have_ended() {
            return;
        }
        reached(core, event::WORK_ENDED).await;
    }
}

/// Wakes everybody registered in the shards for `interests`, a batch at a time, so that a hundred
/// thousand of them do not hold this thread.
pub(super) async fn wake_shards(core: &Arc<Core>, interests: u32) {
    for shard in core.gate.all_shards() {
        let mut cursor = 0;
        while shard.wake_batch(interests, &mut cursor) {
            let_others_run().await;
        }
    }
}

/// Says now and then what is waited for. Never resolves.
pub(super) async fn tell_progress(core: &Arc<Core>, notice: &ShutdownNotice) {
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

/// Returns how much of `share`, which ends at `end`, is over at `now`.
pub(super) fn missing(end: Option<Instant>, now: Instant, share: Duration) -> Duration {
    let full = now.checked_add(share).zip(end);
    full.map_or(Duration::ZERO, |(full, end)| {
        full.saturating_duration_since(end)
    })
}

/// Returns how long cut work is given to be gone, out of the reserve.
pub(super) fn unwinding(core: &Core) -> Duration {
    let (shortest, longest) = UNWINDING;
    (core.config.reserve() / 4).clamp(shortest, longest)
}

/// Returns how long what is left is waited for when none of it goes.
pub(super) fn standstill(core: &Core) -> Duration {
    let closing = match core.milestones().has(event::DISCONNECT) {
        true => u32::try_from(core.served_connections()).unwrap_or(u32::MAX),
        false => 0,
    };
    (unwinding(core) / STANDSTILL).saturating_add(STANDSTILL_EACH.saturating_mul(closing))
}
