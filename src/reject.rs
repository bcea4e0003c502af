//! What a client is told when its request is refused or cut, in its own protocol.
//!
//! - HTTP: 503 (RFC 9110 §15.6.4). A refusal carries `Retry-After` (§10.2.3); a cut request does
//!   not, for its work had begun and a retry may repeat it.
//! - gRPC: a trailers-only response with status 14 `UNAVAILABLE`, as the gRPC over HTTP/2 protocol
//!   has it.
//! - HTTP/1 connections are told to close (RFC 9112 §9.6), so that the client's next request goes
//!   elsewhere instead of being refused here again.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request};
use http_body::Frame;

use crate::body::ResponseBody;
use crate::core::Core;
use crate::error::ShuttingDown;
use crate::guard::Entry;
use crate::layer_shard::LayerHandle;
use crate::long_lived::{Classes, LongLived};
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
const REFUSED_GRPC: HeaderValue = HeaderValue::from_static("service is shutting down");
const PAUSED_GRPC: HeaderValue = HeaderValue::from_static("service is paused");
const CUT_GRPC: HeaderValue =
    HeaderValue::from_static("service stopped before the call was finished");
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
/// gRPC's status code `UNAVAILABLE`.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// A body of ours. Its length is written here, since one that is made is counted by reference, and a
/// hundred thousand answers copied from one would have the cores fight for that count.
#[derive(Clone, Copy)]
struct Json {
    text: &'static str,
    length: &'static str,
}

/// The gRPC content types that are told apart, the longest before its beginning.
const GRPC_TYPES: [&str; 8] = [
    "application/grpc-web-text+proto",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc+thrift",
    "application/grpc",
];

/// What a [`DrainLayer`](crate::DrainLayer) can be told.
#[derive(Clone)]
pub(crate) struct Options {
    retry_after: HeaderValue,
    exempt_paths: Vec<Box<str>>,
    refuse_with: Option<RefuseWith>,
    long_lived: Classes,
}

/// An admitted request's entry, with what its layer was told.
pub(crate) type Admission = Entry<LayerHandle<Options>>;

type RefuseWith = Arc<dyn Fn(&request::Parts) -> Response<Bytes> + Send + Sync>;

/// What has to be remembered of a request to answer it when it is gone.
///
/// ```text
/// 31          16 15       8 7     1   0
/// [ path class  | gRPC type | flags | – ]
/// ```
///
/// The lowest bit is the entry's, in which they are noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts(u32);

/// Marks a response that was made to close its connection by a layer, which asks all clients at
/// once; our own server asks one after another, and takes it back until then.
#[cfg(feature = "server")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedToLeave;

const HTTP_1: u32 = 1 << 1;
const HEAD: u32 = 1 << 2;
const CONNECT: u32 = 1 << 3;
const ASKS_TO_UPGRADE: u32 = 1 << 4;
/// Where one more than the index in `GRPC_TYPES` is, or zero.
const GRPC_TYPE_SHIFT: u32 = 8;
/// Where one more than the number of the class of [`LongLived`] is, or zero.
const PATH_CLASS_SHIFT: u32 = 16;

/// The trailers of gRPC-Web, which are data: a flag, the length, and the lines.
const WEB_TRAILERS: &[u8] =
    b"\x80\x00\x00\x00\x37grpc-status:14\r\ngrpc-message:service is shutting down\r\n";
/// The same in base 64.
const WEB_TEXT_TRAILERS: &[u8] =
    b"gAAAADdncnBjLXN0YXR1czoxNA0KZ3JwYy1tZXNzYWdlOnNlcnZpY2UgaXMgc2h1dHRpbmcgZG93bg0K";

/// How a stream is ended before it has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// By its end alone.
    End,
    /// gRPC: by trailers, without which the stream were broken.
    Trailers,
    /// gRPC-Web: by these bytes.
    Data(&'static [u8]),
}

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
            false => (REFUSED_JSON, REFUSED_GRPC),
            true => (PAUSED_JSON, PAUSED_GRPC),
        };
        let facts = Facts::of(&request);
        let (parts, _) = request.into_parts();
        let mut response = match &self.refuse_with {
            Some(refuse_with) => refuse_with(&parts),
            None if facts.is_grpc() => {
                // Echoed as the client wrote it, which may say more than `Facts` remembers.
                let content_type = parts.headers.get(CONTENT_TYPE).cloned();
                grpc(content_type.unwrap_or(facts.grpc_type()), message)
            }
            None => {
                let mut response = unavailable(json);
                let headers = response.headers_mut();
                headers.insert(RETRY_AFTER, self.retry_after.clone());
                response
            }
        };
        facts.finish(&mut response);
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

