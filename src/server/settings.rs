//! The settings of a server.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

use super::lingering::Limits;
#[cfg(feature = "http2")]
use super::streams::StreamExecutor;

pub(super) struct Settings {
    pub(super) header_read_timeout: Duration,
    pub(super) http2_idle_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) grace: Duration,
    pub(super) lingering: Limits,
    /// Other processes accept from the listening socket, too.
    pub(super) is_shared: bool,
    pub(super) lifespan: Lifespan,
    /// How many connections may be open. `None` means without limit.
    pub(super) max_connections: Option<usize>,
    http1: Vec<Setter<http1::Builder>>,
    #[cfg(feature = "http2")]
    http2: Vec<Setter<http2::Builder<StreamExecutor>>>,
}

/// How long connections live outside a drain. `None` means without limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lifespan {
    pub(super) age: Option<Duration>,
    /// How long after its age a connection is closed even with requests in flight.
    pub(super) grace: Option<Duration>,
    pub(super) requests: Option<NonZeroUsize>,
    /// Differs between servers. Part of the jitter of the age.
    pub(super) seed: u32,
}

/// Configures one of hyper's builders.
type Setter<B> = Box<dyn Fn(&mut B) + Send + Sync>;

// ===== impl Settings =====

impl Settings {
    pub(super) fn add_http1(&mut self, set: Setter<http1::Builder>) {
        self.http1.push(set);
    }

    #[cfg(feature = "http2")]
    pub(super) fn add_http2(&mut self, set: Setter<http2::Builder<StreamExecutor>>) {
        self.http2.push(set);
    }

    /// Creates the builder for one HTTP/1 connection.
    pub(super) fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        // `Orders` enforces this timeout. hyper's own creates a timer for every request.
        builder.timer(TokioTimer::new()).header_read_timeout(None);
        for set in &self.http1 {
            set(&mut builder);
        }
        builder
    }

    /// Creates the builder for one HTTP/2 connection.
    #[cfg(feature = "http2")]
    pub(super) fn http2(&self, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
        let mut builder = http2::Builder::new(executor);
        builder.timer(TokioTimer::new()).enable_connect_protocol();
        for set in &self.http2 {
            set(&mut builder);
        }
        builder
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(30),
            http2_idle_timeout: Duration::from_secs(5 * 60),
            handshake_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            lingering: Limits::default(),
            is_shared: false,
            lifespan: Lifespan::default(),
            max_connections: None,
            http1: Vec::new(),
            #[cfg(feature = "http2")]
            http2: Vec::new(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("header_read_timeout", &self.header_read_timeout)
            .field("http2_idle_timeout", &self.http2_idle_timeout)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("grace", &self.grace)
            .field("lingering", &self.lingering)
            .field("is_shared", &self.is_shared)
            .field("lifespan", &self.lifespan)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}
