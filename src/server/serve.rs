//! The server of this crate: one call, from a listener to the report.
//!
//! A layer sees requests and bodies. The rest needs access to the connection: closing it when it is idle,
//! sending a GOAWAY on HTTP/2, following upgrades, and knowing when the last byte has been written.

mod limits;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use tokio::io::{AsyncRead, AsyncWrite};

use super::accept;
use super::accept::AddExtensions;
use super::app::App;
use super::connection::Common;
use super::handshake::{Handshake, HandshakeWith, NoHandshake};
use super::listener::Listener;
use super::plan::PlanChannel;
use super::settings::Settings;
#[cfg(feature = "http2")]
use super::streams::StreamExecutor;
use crate::controller::{Run, ShutdownController};
use crate::shutdown::{ShutdownReport, Wait};
use crate::sync::Arc;

/// Serves `app` on the connections of `listener`, from now to the end of the shutdown.
///
/// It supports HTTP/1.1, upgrades and, with the feature `http2`, HTTP/2 (detected by its preface, in
/// cleartext or over [TLS](Serve::handshake)). Without the feature, the connection of a client that begins
/// with HTTP/2 is closed, as hyper does it.
///
/// Any cloneable tower service for HTTP can be the application, for example an axum `Router`. Put a
/// [`DrainLayer`](crate::DrainLayer) in it or around it. The layer counts, refuses and cuts requests; the
/// server handles what the layer cannot see.
///
/// | when | what the connections do |
/// |---|---|
/// | lame duck | New connections are served. Each connection is asked to leave at its own moment in the first half of the window, so that clients do not reconnect all at once: on HTTP/1 its next response says `Connection: close`, on HTTP/2 a GOAWAY follows its next response. |
/// | draining | The listener is closed when its backlog is empty. For [`late_for`](crate::ShutdownConfig::late_for) new requests are served, and each response is the last of its connection. After that, requests are refused. Idle connections are closed after 200 ms. A connection with half a request, or one that has just been accepted, has the [`grace`](Serve::grace). |
/// | forced | Requests that the layer has cut are answered if their clients read the response within 125 ms, or for as long as one client after another does. Then all sockets are closed, even with requests in flight. The clean-up begins when all are closed, when none has been closed for a while, or with the last quarter of its reserve. |
///
/// An HTTP/2 connection is shut down as in RFC 9113 §6.8: a GOAWAY with the highest stream identifier, a
/// wait of 50 ms and a round trip, and a GOAWAY with the actual last identifier. So no stream is lost on its
/// way, and a client knows that it may retry later requests. Some clients fail every stream that is open
/// when a GOAWAY arrives, or requests that they have not sent yet. The first GOAWAY is therefore sent when
/// no stream is open: after a response, or when no stream has been open for 200 ms. If a stream is open all
/// the time, the GOAWAY is sent 200 ms before late requests are no longer served. For a client that has
/// sent no request since draining began, it is sent when the last stream has ended, or at three quarters of
/// the drain.
///
/// With [`refuse_for`](crate::ShutdownConfig::refuse_for) above zero, the listener stays open while
/// draining, until [`stop_accepting`](ShutdownController::stop_accepting), and new requests are refused.
/// When that time is over, idle connections are closed and HTTP/2 connections get their GOAWAY.
///
/// A client that does not read the response to an admitted request is waited for until the drain deadline.
/// A client that does not read anything else, such as a refusal or PING acknowledgements, has the
/// [`grace`](Serve::grace).
///
/// Connections are closed gracefully, over TLS by close_notify (RFC 8446 §6.1). The exception is a connection
/// that is cut in the middle of an HTTP/1 response, which would otherwise look complete. If only the end of the
/// connection ends that response (HTTP/1.0, no length), a [`TcpStream`](tokio::net::TcpStream) is reset.
///
/// The server ends when its last connection is closed. A connection is closed when the socket has taken the
/// last byte of its last response, however slowly the client reads. When the report is returned, no handler,
/// body, stream or connection of the server is alive, so a connection pool may be closed. The exception is a
/// blocked thread, which is reported as [abandoned](ShutdownReport::abandoned). The server does not track
/// tasks that handlers have spawned; see [`ShutdownController::spawn`].
///
/// What is not promised: on HTTP/1, closing an idle connection always carries the risk that a request is
/// on its way at that moment. Its client sees the connection close without a response. A lame duck that is
/// longer than the clients' pauses between requests avoids this.
///
/// Give an axum `Router` its state with `.with_state(())`, even if it has none. It then prepares its handlers
/// once, as with `axum::serve`, and not for every request.
///
/// # Panics
///
/// The server panics if it is awaited outside a tokio runtime, or in one without a timer or I/O.
///
/// # Cancel safety
///
/// Dropping the future closes all connections and triggers the shutdown, which continues without the server.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tokio::net::TcpListener;
/// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, serve};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()))
///     .with_state(());
///
/// let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
/// # ctl.trigger(ShutdownReason::Manual);
/// let report = serve(listener, app, ctl).await;
/// println!("{report}");
/// assert!(report.is_graceful());
/// # }
/// ```
pub fn serve<L, S>(listener: L, app: S, ctl: ShutdownController) -> Serve<L, S>
where
    L: Listener + 'static,
    S: App,
{
    Serve {
        listener,
        app,
        // Called before the trigger: with `refuse_for`, the drain waits that time for late clients only if
        // `stop_accepting` has been called.
        stop_accepting: ctl.stop_accepting(),
        ctl,
        handshake: NoHandshake,
        add_extensions: None,
        settings: Settings::default(),
    }
}

