//! The layer that only counts requests, and does not refuse or cut them.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::TrackedBody;
use super::mode::{AnyService, Http};
use crate::controller::ShutdownController;
use crate::error::POLLED_AFTER_COMPLETION;
use crate::in_flight::{Entry, LayerHandle};
use crate::sync::{Arc, OnceLock};

/// A layer that counts the requests of a service, and refuses none.
///
/// Use it for work that a shutdown must wait for and that may not be refused. Around an HTTP service,
/// a request is counted until its response body ends. It is not cut either: a request that does not
/// end by itself is reported as [abandoned](crate::ShutdownReport::abandoned).
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::post};
/// use tower::ServiceExt;
/// use tower_lifecycle::{RequestTrackingLayer, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let internal: Router = Router::new()
///     .route("/replicate", post(|| async {}))
///     .layer(RequestTrackingLayer::new(ctl.clone()));
///
/// ctl.trigger(ShutdownReason::Manual);
/// let request = Request::post("/replicate").body(Body::empty()).unwrap();
/// assert_eq!(internal.oneshot(request).await.unwrap().status(), 200);
/// # }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct RequestTrackingLayer<M = Http> {
    ctl: ShutdownController,
    /// Created for the first service, and shared by all services.
    handle: Arc<OnceLock<LayerHandle<()>>>,
    mode: PhantomData<fn() -> M>,
}

/// A service that counts its requests, created by [`RequestTrackingLayer`].
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::Layer;
/// use tower_lifecycle::layers::RequestTracking;
/// use tower_lifecycle::{RequestTrackingLayer, ShutdownController};
///
/// let ctl = ShutdownController::new();
/// let routes = Router::new().route("/", get(|| async { "hello" }));
/// let app: RequestTracking<Router> = RequestTrackingLayer::new(ctl.clone()).layer(routes);
/// assert!(app.get_ref().has_routes());
/// ```
pub struct RequestTracking<S, M = Http> {
    inner: S,
    handle: LayerHandle<()>,
    mode: PhantomData<fn() -> M>,
}

pin_project! {
    /// The response future of [`RequestTracking`].
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it has completed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, M = Http> {
        #[pin]
        state: State<F>,
        mode: PhantomData<fn() -> M>,
    }

    impl<F, M> PinnedDrop for ResponseFuture<F, M> {
        fn drop(this: Pin<&mut Self>) {
            if let StateProj::Live { guard, .. } = this.project().state.project() {
                guard.note_unfinished();
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Live {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: F,
            guard: Entry,
        },
        Done,
    }
}

// ===== impl RequestTrackingLayer =====

impl RequestTrackingLayer {
    /// Creates a layer for HTTP services, which counts each request until its response body ends.
    pub fn new(ctl: ShutdownController) -> Self {
        Self {
            ctl,
            handle: Arc::default(),
            mode: PhantomData,
        }
    }

    /// Converts this into a layer for any tower service.
    ///
    /// Requests are then counted until the response future completes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    /// use tower_lifecycle::{RequestTrackingLayer, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let mut jobs = ServiceBuilder::new()
    ///     .layer(RequestTrackingLayer::new(ctl.clone()).until_response())
    ///     .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }));
    ///
    /// let job = jobs.ready().await.unwrap().call(1);
    /// assert_eq!(ctl.in_flight(), 1); // from the call on
    ///
    /// assert_eq!(job.await.unwrap(), 2);
    /// assert_eq!(ctl.in_flight(), 0);
    /// # }
    /// ```
    pub fn until_response(self) -> RequestTrackingLayer<AnyService> {
        RequestTrackingLayer {
            ctl: self.ctl,
            handle: self.handle,
            mode: PhantomData,
        }
    }
}

impl<S, M> Layer<S> for RequestTrackingLayer<M> {
    type Service = RequestTracking<S, M>;

    fn layer(&self, inner: S) -> RequestTracking<S, M> {
        let core = self.ctl.core();
        let new = || LayerHandle::new(&core.gate, &core.layers, ());
        RequestTracking {
            inner,
            handle: self.handle.get_or_init(new).clone(),
            mode: PhantomData,
        }
    }
}

impl<M> Clone for RequestTrackingLayer<M> {
    fn clone(&self) -> Self {
        Self {
            ctl: self.ctl.clone(),
            handle: Arc::clone(&self.handle),
            mode: PhantomData,
        }
    }
}

impl<M> fmt::Debug for RequestTrackingLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTrackingLayer")
            .finish_non_exhaustive()
    }
}

// ===== impl RequestTracking =====

impl<S, M> RequestTracking<S, M> {
    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes the service and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Req, B> Service<Req> for RequestTracking<S, Http>
where
    S: Service<Req, Response = Response<B>>,
    B: Body,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Http>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let guard = Entry::track_request(self.handle.shard);
        ResponseFuture::new(self.inner.call(request), guard)
    }
}

impl<S: Service<Req>, Req> Service<Req> for RequestTracking<S, AnyService> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, AnyService>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let guard = Entry::track_request(self.handle.shard);
        ResponseFuture::new(self.inner.call(request), guard)
    }
}

impl<S: Clone, M> Clone for RequestTracking<S, M> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handle: self.handle.clone(),
            mode: PhantomData,
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for RequestTracking<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTracking")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

// ===== impl ResponseFuture =====

impl<F, M> ResponseFuture<F, M> {
    #[inline]
    fn new(inner: F, guard: Entry) -> Self {
        Self {
            state: State::Live { inner, guard },
            mode: PhantomData,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, Http>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let StateProj::Live { inner, guard } = state.as_mut().project() else {
            panic!("{POLLED_AFTER_COMPLETION}")
        };
        // Declared first, so that it is dropped last if dropping the inner future panics.
        let taken;
        let polled = inner.poll(cx);
        if polled.is_pending() {
            return Poll::Pending;
        }
        taken = guard.take();
        state.set(State::Done);
        polled.map_ok(|response| {
            response.map(|body| {
                let guard = if body.is_end_stream() {
                    // Servers drop such a body without polling it.
                    taken.whole()
                } else {
                    taken
                };
                TrackedBody::new(body, guard)
            })
        })
    }
}

impl<F: Future> Future for ResponseFuture<F, AnyService> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut state = self.project().state;
        let StateProj::Live { inner, .. } = state.as_mut().project() else {
            panic!("{POLLED_AFTER_COMPLETION}")
        };
        let output = ready!(inner.poll(cx));
        state.set(State::Done);
        Poll::Ready(output)
    }
}

impl<F, M> fmt::Debug for ResponseFuture<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("done", &matches!(self.state, State::Done))
            .finish_non_exhaustive()
    }
}
