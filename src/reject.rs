//! What a client is told when its request is refused or cut, in its own protocol.
//!
//! - HTTP: 503 (RFC 9110 §15.6.4). A refusal carries `Retry-After` (§10.2.3); a cut request does
//!   not, for its work had begun and a retry may repeat it.
//! - gRPC: a trailers-only response with status 14 `UNAVAILABLE`, as the gRPC over HTTP/2 protocol
//!   has it.
//! - Logs and metrics of this process: [`Rejection`], in the response's extensions.
//! - HTTP/1 connections are told to close (RFC 9112 §9.6), so that the client's next request goes
//!   elsewhere instead of being refused here again.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, request};

use crate::body::ResponseBody;
use crate::core::Core;
use crate::error::ShuttingDown;
use crate::facts::Facts;
use crate::grpc;
use crate::guard::Entry;
use crate::layer_shard::LayerHandle;
use crate::long_lived::{Classes, LongLived};
use crate::rejection::Rejection;
use crate::sync::{Arc, Weak};

const REFUSED_JSON: Json = Json {
    text: r#"{"error":"service is shutting down"}"#,
    length: "36",
};
const PAUSED_JSON: Json = Json {
    text: r#"{"error":"service is paused"}"#,
    length: "29",
};
const CUT_JSON: Json = Json {
    text: r#"{"error":"service stopped before the request was finished"}"#,
    length: "59",
};

/// A body of ours. Its length is written here, since one that is made is counted by reference, and a
/// hundred thousand answers copied from one would have the cores fight for that count.
#[derive(Clone, Copy)]
struct Json {
    text: &'static str,
    length: &'static str,
}

/// What a [`DrainLayer`](crate::DrainLayer) can be told.
#[derive(Clone)]
pub(crate) struct Options {
    retry_after: HeaderValue,
    exempt_paths: Vec<Box<str>>,
    refuse_with: Option<RefuseWith>,
    long_lived: Classes,
}

/// The entry of a request that was let in, with what its layer was told; it counts nothing if it was let
/// past the closed gate.
pub(crate) type Admission = Entry<LayerHandle<Options>>;

type RefuseWith = Arc<dyn Fn(&request::Parts) -> Response<Bytes> + Send + Sync>;

// ===== impl Options =====

impl Options {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            retry_after: whole_seconds(core.config.retry_after),
            exempt_paths: Vec::new(),
            refuse_with: None,
            long_lived: Classes::new(Arc::downgrade(core)),
        }
    }

    /// For a layer around services that are not of HTTP.
    pub(crate) fn none() -> Self {
        Self {
            retry_after: whole_seconds(Duration::ZERO),
            exempt_paths: Vec::new(),
            refuse_with: None,
            long_lived: Classes::none(Weak::new()),
        }
    }

    pub(crate) fn long_lived(&self) -> &Classes {
        &self.long_lived
    }

    pub(crate) fn add_long_lived(&mut self, class: LongLived) {
        self.long_lived.add(class);
    }

    pub(crate) fn clear_long_lived(&mut self) {
        self.long_lived.clear();
    }

    /// What has to be remembered of an admitted request.
    #[inline(always)]
    pub(crate) fn facts_of<T>(&self, request: &Request<T>) -> Facts {
        let facts = Facts::of(request);
        match self.long_lived.has_paths() {
            true => facts.of_path(self.long_lived.of_path(request.uri().path())),
            false => facts,
        }
    }

    pub(crate) fn set_retry_after(&mut self, time: Duration) {
        self.retry_after = whole_seconds(time);
    }

    pub(crate) fn exempt(&mut self, paths: impl IntoIterator<Item = impl Into<String>>) {
        let paths = paths.into_iter().map(|path| path.into().into_boxed_str());
        self.exempt_paths.extend(paths);
    }

    pub(crate) fn set_refuse_with(&mut self, refuse: RefuseWith) {
        self.refuse_with = Some(refuse);
    }

    pub(crate) fn has_exempt_paths(&self) -> bool {
        !self.exempt_paths.is_empty()
    }

    pub(crate) fn is_exempt(&self, path: &str) -> bool {
        self.exempt_paths.iter().any(|exempt| **exempt == *path)
    }

    /// Answers a request that is not admitted.
    #[cold]
    pub(crate) fn refuse<T>(&self, request: Request<T>, why: ShuttingDown) -> Response<Bytes> {
        let (json, message) = match why.is_paused() {
            false => (REFUSED_JSON, grpc::REFUSED),
            true => (PAUSED_JSON, grpc::PAUSED),
        };
        let facts = Facts::of(&request);
        let (parts, _) = request.into_parts();
        let mut response = match &self.refuse_with {
            Some(refuse_with) => refuse_with(&parts),
            None => match facts.grpc_type() {
                Some(known) => {
                    // Echoed as the client wrote it, which may say more than `Facts` remembers.
                    let content_type = parts.headers.get(CONTENT_TYPE).cloned();
                    let known = || HeaderValue::from_static(known.name());
                    grpc::trailers_only(content_type.unwrap_or_else(known), message)
                }
                None => {
                    let mut response = unavailable(json);
                    let headers = response.headers_mut();
                    headers.insert(RETRY_AFTER, self.retry_after.clone());
                    response
                }
            },
        };
        finish(&mut response, facts);
        response.extensions_mut().insert(Rejection::Refused);
        response
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("retry_after", &self.retry_after)
            .field("exempt_paths", &self.exempt_paths)
            .field("refuse_with", &self.refuse_with.is_some())
            .field("long_lived", &self.long_lived)
            .finish()
    }
}