/// A server that has not started yet. Created by [`serve`].
///
/// Awaiting it runs the server to the end of the shutdown, using [`ShutdownController::run`], and returns
/// the report. The defaults suit most servers.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use std::time::Duration;
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use tokio::net::TcpListener;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, serve};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let ctl = ShutdownController::new();
/// # let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
/// let hello = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
/// let app: Router = Router::new().route("/", get(hello));
/// # ctl.trigger(ShutdownReason::Manual);
/// let report = serve(listener, app, ctl)
///     .header_read_timeout(Duration::from_secs(10))
///     .http1(|http1| {
///         http1.max_buf_size(64 * 1024);
///     })
///     .extension(|peer: &SocketAddr| ConnectInfo(*peer))
///     .await;
/// assert!(report.is_graceful());
/// # }
/// ```
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L: Listener, S, H = NoHandshake> {
    listener: L,
    app: S,
    ctl: ShutdownController,
    stop_accepting: Wait,
    handshake: H,
    add_extensions: Option<AddExtensions<L::Addr>>,
    settings: Settings,
}

/// The future of a server. Created by `into_future` of [`Serve`].
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use tokio::net::TcpListener;
/// use tower_lifecycle::server::Serving;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, serve};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
/// let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
/// let public: Serving = serve(public, Router::<()>::new(), ctl.clone()).into_future();
/// let admin: Serving = serve(admin, Router::<()>::new(), ctl.clone()).into_future();
///
/// # ctl.trigger(ShutdownReason::Manual);
/// let (report, _the_same) = tokio::join!(public, admin); // one shutdown for both
/// assert!(report.is_graceful());
/// # }
/// ```
#[must_use = "futures do nothing unless polled, and dropping this one drops the server"]
pub struct Serving {
    run: Run<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

// ===== impl Serve =====

impl<L: Listener, S, H> Serve<L, S, H> {
    /// Changes hyper's settings for HTTP/1 connections.
    ///
    /// `set` is called for each connection, with a builder that already has a timer. hyper's own header
    /// timeout is off; see [`header_read_timeout`](Self::header_read_timeout). If this method is called
    /// more than once, the closures run in that order.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tokio::net::TcpListener;
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # fn example(listener: TcpListener, app: axum::Router, ctl: ShutdownController)
    /// # -> Serve<TcpListener, axum::Router> {
    /// serve(listener, app, ctl).http1(|http1| {
    ///     http1.max_headers(50);
    /// })
    /// # }
    /// ```
    pub fn http1<F>(mut self, set: F) -> Self
    where
        F: Fn(&mut http1::Builder) + Send + Sync + 'static,
    {
        self.settings.add_http1(Box::new(set));
        self
    }

    /// Changes hyper's settings for HTTP/2 connections.
    ///
    /// `set` is called for each connection, with a builder that already has a timer and allows extended
    /// CONNECT (RFC 8441), which WebSockets use on HTTP/2.
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
    /// serve(listener, app, ctl).http2(|http2| {
    ///     // Detects peers that have disappeared without closing.
    ///     http2.keep_alive_interval(Duration::from_secs(60));
    /// })
    /// # }
    /// ```
    #[cfg(feature = "http2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
    pub fn http2<F>(mut self, set: F) -> Self
    where
        F: Fn(&mut http2::Builder<StreamExecutor>) + Send + Sync + 'static,
    {
        self.settings.add_http2(Box::new(set));
        self
    }

