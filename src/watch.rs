//! A connection of somebody else's accept loop.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tracing::debug;

use crate::connections::OpenConnection;
use crate::controller::ShutdownController;
use crate::core::ENDED;
use crate::error::BoxError;
use crate::milestones::event;
use crate::wait::Wait;

/// A connection that can be told to end with the answers that are under way.
///
/// hyper's connections are, of both versions, with upgrades and without, and those of hyper-util's
/// `auto` builder. Implement it for others to have them [watched](ShutdownController::watch).
pub trait GracefulConnection: Future<Output = Result<(), Self::Error>> {
    /// Why a connection failed.
    type Error;

    /// Takes no more requests, and closes when the last answer has been written: at once, if it is
    /// idle.
    fn graceful_shutdown(self: Pin<&mut Self>);
}

pin_project! {
    /// The future of [`ShutdownController::watch`].
    ///
    /// # Panics
    ///
    /// When it is polled again after it has completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use hyper_util::rt::TokioIo;
    /// use hyper_util::service::TowerToHyperService;
    /// use hyper::server::conn::http1::{Builder, Connection};
    /// use tokio::net::TcpStream;
    /// use tower_lifecycle::{ShutdownController, Watch};
    ///
    /// type Service = TowerToHyperService<axum::Router>;
    ///
    /// fn watched(
    ///     ctl: &ShutdownController,
    ///     stream: TcpStream,
    ///     service: Service,
    /// ) -> Watch<Connection<TokioIo<TcpStream>, Service>> {
    ///     ctl.watch(Builder::new().serve_connection(TokioIo::new(stream), service))
    /// }
    /// # let _ = watched;
    /// ```
    #[must_use = "futures do nothing unless polled, and dropping this one closes the connection"]
    pub struct Watch<C> {
        // Declared first, so that it is closed before that is told.
        #[pin]
        connection: Option<C>,
        open: OpenConnection,
        // Draining had begun when it was accepted.
        came_late: bool,
        stage: Stage,
        told: Told,
        // When it is told to go.
        alarm: Option<Pin<Box<Sleep>>>,
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nobody has told it to go.
    Serving,
    /// Draining has begun; it may bring one more request, which is refused.
    Draining,
    /// It ends with its last answer.
    Leaving,
}

/// A wait for something that is never taken back. It does not go to the list of waiters, which all
/// connections share, at every poll of the connection: that would cost every request.
struct Told {
    wait: Wait,
    waker: Option<Waker>,
}

/// How long one that has just come may take for its first request.
const GRACE: Duration = Duration::from_secs(1);

impl ShutdownController {
    /// Drives one connection of an accept loop of your own, and ends it with the shutdown.
    ///
    /// From the moment of the call on the connection is open for the shutdown: the drain is over
    /// only when it is closed, which hyper does when the last byte of the last answer has been
    /// written. It goes on for [`refuse_for`](crate::ShutdownConfig::refuse_for) from the beginning
    /// of draining, so that a request that is on its way is refused and not lost, and is then told
    /// to end with what is under way; one that was accepted while draining gets a second. When
    /// admitted work is cut, its answers have a moment to be written; then the connection is
    /// dropped.
    ///
    /// [`serve`](crate::serve) does more: it asks clients to leave in the lame duck already, tells
    /// half a request from an idle connection, follows upgrades, and lets no early answer be lost.
    ///
    /// Give the accept loop itself to [`run`](Self::run), and end it when
    /// [`stop_accepting`](Self::stop_accepting) says so.
    ///
    /// # Errors
    ///
    /// The future gives the connection's own; a connection that is dropped by the shutdown ends
    /// without one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use hyper_util::rt::{TokioExecutor, TokioIo};
    /// use hyper_util::server::conn::auto;
    /// use hyper_util::service::TowerToHyperService;
    /// use tokio::net::TcpListener;
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(DrainLayer::new(ctl.clone()));
    /// let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ///
    /// let accept_loop = async {
    ///     let mut stop = ctl.stop_accepting();
    ///     loop {
    ///         let (stream, _) = tokio::select! {
    ///             accepted = listener.accept() => accepted?,
    ///             () = &mut stop => return std::io::Result::Ok(()),
    ///         };
    ///         let service = TowerToHyperService::new(app.clone());
    ///         let watched = ctl.clone();
    ///         tokio::spawn(async move {
    ///             let builder = auto::Builder::new(TokioExecutor::new());
    ///             let connection = builder.serve_connection(TokioIo::new(stream), service);
    ///             let _ = watched.watch(connection.into_owned()).await;
    ///         });
    ///     }
    /// };
    /// # ctl.trigger(ShutdownReason::Manual);
    /// let report = ctl.run(accept_loop).await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn watch<C: GracefulConnection>(&self, connection: C) -> Watch<C> {
        let reached = self.core().milestones();
        Watch {
            connection: Some(connection),
            open: OpenConnection::watched(self.core()),
            came_late: reached.has(event::CLOSED),
            stage: Stage::Serving,
            told: Told::new(self.wait(event::CLOSED)),
            alarm: None,
        }
    }
}