/// RFC 9110 §10.2.3 knows whole seconds only; rounded up, for earlier would be too early.
fn whole_seconds(time: Duration) -> HeaderValue {
    let seconds = time.as_secs();
    HeaderValue::from(seconds.saturating_add(u64::from(time.subsec_nanos() > 0)))
}

/// Answers a request that was admitted, and cut before it had an answer.
#[cold]
pub(crate) fn cut(facts: Facts) -> Response<Bytes> {
    // Made once, for a hundred thousand may be cut at a time: to copy headers costs less than to
    // insert them.
    static OVER_HTTP_1: LazyLock<Response<Bytes>> = LazyLock::new(|| {
        let mut response = unavailable(CUT_JSON);
        finish(&mut response, Facts::of_http1());
        response
    });
    static OVER_HTTP_2: LazyLock<Response<Bytes>> = LazyLock::new(|| unavailable(CUT_JSON));

    let mut response = match facts.grpc_type() {
        Some(known) => {
            let content_type = HeaderValue::from_static(known.name());
            let mut response = grpc::trailers_only(content_type, grpc::CUT);
            facts.close_connection(response.status(), response.headers_mut());
            response
        }
        None if facts.is_http1() => OVER_HTTP_1.clone(),
        None => OVER_HTTP_2.clone(),
    };
    leave_out_body(&mut response, facts);
    response.extensions_mut().insert(Rejection::Cut);
    response
}

/// Makes one of our own responses right for the request's method and version.
fn finish(response: &mut Response<Bytes>, facts: Facts) {
    leave_out_body(response, facts);
    facts.close_connection(response.status(), response.headers_mut());
}

/// Where the request was a HEAD. The length stays in the header, as RFC 9110 §8.6 allows. The body
/// is at its end from the start, else hyper's HTTP/2 breaks the stream.
fn leave_out_body(response: &mut Response<Bytes>, facts: Facts) {
    if facts.is_head() {
        response.body_mut().clear();
    }
}

fn unavailable(json: Json) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(json.text.as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static(json.length));
    response
}

/// Gives a response of ours the body type of the service's responses.
pub(crate) fn into_response<B>(response: Response<Bytes>) -> Response<ResponseBody<B>> {
    response.map(ResponseBody::refusal)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_cut_call_gets_back_the_content_type_that_it_came_with() {
        for (asked, answered) in [
            ("application/grpc", "application/grpc"),
            (
                "application/grpc-web-text+proto",
                "application/grpc-web-text+proto",
            ),
            ("application/grpc+thrift", "application/grpc+thrift"),
            ("application/grpc+other", "application/grpc"),
        ] {
            let request = Request::post("/").header(CONTENT_TYPE, asked).body(());
            let response = cut(Facts::of(&request.expect("a valid request")));
            assert_eq!(response.headers()[CONTENT_TYPE], answered);
            assert_eq!(response.headers()["grpc-status"], "14");
        }
    }

    #[test]
    fn our_bodies_are_as_long_as_they_say() {
        for json in [REFUSED_JSON, PAUSED_JSON, CUT_JSON] {
            assert_eq!(json.length, json.text.len().to_string(), "{}", json.text);
        }
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (time, seconds) in [
            (Duration::ZERO, "0"),
            (Duration::from_millis(1), "1"),
            (Duration::from_secs(5), "5"),
            (Duration::from_millis(5_001), "6"),
            (Duration::MAX, "18446744073709551615"),
        ] {
            assert_eq!(whole_seconds(time), seconds);
        }
    }
}
