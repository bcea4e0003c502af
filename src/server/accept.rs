//! The accept loop, and the shutdown of its connections.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::Extensions;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::activity::Activity;
use super::app::App;
use super::backlog::Backlog;
use super::connection::{Accepted, Common, serve_connection};
use super::handshake::Handshake;
use super::listener::Listener;
use super::panicked::log_panic;
use super::plan::{Drain, Plan, PlanChannel};
use crate::in_flight::{OpenConnection, event};
use crate::log::{millis, tell};
use crate::panic;
use crate::shutdown::{Core, ENDED, Either, ShutdownNotice, Wait, earlier, race, until};
use crate::spawn;
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Adds to the extensions of a connection's requests, given the peer's address.
pub(super) type AddExtensions<A> = Box<dyn Fn(&A, &mut Extensions) + Send>;

/// How long the server waits after a failed accept: the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Runs the server until it has stopped accepting and its last connection is closed.
pub(super) async fn run<L, S, H>(
    core: Arc<Core>,
    stop_accepting: Wait,
    listener: L,
    app: S,
    add_extensions: Option<AddExtensions<L::Addr>>,
    common: Common<H>,
) where
    L: Listener,
    H: Handshake<L::Io>,
    S: App,
{
    let common = Arc::new(common);
    let server = Server {
        core: Arc::clone(&core),
        listener,
        app,
        add_extensions,
        common: Arc::clone(&common),
        connections: JoinSet::new(),
        accepted: 0,
    };
    let serving = server.serve(stop_accepting);
    race(serving, send_plans(&core, &common.plans)).await;
}

struct Server<L: Listener, S, H> {
    core: Arc<Core>,
    listener: L,
    app: S,
    add_extensions: Option<AddExtensions<L::Addr>>,
    common: Arc<Common<H>>,
    connections: JoinSet<()>,
    accepted: u32,
}

