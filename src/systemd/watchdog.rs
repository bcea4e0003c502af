//! Keep-alive messages for systemd's watchdog.

use std::time::Duration;

use tokio::time::sleep;

use super::socket::NotifySocket;
use crate::shutdown::{Core, HandOverState, Wait};
use crate::state::LifecycleState;
use crate::sync::{Arc, Weak};

/// The shortest interval, so that a tiny limit does not keep a core busy.
const SHORTEST: Duration = Duration::from_millis(1);

/// Sends a keep-alive message twice in each `limit`, as sd_watchdog_enabled(3) recommends, from the end of the
/// start-up on. Never resolves after that.
///
/// systemd waits for the first message when the start-up is done, or when an earlier one has come. A start that
/// blocks the runtime has `TimeoutStartSec=`. Nothing but the runtime can stop the messages, because a runtime
/// that is blocked is what the watchdog is for. They do not end with the shutdown: systemd waits for the next
/// one until the process has ended.
///
/// A process that has handed over is silent: its successor is watched.
pub(super) async fn run(
    started: Wait<LifecycleState>,
    core: Weak<Core>,
    socket: Arc<NotifySocket>,
    limit: Duration,
) {
    if started.await.is_terminal() {
        return;
    }
    let mut has_handed_over = false;
    let interval = (limit / 2).max(SHORTEST);
    loop {
        // Kept, should the lifecycle be dropped.
        if let Some(core) = core.upgrade() {
            has_handed_over = matches!(core.hand_over.state(), HandOverState::Done { .. });
        }
        if !has_handed_over {
            // A message that is lost is logged. The next one follows.
            let _ = socket.send("WATCHDOG=1");
        }
        sleep(interval).await;
    }
}
