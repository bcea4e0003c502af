//! Requests that may take their connection away from HTTP: counted on beyond the response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{Drain, Kind, KindOwned, KindProj, stream};
use crate::body::ResponseBody;
use crate::mode::Http;
use crate::reject::{Admission, Facts};
use crate::upgrade::{UpgradeGuard, UpgradedHold};

/// What is kept for such a request until it is answered. Apart from the ordinary ones and boxed, so
/// that those are not larger for it.
pub(super) struct Asked {
    pub(super) guard: Admission,
    handle: UpgradeGuard,
}

impl<S> Drain<S, Http> {
    #[cold]
    pub(super) fn call_upgrading<ReqBody>(
        &mut self,
        guard: Admission,
        facts: Facts,
        mut request: Request<ReqBody>,
    ) -> Kind<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let handle = UpgradeGuard::new(&guard.way().shard);
        request.extensions_mut().insert(handle.clone());
        Kind::Upgrading {
            inner: self.inner.call(request),
            asked: Box::new(Asked { guard, handle }),
            facts,
        }
    }
}

impl<F> Kind<F> {
    /// As for any other request, up to the answer.
    #[cold]
    pub(super) fn poll_upgrading<B, E>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<ResponseBody<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        let KindProj::Upgrading {
            inner,
            asked,
            facts,
        } = self.as_mut().project()
        else {
            unreachable!("the caller has seen that it is")
        };
        let facts = *facts;
        if asked.guard.is_forced() {
            return Poll::Ready(Ok(self.cut(facts)));
        }
        match inner.poll(cx) {
            Poll::Ready(Ok(response)) => {
                // The inner future is dropped in place; the guard goes on.
                let KindOwned::Upgrading { asked, .. } = self.project_replace(Kind::Done) else {
                    unreachable!("it has just been polled")
                };
                Poll::Ready(Ok(asked.answer(facts, response)))
            }
            Poll::Ready(Err(error)) => {
                self.set(Kind::Done);
                Poll::Ready(Err(error))
            }
            Poll::Pending => match asked.guard.poll_forced(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(self.cut(facts))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl Asked {
    /// Gives the guard to those who hold the upgrade, if it is one, and else to the body.
    fn answer<B: Body>(self, facts: Facts, response: Response<B>) -> Response<ResponseBody<B>> {
        let Self { guard, handle } = self;
        let (mut head, body) = response.into_parts();
        if facts.is_http1() && guard.is_shedding() {
            facts.ask_to_leave(&mut head);
        }
        let body = if facts.is_upgraded_by(head.status) {
            handle.count(guard);
            // For a server that keeps it until the socket is closed.
            head.extensions.insert(handle.clone());
            ResponseBody::upgraded(body, UpgradedHold::new(handle))
        } else {
            stream(&head.headers, body, guard, facts)
        };
        Response::from_parts(head, body)
    }
}