// ===== impl Facts =====

impl Facts {
    #[inline(always)]
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let mut facts = 0;
        if request.version() < Version::HTTP_2 {
            facts |= HTTP_1;
        }
        let headers = request.headers();
        // HTTP/1.0 has no upgrades (RFC 9110 §7.8), and HTTP/2 has only those by CONNECT.
        if request.version() == Version::HTTP_11 && has_upgrade(headers) {
            facts |= ASKS_TO_UPGRADE;
        }
        match *request.method() {
            // Every gRPC call is a POST, so others need no look at their headers.
            Method::POST => {
                facts |= grpc_type(headers).map_or(0, |n| (n as u32 + 1) << GRPC_TYPE_SHIFT)
            }
            Method::HEAD => facts |= HEAD,
            Method::CONNECT => facts |= CONNECT | ASKS_TO_UPGRADE,
            _ => {}
        }
        Self(facts)
    }

    /// The same of a request whose path is of this class.
    #[cold]
    fn of_path(self, class: Option<usize>) -> Self {
        let class = class.and_then(|n| u16::try_from(n + 1).ok());
        Self(self.0 | u32::from(class.unwrap_or(0)) << PATH_CLASS_SHIFT)
    }

    /// What an entry has noted.
    #[inline]
    pub(crate) fn noted(guard: &Admission) -> Self {
        Self(guard.note())
    }

    /// Notes it in the entry.
    #[inline]
    pub(crate) fn note(self, guard: Admission) -> Admission {
        guard.with_note(self.0)
    }

    #[inline]
    pub(crate) fn asks_to_upgrade(self) -> bool {
        self.0 & ASKS_TO_UPGRADE != 0
    }

    /// Whether after this answer the connection, or the stream of it, is no longer HTTP's.
    pub(crate) fn is_upgraded_by(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.0 & CONNECT != 0 && status.is_success())
    }

    pub(crate) fn path_class(self) -> Option<usize> {
        (self.0 >> PATH_CLASS_SHIFT)
            .checked_sub(1)
            .map(|class| class as usize)
    }

    #[inline]
    pub(crate) fn is_http1(self) -> bool {
        self.0 & HTTP_1 != 0
    }

    /// The same for a response that leaves the connection as it is.
    pub(crate) fn keeping_connection(mut self) -> Self {
        self.0 &= !HTTP_1;
        self
    }

    fn is_grpc(self) -> bool {
        self.grpc_index().is_some()
    }

    fn grpc_index(self) -> Option<usize> {
        let index = (self.0 >> GRPC_TYPE_SHIFT) & 0xff;
        index.checked_sub(1).map(|index| index as usize)
    }

    fn grpc_type(self) -> HeaderValue {
        let known = self.grpc_index().and_then(|index| GRPC_TYPES.get(index));
        HeaderValue::from_static(known.unwrap_or(&"application/grpc"))
    }

    /// Answers a request that was admitted, and cut before it had an answer.
    #[cold]
    pub(crate) fn cut(self) -> Response<Bytes> {
        // Made once, for a hundred thousand may be cut at a time: to copy headers costs less than to
        // insert them.
        static OVER_HTTP_1: LazyLock<Response<Bytes>> = LazyLock::new(|| {
            let mut response = unavailable(CUT_JSON);
            Facts(HTTP_1).finish(&mut response);
            response
        });
        static OVER_HTTP_2: LazyLock<Response<Bytes>> = LazyLock::new(|| unavailable(CUT_JSON));

        let mut response = if self.is_grpc() {
            let mut response = grpc(self.grpc_type(), CUT_GRPC);
            self.close_connection(response.status(), response.headers_mut());
            response
        } else if self.is_http1() {
            OVER_HTTP_1.clone()
        } else {
            OVER_HTTP_2.clone()
        };
        self.leave_out_body(&mut response);
        response
    }

    /// Makes one of our own responses right for the request's method and version.
    fn finish(self, response: &mut Response<Bytes>) {
        self.leave_out_body(response);
        self.close_connection(response.status(), response.headers_mut());
    }

    /// Where the request was a HEAD. The length stays in the header, as RFC 9110 §8.6 allows. The body
    /// is at its end from the start, else hyper's HTTP/2 breaks the stream.
    fn leave_out_body(self, response: &mut Response<Bytes>) {
        if self.0 & HEAD != 0 {
            response.body_mut().clear();
        }
    }

    /// Asks an HTTP/1 client to leave after this response.
    #[cold]
    pub(crate) fn ask_to_leave<T>(self, response: &mut Response<T>) {
        if !self.is_http1() {
            return;
        }
        // What the application says itself is not taken back.
        #[cfg(feature = "server")]
        if !response.headers().contains_key(CONNECTION) {
            response.extensions_mut().insert(AskedToLeave);
        }
        self.close_connection(response.status(), response.headers_mut());
    }

    #[cold]
    pub(crate) fn close_connection(self, status: StatusCode, headers: &mut HeaderMap) {
        if self.is_http1() && !self.is_upgraded_by(status) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

// ===== impl Farewell =====

impl Farewell {
    /// What the stream of a response with these headers needs.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(name) = grpc_type(headers).and_then(|index| GRPC_TYPES.get(index)) else {
            return Self::End;
        };
        if name.starts_with("application/grpc-web-text") {
            Self::Data(WEB_TEXT_TRAILERS)
        } else if name.starts_with("application/grpc-web") {
            Self::Data(WEB_TRAILERS)
        } else {
            Self::Trailers
        }
    }

    /// The last frame.
    pub(crate) fn frame<D: From<Bytes>>(self) -> Option<Frame<D>> {
        match self {
            Self::End => None,
            Self::Trailers => {
                let mut trailers = HeaderMap::with_capacity(2);
                trailers.insert(GRPC_STATUS, UNAVAILABLE);
                trailers.insert(GRPC_MESSAGE, REFUSED_GRPC);
                Some(Frame::trailers(trailers))
            }
            Self::Data(data) => Some(Frame::data(Bytes::from_static(data).into())),
        }
    }
}

