//! The settings that limit how long connections live, and how many are open.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::Serve;
use crate::server::listener::Listener;

impl<L: Listener, S, H> Serve<L, S, H> {
    /// Sets after which time a client is asked to leave its connection.
    ///
    /// Clients that keep their connections for ever never learn of new instances behind a load balancer, nor
    /// of changes in DNS. With this limit they connect anew from time to time. The convention is gRPC's
    /// `MAX_CONNECTION_AGE` (proposal A9). The age is counted from when the connection was accepted, and a
    /// jitter of 0 to 10 % is added to it, so that connections that were opened together do not end
    /// together: with an age of one hour, a client is asked after 60 to 66 minutes. The jitters of a server's
    /// connections are spread evenly, from a random start.
    ///
    /// Like in a lame duck, the client is asked in its protocol:
    ///
    /// - HTTP/1: the next response says `Connection: close` (RFC 9112 §9.6) and is the last. A connection
    ///   that has been idle for 5 s since its age is closed. A response whose head was sent before that is
    ///   sent to its end, and the next one says it.
    /// - HTTP/2: a GOAWAY is sent (RFC 9113 §6.8) as soon as no stream is open, or after 5 s. The streams
    ///   that are open then, and requests that cross the GOAWAY, are served to their end.
    ///
    /// So no request is lost, with one exception that HTTP/1 itself leaves open: a request that is sent at the
    /// moment when its idle connection is closed. Unless [`max_connection_age_grace`] is set, responses
    /// under way may take as long as they like. Upgraded connections, such as WebSockets, are not ended.
    /// While draining, the times of the drain apply instead. Default: no limit. `Duration::MAX` means the
    /// same.
    ///
    /// [`max_connection_age_grace`]: Self::max_connection_age_grace
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tokio::net::TcpListener;
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # fn example(listener: TcpListener, app: axum::Router, ctl: ShutdownController)
    /// # -> Serve<TcpListener, axum::Router> {
    /// serve(listener, app, ctl)
    ///     .max_connection_age(Duration::from_secs(3600))
    ///     .max_connection_age_grace(Duration::from_secs(600))
    /// # }
    /// ```
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.settings.lifespan.age = Some(age);
        self.settings.lifespan.seed = RandomState::new().hash_one(()) as u32;
        self
    }

    /// Sets how long after its [age](Self::max_connection_age) a connection is closed even with requests in
    /// flight.
    ///
    /// The convention is gRPC's `MAX_CONNECTION_AGE_GRACE`. The time starts at the connection's age, with its
    /// jitter. What has not ended by then is cut: the client of a cut HTTP/1 response sees that it is
    /// truncated, and streams of HTTP/2 end without an answer. So allow for the longest response. A WebSocket
    /// is not cut; with HTTP/2, its connection is closed after the last one has ended. Default: no limit.
    /// Without `max_connection_age` it has no effect.
    ///
    /// # Examples
    ///
    /// See [`max_connection_age`](Self::max_connection_age).
    pub fn max_connection_age_grace(mut self, grace: Duration) -> Self {
        self.settings.lifespan.grace = Some(grace);
        self
    }

    /// Sets after how many requests a client is asked to leave its connection.
    ///
    /// The convention is nginx's `keepalive_requests`. On HTTP/1, the response to the last request says
    /// `Connection: close`. On HTTP/2, the GOAWAY is sent as for
    /// [`max_connection_age`](Self::max_connection_age), so a few more requests may arrive before the client
    /// has read it. They are served, too. Zero counts as one. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tokio::net::TcpListener;
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # fn example(listener: TcpListener, app: axum::Router, ctl: ShutdownController)
    /// # -> Serve<TcpListener, axum::Router> {
    /// serve(listener, app, ctl).max_requests_per_connection(10_000)
    /// # }
    /// ```
    pub fn max_requests_per_connection(mut self, requests: u64) -> Self {
        let requests = usize::try_from(requests).unwrap_or(usize::MAX);
        self.settings.lifespan.requests = NonZeroUsize::new(requests.max(1));
        self
    }

    /// Sets how many connections may be open. While so many are, no more are accepted.
    ///
    /// Further clients wait in the kernel's backlog until a connection is closed. If the backlog is full, too,
    /// the kernel makes them try again, or refuses them. A connection counts from when it is accepted,
    /// including its handshake, until it is closed, including an upgrade. The limit does not close idle
    /// connections: [`header_read_timeout`](Self::header_read_timeout) and
    /// [`http2_idle_timeout`](Self::http2_idle_timeout) do. Zero counts as one. Default: no limit.
    ///
    /// When draining begins, the backlog is served as without a limit, but in turn: each client as soon as a
    /// connection has been closed. That ends with
    /// [`late_for`](crate::ShutdownConfig::late_for), after which requests are no longer served, or with the
    /// [`grace`](Self::grace), whichever is later, but at three quarters of the drain at the latest. Clients that
    /// are left then are reset. A server that is full therefore does not delay the drain for longer.
    ///
    /// The health probe of an orchestrator needs a connection as well. Serve it on a port of its own (see
    /// [`spawn_admin`](crate::ShutdownController::spawn_admin)), or a full server looks dead.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tokio::net::TcpListener;
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # fn example(listener: TcpListener, app: axum::Router, ctl: ShutdownController)
    /// # -> Serve<TcpListener, axum::Router> {
    /// serve(listener, app, ctl).max_connections(10_000)
    /// # }
    /// ```
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.max(1));
        self
    }
}
