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
use super::{Drain, ResponseFuture, adapt};
use crate::body::ResponseBody;
use crate::error::{POLLED_AFTER_COMPLETION, ShuttingDown};
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
    #[inline(never)]
    pub(super) fn upgrading<ReqBody>(
        &mut self,
        guard: Admission,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let handle = UpgradeGuard::new(&guard.way().shard);
        request.extensions_mut().insert(handle.clone());
        ResponseFuture::special(Box::new(Special::Upgrading {
            inner: Box::pin(self.inner.call(request)),
            guard,
            handle,
        }))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn not_admitted<ReqBody>(
        &mut self,
        refusal: Refusal,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
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
            return ResponseFuture::special(Box::new(Special::Exempt { inner, facts }));
        }
        let shard = &self.entrance.handle.shard;
        shard.note_refused();
        let refused = ShuttingDown::new(shard.is_paused());
        let response = options.refuse(request, refused);
        ResponseFuture::special(Box::new(Special::Refused { response }))
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
            Special::Upgrading { inner, guard, .. } => {
                let polled = match guard.is_forced() {
                    true => None,
                    false => Some(inner.as_mut().poll(cx)),
                };
                match polled {
                    Some(Poll::Ready(result)) => result,
                    Some(Poll::Pending) if guard.poll_forced(cx).is_pending() => {
                        return Poll::Pending;
                    }
                    _ => {
                        let facts = note_cut(guard);
                        *self = Special::Done; // the inner future first, then the guard
                        return Poll::Ready(Ok(cut(facts)));
                    }
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
            } => {
                let result = result; // declared after the guard: dropped before it, if this panics
                drop(inner); // before the guard, which goes here on an error
                result.map(|response| upgrade(guard, handle, response))
            }
            Special::Exempt { facts, .. } => result.map(|mut response| {
                // While draining every response asks to leave.
                facts.close_connection(response.status(), response.headers_mut());
                response.map(ResponseBody::free)
            }),
            Special::Refused { .. } | Special::Done => unreachable!("it has just been polled"),
        })
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
    mut response: Response<B>,
) -> Response<ResponseBody<B>> {
    let facts = Facts::noted(&guard);
    if !facts.is_upgraded_by(response.status()) {
        let ending = adapt(&mut response, &guard);
        return response.map(|body| ResponseBody::of(body, guard, ending));
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

/// Notes that an admitted request is cut, and gives what its answer needs, when the guard is gone.
pub(super) fn note_cut(guard: &Admission) -> Facts {
    guard.note_aborted();
    Facts::noted(guard)
}

/// Answers an admitted request that is cut.
pub(super) fn cut<B>(facts: Facts) -> Response<ResponseBody<B>> {
    warn!("cut by the shutdown: the request had no response yet");
    into_response(facts.cut())
}