#[inline]
fn has_upgrade(headers: &HeaderMap) -> bool {
    // To hash a name costs as much as to compare it with eight.
    match headers.keys_len() {
        ..=8 => headers.keys().any(|name| *name == UPGRADE),
        _ => has_upgrade_among_many(headers),
    }
}

/// Out of line, so that all else of a request's look at its headers is inlined.
#[inline(never)]
fn has_upgrade_among_many(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

/// Which of `GRPC_TYPES` it is: `application/grpc`, alone or followed by `+`, `;` or `-web`.
#[inline(never)]
fn grpc_type(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let starts_with = |prefix: &str| {
        let start = value.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if !starts_with("application/grpc") {
        return None;
    }
    let rest = &value["application/grpc".len()..];
    let is_grpc =
        matches!(rest.first(), None | Some(b'+' | b';')) || starts_with("application/grpc-web");
    if !is_grpc {
        return None;
    }
    GRPC_TYPES.iter().position(|known| starts_with(known))
}

fn unavailable(json: Json) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(json.text.as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static(json.length));
    response
}

/// Trailers-only: the status goes into the headers, and the stream ends with them.
fn grpc(content_type: HeaderValue, message: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(GRPC_STATUS, UNAVAILABLE);
    headers.insert(GRPC_MESSAGE, message);
    response
}

/// Gives a response of ours the body type of the service's responses.
pub(crate) fn into_response<B>(response: Response<Bytes>) -> Response<ResponseBody<B>> {
    response.map(ResponseBody::refusal)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use http::HeaderName;

    use super::*;

    fn facts(content_type: &'static str) -> Facts {
        let request = Request::post("/").header(CONTENT_TYPE, content_type);
        Facts::of(&request.body(()).expect("a valid request"))
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "application/grpc-web",
            "application/grpc-web-text+proto",
            "Application/GRPC+json",
        ] {
            assert!(facts(grpc).is_grpc(), "{grpc}");
        }
        for other in [
            "application/grpcurl",
            "application/grp",
            "application/json",
            "text/plain",
            "",
        ] {
            assert!(!facts(other).is_grpc(), "{other}");
        }
    }

    #[test]
    fn a_cut_call_gets_back_the_content_type_that_it_came_with() {
        for known in GRPC_TYPES {
            let response = facts(known).cut();
            assert_eq!(response.headers()[CONTENT_TYPE], known);
            assert_eq!(response.headers()["grpc-status"], "14");
        }
        let unknown = facts("application/grpc+other").cut();
        assert_eq!(unknown.headers()[CONTENT_TYPE], "application/grpc");
    }

    #[test]
    fn an_upgrade_is_found_among_few_headers_and_many() {
        for others in 0..=20 {
            for place in 0..=others {
                let mut request = Request::get("/").body(()).expect("a valid request");
                let headers = request.headers_mut();
                for n in 0..others {
                    if n == place {
                        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                    }
                    let name = HeaderName::try_from(format!("x-{n}")).expect("a valid name");
                    headers.insert(name, HeaderValue::from_static("upgrade"));
                }
                let asks = Facts::of(&request).asks_to_upgrade();
                assert_eq!(asks, place < others, "{place} of {others}");
            }
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
