//! One connection, from its first byte to its last.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::Extensions;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::activity::Activity;
use super::app::{Answers, App};
use super::handshake::Handshake;
use super::lingering::{BRIEF, Limits};
use super::orders::{ANNOUNCEMENT, Order, Orders, Protocol};
use super::plan::PlanChannel;
use super::settings::Settings;
use super::shared_io::{HyperIo, IoHandle};
use super::streams::Streams;
use super::watch::GracefulConnection;
use crate::error::Chain;
use crate::in_flight::OpenConnection;
use crate::log::tell;
use crate::shutdown::{Either, race};
use crate::sync::Arc;

/// What all connections of a server have in common.
pub(super) struct Common<H> {
    pub(super) handshake: H,
    pub(super) settings: Settings,
    pub(super) plans: PlanChannel,
}

/// One that has just been accepted.
pub(super) struct Newcomer<I, S> {
    pub(super) io: I,
    pub(super) app: S,
    /// What every request of it is given.
    pub(super) extensions: Extensions,
    /// In the order of their coming.
    pub(super) number: u32,
    pub(super) open: OpenConnection,
}

/// How the conversation on a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All is said. The client may still be sending.
    Said,
    /// It was told to go, with no answer under way.
    Told,
    /// In the middle of an answer, which must not look as if it were whole.
    BrokenOff,
}

/// Serves one connection. When this future has ended, or is dropped, nothing of it is left but what
/// the application has spawned.
pub(super) async fn serve_connection<I, S, H>(common: Arc<Common<H>>, newcomer: Newcomer<I, S>)
where
    H: Handshake<I>,
    S: App,
{
    let Common {
        handshake,
        settings,
        plans,
    } = &*common;
    let Newcomer {
        io,
        app,
        extensions,
        number,
        open,
    } = newcomer;
    let activity = Arc::new(Activity::default());
    let mut orders = Orders::new(plans, &activity, number, settings);

    // The transport's own handshake.
    let handshake = within(settings.handshake_timeout, handshake.handshake(io));
    let io = match race(handshake, orders.end()).await {
        Either::Left(Some(Ok(io))) => io,
        Either::Left(Some(Err(error))) => {
            return tell!(debug, error = %Chain(&error), "handshake failed");
        }
        Either::Left(None) => return tell!(debug, "handshake took too long"),
        Either::Right(()) => return,
    };

    let (io_handle, hyper_io) = IoHandle::new(io, Arc::clone(&activity), settings.lingering);
    let answers = Answers {
        app,
        activity: Arc::clone(&activity),
        extensions,
    };
    let streams = Streams::new(Arc::new(open));
    let ending = converse(
        hyper_io,
        answers,
        &io_handle,
        &streams,
        &mut orders,
        settings,
    )
    .await;
    streams.cut();
    if activity.is_tunnel() {
        // Whoever speaks something else on it has it until it is closed.
        orders.speak(Protocol::Tunnel);
        let upgrade = activity.take_upgrade();
        let ended = race(io_handle.hung_up(), orders.cut()).await;
        if let (Either::Right(()), Some(upgrade)) = (ended, upgrade) {
            upgrade.note_aborted();
        }
    } else if ending != Ending::BrokenOff {
        orders.speak(Protocol::Over);
        race(
            io_handle.close(&activity, ending == Ending::Said),
            orders.end(),
        )
        .await;
    }
    // Before the streams: one that blocks its thread does not hold the socket.
    drop(io_handle);
    streams.ended().await;
}

/// Speaks HTTP on a connection, until all is said or it has to go.
async fn converse<I, S>(
    mut hyper_io: HyperIo<I>,
    answers: Answers<S>,
    io_handle: &IoHandle<I>,
    streams: &Streams,
    orders: &mut Orders<'_>,
    settings: &Settings,
) -> Ending
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: App,
{
    // The protocol is told by the first bytes.
    orders.speak(Protocol::Unknown);
    let sniffing = within(settings.header_read_timeout, hyper_io.begins_with_preface());
    let is_http2 = match race(sniffing, orders.end()).await {
        Either::Left(Some(Ok(is_http2))) => is_http2,
        Either::Left(Some(Err(error))) => {
            tell!(debug, %error, "connection failed");
            return Ending::Told;
        }
        Either::Left(None) => {
            tell!(debug, "no request came in time");
            return Ending::Told;
        }
        Either::Right(()) => return Ending::Told,
    };
    let activity = Arc::clone(&answers.activity);
    let hyper_io = TokioIo::new(hyper_io);
    if is_http2 {
        orders.speak(Protocol::Http2);
        activity.note_may_send(true);
        // It sends no uploads then, but frames that nobody needs.
        io_handle.limit_lingering(Limits {
            bytes: BRIEF.bytes,
            time: settings.grace,
        });
        let builder = settings.http2(streams.executor(&activity));
        drive(
            builder.serve_connection(hyper_io, answers),
            io_handle,
            orders,
        )
        .await
    } else {
        orders.speak(Protocol::Http1);
        let connection = settings.http1().serve_connection(hyper_io, answers);
        drive(connection.with_upgrades(), io_handle, orders).await
    }
}

/// Drives hyper's connection to its end, by the server's orders.
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
            Order::SayGoodbye => connection.as_mut().graceful_shutdown(),
            Order::Close => {
                connection.as_mut().graceful_shutdown();
                // A peer that does not take our last bytes is not waited for.
                match within(orders.patience(), race(connection.as_mut(), orders.cut())).await {
                    Some(Either::Left(result)) => break result,
                    // A stream has brought the rest of its answer meanwhile.
                    None if orders.is_busy_again() => {}
                    _ => return cut(orders),
                }
            }
            Order::Cut => return cut(orders),
        }
    };
    match result {
        Ok(()) => Ending::Said,
        Err(error) => {
            let is_broken_off = error.is_user() || orders.is_in_an_answer();
            tell!(debug, error = %Chain(&error), "connection failed");
            match is_broken_off {
                true => Ending::BrokenOff,
                false => Ending::Said,
            }
        }
    }
}

/// To be asked before the connection is dropped, and its answers with it.
fn cut(orders: &Orders<'_>) -> Ending {
    tell!(debug, "connection cut");
    match orders.is_in_an_answer() {
        true => Ending::BrokenOff,
        false => Ending::Told,
    }
}

async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    timeout(time, future).await.ok()
}
