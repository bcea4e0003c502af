//! The layer that admits, counts, refuses and cuts requests.
//!
//! `call` admits and counts a request in one operation. A request that arrives while draining, and is
//! neither late nor exempt, is refused without a call to the inner service. An admitted request is in
//! flight until its response body ends. If force comes before that, the request is cut.

mod any;
mod entrance;
mod special;
mod unread;

pub use self::any::AnyResponseFuture;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::entrance::{Entrance, Late};
use self::unread::Refused;
use super::body::ResponseBody;
use super::cold_box::ColdBox;
use super::cut_event::drop_and_tell;
use super::facts::Facts;
use super::long_lived::LongLived;
use super::mode::{AnyService, Http};
use super::options::{DrainHandle, LayerOptions, Options};
use super::reject;
use crate::controller::ShutdownController;
use crate::error::POLLED_AFTER_COMPLETION;
use crate::in_flight::{Entry, Held, InFlightStage, LayerHandle, Remembered};
use crate::sync::{Arc, OnceLock};

/// A layer that drains a service on shutdown. It is the one line that an application adds:
///
/// ```text
/// .layer(DrainLayer::new(ctl.clone()))
/// ```
///
/// Around an HTTP service, each request is counted until its response body ends. Requests that arrive
/// while draining are served for [`late_for`](crate::ShutdownConfig::late_for). After that, they get a
/// 503 with `Retry-After`, or a gRPC status. From the lame duck on, HTTP/1 responses carry
/// `Connection: close`. On force, an admitted request without a response gets a 503 without
/// `Retry-After`, or a gRPC status. A response body that has not ended by then ends with an error; a
/// gRPC stream over HTTP/2 ends with status 14 `UNAVAILABLE` in its trailers instead. Responses that
/// the layer creates itself carry a [`Rejection`](crate::layers::Rejection) in their extensions.
///
/// A request that waits for the inner service to become ready is in flight from the trigger on. It is
/// served if the service becomes ready before the drain deadline. It is counted from the first
/// `poll_ready` after the trigger until `poll_ready` is ready, or the service is dropped. A service that
/// is ready, and is never called, does not delay the shutdown.
///
/// The body of a refused request is read and discarded before the response is sent. Without that, the
/// server would close the HTTP/1 connection while the client sends, which resets it, and the client
/// may lose the response (RFC 9112 §9.6). The response is sent at the end of the body, after 64 MiB,
/// after 5 seconds, after a second in which less than 1 KiB arrived, or at force, whichever is first.
/// Over HTTP/2, the body is read only if its length is known, and not for gRPC. A client that sends
/// `Expect: 100-continue` gets the response at once. A refused request is not in flight while its body
/// is read. Without a tokio timer, only what has already arrived is read.
///
/// Streams that never end by themselves are ended when draining begins, cleanly and not all at once.
/// These are server-sent events, and the classes that [`long_lived`](DrainLayer::long_lived) adds. A
/// request that takes over its connection, such as a WebSocket, carries an [`UpgradeGuard`] in its
/// extensions. The connection is counted for as long as a clone of the guard is held, even after HTTP
/// is done with it.
///
/// [`UpgradeGuard`]: crate::UpgradeGuard
///
/// Put one `DrainLayer` on each path of a request. A refusal that is created outside `CorsLayer` is
/// opaque to browsers, so put `CorsLayer` around the `DrainLayer`.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()));
/// let get = || app.clone().oneshot(Request::new(Body::empty()));
///
/// ctl.trigger(ShutdownReason::Manual);
/// let late = get().await.unwrap();
/// assert_eq!(late.status(), 200);
/// assert_eq!(late.headers()["connection"], "close");
///
/// ctl.force();
/// let refused = get().await.unwrap();
/// assert_eq!(refused.status(), 503);
/// assert_eq!(refused.headers()["retry-after"], "1");
/// # }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct DrainLayer<M = Http> {
    ctl: ShutdownController,
    options: Arc<Options>,
    /// Created for the first service, and shared by all services: axum creates one for each route of
    /// each connection.
    handle: Arc<OnceLock<DrainHandle>>,
    mode: PhantomData<fn() -> M>,
}

/// A service that drains on shutdown, created by [`DrainLayer`].
///
/// Callers must call `poll_ready` before `call`, as tower requires. A call without it is refused, and
/// a warning is logged. While requests are refused, the service is ready at once, since a refusal does
/// not need the inner service.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::Layer;
/// use tower_lifecycle::layers::Drain;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// let ctl = ShutdownController::new();
/// let routes = Router::new().route("/", get(|| async { "hello" }));
/// let app: Drain<Router> = DrainLayer::new(ctl.clone()).layer(routes);
/// assert!(app.get_ref().has_routes());
/// ```
pub struct Drain<S, M = Http> {
    inner: S,
    entrance: Entrance,
    mode: PhantomData<fn() -> M>,
}

