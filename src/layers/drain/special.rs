//! What is out of the ordinary: requests that are refused, or may take their connection away from HTTP,
//! and responses that are changed.

use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::Body;

use super::unread::Refused;
use super::{ResponseFuture, unread};
use crate::error::ShuttingDown;
use crate::layers::admission::{Admission, DrainHandle, offering};
use crate::layers::body::Lasting;
use crate::layers::facts::Facts;
use crate::layers::long_lived::Farewell;
use crate::layers::reject;
use crate::layers::upgrade::UpgradeGuard;

// ===== requests =====

/// Refuses a request that was not admitted.
#[cold]
#[inline(never)]
pub(super) fn refused<F, ReqBody: Body>(
    handle: &DrainHandle,
    request: Request<ReqBody>,
) -> ResponseFuture<F, ReqBody> {
    handle.shard.note_refused();
    let why = ShuttingDown::new(handle.shard.is_paused());
    let is_read = unread::is_read(&request);
    let (parts, body) = request.into_parts();
    let response = reject::refuse(&handle.layer.options, Request::from_parts(parts, ()), why);
    let unread = is_read.then_some(body);
    ResponseFuture::refused(Refused::new(response, unread, handle))
}

/// Puts a guard for what comes after the response into the extensions of a request.
#[cold]
#[inline(never)]
pub(super) fn offer_upgrade(
    handle: &DrainHandle,
    guard: Admission,
    extensions: &mut Extensions,
) -> Admission {
    let offered = UpgradeGuard::new(&handle.shard);
    // If nothing is counted, whoever extracts a guard still finds one.
    let guard = guard.map_shard_ref(|handle| offering(&handle, offered.offer()));
    extensions.insert(offered);
    guard
}

// ===== responses =====

/// Whether a response is passed on as it is; else it is to be adapted.
#[inline]
pub(super) fn is_ordinary<B: Body>(response: &Response<B>, guard: &Admission) -> bool {
    !guard.is_shedding()
        && !Facts::noted(guard).asks_to_upgrade()
        && response.body().size_hint().exact().is_some()
}

/// Asks the client to leave, if that is due, and tells whether the response would outlast the drain.
#[cold]
#[inline(never)]
pub(super) fn adapt<B: Body>(response: &mut Response<B>, guard: &mut Admission) -> Option<Lasting> {
    let facts = Facts::noted(guard);
    let Some(shard_ref) = guard.shard_ref() else {
        // Let past the gate: while draining every response asks to leave.
        facts.close_connection(response.status(), response.headers_mut());
        return None;
    };
    if guard.is_shedding() {
        facts.ask_to_leave(response);
    }
    if facts.asks_to_upgrade() && facts.is_upgraded_by(response.status()) {
        let handle = UpgradeGuard::offered(&shard_ref.layer.offer, &shard_ref.shard);
        // For a server that keeps it until the socket is closed.
        response.extensions_mut().insert(handle.clone());
        return Some(Lasting::Upgrade(handle));
    }
    let body = response.body();
    if body.is_end_stream() || body.size_hint().exact().is_some() {
        return None;
    }
    let headers = response.headers();
    let classes = shard_ref.layer.options.long_lived();
    let class = classes.of_response(facts.path_class(), headers);
    if ends_with_status(facts, headers) {
        facts.ending_with_status().note_in(guard);
    }
    let farewell = Farewell::of(headers);
    Some(Lasting::Stream(class?, farewell))
}

/// Whether the client reads a status in the trailers of a response. HTTP/1 has no place for them, a
/// length would be contradicted, and in gRPC-Web they are data, which a part of a message must not
/// precede.
fn ends_with_status(facts: Facts, headers: &HeaderMap) -> bool {
    facts.grpc_type().is_some()
        && !facts.is_http1()
        && !headers.contains_key(CONTENT_LENGTH)
        && Farewell::of(headers) == Farewell::Trailers
}
