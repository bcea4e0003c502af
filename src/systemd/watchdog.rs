//! Keep-alive messages for systemd's watchdog.

use std::time::Duration;

use tokio::time::sleep;

use super::socket::NotifySocket;
use crate::shutdown::Wait;
use crate::state::LifecycleState;
use crate::sync::Arc;

/// The shortest interval, so that a tiny limit does not keep a core busy.
const SHORTEST: Duration = Duration::from_millis(1);

/// Sends a keep-alive message twice in each `limit`, as sd_watchdog_enabled(3) recommends, from the end of the
/// start-up on. Never resolves after that.
///
/// systemd waits for the first message when the start-up is done, or when an earlier one has come. A start that
/// blocks the runtime has `TimeoutStartSec=`. Nothing but the runtime can stop the messages, because a runtime
/// that is blocked is what the watchdog is for. They do not end with the shutdown: systemd waits for the next
/// one until the process has ended.
pub(super) async fn run(started: Wait<LifecycleState>, socket: Arc<NotifySocket>, limit: Duration) {
    if started.await.is_terminal() {
        return;
    }
    let interval = (limit / 2).max(SHORTEST);
    loop {
        // A message that is lost is logged. The next one follows.
        let _ = socket.send("WATCHDOG=1");
        sleep(interval).await;
    }
}
