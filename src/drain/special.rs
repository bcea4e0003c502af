//! Requests that are not simply admitted: those that may take their connection away from HTTP, those
//! that are exempt, and those that are refused.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::warn;

use super::entrance::Refusal;
use super::{Drain, POLLED_AFTER_COMPLETION, adapt};
use crate::body::ResponseBody;
use crate::error::ShuttingDown;
use crate::mode::Http;
use crate::reject::{Admission, Facts, into_response};
use crate::upgrade::{UpgradeGuard, UpgradedHold};

/// The inner futures are in boxes of their own, so that a refusal needs none of their size.
pub(super) enum Special<F> {
    /// Admitted, and may be upgraded: then it is counted on beyond the response.
    Upgrading {
        // Declared first, so that it is dropped first.
        inner: Pin<Box<F>>,
        guard: Admission,
        handle: UpgradeGuard,
        facts: Facts,
    },
    /// Served, uncounted and uncut.
    Exempt {
        inner: Pin<Box<F>>,
        facts: Facts,
    },
    Refused {
        response: Response<Bytes>,
    },
    Done,
}

// ===== impl Drain =====

impl<S> Drain<S, Http> {
    #[cold]
    pub(super) fn upgrading<ReqBody>(
        &mut self,
        guard: Admission,
        facts: Facts,
        mut request: Request<ReqBody>,
    ) -> Special<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let handle = UpgradeGuard::new(&guard.way().shard);
        request.extensions_mut().insert(handle.clone());
        Special::Upgrading {
            inner: Box::pin(self.inner.call(request)),
            guard,
            handle,
            facts,
        }
    }

    #[cold]
    pub(super) fn not_admitted<ReqBody>(
        &mut self,
        refusal: Refusal,
        mut request: Request<ReqBody>,
    ) -> Special<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let options = &self.entrance.handle.options;
        if refusal.inner_is_ready && options.is_exempt(request.uri().path()) {
            let mut facts = Facts::of(&request);
            if facts.asks_to_upgrade() {
                // Whoever extracts a guard finds one; it counts nothing.
                let guard = UpgradeGuard::new(&self.entrance.handle.shard);
                request.extensions_mut().insert(guard);
            }
            if !self.entrance.handle.shard.is_shedding() {
                facts = facts.keeping_connection(); // paused: nobody is asked to leave
            }
            let inner = Box::pin(self.inner.call(request));
            return Special::Exempt { inner, facts };
        }
        let shard = &self.entrance.handle.shard;
        shard.note_refused();
        let refused = ShuttingDown::new(shard.is_paused());
        let response = options.refuse(request, refused);
        Special::Refused { response }
    }
}

// ===== impl Special =====

impl<F> Special<F> {
    pub(super) fn poll<B, E>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<ResponseBody<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        let result = match self {
            Special::Upgrading {
                inner,
                guard,
                facts,
                ..
            } => {
                let facts = *facts;
                if guard.is_forced() {
                    return Poll::Ready(Ok(self.cut(facts)));
                }
                match inner.as_mut().poll(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending if guard.poll_forced(cx).is_ready() => {
                        return Poll::Ready(Ok(self.cut(facts)));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Special::Exempt { inner, .. } => ready!(inner.as_mut().poll(cx)),
            Special::Refused { response } => {
                let response = mem::take(response);
                return Poll::Ready(Ok(into_response(response)));
            }
            Special::Done => panic!("{POLLED_AFTER_COMPLETION}"),
        };
        Poll::Ready(match mem::replace(self, Special::Done) {
            Special::Upgrading {
                inner,
                guard,
                handle,
                facts,
            } => {
                drop(inner); // before the guard, which may go with it on an error
                result.map(|response| upgrade(guard, handle, facts, response))
            }
            Special::Exempt { facts, .. } => result.map(|mut response| {
                // While draining every response asks to leave.
                facts.close_connection(response.status(), response.headers_mut());
                response.map(ResponseBody::free)
            }),
            Special::Refused { .. } | Special::Done => unreachable!("it has just been polled"),
        })
    }

    /// Drops the inner future, then the guard, and answers in their place.
    fn cut<B>(&mut self, facts: Facts) -> Response<ResponseBody<B>> {
        if let Special::Upgrading { guard, .. } = self {
            guard.note_aborted();
        }
        *self = Special::Done;
        cut(facts)
    }

    /// For logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Special::Upgrading { .. } => "upgrading",
            Special::Exempt { .. } => "exempt",
            Special::Refused { .. } => "refused",
            Special::Done => "done",
        }
    }
}

/// Gives the guard to those who hold the upgrade, if it is one, and else to the body.
fn upgrade<B: Body>(
    guard: Admission,
    handle: UpgradeGuard,
    facts: Facts,
    response: Response<B>,
) -> Response<ResponseBody<B>> {
    if !facts.is_upgraded_by(response.status()) {
        let mut response =
            response.map(|body| ResponseBody::admitted(body, Some(facts.note(guard))));
        adapt(&mut response);
        return response;
    }
    let mut response =
        response.map(|body| ResponseBody::upgraded(body, UpgradedHold::new(handle.clone())));
    if guard.is_shedding() {
        facts.ask_to_leave(&mut response);
    }
    handle.count(guard);
    // For a server that keeps it until the socket is closed.
    response.extensions_mut().insert(handle);
    response
}

/// Answers an admitted request that is cut.
pub(super) fn cut<B>(facts: Facts) -> Response<ResponseBody<B>> {
    warn!("cut by the shutdown: the request had no response yet");
    into_response(facts.cut())
}
