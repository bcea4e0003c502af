//! The body of a response to a named request.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::named::Named;
use crate::in_flight::InFlightStage;

pin_project! {
    /// The response body of [`RequestNames`](super::RequestNames). It passes the inner body on unchanged.
    #[must_use = "dropping a body ends it"]
    pub struct NamedBody<B> {
        // Declared first, so that it is dropped before the name.
        #[pin]
        inner: B,
        named: Named,
        stage: InFlightStage,
    }
}

// ===== impl NamedBody =====

impl<B: Body> NamedBody<B> {
    /// `stage` is that of the body while it waits.
    #[inline]
    pub(super) fn new(inner: B, mut named: Named, stage: InFlightStage) -> Self {
        if inner.is_end_stream() {
            named.complete();
        } else if named.is_listed() {
            named.wait(stage);
        }
        Self {
            inner,
            named,
            stage,
        }
    }
}

impl<B: Body> Body for NamedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = this.inner.as_mut().poll_frame(cx);
        match &polled {
            Poll::Pending => this.named.wait(*this.stage),
            // A server does not poll for the next frame before the client has read this one.
            Poll::Ready(Some(Ok(_))) if !this.inner.is_end_stream() => {
                this.named.wait(*this.stage);
            }
            Poll::Ready(_) => this.named.complete(),
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for NamedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedBody")
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}
