//! Our own server: one call from a listener to the report.
//!
//! A layer sees requests and bodies. What it cannot do needs the connection: to close an idle one,
//! to say goodbye on HTTP/2, to follow an upgrade, and to know when the last byte has been written.

mod accept;
mod activity;
mod app;
mod board;
mod connection;
mod listener;
mod orders;
mod settings;
mod streams;
mod wire;

pub use self::app::App;
pub use self::listener::Listener;
pub use self::streams::StreamExecutor;

use std::fmt;
use std::future::{Future, IntoFuture, Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Extensions;
use hyper::server::conn::{http1, http2};
use tokio::io::{AsyncRead, AsyncWrite};

use self::board::Board;
use self::connection::Common;
use self::settings::Settings;
use crate::controller::ShutdownController;
use crate::report::ShutdownReport;
use crate::run::Run;
use crate::sync::Arc;
use crate::wait::Wait;

/// Serves `app` on the connections of `listener`, from now to the end of the shutdown.
pub fn serve<L, S>(listener: L, app: S, ctl: ShutdownController) -> Serve<L, S>
where
    L: Listener,
{
    Serve {
        listener,
        app,
        // Noted before the trigger: the drain leaves late clients time only when somebody asks.
        stop_accepting: ctl.stop_accepting(),
        ctl,
        handshake: NoHandshake,
        introduce: None,
        settings: Settings::default(),
    }
}

/// A server to be; made by [`serve`].
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

/// Puts what is known of a peer into the extensions of its requests.
type Introduce<A> = Box<dyn Fn(&A, &mut Extensions) + Send>;

/// The future of a server, [`Serve`].
#[must_use = "futures do nothing unless polled, and dropping this one drops the server"]
pub struct Serving {
    run: Run<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What is done with a connection before HTTP is spoken on it.
pub trait Handshake<I>: Send + Sync + 'static {
    /// What HTTP is spoken on.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    #[doc(hidden)]
    type Future: Future<Output = io::Result<Self::Io>> + Send;
    #[doc(hidden)]
    fn handshake(&self, io: I) -> Self::Future;
}

/// HTTP is spoken at once.
#[derive(Debug, Clone, Copy)]
pub struct NoHandshake;

/// The application's own.
pub struct HandshakeWith<F>(F);

// ===== impl Serve =====

impl<L: Listener, S, H> Serve<L, S, H> {
    /// Changes hyper's settings for HTTP/1 connections.
    ///
    /// `set` is called for each connection, on a builder that has its timer and its
    /// [`header_read_timeout`](Self::header_read_timeout); later calls come after earlier ones.
    pub fn http1<F>(mut self, set: F) -> Self
    where
        F: Fn(&mut http1::Builder) + Send + Sync + 'static,
    {
        self.settings.add_http1(Box::new(set));
        self
    }

    /// Changes hyper's settings for HTTP/2 connections.
    pub fn http2<F>(mut self, set: F) -> Self
    where
        F: Fn(&mut http2::Builder<StreamExecutor>) + Send + Sync + 'static,
    {
        self.settings.add_http2(Box::new(set));
        self
    }

    pub fn header_read_timeout(mut self, time: Duration) -> Self {
        self.settings.header_read_timeout = time;
        self
    }

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

    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.settings.handshake_timeout = time;
        self
    }

    pub fn grace(mut self, time: Duration) -> Self {
        self.settings.grace = time;
        self
    }

    pub fn linger(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.lingering.bytes = bytes;
        self.settings.lingering.time = time;
        self
    }

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
            board: Board::new(),
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

// ===== impl Handshake =====

impl<I> Handshake<I> for NoHandshake
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = I;
    type Future = Ready<io::Result<I>>;

    fn handshake(&self, io: I) -> Self::Future {
        ready(Ok(io))
    }
}

impl<F, Fut, I, Io> Handshake<I> for HandshakeWith<F>
where
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Io>> + Send,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = Io;
    type Future = Fut;

    fn handshake(&self, io: I) -> Fut {
        (self.0)(io)
    }
}

impl<F> fmt::Debug for HandshakeWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeWith").finish_non_exhaustive()
    }
}
