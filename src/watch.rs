//! A connection of somebody else's accept loop.

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
/// hyper's connections are, of both versions, with and without upgrades, and those of hyper-util's
/// `auto` builder.
pub trait GracefulConnection: Future<Output = Result<(), Self::Error>> {
    /// Why a connection failed.
    type Error;

    /// Takes no more requests, and closes when the last answer has been written; at once, if it is
    /// idle.
    fn graceful_shutdown(self: Pin<&mut Self>);
}

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
                <$connection>::graceful_shutdown(self);
            }
        }
    };
}

graceful!([I, S, B] http1::Connection<I, S>, hyper::Error, []);
graceful!([I, S, B] http1::UpgradeableConnection<I, S>, hyper::Error, [I: Send]);
graceful!([I, S, B, E] http2::Connection<I, S, E>, hyper::Error, [E: Http2ServerConnExec<S::Future, B>]);
graceful!([I, S, B, E] auto::Connection<'_, I, S, E>, BoxError, [S::Future: 'static, E: hyper_util::server::conn::auto::HttpServerConnExec<S::Future, B>]);
graceful!([I, S, B, E] auto::UpgradeableConnection<'_, I, S, E>, BoxError, [S::Future: 'static, I: Send, E: hyper_util::server::conn::auto::HttpServerConnExec<S::Future, B>]);

/// temp
#[derive(Debug)]
pub struct Watch;
