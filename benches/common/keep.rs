//! The least that a layer can do to hold a value until the body has ended: a future and a body
//! around the inner ones.

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

/// A service that makes a guard at each call, and holds it until the response's body has ended, has
/// failed, or is dropped.
#[derive(Clone)]
pub struct Keep<S, M> {
    inner: S,
    make_guard: M,
}

pin_project! {
    /// The future of [`Keep`].
    pub struct KeepFuture<F, G> {
        #[pin]
        inner: F,
        guard: Option<G>,
    }
}

pin_project! {
    /// The body of [`Keep`].
    pub struct KeepBody<B, G> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

/// A guard of one word that does nothing. The compiler cannot know that.
pub struct NoGuard(&'static ());

// ===== impl Keep =====

/// Wraps a service in [`Keep`].
pub fn keep<S, M>(inner: S, make_guard: M) -> Keep<S, M> {
    Keep { inner, make_guard }
}

impl<S, M, G, ReqBody, ResBody> Service<Request<ReqBody>> for Keep<S, M>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    M: Fn() -> G,
{
    type Response = Response<KeepBody<ResBody, G>>;
    type Error = S::Error;
    type Future = KeepFuture<S::Future, G>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let guard = Some((self.make_guard)());
        let inner = self.inner.call(request);
        KeepFuture { inner, guard }
    }
}

// ===== impl KeepFuture =====

impl<F, G, B, E> Future for KeepFuture<F, G>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<KeepBody<B, G>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx));
        let guard = this.guard.take();
        Poll::Ready(response.map(|response| response.map(|inner| KeepBody { inner, guard })))
    }
}

// ===== impl KeepBody =====

/// Wraps a response's body in [`KeepBody`].
pub fn keep_in_body<B, G>(response: Response<B>, guard: G) -> Response<KeepBody<B, G>> {
    let guard = Some(guard);
    response.map(|inner| KeepBody { inner, guard })
}

impl<B: Body, G> Body for KeepBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            this.guard.take();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// ===== impl NoGuard =====

impl NoGuard {
    pub fn new() -> Self {
        Self(black_box(&()))
    }
}

impl Drop for NoGuard {
    fn drop(&mut self) {
        black_box(self.0);
    }
}