impl<L, S, H> Server<L, S, H>
where
    L: Listener,
    H: Handshake<L::Io>,
    S: App,
{
    async fn serve(mut self, stop_accepting: Wait) {
        if self.accept_until_draining(stop_accepting).await {
            let room_until = self.room_until();
            // The connections that wait in the backlog are served, too.
            self.empty_backlog(Some(Instant::now())).await;
            // They would be kept out of the process that the socket is from, too.
            if !self.core.has_predecessor() {
                self.listener.keep_out_newcomers();
            }
            // Also those that came before new ones were stopped, and those for which there was no room.
            self.empty_backlog(room_until).await;
        }
        let Self {
            listener,
            mut connections,
            ..
        } = self;
        drop(listener);
        let open = connections.len();
        tell!(info, connections = open, "stopped accepting");

        while let Some(result) = connections.join_next().await {
            result.err().into_iter().for_each(log_panic);
        }
    }

    /// Accepts until it is time to close the listener. Returns whether the backlog is to be served.
    ///
    /// A socket that other processes share is left to them from the trigger on: they accept the connections
    /// that come then, also in the lame duck.
    async fn accept_until_draining(&mut self, mut stop_accepting: Wait) -> bool {
        loop {
            let triggered = pin!(Wait::<()>::new(&self.core, event::TRIGGERED));
            self.accept_until(triggered).await;
            let Some(shutdown) = self.core.shutdown() else {
                continue; // the shutdown was called off
            };
            let called_off = pin!(shutdown.called_off());
            if self.common.settings.is_shared || self.core.has_successor() {
                let draining = Wait::<()>::new(&self.core, event::CLOSED);
                if let Either::Left(()) = race(draining, called_off).await {
                    return false;
                }
                continue;
            }
            let mut is_closing = false;
            let stop = async {
                let first = race(&mut stop_accepting, called_off).await;
                is_closing = matches!(first, Either::Left(()));
            };
            self.accept_until(pin!(stop)).await;
            if is_closing {
                return true;
            }
        }
    }

    /// Accepts and serves connections until `stop` resolves.
    async fn accept_until<F>(&mut self, mut stop: F)
    where
        F: Future<Output = ()> + Unpin,
    {
        let mut pause = PAUSES.0;
        while let Some(result) = self.accept(&mut stop).await {
            match result {
                Ok(connection) => {
                    pause = PAUSES.0;
                    self.spawn(connection);
                }
                Err(error) if is_of_one_connection(&error) => {
                    tell!(debug, %error, "not accepted");
                    // There may be many such errors in a row without a wait.
                    yield_now().await;
                }
                Err(error) => {
                    tell!(warn, %error, pause_ms = millis(pause), "cannot accept connections; trying again");
                    if let Either::Left(()) = race(&mut stop, sleep(pause)).await {
                        return;
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits for the next connection, and reaps those that end. Returns `None` when `stop` resolves.
    async fn accept<F>(&mut self, stop: &mut F) -> Option<io::Result<(L::Io, L::Addr)>>
    where
        F: Future<Output = ()> + Unpin,
    {
        // The poll below may not come to it: the queue of new connections may never be empty.
        while let Some(result) = self.connections.try_join_next() {
            result.err().into_iter().for_each(log_panic);
        }
        if let Either::Left(()) = race(&mut *stop, self.has_room()).await {
            return None;
        }
        let accept = self.listener.accept();
        let connections = &mut self.connections;
        let reap = poll_fn(|cx| {
            while let Poll::Ready(Some(result)) = connections.poll_join_next(cx) {
                result.err().into_iter().for_each(log_panic);
            }
            Poll::<()>::Pending
        });
        match race(stop, race(accept, reap)).await {
            Either::Right(Either::Left(result)) => Some(result),
            _ => None,
        }
    }

    /// Waits until one more connection may be open.
    async fn has_room(&mut self) {
        let Some(most) = self.common.settings.max_connections else {
            return;
        };
        if self.connections.len() >= most {
            tell!(debug, connections = most, "as many connections as allowed");
        }
        while self.connections.len() >= most {
            if let Some(result) = self.connections.join_next().await {
                result.err().into_iter().for_each(log_panic);
            }
        }
    }

    /// Returns until when a server that is full, or out of descriptors, waits for room for its backlog, from
    /// now. `None` means without limit.
    fn room_until(&self) -> Option<Instant> {
        let notice = self.core.notice()?;
        let grace = Instant::now().checked_add(self.common.settings.grace);
        let late = self.core.late_until(&notice);
        let longest = late.zip(grace).map(|(late, grace)| late.max(grace));
        earlier(longest, quiet_until(&notice))
    }

    /// Serves the connections that wait in the backlog, if there is room for them until `room_until`.
    async fn empty_backlog(&mut self, room_until: Option<Instant>) {
        let mut backlog = Backlog::new();
        while until(room_until, self.has_room()).await.is_some() {
            let Some(result) = backlog.next(self.listener.accept()).await else {
                return;
            };
            match result {
                Ok(connection) => self.spawn(connection),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => {
                    // The connections that are closed meanwhile give their descriptors back.
                    let forced = Wait::<()>::new(&self.core, event::FORCED | ENDED);
                    let pause = race(forced, sleep(PAUSES.0));
                    let Some(Either::Right(())) = until(room_until, pause).await else {
                        return;
                    };
                    backlog = Backlog::new();
                }
            }
        }
    }

    /// Spawns the connection. A panic of user code while spawning affects only this connection.
    fn spawn(&mut self, connection: (L::Io, L::Addr)) {
        if !panic::contained(|| self.try_spawn(connection)) {
            tell!(
                error,
                "connection closed: making its extensions, cloning the application or showing its address panicked"
            );
        }
    }

    fn try_spawn(&mut self, (io, peer): (L::Io, L::Addr)) {
        let mut extensions = Extensions::new();
        if let Some(add_extensions) = &self.add_extensions {
            add_extensions(&peer, &mut extensions);
        }
        let activity = Arc::new(Activity::new(self.common.settings.lifespan.requests));
        let accepted = Accepted {
            io,
            app: self.app.clone(),
            extensions,
            number: self.accepted,
            open: OpenConnection::served(&self.core.connections, &peer, Arc::clone(&activity) as _),
            activity,
        };
        self.accepted = self.accepted.wrapping_add(1);
        let common = Arc::clone(&self.common);
        let connection = Box::pin(serve_connection(common, accepted));
        spawn::in_set(&mut self.connections, connection);
    }
}

/// Sends the connections a plan for each stage of the shutdown. Never resolves.
async fn send_plans(core: &Arc<Core>, plans: &PlanChannel) {
    let reached = |events| Wait::<()>::new(core, events);
    // A lame duck may be called off any number of times.
    loop {
        reached(event::TRIGGERED).await;
        let Some(shutdown) = core.shutdown() else {
            continue;
        };
        if core.state() == LifecycleState::LameDuck {
            let since = shutdown.notice.triggered_at();
            let window = core.config.lame_duck;
            plans.send(Plan::Leave { since, window }).await;
        }
        match race(reached(event::CLOSED), shutdown.called_off()).await {
            Either::Left(()) => break,
            Either::Right(()) => plans.send(Plan::Serve).await,
        }
    }
    // Read again, since an earlier lame duck may have been called off.
    if let Some(notice) = core.notice() {
        plans.send(drain(core, &notice)).await;
    }
    reached(event::DISCONNECT | ENDED).await;
    plans.send(Plan::Close).await;
    pending().await
}

fn drain(core: &Core, notice: &ShutdownNotice) -> Plan {
    Plan::Drain(Drain {
        since: Instant::now(),
        idle_until: core.idle_until(notice),
        serves_late: core.config.serves_late(),
        late_until: core.late_until(notice),
        quiet_until: quiet_until(notice),
    })
}

/// Returns until when the server waits if nothing is in flight, from now: that must not delay the drain until
/// its deadline.
fn quiet_until(notice: &ShutdownNotice) -> Option<Instant> {
    let left = notice.drain_remaining()?;
    Instant::now().checked_add(left / 4 * 3)
}

/// Returns whether the error concerns a single connection, so that the next can be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::Interrupted
    )
}
