//! The lame duck: the service is not ready, but still serves all requests.

use std::future::pending;
use std::mem;
use std::time::Duration;

use tokio::time::sleep;

use super::record::Record;
use super::waiting::{reached, servers_have_ended, wake_shards};
use crate::in_flight::{event, interest};
use crate::log::{millis, tell};
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::core::Core;
use crate::shutdown::lame_duck::LameDuckEnd;
use crate::shutdown::race::{Either, race, until};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// The shortest and the longest time between two checks whether the lame duck can end early.
const PERIOD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Waits until the lame duck is over or called off, and records how it ended.
pub(super) async fn run(core: &Arc<Core>, shutdown: &Shutdown, record: &mut Record) {
    // Requests that wait for the readiness of an inner service are counted from now on.
    wake_shards(core, interest::SHEDDING).await;
    let before_its_time = race(shutdown.called_off(), cut_short(core, shutdown));
    let end = match until(shutdown.notice.lame_duck_deadline(), before_its_time).await {
        None => LameDuckEnd::InFull,
        Some(Either::Left(())) => return,
        Some(Either::Right(end)) => end,
    };
    let lasted = record.close_phase(LifecycleState::LameDuck);
    shutdown.note_lame_duck(end, lasted);
}

/// Waits until something ends the lame duck before its time.
async fn cut_short(core: &Arc<Core>, shutdown: &Shutdown) -> LameDuckEnd {
    let forced = async {
        reached(core, event::FORCED).await;
        LameDuckEnd::Forced
    };
    let servers_ended = async {
        servers_have_ended(core).await;
        LameDuckEnd::ServersEnded
    };
    let early = async {
        unneeded(core, shutdown).await;
        LameDuckEnd::Early
    };
    match race(forced, race(servers_ended, early)).await {
        Either::Left(end) => end,
        Either::Right(either) => either.into_inner(),
    }
}

/// Logs how the lame duck ended, if there was one.
pub(super) fn tell_end(core: &Core, shutdown: &Shutdown) {
    if let Some((end, lasted)) = shutdown.lame_duck() {
        let late_arrivals = core.gate.arrivals().0;
        let witnesses = core.witnesses(&shutdown.notice);
        tell!(
            info,
            %end,
            lasted_ms = millis(lasted),
            late_arrivals,
            probers = witnesses.map(|witnesses| witnesses.probers),
            probers_seen_red = witnesses.map(|witnesses| witnesses.seen_red),
            "lame duck over"
        );
    }
}

/// Waits until all probers have seen that the service is not ready and no request has come for a while.
/// Never resolves if the lame duck is not to end early.
///
/// The time is counted in checks: time in which the process did not run is not quiet.
async fn unneeded(core: &Core, shutdown: &Shutdown) {
    if core.config.lame_duck_probes == 0 {
        return pending().await;
    }
    let wanted = core.config.lame_duck_quiet;
    let period = (wanted / 4).clamp(PERIOD.0, PERIOD.1);
    let (mut requests, mut quiet) = (core.requests(), Duration::ZERO);
    loop {
        sleep(period).await;
        let before = mem::replace(&mut requests, core.requests());
        quiet = if requests == before {
            quiet.saturating_add(period)
        } else {
            Duration::ZERO
        };
        let witnesses = core.witnesses(&shutdown.notice);
        if quiet >= wanted && witnesses.is_some_and(|witnesses| witnesses.are_all()) {
            return;
        }
    }
}
