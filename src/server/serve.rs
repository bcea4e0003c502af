//! Our own server: one call from a listener to the report.
//!
//! A layer sees requests and bodies. What it cannot do needs the connection: to close an idle one,
//! to say goodbye on HTTP/2, to follow an upgrade, and to know when the last byte has been written.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use tokio::io::{AsyncRead, AsyncWrite};

use super::accept;
use super::accept::Introduce;
use super::app::App;
use super::connection::Common;
use super::handshake::{Handshake, HandshakeWith, NoHandshake};
use super::listener::Listener;
use super::plan::PlanChannel;
use super::settings::Settings;
use super::streams::StreamExecutor;
use crate::controller::{Run, ShutdownController};
use crate::shutdown::{ShutdownReport, Wait};
use crate::sync::Arc;

/// Serves `app` on the connections of `listener`, from now to the end of the shutdown.
///
/// It speaks HTTP/1.1, HTTP/2 (told by its preface, in clear or behind [TLS](Serve::handshake)), and
/// lets connections be upgraded. Any cloneable tower service of HTTP is an application, an axum
/// `Router` for one. Put a [`DrainLayer`](crate::DrainLayer) in it or around it: the layer counts,
/// refuses and cuts requests; this looks after what the layer cannot see.
///
/// | when | what the connections do |
/// |---|---|
/// | lame duck | New ones are served. Each is asked to leave at a moment of its own in the first half of the window, so that clients do not come back all at once: on HTTP/1 its next answer says `Connection: close`, on HTTP/2 the goodbye follows its next answer. |
/// | draining | The listener is closed when its backlog is empty. For [`late_for`](crate::ShutdownConfig::late_for) what comes is served, each answer being the last of its connection; after that it is refused. Idle connections are closed after 200 ms. One with half a request, or one that has just come, has the [`grace`](Serve::grace). |
/// | forced | What the layer has cut is answered if the client takes it within 125 ms, or as long as one after another does; then every socket is closed, whatever is on it. The clean-up begins when all are closed, or when none has been for a while, or with the last quarter of its reserve. |
///
/// HTTP/2's goodbye is that of RFC 9113 §6.8: a GOAWAY with the highest id, 50 ms and a round trip, and
/// a GOAWAY with the real last id, so no stream is lost in the air, and a client knows that it may
/// send again what comes later. There are clients that fail every stream that is open when a GOAWAY
/// comes, or what they have not sent yet. So it begins when no stream is open: after an answer, or when
/// none has been open for 200 ms. Where one is open all the while, it begins 200 ms before late
/// requests cease to be served; and for a client that has sent no request since draining began, when
/// that ends its last stream, or at three quarters of the drain.
///
/// With [`refuse_for`](crate::ShutdownConfig::refuse_for) above zero, the listener stays open while
/// draining, until [`stop_accepting`](ShutdownController::stop_accepting), and what comes is refused.
/// Idle connections are closed, and HTTP/2's goodbye begins, when that time is over.
///
/// A client that does not read is waited for as long as the drain lasts if it is the answer to an admitted
/// request that it does not read. For anything else, a refusal or the answers to its PINGs, it has the
/// [`grace`](Serve::grace).
///
/// A connection is closed in order: its client is told, behind TLS by close_notify (RFC 8446 §6.1). Not
/// so one that is cut in the middle of an HTTP/1 answer, which would look whole.
///
/// The server has ended when its last connection is closed, and a connection is closed when the last
/// byte of its last answer has been taken by the socket, however slowly the client reads. When this
/// gives its report, no handler, body, stream or connection of it is alive: a pool may be closed. A
/// thread that blocks is excepted, and reported as [abandoned](ShutdownReport::abandoned). What
/// handlers have spawned is theirs; see [`ShutdownController::spawn`].
///
/// What is not promised: HTTP/1 has no way to close an idle connection without a chance that a
/// request is on its way to it in that instant. Such a client sees the connection close without an
/// answer. A lame duck that is longer than the clients' pauses between requests avoids that.
///
/// Give an axum `Router` its state, also an empty one, by `.with_state(())`: it then prepares its
/// handlers once, and not for every request (as `axum::serve` has it do).
///
/// # Panics
///
/// Awaiting it outside a tokio runtime, or in one without its timer or I/O.
///
/// # Cancel safety
///
/// Dropping it closes every connection, and begins the shutdown, which goes on without it.
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
    L: Listener,
{
    Serve {
        listener,
        app,
        // Noted before the trigger: with `refuse_for` the drain leaves late clients that time only
        // when somebody asks.
        stop_accepting: ctl.stop_accepting(),
        ctl,
        handshake: NoHandshake,
        introduce: None,
        settings: Settings::default(),
    }
}

/// A server to be; made by [`serve`].
///
/// Awaiting it runs it to the end of the shutdown, by [`ShutdownController::run`], and gives the
/// report. The defaults are meant to be left alone.
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
///     .http2(|http2| {
///         http2.max_concurrent_streams(100);
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
    introduce: Option<Introduce<L::Addr>>,
    settings: Settings,
}

