//! A layer that answers probes, for applications without a router.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::HealthBody;
use super::service;
use super::service::HealthService;
use crate::controller::ShutdownController;
use crate::error::POLLED_AFTER_COMPLETION;
use crate::sync::Arc;

/// Answers liveness and readiness probes in front of an HTTP service.
///
/// A request whose path is exactly `/livez` or `/readyz` gets the answer of a [`HealthService`],
/// whatever its method. It never reaches the inner service. Every other request is passed on
/// unchanged. If there is a router, a route to a [`HealthService`] does the same at a lower cost.
///
/// Put this layer outside the [`DrainLayer`](crate::DrainLayer), so that a probe is never refused.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use http_body_util::{Empty, Full};
/// use bytes::Bytes;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_lifecycle::health::HealthLayer;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// async fn hello(_: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
///     Ok(Response::new(Full::from("hello")))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let service = ServiceBuilder::new()
///     .layer(HealthLayer::new(ctl.clone()))
///     .layer(DrainLayer::new(ctl.clone()))
///     .service_fn(hello);
///
/// ctl.pause();
/// for (path, status) in [("/livez", 200), ("/readyz", 503), ("/", 503)] {
///     let request = Request::get(path).body(Empty::new()).unwrap();
///     let response = service.clone().oneshot(request).await.unwrap();
///     assert_eq!(response.status(), status);
///     // The `DrainLayer` refused only the request that is not a probe.
///     assert_eq!(response.headers().contains_key("retry-after"), path == "/");
/// }
/// # }
/// ```
///
/// The layer can go around a whole axum `Router`. `axum::serve` needs axum's own body type:
///
/// ```
/// use axum::{Router, body::Body, http::Request, response::Response, routing::get};
/// use tower::{ServiceBuilder, ServiceExt, make::Shared};
/// use tower_lifecycle::health::{HealthBody, HealthLayer};
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let routes = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()));
/// let app = ServiceBuilder::new()
///     .map_response(|response: Response<HealthBody<Body>>| response.map(Body::new))
///     .layer(HealthLayer::new(ctl.clone()))
///     .service(routes);
///
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
/// let server = axum::serve(listener, Shared::new(app.clone()));
/// # drop(server);
/// for path in ["/", "/livez", "/readyz"] {
///     let request = Request::get(path).body(Body::empty()).unwrap();
///     assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 200);
/// }
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct HealthLayer {
    probes: Arc<Probes>,
}

/// A service that answers probes in front of an inner service. Created by [`HealthLayer`].
///
/// This service is always ready, because a probe must be answered even if the inner service is not
/// ready. Otherwise a saturated concurrency limit would fail the liveness probe, and the process
/// would be killed.
///
/// For each other request, the response future clones the inner service, polls it until it is
/// ready, and then calls it. So requests wait in the response future and not in the caller. A limit
/// on the number of requests still holds if the clones share it, as tower's limits do. An error
/// from `poll_ready` of the inner service is returned by the response future.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::Layer;
/// use tower_lifecycle::health::{Health, HealthLayer};
/// use tower_lifecycle::ShutdownController;
///
/// let routes = Router::new().route("/", get(|| async { "hello" }));
/// let app: Health<Router> = HealthLayer::new(ShutdownController::new()).layer(routes);
/// assert!(app.get_ref().has_routes());
/// ```
#[derive(Clone)]
pub struct Health<S> {
    inner: S,
    probes: Arc<Probes>,
}

#[derive(Clone)]
struct Probes {
    liveness: HealthService,
    /// `None` matches no request.
    liveness_path: Option<Box<str>>,
    readiness: HealthService,
    readiness_path: Option<Box<str>>,
}

pin_project! {
    /// The response future of [`Health`].
    ///
    /// # Panics
    ///
    /// Panics if it is polled after it has completed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req>
    where
        S: Service<Req>,
    {
        // Boxed, so that the future of an ordinary request stays small.
        Probe { answer: Box<service::ResponseFuture> },
        Waiting { inner: S, request: Option<Req> },
        Called { #[pin] response: S::Future },
        Done,
    }
}

// ===== impl HealthLayer =====

impl HealthLayer {
    /// Creates a layer that answers `/livez` and `/readyz`.
    ///
    /// See [`From<HealthService>`](#impl-From%3CHealthService%3E-for-HealthLayer) for a layer with
    /// checks.
    pub fn new(ctl: ShutdownController) -> Self {
        Self::from(HealthService::new(ctl))
    }

    /// Sets the path of the liveness probe. Default `/livez`.
    ///
    /// The path must equal `uri().path()` exactly. A slash is added if the path does not begin with
    /// one. An empty path matches nothing and turns the probe off. If both probes have the same path,
    /// liveness is answered: a wrong green answer costs less than a killed process.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request};
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::health::HealthLayer;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let layer = HealthLayer::new(ShutdownController::new()).liveness_path("/alive");
    /// let app = layer.layer(Router::new());
    ///
    /// for (path, status) in [("/alive", 200), ("/livez", 404)] {
    ///     let probe = Request::get(path).body(Body::empty()).unwrap();
    ///     assert_eq!(app.clone().oneshot(probe).await.unwrap().status(), status);
    /// }
    /// # }
    /// ```
    pub fn liveness_path(mut self, path: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.probes).liveness_path = with_slash(path.into());
        self
    }

    /// Sets the path of the readiness probe. Default `/readyz`.
    ///
    /// It is matched like the [liveness path](Self::liveness_path).
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request};
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::health::HealthLayer;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let layer = HealthLayer::new(ShutdownController::new()).readiness_path("/ready");
    /// let app = layer.layer(Router::new());
    ///
    /// for (path, status) in [("/ready", 200), ("/readyz", 404)] {
    ///     let probe = Request::get(path).body(Body::empty()).unwrap();
    ///     assert_eq!(app.clone().oneshot(probe).await.unwrap().status(), status);
    /// }
    /// # }
    /// ```
    pub fn readiness_path(mut self, path: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.probes).readiness_path = with_slash(path.into());
        self
    }
}