// ===== impl Watch =====

impl<C: GracefulConnection> Future for Watch<C> {
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let Some(mut connection) = this.connection.as_mut().as_pin_mut() else {
                panic!("`Watch` polled after completion");
            };
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                this.connection.set(None);
                return Poll::Ready(result);
            }
            match this.stage {
                Stage::Serving => {
                    ready!(this.told.poll(cx));
                    let core = this.told.wait.core();
                    let until = core.notice().and_then(|notice| {
                        if !*this.came_late {
                            return core.idle_until(&notice);
                        }
                        let left = notice.drain_remaining().unwrap_or(Duration::MAX);
                        notice.now().checked_add(GRACE.min(left / 2))
                    });
                    *this.alarm = until.map(|until| Box::pin(sleep_until(until)));
                    let disconnect = Wait::new(core, event::DISCONNECT | ENDED);
                    *this.told = Told::new(disconnect);
                    *this.stage = Stage::Draining;
                    continue;
                }
                Stage::Draining if this.told.poll(cx).is_pending() => {
                    let Some(alarm) = this.alarm else {
                        return Poll::Pending;
                    };
                    ready!(alarm.as_mut().poll(cx));
                    connection.graceful_shutdown();
                    *this.stage = Stage::Leaving;
                    continue;
                }
                Stage::Draining => {}
                Stage::Leaving => ready!(this.told.poll(cx)),
            }
            this.connection.set(None);
            debug!("connection cut");
            return Poll::Ready(Ok(()));
        }
    }
}

impl<C> fmt::Debug for Watch<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

// ===== impl Told =====

impl Told {
    fn new(wait: Wait) -> Self {
        let waker = None;
        Self { wait, waker }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let registered = self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        if registered && !self.wait.is_over() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        Pin::new(&mut self.wait).poll(cx)
    }
}

// ===== impl GracefulConnection =====

macro_rules! graceful {
    ([$($generics:tt)*] $connection:ty, $error:ty, [$($bounds:tt)*]) => {
        impl<$($generics)*> GracefulConnection for $connection
        where
            S: Service<Request<Incoming>, Response = Response<B>>,
            S::Error: Into<BoxError>,
            I: Read + Write + Unpin + 'static,
            B: Body + 'static,
            B::Error: Into<BoxError>,
            $($bounds)*
        {
            type Error = $error;

            fn graceful_shutdown(self: Pin<&mut Self>) {
                // The inherent one.
                <$connection>::graceful_shutdown(self);
            }
        }
    };
}

graceful!([I, S, B] http1::Connection<I, S>, hyper::Error, []);
graceful!([I, S, B] http1::UpgradeableConnection<I, S>, hyper::Error, [I: Send]);
graceful!(
    [I, S, B, E] http2::Connection<I, S, E>,
    hyper::Error,
    [E: Http2ServerConnExec<S::Future, B>]
);
graceful!(
    [I, S, B, E] auto::Connection<'_, I, S, E>,
    BoxError,
    [S::Future: 'static, E: auto::HttpServerConnExec<S::Future, B>]
);
graceful!(
    [I, S, B, E] auto::UpgradeableConnection<'_, I, S, E>,
    BoxError,
    [S::Future: 'static, I: Send, E: auto::HttpServerConnExec<S::Future, B>]
);
