//! The layer that names requests, so that one can see which of them a shutdown waits for.

mod body;
mod named;

pub use self::body::NamedBody;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::named::{Label, Named, Names};
use crate::controller::ShutdownController;
use crate::in_flight::InFlightStage;
use crate::sync::Arc;

/// A layer that lists requests by name while they wait.
///
/// [`ShutdownController::in_flight_now`] returns the list. The log names the oldest requests while draining,
/// and each request that is cut, with its age. The [report](crate::ShutdownReport::aborted_work) names those
/// that were cut or abandoned.
///
/// A name is the method and the path, without the query, unless [`name`](Self::name) makes another one.
/// Names are shown at most 200 characters long, and control characters are escaped.
///
/// Put it inside the [`DrainLayer`](crate::DrainLayer), which means before it in axum's order, so that it
/// sees when a request is cut. It neither counts nor refuses anything itself.
///
/// A request is listed from its first `Pending` on. Its body is listed from the first `Pending` or, if more
/// frames follow, from the first frame on, so a client that reads slowly is seen. A request that ends in its
/// first poll, with at most one frame, is never listed, and pays only for its name. What is not listed: requests that wait until the service is
/// ready, and upgraded connections, since their response has ended.
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
    names: Arc<Names>,
}

/// A service that names its requests, created by [`RequestNamesLayer`].
#[derive(Clone)]
pub struct RequestNames<S> {
    inner: S,
    names: Arc<Names>,
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
        let names = Names { ctl, name: None };
        Self {
            names: Arc::new(names),
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
    pub fn name<F>(self, name: F) -> Self
    where
        F: Fn(&Parts) -> String + Send + Sync + 'static,
    {
        let names = Names {
            ctl: self.names.ctl.clone(),
            name: Some(Box::new(name)),
        };
        Self {
            names: Arc::new(names),
        }
    }
}

impl<S> Layer<S> for RequestNamesLayer {
    type Service = RequestNames<S>;

    fn layer(&self, inner: S) -> RequestNames<S> {
        RequestNames {
            inner,
            names: Arc::clone(&self.names),
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
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let label = match &self.names.name {
            None => Label::of(&request),
            Some(name) => {
                let (parts, body) = request.into_parts();
                let label = Label::Text(name(&parts));
                request = Request::from_parts(parts, body);
                label
            }
        };
        let named = Named::new(&self.names, label);
        ResponseFuture {
            inner: self.inner.call(request),
            named,
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
        let polled = this.inner.poll(cx);
        if polled.is_pending() {
            this.named.wait(InFlightStage::Handler);
        }
        let result = ready!(polled);
        let named = this.named.take();
        Poll::Ready(match result {
            Ok(response) => Ok(response.map(|body| NamedBody::new(body, named))),
            Err(error) => {
                named.complete();
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}
