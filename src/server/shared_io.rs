//! The socket of a connection, shared by hyper and the connection's task.
//!
//! hyper, or the owner of an upgraded connection, holds the [`HyperIo`]. The connection's task holds an
//! [`IoHandle`] to the same socket, to write to it and to close it.

use std::any::Any;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::activity::Activity;
use super::lingering::{BRIEF, Limits, Lingering};
use crate::sync::{Arc, Mutex, lock};

/// The first bytes of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long the transport may take to shut down, for example to send TLS's close_notify.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// The stream that hyper reads and writes.
pub(super) struct HyperIo<I> {
    shared: Arc<Mutex<Shared<I>>>,
    activity: Arc<Activity>,
}

/// The connection's own handle to the socket. Dropping it closes the socket.
pub(super) struct IoHandle<I> {
    shared: Arc<Mutex<Shared<I>>>,
}

struct Shared<I> {
    /// `None` once the socket has been cut, or its tunnel dropped.
    io: Option<I>,
    /// The first bytes, read to detect the protocol.
    sniffed: [u8; PREFACE.len()],
    /// The part of `sniffed` that hyper has still to read.
    unread: std::ops::Range<usize>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    ending: Ending,
    limits: Limits,
    /// How many bytes the socket has taken.
    taken: u64,
    /// The position after the last unsent byte of owed responses. `None` if the socket has taken them all.
    owed: Option<u64>,
    /// The `HyperIo` has been dropped.
    hung_up: bool,
    /// The connection's task, which waits for that.
    waiting: Option<Waker>,
}

/// How far the close has come.
enum Ending {
    None,
    /// All is written. The client may still be sending.
    Lingering(Lingering),
    Ended,
}

// ===== impl IoHandle =====

