//! Wraps the application for one connection, and tracks each response to its last byte.

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::activity::{Activity, Closing, UnderWay};
use crate::error::BoxError;
use crate::layers::{AskedToLeave, Rejection, UpgradeGuard};
use crate::sync::Arc;

/// The requirements on a server's application. Implemented for every service that meets them, such as an
/// axum `Router`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served: it is not a cloneable HTTP service",
    label = "not an application for `serve`",
    note = "a `Router<T>` needs its state first: `router.with_state(state)`",
    note = "any other service has to be a `tower::Service<http::Request<hyper::body::Incoming>>` with \
            `http::Response<B>` as its response, where `B: http_body::Body + Send + 'static`; it has to \
            be `Clone + Send + 'static`, and its future `Send`"
)]
pub trait App:
    Service<Request<Incoming>, Response = Response<Self::Body>, Future: Send, Error: Into<BoxError>>
    + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

/// The application as a hyper service.
pub(super) struct Answers<S> {
    pub(super) app: S,
    pub(super) activity: Arc<Activity>,
    /// Added to the extensions of every request.
    pub(super) extensions: Extensions,
}

pin_project! {
    /// The future of a request, until the head of its response.
    pub(super) struct Answering<S, F> {
        #[pin]
        step: Step<S, F>,
        under_way: UnderWay,
        is_http1: bool,
        is_http1_0: bool,
        is_connect: bool,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F> {
        /// Waits until the service is ready.
        Asking { service: S, request: Option<Request<Incoming>> },
        Called { #[pin] future: F },
    }
}

pin_project! {
    /// The body of a response. It is under way until its last byte has been written to the socket.
    pub(super) struct AnswerBody<B> {
        #[pin]
        inner: B,
        under_way: UnderWay,
    }
}

/// Bytes of a response. hyper drops them when it has written them, or copied them into its buffer.
pub(super) struct AnswerData<D> {
    inner: D,
    under_way: UnderWay,
}

// ===== impl App =====

#[diagnostic::do_not_recommend]
impl<S, B> App for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Future: Send, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

// ===== impl Answers =====

impl<S, B> hyper::service::Service<Request<Incoming>> for Answers<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = Answering<S, S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        let is_http1 = request.version() < Version::HTTP_2;
        let is_http1_0 = request.version() < Version::HTTP_11;
        if !self.extensions.is_empty() {
            request.extensions_mut().extend(self.extensions.clone());
        }
        Answering {
            under_way: self.activity.begin(is_http1, has_body),
            is_http1,
            is_http1_0,
            is_connect: *request.method() == Method::CONNECT,
            step: Step::Asking {
                service: self.app.clone(),
                request: Some(request),
            },
        }
    }
}

// ===== impl Answering =====

impl<S, B> Future for Answering<S, S::Future>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    B: Body,
{
    type Output = Result<Response<AnswerBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = loop {
            match this.step.as_mut().project() {
                StepProj::Asking { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else {
                        unreachable!("the step changes with the call")
                    };
                    let future = service.call(request);
                    this.step.set(Step::Called { future });
                }
                StepProj::Called { future } => break ready!(future.poll(cx))?,
            }
        };
        let (mut head, body) = response.into_parts();
        if !head.extensions.is_empty() && head.extensions.get::<Rejection>().is_some() {
            this.under_way.note_refused();
        }
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS
            || (*this.is_connect && head.status.is_success());
        if is_tunnel && *this.is_http1 {
            let upgrade = head.extensions.remove::<UpgradeGuard>();
            this.under_way.become_tunnel(upgrade);
        } else if *this.is_http1 {
            set_connection_header(this.under_way.closing(), &mut head);
        }
        if *this.is_http1_0 && !has_length(&head, &body) {
            this.under_way.note_ends_with_connection();
        }
        let body = AnswerBody {
            inner: body,
            under_way: this.under_way.clone(),
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

/// Adds `Connection: close` (RFC 9112 §9.6) if the connection has to close, and removes it before that:
/// a layer adds it to all responses as soon as the lame duck begins.
fn set_connection_header(closing: Closing, head: &mut response::Parts) {
    match closing {
        Closing::None => {}
        Closing::NotYet => {
            if head.extensions.remove::<AskedToLeave>().is_some() {
                head.headers.remove(CONNECTION);
            }
        }
        Closing::Now => {
            let close = HeaderValue::from_static("close");
            head.headers.insert(CONNECTION, close);
        }
    }
}

/// Returns whether hyper sends the length of the body. Otherwise it chunks it, which HTTP/1.0 does not know.
fn has_length<B: Body>(head: &response::Parts, body: &B) -> bool {
    body.size_hint().exact().is_some() || head.headers.contains_key(CONTENT_LENGTH)
}

impl<S, F> fmt::Debug for Answering<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

// ===== impl AnswerBody =====

impl<B: Body> Body for AnswerBody<B> {
    type Data = AnswerData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|data| AnswerData {
                    inner: data,
                    under_way: this.under_way.clone(),
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// ===== impl AnswerData =====

impl<D: Buf> Buf for AnswerData<D> {
    fn remaining(&self) -> usize {
        self.inner.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.under_way.note_read();
        self.inner.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.under_way.note_read();
        self.inner.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.inner.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.under_way.note_read();
        self.inner.copy_to_bytes(count)
    }
}
