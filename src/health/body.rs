//! The response body of `Health`: the inner body, or the answer to a probe.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The response body of [`Health`](crate::health::Health).
    ///
    /// It is the unchanged inner body, or the answer to a probe. It implements [`Default`] if the
    /// inner body does.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::{Request, Response}, routing::get};
    /// use http_body_util::BodyExt;
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::health::{HealthBody, HealthLayer};
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let app = Router::new().route("/", get(|| async { "hello" }));
    /// let app = HealthLayer::new(ShutdownController::new()).layer(app);
    ///
    /// let request = Request::get("/").body(Body::empty()).unwrap();
    /// let response: Response<HealthBody<Body>> = app.oneshot(request).await.unwrap();
    /// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    /// # }
    /// ```
    #[must_use = "dropping a body ends it"]
    pub struct HealthBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] inner: B },
        /// Boxed to keep the type small. `None` if the text is empty or was read.
        Probe { text: Option<Box<Bytes>> },
    }
}

// ===== impl HealthBody =====

impl<B> HealthBody<B> {
    pub(super) fn inner(inner: B) -> Self {
        Self {
            kind: Kind::Inner { inner },
        }
    }

    pub(super) fn probe(text: Bytes) -> Self {
        Self {
            kind: Kind::Probe {
                text: (!text.is_empty()).then(|| Box::new(text)),
            },
        }
    }
}

impl<B> Body for HealthBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { inner } => inner.poll_frame(cx),
            KindProj::Probe { text } => {
                let frame = text.take().map(|text| Frame::data((*text).into()));
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { inner } => inner.is_end_stream(),
            Kind::Probe { text } => text.is_none(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { inner } => inner.size_hint(),
            Kind::Probe { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}

impl<B> fmt::Debug for HealthBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthBody")
            .field("is_probe", &matches!(self.kind, Kind::Probe { .. }))
            .finish_non_exhaustive()
    }
}

impl<B: Default> Default for HealthBody<B> {
    fn default() -> Self {
        Self::inner(B::default())
    }
}