impl<I> IoHandle<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>, limits: Limits) -> (Self, HyperIo<I>) {
        let shared = Arc::new(Mutex::new(Shared {
            io: Some(io),
            sniffed: [0; PREFACE.len()],
            unread: 0..0,
            reader: None,
            writer: None,
            ending: Ending::None,
            limits,
            taken: 0,
            owed: None,
            hung_up: false,
            waiting: None,
        }));
        let hyper_io = HyperIo {
            shared: Arc::clone(&shared),
            activity,
        };
        (Self { shared }, hyper_io)
    }

    /// Limits how much, and for how long, the client may send after the end.
    #[cfg(feature = "http2")]
    pub(super) fn limit_lingering(&self, limits: Limits) {
        let mut shared = lock(&self.shared);
        shared.limits = shared.limits.min(limits);
    }

    /// Waits until the `HyperIo` has been dropped.
    pub(super) async fn hung_up(&self) {
        poll_fn(|cx| {
            let mut waiting = Some(cx.waker().clone());
            let mut shared = lock(&self.shared);
            let hung_up = shared.hung_up;
            mem::swap(&mut shared.waiting, &mut waiting);
            drop(shared);
            drop(waiting);
            if hung_up {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> IoHandle<I> {
    /// Writes a frame between those of the `HyperIo`, or nothing: while the socket takes no more bytes, the
    /// `HyperIo` may be in the middle of a frame.
    pub(super) async fn insert(&self, activity: &Arc<Activity>, frame: &[u8]) -> io::Result<()> {
        let io = self.hyper_io(activity);
        let mut written = 0;
        // Unconstrained: without tokio's budget it would seem that the socket takes no bytes.
        unconstrained(poll_fn(|cx| {
            while written < frame.len() {
                let rest = &frame[written..];
                if written == 0 && activity.is_stalled() {
                    return Poll::Ready(Ok(()));
                }
                match io.poll_writing(cx, 0, |io, cx| io.poll_write(cx, rest)) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if written == 0 => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            io.poll_flushing(cx)
        }))
        .await
    }

    fn hyper_io(&self, activity: &Arc<Activity>) -> HyperIo<I> {
        HyperIo {
            shared: Arc::clone(&self.shared),
            activity: Arc::clone(activity),
        }
    }

    /// Shuts down a socket that hyper has not shut down itself. If `lingers`, then waits until the client
    /// has finished sending.
    pub(super) async fn close(&self, activity: &Arc<Activity>, lingers: bool) {
        let io = self.hyper_io(activity);
        let shut_down = timeout(SHUTDOWN_TIMEOUT, poll_fn(|cx| io.poll_end(cx))).await;
        if lingers && matches!(shut_down, Ok(Ok(()))) {
            poll_fn(|cx| io.poll_lingering(cx)).await;
        }
    }
}

impl<I: 'static> IoHandle<I> {
    /// Makes the close of a TCP socket a reset, so that it does not look like the end of a response.
    pub(super) fn reset_when_closed(&self) {
        let shared = lock(&self.shared);
        let io = shared.io.as_ref().map(|io| io as &dyn Any);
        if let Some(tcp) = io.and_then(|io| io.downcast_ref::<TcpStream>()) {
            // Zero does not block. tokio's new name for that is too new. An error is ignored: the client may
            // then take the response for complete, which cannot be prevented.
            #[allow(deprecated)]
            let _ = tcp.set_linger(Some(Duration::ZERO));
        }
    }
}

impl<I> Drop for IoHandle<I> {
    /// Closes the socket even if the `HyperIo` still exists, and wakes its holder.
    fn drop(&mut self) {
        // Dropped last, outside the lock, because it is user code.
        let (_io, wakers) = {
            let mut shared = lock(&self.shared);
            let wakers = [shared.reader.take(), shared.writer.take()];
            (shared.io.take(), wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

// ===== impl HyperIo =====

impl<I: AsyncRead + AsyncWrite + Unpin> HyperIo<I> {
    /// Reads as much as is needed to detect HTTP/2. hyper will read the same bytes again.
    pub(super) async fn begins_with_preface(&mut self) -> io::Result<bool> {
        poll_fn(|cx| self.poll_sniff(cx)).await
    }

    fn poll_sniff(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut former = None;
        let mut shared = lock(&self.shared);
        let poll = loop {
            let shared = &mut *shared;
            let Some(io) = &mut shared.io else {
                break Poll::Ready(Err(cut_error()));
            };
            let read = shared.unread.end;
            if shared.sniffed[..read] != PREFACE[..read] || read == PREFACE.len() {
                break Poll::Ready(Ok(read == PREFACE.len() && shared.sniffed == *PREFACE));
            }
            let mut rest = ReadBuf::new(&mut shared.sniffed[read..]);
            match Pin::new(io).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if rest.filled().is_empty() => break Poll::Ready(Ok(false)),
                Poll::Ready(Ok(())) => {
                    shared.unread.end += rest.filled().len();
                    self.activity.note_received();
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => {
                    former = store_waker(&mut shared.reader, cx);
                    break Poll::Pending;
                }
            }
        };
        drop(shared);
        drop(former);
        poll
    }

    /// Writes, and records whether the socket takes the bytes that it is offered.
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        offered: usize,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut former = None;
        let mut shared = lock(&self.shared);
        if offered > 0 {
            self.activity.note_write();
        }
        let poll = match &mut shared.io {
            Some(io) => write(Pin::new(io), cx),
            None => Poll::Ready(Err(cut_error())),
        };
        let taken = match poll {
            Poll::Ready(Ok(count)) => count,
            _ => 0,
        };
        if taken < offered || shared.owed.is_some() {
            shared.note_unsent(&self.activity, offered, taken, cx);
        }
        shared.taken += taken as u64;
        if poll.is_pending() {
            former = store_waker(&mut shared.writer, cx);
        }
        drop(shared);
        // Dropping a waker may run user code, so it is done outside the lock.
        drop(former);
        self.activity.note_stalled(poll.is_pending());
        poll
    }

    fn poll_flushing(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = |io: Pin<&mut I>, cx: &mut Context<'_>| io.poll_flush(cx).map_ok(|()| 0);
        ready!(self.poll_writing(cx, 0, flush))?;
        // hyper flushes when it has nothing left to write.
        self.activity.note_flushed();
        if self.activity.has_unsent() {
            lock(&self.shared).owed = None;
            self.activity.note_unsent(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Shuts down the write side, once: by FIN (RFC 9293 §3.6), on TLS after a close_notify (RFC 8446 §6.1).
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(lock(&self.shared).ending, Ending::None) {
            return Poll::Ready(Ok(()));
        }
        let end = |io: Pin<&mut I>, cx: &mut Context<'_>| io.poll_shutdown(cx).map_ok(|()| 0);
        self.poll_writing(cx, 0, end).map_ok(drop)
    }

    /// Waits until the client has finished sending.
    fn poll_lingering(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut former = None;
        let mut shared = lock(&self.shared);
        let poll = shared.poll_lingering(&self.activity, cx);
        if poll.is_pending() {
            former = store_waker(&mut shared.reader, cx);
        }
        drop(shared);
        drop(former);
        self.activity.note_lingering(poll.is_pending());
        poll
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for HyperIo<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut former = None;
        let before = buffer.filled().len();
        let mut shared = lock(&self.shared);
        let poll = shared.poll_read(cx, buffer);
        if poll.is_pending() {
            former = store_waker(&mut shared.reader, cx);
        }
        drop(shared);
        drop(former);
        if buffer.filled().len() > before {
            self.activity.note_received();
        }
        poll
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HyperIo<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, bytes.len(), |io, cx| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.poll_writing(cx, offered, |io, cx| io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        let shared = lock(&self.shared);
        shared.io.as_ref().is_some_and(I::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flushing(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end(cx))?;
        // A tunnel has ended only in one direction.
        if self.activity.is_tunnel() {
            return Poll::Ready(Ok(()));
        }
        self.poll_lingering(cx).map(Ok)
    }
}

impl<I> Drop for HyperIo<I> {
    /// Leaves the socket to the `IoHandle`, which closes it gracefully. A tunnel is closed here.
    fn drop(&mut self) {
        // Dropped last, outside the lock, because it is user code.
        let (_tunnel, waiting) = {
            let mut shared = lock(&self.shared);
            shared.hung_up = true;
            let tunnel = if self.activity.is_tunnel() {
                shared.io.take()
            } else {
                None
            };
            (tunnel, shared.waiting.take())
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

// ===== impl Shared =====

impl<I: AsyncRead + Unpin> Shared<I> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(cut_error()));
        };
        if self.unread.is_empty() {
            return Pin::new(io).poll_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.remaining());
        let start = self.unread.start;
        buffer.put_slice(&self.sniffed[start..start + count]);
        self.unread.start += count;
        Poll::Ready(Ok(()))
    }

    fn poll_lingering(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let may_send = activity.may_send();
        if let Ending::None = self.ending {
            let limits = if may_send {
                self.limits
            } else {
                self.limits.min(BRIEF)
            };
            self.ending = Ending::Lingering(Lingering::new(limits));
        }
        let (Ending::Lingering(lingering), Some(io)) = (&mut self.ending, &mut self.io) else {
            return Poll::Ready(());
        };
        // What hyper did not take for a head may have a body that follows.
        let is_sending = may_send || activity.has_received();
        let poll = lingering.poll(Pin::new(io), is_sending, cx);
        if poll.is_ready() {
            self.ending = Ending::Ended;
        }
        poll
    }
}

impl<I: AsyncWrite + Unpin> Shared<I> {
    /// Records what is unsent of owed responses, after the socket has taken less than it was offered or if
    /// something was unsent before.
    #[cold]
    fn note_unsent(
        &mut self,
        activity: &Activity,
        offered: usize,
        taken: usize,
        cx: &mut Context<'_>,
    ) {
        if activity.take_handed_over() {
            self.owed = Some(self.taken + offered as u64);
            activity.note_unsent(true);
        }
        let is_taken = (self.owed).is_some_and(|owed| owed <= self.taken + taken as u64);
        let Some(io) = self.io.as_mut().filter(|_| is_taken) else {
            return;
        };
        // A transport with its own buffer, such as TLS, may have taken the bytes without sending them.
        if let Poll::Ready(Ok(())) = Pin::new(io).poll_flush(cx) {
            self.owed = None;
            activity.note_unsent(false);
        }
    }
}

/// Stores the task's waker, to wake it when the socket is cut. Returns the former waker, to be dropped
/// outside the lock.
fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        place => place.replace(cx.waker().clone()),
    }
}

/// Returns the error for reads and writes on a socket that was cut.
fn cut_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, crate::error::Forced)
}
