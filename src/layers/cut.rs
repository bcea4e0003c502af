//! What a body that is cut ends with.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame};

use super::admission::Admission;
use super::facts::Facts;
use super::grpc;
use crate::error::{BoxError, Forced};
use crate::log::tell_here;

/// A guard of what can be cut.
pub(crate) trait Cut {
    fn is_forced(&self) -> bool;

    /// Ready once force has come; else the task is woken when it comes.
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Notes that it is being cut.
    fn note_aborted(&self);

    /// Whether what is cut ends with a status of gRPC, and not with an error.
    fn ends_with_status(&self) -> bool;
}

/// One frame of a response body, or its end.
pub(crate) type Polled<D> = Poll<Option<Result<Frame<D>, BoxError>>>;

/// Passes the next frame on, or what a body that is cut ends with when force has come.
#[inline]
pub(crate) fn poll_or_cut<B>(
    mut body: Pin<&mut B>,
    guard: &mut impl Cut,
    cx: &mut Context<'_>,
) -> Polled<B::Data>
where
    B: Body<Error: Into<BoxError>>,
{
    // Before every poll of the inner: one that is always ready would never be cut.
    if guard.is_forced() && !body.is_end_stream() {
        return Poll::Ready(Some(cut(guard)));
    }
    match body.as_mut().poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
        Poll::Pending => guard.poll_forced(cx).map(|()| Some(cut(guard))),
    }
}

impl Cut for Admission {
    #[inline]
    fn is_forced(&self) -> bool {
        self.is_forced()
    }

    #[inline]
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_forced(cx)
    }

    fn note_aborted(&self) {
        self.note_aborted();
    }

    fn ends_with_status(&self) -> bool {
        Facts::noted(self).ends_with_status()
    }
}

/// What a body that is cut ends with.
#[cold]
#[inline(never)]
pub(crate) fn cut<D>(guard: &impl Cut) -> Result<Frame<D>, BoxError> {
    guard.note_aborted();
    // The body has not ended yet: if the log panics, its next poll would cut and note it again.
    tell_here!(warn, "cut by the shutdown: the response body had not ended");
    match guard.ends_with_status() {
        true => Ok(Frame::trailers(grpc::trailers(grpc::CUT))),
        false => Err(Forced.into()),
    }
}