    /// Sets how long a client may take for the head of its first request. On HTTP/1 it also applies to each
    /// later head, including the idle time before it.
    ///
    /// It protects against clients that send a byte from time to time. The connection is closed when the
    /// time is over, or up to a quarter of it later: the server checks periodically rather than creating a
    /// timer for each request. It replaces hyper's own setting. Default: 30 s.
    ///
    /// On HTTP/2 the first request has to arrive within that time, including preface, settings and header
    /// block. After that [`http2_idle_timeout`](Self::http2_idle_timeout) applies.
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
    /// serve(listener, app, ctl).header_read_timeout(Duration::from_secs(5))
    /// # }
    /// ```
    pub fn header_read_timeout(mut self, time: Duration) -> Self {
        self.settings.header_read_timeout = time;
        self
    }

    /// Sets how long an HTTP/2 connection may have no open stream before it is closed.
    ///
    /// Pings, settings and an incomplete header block do not count as activity. The client is notified by
    /// GOAWAY (RFC 9113 §6.8), and a request that crosses the GOAWAY is served. The GOAWAY is sent when the
    /// time is over, or up to a quarter of it later. Default: 5 min. `Duration::MAX` means without limit,
    /// for clients that keep idle connections open for long, for example by gRPC keep-alive pings.
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
    /// serve(listener, app, ctl).http2_idle_timeout(Duration::from_secs(3600))
    /// # }
    /// ```
    #[cfg(feature = "http2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
    pub fn http2_idle_timeout(mut self, time: Duration) -> Self {
        self.settings.http2_idle_timeout = time;
        self
    }

    /// Sets a handshake that runs on each connection before HTTP, such as TLS.
    ///
    /// It runs in the connection's own task, so it does not delay other connections. It is limited by
    /// [`handshake_timeout`](Self::handshake_timeout). A connection is dropped if its handshake fails. With
    /// TLS, offer `h2` (with the feature `http2`) and `http/1.1` by ALPN. The server detects the protocol by
    /// the first bytes.
    ///
    /// # Examples
    ///
    /// See `examples/tls.rs` for the complete program:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tokio::net::TcpListener;
    /// use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
    /// use tower_lifecycle::{ShutdownController, ShutdownReport, serve};
    ///
    /// async fn serve_tls(
    ///     listener: TcpListener,
    ///     app: axum::Router,
    ///     ctl: ShutdownController,
    ///     mut tls: ServerConfig,
    /// ) -> ShutdownReport {
    ///     tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    ///     let acceptor = TlsAcceptor::from(Arc::new(tls));
    ///     serve(listener, app, ctl)
    ///         .handshake(move |tcp| acceptor.accept(tcp))
    ///         .await
    /// }
    /// # let _ = serve_tls;
    /// ```
    pub fn handshake<F, Fut, Io>(self, handshake: F) -> Serve<L, S, HandshakeWith<F>>
    where
        F: Fn(L::Io) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Io>> + Send,
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Serve {
            listener: self.listener,
            app: self.app,
            ctl: self.ctl,
            stop_accepting: self.stop_accepting,
            handshake: HandshakeWith(handshake),
            add_extensions: self.add_extensions,
            settings: self.settings,
        }
    }

