//! The bodies that carry a guard to their end.
//!
//! A body has ended when its last frame was seen: `None`, an error, or a frame after which
//! `is_end_stream()` is true, since a consumer that knows the length need not poll again. At that
//! moment, or when it is dropped before, the inner body is dropped first and then the guard.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tracing::warn;

use crate::error::{BoxError, Forced};
use crate::gate::Shard;
use crate::guard::{Entry, InFlightGuard};
use crate::long_lived::{Class, Ending};
use crate::reject::{Admission, Farewell};
use crate::sync::Arc;
use crate::upgrade::UpgradedHold;

pin_project! {
    /// The response body of [`RequestTracking`](crate::RequestTracking).
    ///
    /// It is in flight until it ends, errs or is dropped.
    ///
    /// Frames, errors, `is_end_stream` and `size_hint` are the inner body's, until it has ended.
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
    /// assert_eq!(ctl.in_flight(), 1); // the head is there, the body is not
    ///
    /// let body = response.into_body().collect().await.unwrap();
    /// assert_eq!(body.to_bytes(), "hello");
    /// assert_eq!(ctl.in_flight(), 0);
    /// # }
    /// ```
    #[derive(Debug)]
    #[must_use = "dropping a body ends it"]
    pub struct TrackedBody<B> {
        #[pin]
        state: Tracked<B>,
    }
}

pin_project! {
    #[project = TrackedProj]
    #[derive(Debug)]
    enum Tracked<B, G = InFlightGuard> {
        Live {
            // Declared first, so that it is dropped first.
            #[pin]
            inner: B,
            guard: G,
        },
        Ended,
    }
}

pin_project! {
    /// The response body of [`Drain`](crate::Drain).
    ///
    /// It is in flight until it ends, errs or is dropped, and cut by force. It ends with the error
    /// [`Forced`], boxed, when admitted work is cut, never as if it were complete, so that no
    /// client takes a part for the whole. Only one of a [long-lived class](crate::LongLived), which
    /// has no whole, ends before the inner body does. Where the inner body has a default, which
    /// `CorsLayer` and others want, it has one too.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use http_body_util::BodyExt;
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::{DrainLayer, Forced, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app = Router::new().route("/", get(|| async { "hello" }));
    /// let app = DrainLayer::new(ctl.clone()).layer(app);
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    ///
    /// ctl.force(); // before the body has been read
    /// let error = response.into_body().collect().await.unwrap_err();
    /// assert!(error.is::<Forced>());
    /// # }
    /// ```
    #[derive(Debug)]
    #[must_use = "dropping a body ends it"]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        /// Of an admitted request.
        Admitted { #[pin] state: Tracked<B, Admission> },
        /// Of an exempt one, or of none.
        Free { #[pin] inner: B },
        /// Our own: boxed, so that an admitted one is not larger for it.
        Refusal { text: Option<Box<Bytes>> },
        /// Of a stream that is ended by the drain; boxed for the same reason, as is the next.
        LongLived { body: Pin<Box<Ending<B>>> },
        /// Of a response after which the connection is no longer HTTP's.
        Upgraded { state: Pin<Box<Tracked<B, UpgradedHold>>> },
    }
}

/// A guard of what can be cut.
pub(crate) trait Cut {
    fn is_forced(&self) -> bool;

    /// Ready once force has come; else the task is woken when it comes.
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Notes that it is being cut.
    fn note_aborted(&self);
}

/// One frame of a response body, or its end.
pub(crate) type Polled<D> = Poll<Option<Result<Frame<D>, BoxError>>>;

// ===== impl TrackedBody =====

impl<B> TrackedBody<B> {
    pub(crate) fn new(inner: B, guard: InFlightGuard) -> Self {
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
        let frame = ready!(inner.as_mut().poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || inner.is_end_stream() {
            state.set(Tracked::Ended);
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.state.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.state.size_hint()
    }
}

// ===== impl Tracked =====

impl<B: Body, G> Tracked<B, G> {
    #[inline]
    fn is_end_stream(&self) -> bool {
        match self {
            Tracked::Live { inner, .. } => inner.is_end_stream(),
            Tracked::Ended => true,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match self {
            Tracked::Live { inner, .. } => inner.size_hint(),
            Tracked::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B, G> Tracked<B, G>
where
    B: Body<Error: Into<BoxError>>,
    G: Cut,
{
    /// Passes the next frame on, or ends the body when force has come.
    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data> {
        let TrackedProj::Live { mut inner, guard } = self.as_mut().project() else {
            return Poll::Ready(None);
        };
        // Before every poll of the inner: one that is always ready would never be cut.
        if guard.is_forced() && !inner.is_end_stream() {
            return Poll::Ready(Some(Err(self.cut())));
        }
        match inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if inner.is_end_stream() {
                    self.set(Tracked::Ended);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(last) => {
                self.set(Tracked::Ended);
                Poll::Ready(last.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(guard.poll_forced(cx));
                Poll::Ready(Some(Err(self.cut())))
            }
        }
    }

    /// Ends a body that was admitted, and not finished in time.
    #[cold]
    fn cut(mut self: Pin<&mut Self>) -> BoxError {
        if let TrackedProj::Live { guard, .. } = self.as_mut().project() {
            guard.note_aborted();
        }
        self.set(Tracked::Ended);
        cut()
    }
}

impl<S: AsRef<Shard>> Cut for Entry<S> {
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
}

/// What a body that is cut ends with.
pub(crate) fn cut() -> BoxError {
    warn!("cut by the shutdown: the response body had not ended");
    Forced.into()
}

// ===== impl ResponseBody =====

impl<B> ResponseBody<B> {
    #[inline]
    pub(crate) fn admitted(inner: B, guard: Admission) -> Self {
        Self {
            kind: Kind::Admitted {
                state: Tracked::Live { inner, guard },
            },
        }
    }

    #[cold]
    pub(crate) fn long_lived(
        inner: B,
        guard: Admission,
        class: Arc<Class>,
        farewell: Farewell,
    ) -> Self {
        Self {
            kind: Kind::LongLived {
                body: Box::pin(Ending::new(inner, guard, class, farewell)),
            },
        }
    }

    #[cold]
    pub(crate) fn upgraded(inner: B, guard: UpgradedHold) -> Self {
        Self {
            kind: Kind::Upgraded {
                state: Box::pin(Tracked::Live { inner, guard }),
            },
        }
    }

    pub(crate) fn free(inner: B) -> Self {
        Self {
            kind: Kind::Free { inner },
        }
    }

    pub(crate) fn refusal(text: Bytes) -> Self {
        Self {
            kind: Kind::Refusal {
                text: (!text.is_empty()).then(|| Box::new(text)),
            },
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Admitted { state } => state.poll_frame(cx),
            KindProj::Free { inner } => {
                let frame = ready!(inner.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            KindProj::Refusal { text } => {
                let frame = text.take().map(|text| Frame::data((*text).into()));
                Poll::Ready(frame.map(Ok))
            }
            KindProj::LongLived { body } => body.as_mut().poll_frame(cx),
            KindProj::Upgraded { state } => state.as_mut().poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Admitted { state } => state.is_end_stream(),
            Kind::Free { inner } => inner.is_end_stream(),
            Kind::Refusal { text } => text.is_none(),
            Kind::LongLived { body } => body.is_end_stream(),
            Kind::Upgraded { state } => state.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Admitted { state } => state.size_hint(),
            Kind::Free { inner } => inner.size_hint(),
            Kind::Refusal { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Kind::LongLived { body } => body.size_hint(),
            Kind::Upgraded { state } => state.size_hint(),
        }
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::free(B::default())
    }
}