pin_project! {
    /// The response future of [`Drain`] around an HTTP service.
    ///
    /// `F` is the future of the inner service. `B` is the body of the request, which is read if the
    /// request is refused.
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it has completed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        /// The request was admitted.
        Admitted {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: F,
            guard: Held,
            // The waker that is registered with the guard. In a request that asks for an upgrade, the
            // number of the offer.
            remembered: Remembered,
        },
        // The request was refused, or the future has completed (`none`).
        Over { refused: ColdBox<Box<Refused<B>>> },
    }
}

// ===== impl DrainLayer =====

impl DrainLayer {
    /// Creates a layer for HTTP services.
    ///
    /// See [`reject_with_error`](DrainLayer::reject_with_error) for other services.
    pub fn new(ctl: ShutdownController) -> Self {
        let options = Options::new(ctl.core());
        Self {
            ctl,
            options: Arc::new(options),
            handle: Arc::default(),
            mode: PhantomData,
        }
    }

    /// Returns the options. Changes apply to services that are created from now on.
    fn options(&mut self) -> &mut Options {
        self.handle = Arc::default();
        Arc::make_mut(&mut self.options)
    }

    /// Sets the `Retry-After` of refused requests (RFC 9110 §10.2.3).
    ///
    /// The time is rounded up to whole seconds. The default is the value of the
    /// [configuration](crate::ShutdownConfig::retry_after).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{DrainLayer, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let layer = DrainLayer::new(ctl.clone()).retry_after(Duration::from_millis(4_500));
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
    ///
    /// ctl.force();
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    /// assert_eq!(response.headers()["retry-after"], "5");
    /// # }
    /// ```
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.options().set_retry_after(time);
        self
    }

    /// Adds paths that are also served while draining. They are then not counted, and never cut.
    ///
    /// A path must equal `uri().path()`; inside axum's `nest` that is the part after the prefix. Only
    /// requests that would be refused are exempt: before draining, such a request is admitted, counted
    /// and cut like any other. An exempt request is still refused if the inner service is not ready.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/metrics"]);
    /// let app: Router = Router::new()
    ///     .route("/metrics", get(|| async { "up 1" }))
    ///     .layer(layer);
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// let probe = Request::get("/metrics").body(Body::empty()).unwrap();
    /// assert_eq!(app.oneshot(probe).await.unwrap().status(), 200);
    /// # }
    /// ```
    pub fn exempt_paths(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options().exempt(paths);
        self
    }

    /// Sets the response to refused requests, in place of the default one, also for gRPC.
    ///
    /// `Connection: close` is still added over HTTP/1, and the response to a HEAD request has no body.
    /// No `Retry-After` is added. Requests that are cut still get the default response.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, routing::get};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::BodyExt;
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{DrainLayer, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let layer = DrainLayer::new(ctl.clone()).refuse_with(|request| {
    ///     let text = format!("{}: later", request.uri);
    ///     Response::builder().status(503).body(Bytes::from(text)).unwrap()
    /// });
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
    ///
    /// ctl.force();
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    /// let body = response.into_body().collect().await.unwrap();
    /// assert_eq!(body.to_bytes(), "/: later");
    /// # }
    /// ```
    pub fn refuse_with<F>(mut self, refuse: F) -> Self
    where
        F: Fn(&request::Parts) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.options().set_refuse_with(Arc::new(refuse));
        self
    }

    /// Adds a class of responses that are ended when draining begins.
    ///
    /// It replaces a class with the same content type or the same path. A new layer has a class for
    /// `text/event-stream`. Responses whose length is known, or that have a `Content-Length`, belong
    /// to no class.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use axum::{Router, body::Body, http::Request, response::sse::{Event, Sse}, routing::get};
    /// use futures_util::stream;
    /// use http_body_util::BodyExt;
    /// use tower::ServiceExt;
    /// use tower_lifecycle::{DrainLayer, LongLived, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let ctl = ShutdownController::new();
    /// let layer = DrainLayer::new(ctl.clone())
    ///     .long_lived(LongLived::content_type("text/event-stream").rate(1_000))
    ///     .long_lived(LongLived::path("/grpc.health.v1.Health/Watch"));
    /// let tick = || Ok::<_, Infallible>(Event::default().data("tick"));
    /// let ticks = move || async move { Sse::new(stream::repeat_with(tick)) };
    /// let app: Router = Router::new().route("/ticks", get(ticks)).layer(layer);
    ///
    /// let request = Request::get("/ticks").body(Body::empty()).unwrap();
    /// let body = app.oneshot(request).await.unwrap().into_body();
    /// ctl.trigger(ShutdownReason::Manual);
    /// let events = body.collect().await.unwrap(); // ends now
    /// assert!(events.to_bytes().is_empty());
    /// # }
    /// ```
    pub fn long_lived(mut self, class: LongLived) -> Self {
        self.options().add_long_lived(class);
        self
    }

    /// Removes all classes of long-lived responses, so that draining does not end any stream.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{DrainLayer, LongLived, ShutdownController};
    ///
    /// // Ends only the responses to `/watch`, not event streams.
    /// let layer = DrainLayer::new(ShutdownController::new())
    ///     .no_long_lived()
    ///     .long_lived(LongLived::path("/watch"));
    /// assert!(!format!("{layer:?}").contains("text/event-stream"));
    /// ```
    pub fn no_long_lived(mut self) -> Self {
        self.options().clear_long_lived();
        self
    }

    /// Converts this into a layer for any tower service, HTTP or not.
    ///
    /// Requests are refused with the error [`ShuttingDown`](crate::error::ShuttingDown), cut with
    /// [`Forced`](crate::error::Forced), and counted until the response future completes. The settings
    /// for HTTP do not apply, and are dropped.
    ///
    /// A refused request is dropped. Keep a copy, or an id, if it must be delivered again.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    /// use tower_lifecycle::error::ShuttingDown;
    /// use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let mut jobs = ServiceBuilder::new()
    ///     .layer(DrainLayer::new(ctl.clone()).reject_with_error())
    ///     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
    ///
    /// assert_eq!(jobs.ready().await.unwrap().call(1).await.unwrap(), 2);
    ///
    /// ctl.trigger(ShutdownReason::Manual);
    /// let error = jobs.ready().await.unwrap().call(1).await.unwrap_err();
    /// assert!(error.is::<ShuttingDown>());
    /// # }
    /// ```
    pub fn reject_with_error(self) -> DrainLayer<AnyService> {
        DrainLayer {
            ctl: self.ctl,
            // A request of unknown type has no path, and an error has no headers.
            options: Arc::new(Options::none()),
            handle: Arc::default(),
            mode: PhantomData,
        }
    }
}

impl<S, M> Layer<S> for DrainLayer<M> {
    type Service = Drain<S, M>;

    fn layer(&self, inner: S) -> Drain<S, M> {
        let new = || {
            let core = self.ctl.core();
            LayerHandle::new(&core.gate, &core.layers, LayerOptions::new(&self.options))
        };
        let handle = self.handle.get_or_init(new);
        Drain {
            inner,
            entrance: Entrance::new(handle.clone()),
            mode: PhantomData,
        }
    }
}

impl<M> Clone for DrainLayer<M> {
    fn clone(&self) -> Self {
        Self {
            ctl: self.ctl.clone(),
            options: Arc::clone(&self.options),
            handle: Arc::clone(&self.handle),
            mode: PhantomData,
        }
    }
}

impl<M> fmt::Debug for DrainLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

// ===== impl Drain =====

impl<S, M> Drain<S, M> {
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

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Drain<S, Http>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ReqBody>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let inner = &mut self.inner;
        self.entrance
            .poll_ready(cx, Late::Served, |cx| inner.poll_ready(cx))
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let facts = self.entrance.handle.layer.facts_of(&request);
        let is_exempt = |options: &Options| options.is_exempt(request.uri().path());
        let entered = match self.entrance.admit(is_exempt) {
            Ok(guard) => Some(facts.note(guard)),
            Err(refusal) => {
                (self.entrance).admit_late_or_exempt(refusal, facts, request.uri().path())
            }
        };
        let Some(mut guard) = entered else {
            return special::refuse(&self.entrance.handle, request);
        };
        let mut remembered = Remembered::NONE;
        if facts.need_preparation() {
            let handle = &self.entrance.handle;
            if facts.have_paths() {
                guard = special::note_classes(handle, guard, request.uri().path());
            }
            if facts.asks_to_upgrade() {
                // Taken out of the request: if the address of the request itself escapes, the compiler
                // moves the request once more.
                let mut extensions = mem::take(request.extensions_mut());
                remembered = special::offer_upgrade(handle, &mut extensions);
                *request.extensions_mut() = extensions;
            }
        }
        // The guard exists before the call, so that a panic in the call releases it.
        ResponseFuture::admitted(self.inner.call(request), guard, remembered)
    }
}

