//! Uncommon cases: requests that are refused or ask for an upgrade, and responses that are changed.

use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::Body;

use super::unread::Refused;
use super::{ResponseFuture, unread};
use crate::error::ShuttingDown;
use crate::in_flight::{Entry, Remembered};
use crate::layers::body::Lasting;
use crate::layers::facts::Facts;
use crate::layers::long_lived::FinalFrame;
use crate::layers::options::DrainHandle;
use crate::layers::reject;
use crate::layers::upgrade::UpgradeGuard;

// ===== requests =====

/// Refuses a request that was not admitted.
#[cold]
#[inline(never)]
pub(super) fn refuse<F, ReqBody: Body>(
    handle: &DrainHandle,
    request: Request<ReqBody>,
) -> ResponseFuture<F, ReqBody> {
    handle.shard.note_refused();
    let why = ShuttingDown::new(handle.shard.is_paused());
    let should_read = unread::should_read(&request);
    let (parts, body) = request.into_parts();
    let response = reject::refuse(&handle.layer.options, Request::from_parts(parts, ()), why);
    let unread = should_read.then_some(body);
    ResponseFuture::refused(Refused::new(response, unread, handle))
}

/// Notes which classes the response may belong to, by the path of the request.
#[cold]
#[inline(never)]
pub(super) fn note_classes(handle: &DrainHandle, guard: Entry, path: &str) -> Entry {
    let facts = Facts::noted(&guard);
    let classes = &handle.layer.options.long_lived;
    let classes = classes.number_of_path(facts.classes(), path);
    facts.with_classes(classes).note(guard)
}

/// Adds a guard for the upgraded connection to the extensions of a request. An uncounted request gets
/// one too, so that a handler can extract it.
#[cold]
#[inline(never)]
pub(super) fn offer_upgrade(handle: &DrainHandle, extensions: &mut Extensions) -> Remembered {
    let (guard, offer) = UpgradeGuard::offer(handle.shard, handle.lease.clone());
    extensions.insert(guard);
    Remembered::number(offer)
}

// ===== responses =====

/// Returns whether a response is passed on unchanged. Otherwise, [`adapt`] must be called.
#[inline]
pub(super) fn is_ordinary<B: Body>(response: &Response<B>, guard: &Entry) -> bool {
    !guard.is_shedding()
        && !Facts::noted(guard).asks_to_upgrade()
        && response.body().size_hint().exact().is_some()
}

/// Adds `Connection: close` if needed. Returns `Some` if the response would outlast the drain.
#[cold]
#[inline(never)]
pub(super) fn adapt<B: Body>(
    response: &mut Response<B>,
    guard: &mut Entry,
    remembered: Remembered,
) -> Option<Lasting> {
    let facts = Facts::noted(guard);
    let Some(shard) = guard.shard() else {
        // The request was exempt. While draining, every HTTP/1 response closes its connection.
        facts.close_connection(response.status(), response.headers_mut());
        return None;
    };
    if guard.is_shedding() {
        facts.ask_to_leave(response);
    }
    if facts.asks_to_upgrade() && facts.is_upgraded_by(response.status()) {
        let handle = UpgradeGuard::offered(remembered.as_number(), shard);
        // A server may keep the guard until the socket is closed.
        response.extensions_mut().insert(handle.clone());
        return Some(Lasting::Upgrade(handle));
    }
    let body = response.body();
    if body.is_end_stream() {
        // Servers drop such a body without polling it.
        *guard = guard.take().whole();
        return None;
    }
    if body.size_hint().exact().is_some() {
        return None;
    }
    let headers = response.headers();
    let class = facts.classes().of_response(shard.gate(), headers);
    if ends_with_status(facts, headers) {
        facts.ending_with_status().note_in(guard);
    }
    let final_frame = FinalFrame::of(headers);
    Some(Lasting::Stream(class?, final_frame))
}

/// Returns whether the client reads a gRPC status in the trailers of a response.
///
/// HTTP/1 has no place for them. A response with a length would contradict it by ending early. In
/// gRPC-Web, trailers are data, which must not follow a part of a message.
fn ends_with_status(facts: Facts, headers: &HeaderMap) -> bool {
    facts.grpc_type().is_some()
        && !facts.is_http1()
        && !headers.contains_key(CONTENT_LENGTH)
        && FinalFrame::of(headers) == FinalFrame::Trailers
}
