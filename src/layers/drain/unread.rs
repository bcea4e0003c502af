//! Reads and discards the body of a refused request before the response is sent.
//!
//! Servers close an HTTP/1 connection after the response to a request whose body was not read. If the
//! client is still sending, that resets the connection, and the response may be lost (RFC 9112 §9.6).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};

use crate::in_flight::{Slot, interest};
use crate::layers::alarm::poll_alarm;
use crate::layers::facts::Facts;
use crate::layers::linger::{LEAST, Limits, SILENCE};
use crate::layers::options::DrainHandle;
use crate::sync::{Mutex, PoisonError};

/// How many frames are read in one poll. A body that is always ready must not block the thread.
const FRAMES_PER_POLL: usize = 32;

/// The response to a refused request, and the body that must be read before it is sent.
pub(super) struct Refused<B> {
    pub(super) response: Response<Bytes>,
    unread: Option<Unread<B>>,
}

/// The rest of a request's body, within limits.
struct Unread<B> {
    /// The mutex is never locked. It makes the future `Sync` even if the body is not.
    body: Mutex<Pin<Box<B>>>,
    bytes_left: u64,
    until: Instant,
    /// When the current time window for `least_left` began.
    window_began: Instant,
    /// How many bytes must still arrive in the window.
    least_left: u64,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Wakes the task at force.
    handle: DrainHandle,
    slot: Slot,
}

// ===== impl Refused =====

impl<B> Refused<B> {
    /// Creates a response that is ready once `body`, if any, has been read.
    pub(super) fn new(response: Response<Bytes>, body: Option<B>, handle: &DrainHandle) -> Self {
        let unread = body.map(|body| Unread::new(body, Limits::default(), handle.share()));
        Self { response, unread }
    }

    /// Ready when the response may be sent.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        B: Body,
    {
        match &mut self.unread {
            Some(unread) => unread.poll(cx),
            None => Poll::Ready(()),
        }
    }
}

/// Returns whether the body of a refused request is read before the response is sent.
///
/// A client that sends `Expect` waits for a response before it sends the body (RFC 9110 §10.1.1). A
/// client that sends a stream over HTTP/2 may wait for a response in the middle of it. HTTP/2 does not
/// need the body to be read: the server tells the client to stop, and the connection stays open (RFC
/// 9113 §8.1). Some clients then lose the response, so a body of known length is read over HTTP/2 too.
pub(super) fn should_read<B: Body>(request: &Request<B>) -> bool {
    let (headers, body) = (request.headers(), request.body());
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return false;
    }
    let facts = Facts::of(request);
    let has_length = || body.size_hint().exact().is_some() || headers.contains_key(CONTENT_LENGTH);
    facts.is_http1() || (facts.grpc_type().is_none() && has_length())
}

// ===== impl Unread =====

impl<B> Unread<B> {
    fn new(body: B, limits: Limits, handle: DrainHandle) -> Self {
        let now = Instant::now();
        Self {
            body: Mutex::new(Box::pin(body)),
            bytes_left: limits.bytes,
            until: now + limits.time,
            window_began: now,
            least_left: LEAST,
            alarm: None,
            handle,
            slot: Slot::NONE,
        }
    }

    /// Ready at the end of the body, at a limit, or at force.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        B: Body,
    {
        if self.handle.shard.is_forced() {
            return Poll::Ready(());
        }
        for _ in 0..FRAMES_PER_POLL {
            let body = (self.body.get_mut()).unwrap_or_else(PoisonError::into_inner);
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return self.poll_limits(cx),
                Poll::Ready(Some(Ok(frame))) if self.may_go_on(&frame) => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Notes that a frame was read. Returns `false` if a limit is reached.
    fn may_go_on<D: Buf>(&mut self, frame: &Frame<D>) -> bool {
        let read = frame.data_ref().map_or(0, D::remaining) as u64;
        let left = self.bytes_left.checked_sub(read);
        self.bytes_left = left.unwrap_or(0);
        let now = Instant::now();
        self.least_left = self.least_left.saturating_sub(read);
        if self.least_left == 0 {
            (self.least_left, self.window_began) = (LEAST, now);
        }
        left.is_some() && now < self.until && now < self.window_began + SILENCE
    }

    /// Ready at force, at the end of a window in which too little arrived, or at the end of the time.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shard = self.handle.shard;
        if !shard.register(&mut self.slot, cx.waker(), interest::FORCED) {
            return Poll::Ready(());
        }
        let at = self.until.min(self.window_began + SILENCE);
        poll_alarm(&mut self.alarm, at, cx)
    }
}

impl<B> Drop for Unread<B> {
    fn drop(&mut self) {
        self.handle.shard.deregister(self.slot.take());
    }
}
