//! The application as one connection sees it: each answer is followed to its last byte.

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::activity::{Activity, Parting, UnderWay};
use crate::error::BoxError;
use crate::layers::{AskedToLeave, Rejection, UpgradeGuard};
use crate::sync::Arc;

/// What a server needs its application to be: it is implemented by whatever is that, an axum
/// `Router` for example.
pub trait App:
    Service<Request<Incoming>, Response = Response<Self::Body>, Future: Send, Error: Into<BoxError>>
    + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

/// The application as a service of hyper's.
pub(super) struct Answers<S> {
    pub(super) app: S,
    pub(super) activity: Arc<Activity>,
    /// What every request is given.
    pub(super) extensions: Extensions,
}

pin_project! {
    /// One request in the application, until there is the head of an answer.
    pub(super) struct Answering<S, F> {
        #[pin]
        step: Step<S, F>,
        under_way: UnderWay,
        is_http1: bool,
        is_connect: bool,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F> {
        /// The service is asked whether it is ready.
        Asking { service: S, request: Option<Request<Incoming>> },
        Called { #[pin] future: F },
    }
}

pin_project! {
    /// The body of an answer, under way until its last byte has left for the socket.
    pub(super) struct AnswerBody<B> {
        #[pin]
        inner: B,
        under_way: UnderWay,
    }
}

/// Bytes of an answer. hyper drops them when they have been written, or copied into its buffer.
pub(super) struct AnswerData<D> {
    inner: D,
    under_way: UnderWay,
}

// ===== impl App =====

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
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = Answering<S, S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        let is_http1 = request.version() < Version::HTTP_2;
        if !self.extensions.is_empty() {
            request.extensions_mut().extend(self.extensions.clone());
        }
        Answering {
            under_way: self.activity.begin(is_http1, has_body),
            is_http1,
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
            this.under_way.disown();
        }
        let tunnels = head.status == StatusCode::SWITCHING_PROTOCOLS
            || (*this.is_connect && head.status.is_success());
        if tunnels && *this.is_http1 {
            let upgrade = head.extensions.remove::<UpgradeGuard>();
            this.under_way.become_tunnel(upgrade);
        } else if *this.is_http1 {
            part(this.under_way.parting(), &mut head);
        }
        let body = AnswerBody {
            inner: body,
            under_way: this.under_way.clone(),
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

/// Says that the connection is to be closed when its moment has come (RFC 9112 §9.6), and not
/// before: a layer says it to everybody as soon as the lame duck begins.
fn part(parting: Parting, head: &mut response::Parts) {
    match parting {
        Parting::None => {}
        Parting::NotYet => {
            if head.extensions.remove::<AskedToLeave>().is_some() {
                head.headers.remove(CONNECTION);
            }
        }
        Parting::Now => {
            let close = HeaderValue::from_static("close");
            head.headers.insert(CONNECTION, close);
        }
    }
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
        self.under_way.note_look();
        self.inner.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.under_way.note_look();
        self.inner.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.inner.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.under_way.note_look();
        self.inner.copy_to_bytes(count)
    }
}
