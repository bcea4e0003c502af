//! The server: accepts, tells its connections what to do, and ends with the last of them.

use std::future::{pending, poll_fn};
use std::io;
use std::task::Poll;
use std::time::Duration;

use http::Extensions;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::app::App;
use super::backlog::Backlog;
use super::connection::{Common, Newcomer, serve_connection};
use super::handshake::Handshake;
use super::listener::Listener;
use super::plan::{Drain, Plan, PlanChannel};
use super::streams;
use crate::in_flight::{OpenConnection, event};
use crate::log::tell;
use crate::panic;
use crate::shutdown::{Core, ENDED, Either, ShutdownNotice, Wait, race};
use crate::state::LifecycleState;
use crate::sync::Arc;

/// Puts what is known of a peer into the extensions of its requests.
pub(super) type Introduce<A> = Box<dyn Fn(&A, &mut Extensions) + Send>;

/// How long the server waits after an error of accepting, the first time and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Runs the server until it is told to stop and its last connection is closed.
pub(super) async fn run<L, S, H>(
    core: Arc<Core>,
    stop_accepting: Wait,
    listener: L,
    app: S,
    introduce: Option<Introduce<L::Addr>>,
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
        introduce,
        common: Arc::clone(&common),
        connections: JoinSet::new(),
        accepted: 0,
    };
    let serving = server.serve(stop_accepting);
    race(serving, follow(&core, &common.plans)).await;
}

struct Server<L: Listener, S, H> {
    core: Arc<Core>,
    listener: L,
    app: S,
    introduce: Option<Introduce<L::Addr>>,
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
        if self.common.settings.is_shared {
            self.accept_in_turn().await;
        } else {
            self.accept_until(stop_accepting).await;
            // Those who wait in the backlog are answered, too, and then nobody can come any more.
            self.empty_backlog().await;
            // Also those who came between the last look and now.
            self.listener.keep_out_newcomers();
            self.empty_backlog().await;
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
            result.err().into_iter().for_each(streams::log);
        }
    }

    /// Accepts while no shutdown is under way, until draining begins: those who come meanwhile are
    /// left to the others that have the socket.
    async fn accept_in_turn(&mut self) {
        loop {
            let triggered = Wait::new(&self.core, event::TRIGGERED);
            self.accept_until(triggered).await;
            let Some(shutdown) = self.core.shutdown() else {
                continue; // called off
            };
            let draining = Wait::<()>::new(&self.core, event::CLOSED);
            if let Either::Left(()) = race(draining, shutdown.called_off()).await {
                return;
            }
        }
    }

    /// Serves those who come, until told to stop.
    async fn accept_until(&mut self, mut stop: Wait) {
        let mut pause = PAUSES.0;
        while let Some(result) = self.accept(&mut stop).await {
            match result {
                Ok(connection) => {
                    pause = PAUSES.0;
                    self.spawn(connection);
                }
                Err(error) if is_of_one_connection(&error) => {
                    tell!(debug, %error, "not accepted");
                    // There may be many of them, and no wait in between.
                    yield_now().await;
                }
                Err(error) => {
                    tell!(warn, %error, ?pause, "cannot accept connections; trying again");
                    race(&mut stop, sleep(pause)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits for the next connection, and takes leave of those that end; `None` when it is time to
    /// stop.
    async fn accept(&mut self, stop: &mut Wait) -> Option<io::Result<(L::Io, L::Addr)>> {
        let accept = self.listener.accept();
        let connections = &mut self.connections;
        let reap = poll_fn(|cx| {
            while let Poll::Ready(Some(result)) = connections.poll_join_next(cx) {
                result.err().into_iter().for_each(streams::log);
            }
            Poll::<()>::Pending
        });
        match race(stop, race(accept, reap)).await {
            Either::Right(Either::Left(result)) => Some(result),
            _ => None,
        }
    }

    async fn empty_backlog(&mut self) {
        let mut backlog = Backlog::new();
        while let Some(result) = backlog.next(self.listener.accept()).await {
            match result {
                Ok(connection) => self.spawn(connection),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => backlog.pause().await,
            }
        }
    }

    /// Has the connection served. What is foreign in that may panic, to the harm of this one only.
    fn spawn(&mut self, connection: (L::Io, L::Addr)) {
        if !panic::contained(|| self.try_spawn(connection)) {
            tell!(
                error,
                "a connection was closed: its extension, or a clone of the application, panicked"
            );
        }
    }

    fn try_spawn(&mut self, (io, peer): (L::Io, L::Addr)) {
        let mut extensions = Extensions::new();
        if let Some(introduce) = &self.introduce {
            introduce(&peer, &mut extensions);
        }
        let newcomer = Newcomer {
            io,
            app: self.app.clone(),
            extensions,
            number: self.accepted,
            open: OpenConnection::served(&self.core.connections),
        };
        self.accepted = self.accepted.wrapping_add(1);
        let common = Arc::clone(&self.common);
        self.connections.spawn(serve_connection(common, newcomer));
    }
}

/// Tells the connections how far the shutdown has come. Never resolves.
async fn follow(core: &Arc<Core>, plans: &PlanChannel) {
    let reached = |events| Wait::<()>::new(core, events);
    // A lame duck may be called off, any number of times.
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
    // Not that of a lame duck that was called off in the meantime.
    if let Some(notice) = core.notice() {
        plans.send(drain(core, &notice)).await;
    }
    reached(event::DISCONNECT | ENDED).await;
    plans.send(Plan::Close).await;
    pending().await
}

fn drain(core: &Core, notice: &ShutdownNotice) -> Plan {
    let since = Instant::now();
    let left = notice.drain_remaining();
    Plan::Drain(Drain {
        since,
        idle_until: core.idle_until(notice),
        serves_late: core.config.serves_late(),
        late_until: core.late_until(notice),
        // Nobody who has nothing in flight is a reason to cut anything at the drain deadline.
        quiet_until: left.and_then(|left| since.checked_add(left / 4 * 3)),
    })
}

/// The next one may be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