impl<S: Clone, M> Clone for Drain<S, M> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            entrance: self.entrance.clone(),
            mode: PhantomData,
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for Drain<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("inner", &self.inner)
            .field("options", &self.entrance.handle.layer.options)
            .finish_non_exhaustive()
    }
}

// ===== impl ResponseFuture =====

impl<F, ReqBody, ResBody, E> Future for ResponseFuture<F, ReqBody>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ReqBody: Body,
    ResBody: Body,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        // Both ways to a response leave a state that the compiler knows to be done. The next drop of this
        // future then does nothing, so the caller need not keep the response in memory in case it panics.
        let rare = 'rare: {
            let StateProj::Admitted {
                inner,
                guard,
                remembered,
            } = state.as_mut().project()
            else {
                if state.as_mut().poll_refused(cx).is_pending() {
                    return Poll::Pending;
                }
                break 'rare Poll::Ready(Ok(state.as_mut().answer()));
            };
            // Checked before every poll of the inner future: a future that wakes itself may be polled
            // before the wake-up for force arrives.
            if guard.is_forced() {
                break 'rare Poll::Ready(Ok(state.as_mut().answer()));
            }
            // Declared first, so that it is dropped last if dropping the inner future panics.
            let taken;
            // Inspected in place, so that the response is moved only once.
            let polled = inner.poll(cx);
            if polled.is_pending() {
                let forced = if Facts::noted(guard).asks_to_upgrade() {
                    guard.poll_forced(cx)
                } else {
                    guard.poll_forced_again(cx, remembered)
                };
                if forced.is_pending() {
                    return Poll::Pending;
                }
                break 'rare Poll::Ready(Ok(state.as_mut().answer()));
            }
            if let Poll::Ready(Ok(response)) = &polled {
                if !special::is_ordinary(response, guard) {
                    break 'rare state.as_mut().adapted(polled);
                }
            }
            taken = guard.take();
            state.set(State::done());
            return polled.map_ok(|response| response.map(|body| ResponseBody::new(body, taken)));
        };
        state.set(State::done());
        rare
    }
}

