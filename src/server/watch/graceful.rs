//! Connections that support graceful shutdown.

use std::future::Future;
use std::pin::Pin;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
#[cfg(feature = "http2")]
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use hyper::service::Service;
#[cfg(feature = "http2")]
use hyper_util::server::conn::auto;

use crate::error::BoxError;

/// A connection that can finish the responses in flight and then close.
///
/// It is implemented for hyper's HTTP/1 connections, with and without upgrades. With the feature `http2` it
/// is also implemented for hyper's HTTP/2 connections and for those of hyper-util's `auto` builder.
/// Implement it for other connections to [watch](crate::ShutdownController::watch) them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be told to end gracefully",
    label = "not a connection of hyper or hyper-util",
    note = "connections of hyper can, without or with upgrades; with the feature `http2` those of \
            hyper-util's `auto` builder, too, with upgrades after `.into_owned()`"
)]
pub trait GracefulConnection: Future<Output = Result<(), Self::Error>> {
    /// The error of a failed connection.
    type Error;

    /// Stops accepting requests, and closes the connection when the last response has been written. An
    /// idle connection closes at once.
    fn graceful_shutdown(self: Pin<&mut Self>);

    /// Returns whether this is known to be an HTTP/2 connection.
    ///
    /// A live HTTP/2 peer responds to [`graceful_shutdown`](Self::graceful_shutdown) at once, by
    /// acknowledging the PING that comes with the GOAWAY (RFC 9113 §6.8).
    /// [`watch`](crate::ShutdownController::watch) does not wait for a peer that does not respond. Return
    /// `true` only if `graceful_shutdown` sends something that the peer must respond to. The default is
    /// `false`.
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
                // The inherent method.
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
#[cfg(feature = "http2")]
graceful!(
    [I, S, B, E] http2::Connection<I, S, E>,
    hyper::Error,
    true,
    [E: Http2ServerConnExec<S::Future, B>]
);
#[cfg(feature = "http2")]
graceful!(
    [I, S, B, E] auto::Connection<'_, I, S, E>,
    BoxError,
    false, // the protocol is not exposed
    [S::Future: 'static, E: auto::HttpServerConnExec<S::Future, B>]
);
#[cfg(feature = "http2")]
graceful!(
    [I, S, B, E] auto::UpgradeableConnection<'_, I, S, E>,
    BoxError,
    false, // the protocol is not exposed
    [S::Future: 'static, I: Send, E: auto::HttpServerConnExec<S::Future, B>]
);