/// Creates a layer that answers with the version and the checks of `service`.
///
/// Both probes are derived from `service`. It makes no difference whether `service` is set to
/// [`liveness`](HealthService::liveness).
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, http::Request};
/// use tower::{Layer, ServiceExt};
/// use tower_lifecycle::health::HealthLayer;
/// use tower_lifecycle::{HealthService, ShutdownController};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let health = HealthService::new(ShutdownController::new())
///     .critical_check("db", || async { Err("no connection".into()) });
/// let app = HealthLayer::from(health).layer(Router::new());
///
/// for (path, status) in [("/readyz", 503), ("/livez", 200)] {
///     let probe = Request::get(path).body(Body::empty()).unwrap();
///     assert_eq!(app.clone().oneshot(probe).await.unwrap().status(), status);
/// }
/// # }
/// ```
impl From<HealthService> for HealthLayer {
    fn from(service: HealthService) -> Self {
        Self {
            probes: Arc::new(Probes {
                liveness: service.clone().liveness(),
                liveness_path: Some("/livez".into()),
                readiness: service.readiness(),
                readiness_path: Some("/readyz".into()),
            }),
        }
    }
}

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        Health {
            inner,
            probes: Arc::clone(&self.probes),
        }
    }
}

impl fmt::Debug for HealthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthLayer")
            .field("liveness_path", &self.probes.liveness_path)
            .field("readiness_path", &self.probes.readiness_path)
            .finish_non_exhaustive()
    }
}

fn with_slash(path: String) -> Option<Box<str>> {
    match path.as_bytes().first() {
        Some(b'/') => Some(path.into()),
        Some(_) => Some(format!("/{path}").into()),
        // Not "", which is the path of a CONNECT request.
        None => None,
    }
}

// ===== impl Health =====

impl<S> Health<S> {
    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes `self`, returning the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for Health<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>> + Clone,
{
    type Response = Response<HealthBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, Request<ReqBody>>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let state = match self.probes.at(request.uri().path()) {
            Some(probe) => State::Probe {
                answer: Box::new(probe.answer(&request)),
            },
            None => State::Waiting {
                inner: self.inner.clone(),
                request: Some(request),
            },
        };
        ResponseFuture { state }
    }
}

impl<S: fmt::Debug> fmt::Debug for Health<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Probes {
    #[inline]
    fn at(&self, path: &str) -> Option<&HealthService> {
        if self.liveness_path.as_deref() == Some(path) {
            Some(&self.liveness)
        } else if self.readiness_path.as_deref() == Some(path) {
            Some(&self.readiness)
        } else {
            None
        }
    }
}

// ===== impl ResponseFuture =====

impl<S, Req, B> Future for ResponseFuture<S, Req>
where
    S: Service<Req, Response = Response<B>>,
{
    type Output = Result<Response<HealthBody<B>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            match state.as_mut().project() {
                StateProj::Probe { answer } => {
                    let response = ready!(answer.poll_response(cx));
                    break Ok(response.map(HealthBody::probe));
                }
                StateProj::Waiting { inner, request } => {
                    if let Err(error) = ready!(inner.poll_ready(cx)) {
                        break Err(error);
                    }
                    let request = request.take().expect(POLLED_AFTER_COMPLETION);
                    let response = inner.call(request);
                    state.set(State::Called { response });
                }
                StateProj::Called { response } => {
                    let result = ready!(response.poll(cx));
                    break result.map(|response| response.map(HealthBody::inner));
                }
                StateProj::Done => panic!("{POLLED_AFTER_COMPLETION}"),
            }
        };
        state.set(State::Done);
        Poll::Ready(result)
    }
}

impl<S: Service<Req>, Req> fmt::Debug for ResponseFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Probe { .. } => "probe",
            State::Waiting { .. } => "waiting for the inner service to be ready",
            State::Called { .. } => "called",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
