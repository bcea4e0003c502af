//! Closes the admin servers, right before the end.

use std::time::Duration;

use tokio::time::Instant;

use super::waiting::ended;
use crate::in_flight::event;
use crate::log::tell;
use crate::shutdown::core::Core;
use crate::shutdown::notice::{ShutdownNotice, earlier};
use crate::shutdown::race::{Either, race, until};
use crate::shutdown::tasks::Role;
use crate::shutdown::wait::Wait;
use crate::sync::Arc;

/// How long an admin server may take to answer its current requests.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long to wait for a server that was dropped.
const DROP_TIMEOUT: Duration = Duration::from_millis(2);

/// Tells the admin servers to close, waits briefly for them, and drops those that are left.
pub(super) async fn close(core: &Arc<Core>, notice: &ShutdownNotice) {
    core.milestones().reach(event::CLOSE_ADMIN);
    core.tasks.refuse(&[Role::Admin]);
    let closed_by = earlier(
        notice.final_deadline(),
        Some(Instant::now() + CLOSE_TIMEOUT),
    );
    let forced: Wait = Wait::new(core, event::CUT_CLEANUP | event::CUT_SAVES);
    if let Some(Either::Left(())) =
        until(closed_by, race(ended(core, &[Role::Admin]), forced)).await
    {
        return;
    }
    let servers = core.tasks.running(&[Role::Admin]);
    core.tasks.cut(&[Role::Admin]);
    tell!(debug, servers, "dropped admin servers that had not closed");
    until(
        Some(Instant::now() + DROP_TIMEOUT),
        ended(core, &[Role::Admin]),
    )
    .await;
}
