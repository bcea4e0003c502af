//! A response body that is only counted.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::is_last;
use crate::in_flight::Entry;

pin_project! {
    /// The response body of [`RequestTracking`](crate::layers::RequestTracking).
    ///
    /// It is in flight until it ends, fails or is dropped.
    ///
    /// Frames, errors, `is_end_stream` and `size_hint` are those of the inner body until it has ended.
    /// `TrackedBody` implements `Default`, uncounted, if the inner body does, as `CorsLayer` and other
    /// layers require.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use http_body_util::BodyExt;
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::{RequestTrackingLayer, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app = Router::new().route("/", get(|| async { "hello" }));
    /// let app = RequestTrackingLayer::new(ctl.clone()).layer(app);
    ///
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    /// assert_eq!(ctl.in_flight(), 1); // the body has not been read
    ///
    /// let body = response.into_body().collect().await.unwrap();
    /// assert_eq!(body.to_bytes(), "hello");
    /// assert_eq!(ctl.in_flight(), 0);
    /// # }
    /// ```
    #[must_use = "dropping a body ends it"]
    pub struct TrackedBody<B> {
        #[pin]
        state: Tracked<B>,
    }

    impl<B> PinnedDrop for TrackedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            if let TrackedProj::Live { guard, .. } = this.project().state.project() {
                guard.note_unfinished();
            }
        }
    }
}

pin_project! {
    #[project = TrackedProj]
    enum Tracked<B> {
        Live {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: B,
            guard: Entry,
        },
        Ended,
    }
}

// ===== impl TrackedBody =====

impl<B> TrackedBody<B> {
    #[inline]
    pub(crate) fn new(inner: B, guard: Entry) -> Self {
        Self {
            state: Tracked::Live { inner, guard },
        }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut state = self.project().state;
        let TrackedProj::Live { mut inner, .. } = state.as_mut().project() else {
            return Poll::Ready(None);
        };
        let polled = inner.as_mut().poll_frame(cx);
        if is_last(&polled, |_| inner.is_end_stream()) {
            state.set(Tracked::Ended);
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.state {
            Tracked::Live { inner, .. } => inner.is_end_stream(),
            Tracked::Ended => true,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.state {
            Tracked::Live { inner, .. } => inner.size_hint(),
            Tracked::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for TrackedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedBody")
            .field("ended", &matches!(self.state, Tracked::Ended))
            .finish_non_exhaustive()
    }
}

impl<B: Default> Default for TrackedBody<B> {
    fn default() -> Self {
        Self::new(B::default(), Entry::uncounted())
    }
}
