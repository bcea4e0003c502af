//! Cutting response bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame};

use super::cut_event::drop_and_tell;
use super::facts::Facts;
use super::grpc;
use crate::error::{BoxError, Forced};
use crate::in_flight::{Entry, InFlightStage};

/// A guard of a body that can be cut.
pub(crate) trait Cut {
    fn is_forced(&self) -> bool;

    /// Ready once force has come. Otherwise, the task is woken when it comes.
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Notes that the body is being cut.
    fn note_aborted(&self);

    /// Returns whether a cut body ends with a gRPC status instead of an error.
    fn ends_with_status(&self) -> bool;

    /// Returns whether the cut is logged by name when the guard is dropped.
    fn is_named(&self) -> bool {
        false
    }
}

/// One frame of a response body, or its end.
pub(crate) type Polled<D> = Poll<Option<Result<Frame<D>, BoxError>>>;

/// Polls `body` for the next frame, or cuts it if force has come, and logs that.
#[inline]
pub(crate) fn poll_or_cut<B>(
    mut body: Pin<&mut B>,
    guard: &mut impl Cut,
    cx: &mut Context<'_>,
) -> Polled<B::Data>
where
    B: Body<Error: Into<BoxError>>,
{
    // Checked before every poll of the inner body: a body that is always ready would never be cut.
    if guard.is_forced() && !body.is_end_stream() {
        return Poll::Ready(Some(cut_and_tell(guard)));
    }
    match body.as_mut().poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
        Poll::Pending => guard.poll_forced(cx).map(|()| Some(cut_and_tell(guard))),
    }
}

impl Cut for Entry {
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

#[cold]
fn cut_and_tell<D>(guard: &impl Cut) -> Result<Frame<D>, BoxError> {
    if !guard.is_named() {
        drop_and_tell(InFlightStage::Stream, || ());
    }
    cut(guard)
}

/// Notes that a body is cut, and returns its last item. The caller drops the body by
/// [`drop_and_tell`].
#[cold]
#[inline(never)]
pub(crate) fn cut<D>(guard: &impl Cut) -> Result<Frame<D>, BoxError> {
    guard.note_aborted();
    if guard.ends_with_status() {
        Ok(Frame::trailers(grpc::trailers(grpc::CUT)))
    } else {
        Err(Forced.into())
    }
}