    /// Sets how long the [`handshake`](Self::handshake) may take. Default: 10 s.
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
    /// serve(listener, app, ctl).handshake_timeout(Duration::from_secs(3))
    /// # }
    /// ```
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.settings.handshake_timeout = time;
        self
    }

    /// Sets how long, while draining, a connection without a request in flight may take to complete what it
    /// has begun.
    ///
    /// The time starts when draining begins or when the connection is accepted, whichever is later. It
    /// applies to a handshake, to a request head that has arrived in part, to the first request of a
    /// connection that has just been accepted, and to the response to HTTP/2's GOAWAY. A partial head can
    /// therefore not delay the drain for longer, however slowly the rest arrives. A peer that does not read
    /// has the same time, starting after its last response to an admitted request. The time never extends
    /// beyond three quarters of the drain. Default: 1 s.
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
    /// serve(listener, app, ctl).grace(Duration::from_millis(300))
    /// # }
    /// ```
    pub fn grace(mut self, time: Duration) -> Self {
        self.settings.grace = time;
        self
    }

    /// Sets how many bytes of a request are still read after an early response, and for how long.
    ///
    /// A client that is in the middle of an upload when it is refused continues to write for a while before
    /// it reads. Closing the socket would reset the connection, and the client would lose the response (RFC
    /// 9112 §9.6). So the rest is read and discarded, until the client closes its side, sends less than
    /// 1 KiB in a second, or reaches one of these limits. Default: 64 MiB and 5 s. A client that has no
    /// body to send, or whose head was refused as invalid, has at most 1 MiB and a second.
    ///
    /// On HTTP/2, hyper stops the stream instead, by RST_STREAM(NO_ERROR) after the complete response (RFC
    /// 9113 §8.1). What an HTTP/2 client sends after the end of its connection is read for at most the
    /// [`grace`](Self::grace), up to 1 MiB.
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
    /// serve(listener, app, ctl).linger(1 << 20, Duration::from_secs(2))
    /// # }
    /// ```
    pub fn linger(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.lingering.bytes = bytes;
        self.settings.lingering.time = time;
        self
    }

    /// Sets whether others accept from the listening socket, too: the next process, to which it is handed over,
    /// the service manager that opened it (socket activation), or a later server of this process, on a clone of
    /// the socket. Default: `false`. A hand-over of this crate (feature `restart`) does not need it: while it is
    /// done, the socket is shared.
    ///
    /// If `false`, this server is the last on its socket: it serves the backlog at its end, and on Linux the
    /// socket then takes [no new connections](Listener::keep_out_newcomers), whoever else has it.
    ///
    /// If `true`, the socket is left to them as soon as a shutdown is triggered, also in the lame duck:
    /// nothing more is accepted, and the connections in the backlog wait for the others. When
    /// draining begins, the listener is dropped, which closes only the descriptor of this process. After a
    /// [`resume`](ShutdownController::resume) connections are accepted again.
    ///
    /// Do not use it for `SO_REUSEPORT`. There each process has its own socket and its own backlog, which is
    /// lost when the socket is closed. Leave this `false`, so that the backlog is served first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # use tokio::net::TcpListener;
    /// fn serve_handed_on(
    ///     socket: std::net::TcpListener, // shared with the next process
    ///     app: axum::Router,
    ///     ctl: ShutdownController,
    /// ) -> std::io::Result<Serve<TcpListener, axum::Router>> {
    ///     socket.set_nonblocking(true)?;
    ///     Ok(serve(TcpListener::from_std(socket)?, app, ctl).shared(true))
    /// }
    /// # let _ = serve_handed_on;
    /// ```
    pub fn shared(mut self, is_shared: bool) -> Self {
        self.settings.is_shared = is_shared;
        self
    }

    /// Adds a value to the extensions of every request, created from the address of its peer.
    ///
    /// The value is created once per connection. Later calls add more values. If two have the same type, the
    /// later one replaces the earlier.
    ///
    /// # Examples
    ///
    /// For axum's `ConnectInfo`:
    ///
    /// ```
    /// # use std::net::SocketAddr;
    /// # use axum::extract::ConnectInfo;
    /// # use tokio::net::TcpListener;
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # fn example(listener: TcpListener, app: axum::Router, ctl: ShutdownController)
    /// # -> Serve<TcpListener, axum::Router> {
    /// serve(listener, app, ctl).extension(|peer: &SocketAddr| ConnectInfo(*peer))
    /// # }
    /// ```
    pub fn extension<F, T>(mut self, of: F) -> Self
    where
        F: Fn(&L::Addr) -> T + Send + 'static,
        T: Clone + Send + Sync + 'static,
    {
        let before = self.add_extensions.take();
        self.add_extensions = Some(Box::new(move |peer, extensions| {
            if let Some(before) = &before {
                before(peer, extensions);
            }
            extensions.insert(of(peer));
        }));
        self
    }
}

impl<L, S, H> IntoFuture for Serve<L, S, H>
where
    L: Listener + 'static,
    S: App,
    H: Handshake<L::Io>,
{
    type Output = ShutdownReport;
    type IntoFuture = Serving;

    fn into_future(self) -> Serving {
        let core = Arc::clone(self.ctl.core());
        let common = Common {
            handshake: self.handshake,
            settings: self.settings,
            plans: PlanChannel::new(),
        };
        let server = accept::run(
            core,
            self.stop_accepting,
            self.listener,
            self.app,
            self.add_extensions,
            common,
        );
        Serving {
            run: self
                .ctl
                .run(Box::pin(server) as Pin<Box<dyn Future<Output = ()> + Send>>),
        }
    }
}

impl<L: Listener, S, H> fmt::Debug for Serve<L, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

// ===== impl Serving =====

impl Future for Serving {
    type Output = ShutdownReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ShutdownReport> {
        Pin::new(&mut self.run).poll(cx)
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}