/// The future of a server, [`Serve`].
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
    /// `set` is called for each connection, on a builder that has its timer and its
    /// [`header_read_timeout`](Self::header_read_timeout). Those of later calls come after those of
    /// earlier ones.
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
    /// `set` is called for each connection, on a builder that has its timer and allows extended
    /// CONNECT (RFC 8441), by which WebSockets come on HTTP/2.
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
    ///     // Finds peers that are gone without a word.
    ///     http2.keep_alive_interval(Duration::from_secs(60));
    /// })
    /// # }
    /// ```
    pub fn http2<F>(mut self, set: F) -> Self
    where
        F: Fn(&mut http2::Builder<StreamExecutor>) + Send + Sync + 'static,
    {
        self.settings.add_http2(Box::new(set));
        self
    }

    /// Sets how long a client may take for the head of its first request, and on HTTP/1 also for that
    /// of each later one, the idle time before it included.
    ///
    /// It is the answer to clients that send a byte now and then. The connection is closed when that
    /// time is over, or up to a quarter of it later: looking now and then costs a request nothing,
    /// which a timer for each does. It is in place of hyper's own setting. Default: 30 s.
    ///
    /// On HTTP/2 the first request has to come within that time, its preface, settings and header block
    /// included. After it [`http2_idle_timeout`](Self::http2_idle_timeout) counts.
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

    /// Sets how long an HTTP/2 connection may have no stream open, before it is closed.
    ///
    /// Pings, settings and a header block that is not ended do not count as activity. The client is told
    /// by GOAWAY (RFC 9113 §6.8); a request that crosses it is served. It comes when that time is over, or
    /// up to a quarter of it later. Default: 5 min. `Duration::MAX` is without limit, for clients that keep
    /// idle connections for long, by keep-alive pings of gRPC for one.
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
    pub fn http2_idle_timeout(mut self, time: Duration) -> Self {
        self.settings.http2_idle_timeout = time;
        self
    }

    /// Has `handshake` done with each connection before HTTP is spoken on it: TLS, most of all.
    ///
    /// It runs in the connection's own task, so it holds up nobody else, and has its
    /// [`handshake_timeout`](Self::handshake_timeout). A connection for which it fails is dropped. With
    /// TLS, offer `h2` and `http/1.1` by ALPN; which of them it is is seen by the first bytes.
    ///
    /// # Examples
    ///
    /// `examples/tls.rs` is the whole of it:
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
            introduce: self.introduce,
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

    /// Sets how long, while draining, a connection without a request in flight may still take to say
    /// something whole.
    ///
    /// It goes from the beginning of draining, or from the moment when the connection was accepted,
    /// whatever is later, for: a handshake, the head of a request of which a part has come, the first
    /// request of a connection that has just been accepted, and the answer to HTTP/2's goodbye. So the
    /// beginning of a head cannot hold up a deploy for longer, however slowly it goes on. A peer that does
    /// not read has the same time, from the last answer on that it was owed. It never goes beyond three
    /// quarters of the drain. Default: 1 s.
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

    /// Sets how many bytes, and for how long, the rest of a request is read after an early answer.
    ///
    /// A client that is in the middle of an upload when it is refused goes on writing for a while before
    /// it reads. Closing the socket on it would reset the connection and take the answer from it (RFC
    /// 9112 §9.6), so the rest is read and thrown away, until the client closes its side, sends less
    /// than 1 KiB in a second, or these bounds are reached. Default: 64 MiB and 5 s. A client that has no
    /// body to send has 1 MiB and a second at most.
    ///
    /// A stream of HTTP/2 is told to stop instead, by hyper: after the whole answer comes
    /// RST_STREAM(NO_ERROR) (RFC 9113 §8.1). What an HTTP/2 client sends after the end of its connection
    /// is read for no longer than the [`grace`](Self::grace), and no more than 1 MiB of it.
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

    /// Says whether others accept from the listening socket, too: the next process, to which it is
    /// handed on, or the service manager that opened it (socket activation). Default: `false`.
    ///
    /// Then it is left to them as soon as a shutdown is triggered, also in the lame duck: nothing more
    /// is accepted, and who waits in the backlog waits for the others. When draining begins, the
    /// listener is dropped, which closes this process's descriptor only. After a
    /// [`resume`](ShutdownController::resume) connections are accepted again.
    ///
    /// It is not for `SO_REUSEPORT`: there each process has a socket and a backlog of its own, which
    /// is lost when it is closed. Leave this `false`, and the backlog is served first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_lifecycle::server::Serve;
    /// # use tower_lifecycle::{ShutdownController, serve};
    /// # use tokio::net::TcpListener;
    /// fn serve_handed_on(
    ///     socket: std::net::TcpListener, // which the next process has, too
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

    /// Puts a value into the extensions of every request, made of what is known of its peer.
    ///
    /// It is made once for each connection. Later calls add to earlier ones, each type once.
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
        let before = self.introduce.take();
        self.introduce = Some(Box::new(move |peer, extensions| {
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
            self.introduce,
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
