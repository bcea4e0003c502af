//! The layer that names requests, so that one can see which of them a shutdown waits for.

mod body;
mod named;

pub use self::body::NamedBody;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONTENT_TYPE, HeaderMap};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::named::{Named, Names, NamesHandle};
use crate::controller::ShutdownController;
use crate::in_flight::{LayerHandle, Listed};
use crate::sync::{Arc, OnceLock};

/// A layer that lists requests by name while they wait.
///
/// [`ShutdownController::in_flight_now`] returns the list. The log names the oldest requests while draining,
/// and each request that is cut, with its age. The [report](crate::ShutdownReport::aborted_work) names those
/// that were cut or abandoned.
///
/// A name is the method and the path, without the query, unless [`name`](Self::name) makes another one.
/// Names are shown at most 200 characters long, and characters that would break or reverse the line, such as
/// control characters, are escaped.
///
/// Put it inside the [`DrainLayer`](crate::DrainLayer), which means before it in axum's order, so that it
/// sees when a request is cut. It neither counts nor refuses anything itself.
///
/// A request is listed from its first `Pending` on. Its body is listed from the first `Pending` or, if more
/// frames follow, from the first frame on, so a client that reads slowly is seen. The age counts from there,
/// so that no clock is read before. A request that ends in its first poll, with at most one frame, is never
/// listed, and pays only for a copy of what its name would be made of.
///
/// A request that waits until the service is ready is listed too, but has no name yet. An upgraded
/// connection is listed under the name of its request, until the last clone of its
/// [`UpgradeGuard`](crate::UpgradeGuard) is dropped, if the `DrainLayer` is around this layer.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use http_body_util::Empty;
/// use tokio::time::{Duration, sleep};
/// use tower::ServiceExt;
/// use tower_lifecycle::controller::InFlightStage;
/// use tower_lifecycle::layers::RequestNamesLayer;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let ctl = ShutdownController::new();
/// let app = Router::new()
///     .route("/slow", get(|| sleep(Duration::from_secs(10))))
///     .layer(RequestNamesLayer::new(ctl.clone()))
///     .layer(DrainLayer::new(ctl.clone()));
///
/// let request = http::Request::get("/slow?key=secret").body(Empty::<bytes::Bytes>::new());
/// tokio::spawn(app.oneshot(request.unwrap()));
/// sleep(Duration::from_secs(3)).await;
///
/// let now = ctl.in_flight_now();
/// assert_eq!(&*now.items[0].name, "GET /slow");
/// assert_eq!(now.items[0].stage, InFlightStage::Handler);
/// assert_eq!(now.items[0].age.as_secs(), 3);
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct RequestNamesLayer {
    ctl: ShutdownController,
    names: Names,
    /// Created for the first service, and shared by all services.
    handle: Arc<OnceLock<NamesHandle>>,
}

/// A service that names its requests, created by [`RequestNamesLayer`].
pub struct RequestNames<S> {
    inner: S,
    handle: NamesHandle,
    /// The request that waits until the inner service is ready.
    waiting: Option<Listed>,
}

pin_project! {
    /// The response future of [`RequestNames`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // Declared first, so that it is dropped before the name.
        #[pin]
        inner: F,
        named: Named,
    }
}

// ===== impl RequestNamesLayer =====

impl RequestNamesLayer {
    /// Creates a layer that names each request by its method and path.
    pub fn new(ctl: ShutdownController) -> Self {
        let roster = Arc::downgrade(&ctl.core().roster);
        Self {
            ctl,
            names: Names { roster, name: None },
            handle: Arc::default(),
        }
    }

    /// Sets how a request is named, such as by its matched route or a request ID.
    ///
    /// `name` is called for each request. Whatever it returns is logged and shown, so it must not contain a
    /// secret.
    ///
    /// # Examples
    ///
    /// With axum's matched route, if the layer is added by `Router::route_layer` or `Router::layer`:
    ///
    /// ```
    /// use axum::extract::MatchedPath;
    /// use tower_lifecycle::ShutdownController;
    /// use tower_lifecycle::layers::RequestNamesLayer;
    ///
    /// # let ctl = ShutdownController::new();
    /// let layer = RequestNamesLayer::new(ctl).name(|request| {
    ///     let route = request.extensions.get::<MatchedPath>();
    ///     format!("{} {}", request.method, route.map_or("?", MatchedPath::as_str))
    /// });
    /// # let _ = layer;
    /// ```
    pub fn name<F>(mut self, name: F) -> Self
    where
        F: Fn(&Parts) -> String + Send + Sync + 'static,
    {
        self.names.name = Some(Arc::new(name));
        // Services that exist keep their names.
        self.handle = Arc::default();
        self
    }
}

impl<S> Layer<S> for RequestNamesLayer {
    type Service = RequestNames<S>;

    fn layer(&self, inner: S) -> RequestNames<S> {
        let core = self.ctl.core();
        let new = || LayerHandle::new(&core.gate, &core.layers, self.names.clone());
        RequestNames {
            inner,
            handle: self.handle.get_or_init(new).clone(),
            waiting: None,
        }
    }
}

impl fmt::Debug for RequestNamesLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestNamesLayer").finish_non_exhaustive()
    }
}

// ===== impl RequestNames =====

impl<S> RequestNames<S> {
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

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequestNames<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<NamedBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let polled = self.inner.poll_ready(cx);
        match (&polled, &self.waiting) {
            (Poll::Pending, None) => self.waiting = self.handle.layer.list_unknown(),
            (Poll::Ready(_), Some(_)) => self.waiting = None,
            _ => {}
        }
        polled
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let names = &self.handle.layer;
        let path = request.uri().path();
        if path.is_empty() || names.name.is_some() {
            return self.call_unusual(request);
        }
        let named = Named::of(names, request.method(), path, request.extensions());
        ResponseFuture {
            inner: self.inner.call(request),
            named,
        }
    }
}

impl<S> RequestNames<S> {
    /// Passes on a request that is not named by its path.
    #[cold]
    #[inline(never)]
    fn call_unusual<B>(&mut self, request: Request<B>) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>>,
    {
        let (parts, body) = request.into_parts();
        let named = Named::of_unusual(&self.handle.layer, &parts);
        ResponseFuture {
            inner: self.inner.call(Request::from_parts(parts, body)),
            named,
        }
    }
}

impl<S: Clone> Clone for RequestNames<S> {
    /// The clone does not wait.
    #[inline]
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handle: self.handle.clone(),
            waiting: None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RequestNames<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestNames")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

// ===== impl ResponseFuture =====

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<NamedBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let named = this.named;
        // Inspected in place, so that the response is moved only once.
        let polled = this.inner.poll(cx);
        match &polled {
            Poll::Pending => {
                named.wait();
                return Poll::Pending;
            }
            Poll::Ready(Ok(response)) => {
                named.answer(response.status(), is_stream(response));
                // Servers drop such a body without polling it.
                if response.body().is_end_stream() {
                    named.complete();
                }
            }
            Poll::Ready(Err(_)) => named.complete(),
        }
        let named = named.take();
        polled.map_ok(|response| response.map(|body| NamedBody::new(body, named)))
    }
}

/// Returns whether a response's body is an event stream.
#[inline]
fn is_stream<B: Body>(response: &Response<B>) -> bool {
    response.body().size_hint().exact().is_none() && is_event_stream(response.headers())
}

#[cold]
#[inline(never)]
fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    value.is_some_and(|value| {
        let essence = value.split(|&byte| byte == b';').next();
        essence.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    })
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}