impl<F, B> ResponseFuture<F, B> {
    #[inline]
    fn admitted(inner: F, guard: Entry, remembered: Remembered) -> Self {
        Self {
            state: State::Admitted {
                inner,
                guard: Held::new(guard),
                remembered,
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn refused(refused: Refused<B>) -> Self {
        let refused = ColdBox::of(Box::new(refused));
        Self {
            state: State::Over { refused },
        }
    }
}

impl<F, ReqBody> State<F, ReqBody> {
    /// Returns the state of a future that has completed or was cut.
    ///
    /// Not a constant: the compiler would copy the whole state.
    #[inline]
    fn done() -> Self {
        Self::Over {
            refused: ColdBox::none(),
        }
    }

    /// Completes with a response that is not passed on unchanged.
    #[cold]
    #[inline(never)]
    fn adapted<B: Body, E>(
        mut self: Pin<&mut Self>,
        polled: Poll<Result<Response<B>, E>>,
    ) -> Poll<Result<Response<ResponseBody<B>>, E>> {
        let StateProj::Admitted {
            guard, remembered, ..
        } = self.as_mut().project()
        else {
            unreachable!("it has just been polled")
        };
        let (mut guard, remembered) = (guard.take(), *remembered);
        let mut polled = polled; // declared after the guard, so dropped before it
        self.set(State::done());
        let lasting = match &mut polled {
            Poll::Ready(Ok(response)) => special::adapt(response, &mut guard, remembered),
            _ => None,
        };
        polled.map_ok(|response| {
            response.map(|body| match lasting {
                None => ResponseBody::new(body, guard),
                Some(lasting) => ResponseBody::lasting(body, guard, lasting),
            })
        })
    }

    /// Ready when the response to a refused request may be sent.
    #[cold]
    #[inline(never)]
    fn poll_refused(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>
    where
        ReqBody: Body,
    {
        match self.project() {
            StateProj::Over { refused } => match refused.as_mut() {
                Some(refused) => refused.poll_ready(cx),
                None => Poll::Ready(()),
            },
            StateProj::Admitted { .. } => Poll::Ready(()),
        }
    }

    /// Returns the response to a request that was refused, or that is cut because force has come.
    #[cold]
    #[inline(never)]
    fn answer<B>(mut self: Pin<&mut Self>) -> Response<ResponseBody<B>> {
        match self.as_mut().project() {
            StateProj::Admitted { guard, .. } => {
                let facts = Facts::noted(guard);
                // The drop notes that the request was cut.
                drop_and_tell(InFlightStage::Handler, || self.set(State::done()));
                reject::cut(facts).map(ResponseBody::refusal)
            }
            StateProj::Over { refused } => match refused.take() {
                Some(refused) => refused.response.map(ResponseBody::refusal),
                None => panic!("{POLLED_AFTER_COMPLETION}"),
            },
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Admitted { guard, .. } if !guard.is_counted() => "exempt",
            State::Admitted { .. } => "admitted",
            State::Over { refused } if refused.as_ref().is_none() => "done",
            State::Over { .. } => "refused",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}
