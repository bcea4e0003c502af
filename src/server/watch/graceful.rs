//! What can be told to end gracefully.

use std::future::Future;
use std::pin::Pin;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::server::conn::auto;

use crate::error::BoxError;

/// A connection that can be told to end with the answers that are under way.
///
/// hyper's connections are, of both versions, with upgrades and without, and those of hyper-util's
/// `auto` builder. Implement it for others to have them [watched](crate::ShutdownController::watch).
pub trait GracefulConnection: Future<Output = Result<(), Self::Error>> {
    /// Why a connection failed.
    type Error;

    /// Takes no more requests, and closes when the last answer has been written: at once, if it is
    /// idle.
    fn graceful_shutdown(self: Pin<&mut Self>);

    /// Whether this is known to be an HTTP/2 connection.
    ///
    /// Then a peer that is there answers the goodbye of
    /// [`graceful_shutdown`](Self::graceful_shutdown) at once, by a PING (RFC 9113 §6.8), and
    /// [`watch`](crate::ShutdownController::watch) does not wait for one that does not. Return
    /// `true` only if `graceful_shutdown` has the peer answer. The default is `false`.
    fn is_http2(&self) -> bool {
        false
    }
}

// ===== impl GracefulConnection =====

macro_rules! graceful {
    ([$($generics:tt)*] $connection:ty, $error:ty, $is_http2:expr, [$($bounds:tt)*]) => {
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

            fn is_http2(&self) -> bool {
                $is_http2
            }
        }
    };
}

graceful!([I, S, B] http1::Connection<I, S>, hyper::Error, false, []);
graceful!([I, S, B] http1::UpgradeableConnection<I, S>, hyper::Error, false, [I: Send]);
graceful!(
    [I, S, B, E] http2::Connection<I, S, E>,
    hyper::Error,
    true,
    [E: Http2ServerConnExec<S::Future, B>]
);
graceful!(
    [I, S, B, E] auto::Connection<'_, I, S, E>,
    BoxError,
    false, // it does not tell
    [S::Future: 'static, E: auto::HttpServerConnExec<S::Future, B>]
);
graceful!(
    [I, S, B, E] auto::UpgradeableConnection<'_, I, S, E>,
    BoxError,
    false, // it does not tell
    [S::Future: 'static, I: Send, E: auto::HttpServerConnExec<S::Future, B>]
);
