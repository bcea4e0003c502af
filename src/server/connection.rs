//! Serves one connection.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::Extensions;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::activity::{Activity, Protocol};
use super::app::{Answers, App};
use super::handshake::Handshake;
#[cfg(feature = "http2")]
use super::lingering::{BRIEF, Limits};
use super::orders::{ANNOUNCEMENT, Order, Orders};
use super::plan::PlanChannel;
use super::settings::Settings;
use super::shared_io::{HyperIo, IoHandle};
#[cfg(feature = "http2")]
use super::streams::Streams;
use super::watch::GracefulConnection;
use crate::error::Chain;
use crate::in_flight::OpenConnection;
use crate::log::tell;
use crate::shutdown::{Either, race};
use crate::sync::Arc;

/// State shared by all connections of a server.
pub(super) struct Common<H> {
    pub(super) handshake: H,
    pub(super) settings: Settings,
    pub(super) plans: PlanChannel,
}

/// A connection that has just been accepted.
pub(super) struct Accepted<I, S> {
    pub(super) io: I,
    pub(super) app: S,
    /// Added to the extensions of every request.
    pub(super) extensions: Extensions,
    /// The position in the order of accepted connections.
    pub(super) number: u32,
    pub(super) activity: Arc<Activity>,
    pub(super) open: OpenConnection,
}

/// How HTTP on a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All responses are written. The client may still be sending.
    Complete,
    /// The server closes the connection, with no response under way.
    Closed,
    /// In the middle of a response, which must not look complete.
    Truncated,
}

/// Serves one connection. When this future has ended or is dropped, nothing of the connection is left
/// except tasks that the application has spawned.
pub(super) async fn serve_connection<I, S, H>(common: Arc<Common<H>>, accepted: Accepted<I, S>)
where
    H: Handshake<I>,
    S: App,
{
    let Common {
        handshake,
        settings,
        plans,
    } = &*common;
    let Accepted {
        io,
        app,
        extensions,
        number,
        activity,
        open,
    } = accepted;
    let mut orders = Orders::new(plans, &activity, number, settings);

    let handshake = within(settings.handshake_timeout, handshake.handshake(io));
    let io = match race(handshake, orders.end()).await {
        Either::Left(Some(Ok(io))) => io,
        Either::Left(Some(Err(error))) => {
            tell!(debug, error = %Chain(&error), "handshake failed");
            return;
        }
        Either::Left(None) => {
            tell!(debug, "handshake took too long");
            return;
        }
        Either::Right(()) => return,
    };

    let (io_handle, hyper_io) = IoHandle::new(io, Arc::clone(&activity), settings.lingering);
    let mut hyper_io = TokioIo::new(hyper_io);
    let answers = Answers {
        app,
        activity: Arc::clone(&activity),
        extensions,
    };
    let open = Arc::new(open);
    #[cfg(feature = "http2")]
    let streams = Streams::new(Arc::clone(&open));
    let ending = match detect_http2(&mut hyper_io, &mut orders).await {
        Ok(false) => {
            let connection = settings.http1().serve_connection(hyper_io, answers);
            drive(connection.with_upgrades(), &io_handle, &mut orders).await
        }
        #[cfg(feature = "http2")]
        Ok(true) => {
            activity.note_may_send(true);
            // After the end an HTTP/2 client sends no uploads, only frames that can be discarded.
            io_handle.limit_lingering(Limits {
                bytes: BRIEF.bytes,
                time: settings.grace,
            });
            let builder = settings.http2(streams.executor(&activity));
            let connection = builder.serve_connection(hyper_io, answers);
            drive(connection, &io_handle, &mut orders).await
        }
        #[cfg(not(feature = "http2"))]
        Ok(true) => {
            tell!(
                debug,
                "HTTP/2 needs the feature `http2`: closed the connection"
            );
            Ending::Closed
        }
        Err(ending) => ending,
    };
    #[cfg(feature = "http2")]
    streams.cut();
    if activity.is_tunnel() {
        // The tunnel's owner holds the socket until it drops it.
        orders.set_protocol(Protocol::Tunnel);
        let upgrade = activity.take_upgrade();
        let ended = race(io_handle.hung_up(), orders.cut()).await;
        if let (Either::Right(()), Some(upgrade)) = (ended, upgrade) {
            upgrade.note_aborted();
        }
    } else if ending != Ending::Truncated {
        orders.set_protocol(Protocol::Over);
        race(
            io_handle.close(&activity, ending == Ending::Complete),
            orders.end(),
        )
        .await;
    } else if activity.ends_with_connection() {
        io_handle.reset_when_closed();
    }
    // Closes the socket before waiting for the streams: one of them may block its thread.
    drop(io_handle);
    #[cfg(feature = "http2")]
    streams.ended().await;
    drop(open);
}

/// Returns whether the first bytes of a connection are those of HTTP/2, or how the connection has ended.
async fn detect_http2<I>(
    hyper_io: &mut TokioIo<HyperIo<I>>,
    orders: &mut Orders<'_>,
) -> Result<bool, Ending>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    orders.set_protocol(Protocol::Unknown);
    let preface = hyper_io.inner_mut().begins_with_preface();
    let is_http2 = match race(preface, orders.end()).await {
        Either::Left(Ok(is_http2)) => is_http2,
        Either::Left(Err(error)) => {
            tell!(debug, %error, "connection failed");
            return Err(Ending::Closed);
        }
        Either::Right(()) => return Err(Ending::Closed),
    };
    orders.set_protocol(if is_http2 {
        Protocol::Http2
    } else {
        Protocol::Http1
    });
    Ok(is_http2)
}

/// Drives hyper's connection to its end, and follows the server's orders.
async fn drive<C, I>(connection: C, io_handle: &IoHandle<I>, orders: &mut Orders<'_>) -> Ending
where
    C: GracefulConnection<Error = hyper::Error>,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = pin!(connection);
    let result = loop {
        let order = match orders.drive(connection.as_mut()).await {
            Either::Left(result) => break result,
            Either::Right(order) => order,
        };
        match order {
            Order::Announce => {
                let frame = io_handle.insert(orders.activity(), &ANNOUNCEMENT);
                if let Either::Right(()) = race(frame, orders.cut()).await {
                    return cut(orders);
                }
            }
            Order::StartShutdown => connection.as_mut().graceful_shutdown(),
            Order::Close => {
                connection.as_mut().graceful_shutdown();
                // Limited, since the peer may not read the last bytes.
                let limit = orders.close_timeout();
                match within(limit, race(connection.as_mut(), orders.cut())).await {
                    Some(Either::Left(result)) => break result,
                    // A stream has produced the rest of its response in the meantime.
                    None if orders.is_busy_again() => {}
                    _ => return cut(orders),
                }
            }
            Order::Cut => return cut(orders),
        }
    };
    match result {
        Ok(()) => Ending::Complete,
        Err(error) => {
            let is_truncated = error.is_user() || orders.is_mid_response();
            tell!(debug, error = %Chain(&error), "connection failed");
            if is_truncated {
                Ending::Truncated
            } else {
                Ending::Complete
            }
        }
    }
}

/// Returns how HTTP ends when the connection is cut. Must be called before the connection and its responses
/// are dropped.
fn cut(orders: &Orders<'_>) -> Ending {
    tell!(debug, "connection cut");
    if orders.is_mid_response() {
        Ending::Truncated
    } else {
        Ending::Closed
    }
}

async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    timeout(time, future).await.ok()
}
