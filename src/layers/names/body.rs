//! The body of a response to a named request.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::named::Named;
use crate::layers::body::rebuilt;

pin_project! {
    /// The response body of [`RequestNames`](super::RequestNames). It passes the inner body on unchanged.
    ///
    /// It implements `Default`, without a name, if the inner body does, as `CorsLayer` and other layers
    /// require.
    #[must_use = "dropping a body ends it"]
    pub struct NamedBody<B> {
        // Declared first, so that it is dropped before the name.
        #[pin]
        inner: B,
        named: Named,
    }
}

// ===== impl NamedBody =====

impl<B> NamedBody<B> {
    #[inline]
    pub(super) fn new(inner: B, named: Named) -> Self {
        Self { inner, named }
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
        // Each outcome returns by itself, so that the compiler moves no more than it has.
        match this.inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                // A server does not poll for the next frame before the client has read this one.
                if this.inner.is_end_stream() {
                    this.named.complete();
                } else {
                    this.named.wait_in_body();
                }
                Poll::Ready(Some(Ok(rebuilt(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                this.named.complete();
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.named.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                this.named.wait_in_body();
                Poll::Pending
            }
        }
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

impl<B: Default> Default for NamedBody<B> {
    fn default() -> Self {
        Self::new(B::default(), Named::nothing())
    }
}
