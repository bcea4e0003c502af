//! Facts about a request that its response needs.

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::grpc::GrpcType;
use super::long_lived::ClassNumber;
use crate::in_flight::Entry;

/// Facts about a request that are needed for its response, when the request itself is gone.
///
/// ```text
/// 31          16 15       8 7     1   0
/// [ classes     | gRPC type | flags | – ]
/// ```
///
/// The lowest bit, and bit 6 among the flags, are reserved for the [`Entry`], which stores the facts as its
/// note.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts(u32);

/// Set in every note.
const NOTED: u32 = 1;
const HTTP_1: u32 = 1 << 1;
const HEAD: u32 = 1 << 2;
const CONNECT: u32 = 1 << 3;
const ASKS_TO_UPGRADE: u32 = 1 << 4;
/// Set once the response is known.
const ENDS_WITH_STATUS: u32 = 1 << 5;
/// The classes depend on the path of the request.
const HAS_PATHS: u32 = 1 << 7;
/// Bit position of the [`GrpcType::number`]. A number of zero means none.
const GRPC_TYPE_SHIFT: u32 = 8;
/// Bit position of the [`ClassNumber`].
const CLASSES_SHIFT: u32 = 16;

/// Marks a response to which a layer added `Connection: close`.
///
/// A layer adds it on all connections at once. The server of this crate closes connections one after
/// another, and removes the header until it is the connection's turn.
#[cfg(feature = "server")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedToLeave;

// ===== impl Facts =====

impl Facts {
    #[inline(always)]
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        // The common case first: a GET over HTTP/1.1. HTTP/1.0 has no upgrades (RFC 9110 §7.8). HTTP/2
        // has only those by CONNECT.
        let mut facts = match request.version() {
            Version::HTTP_11 if has_upgrade(request.headers()) => NOTED | HTTP_1 | ASKS_TO_UPGRADE,
            version if version <= Version::HTTP_11 => NOTED | HTTP_1,
            _ => NOTED,
        };
        if *request.method() != Method::GET {
            facts |= of_other_method(request);
        }
        Self(facts)
    }

    /// Returns the facts that hold for every HTTP/1 request.
    pub(crate) fn of_http1() -> Self {
        Self(HTTP_1)
    }

    /// Returns the facts that hold for every request of a layer with these classes.
    pub(crate) fn of_layer(classes: ClassNumber, have_paths: bool) -> Self {
        let paths = if have_paths { HAS_PATHS } else { 0 };
        Self(paths).with_classes(classes)
    }

    #[inline(always)]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Replaces the classes that the response may belong to.
    pub(crate) fn with_classes(self, classes: ClassNumber) -> Self {
        let others = self.0 % (1 << CLASSES_SHIFT);
        Self(others | u32::from(classes.get()) << CLASSES_SHIFT)
    }

    /// Returns whether the classes depend on the path of the request.
    #[inline]
    pub(crate) fn have_paths(self) -> bool {
        self.0 & HAS_PATHS != 0
    }

    /// Returns whether something is to be done with the request before it is passed on.
    #[inline]
    pub(crate) fn need_preparation(self) -> bool {
        self.0 & (HAS_PATHS | ASKS_TO_UPGRADE) != 0
    }

    /// Changes the facts so that the response does not close the connection.
    pub(crate) fn keeping_connection(self) -> Self {
        Self(self.0 & !HTTP_1)
    }

    /// Returns the facts that are stored in `guard`.
    #[inline]
    pub(crate) fn noted(guard: &Entry) -> Self {
        Self(guard.note())
    }

    /// Stores the facts in `guard`.
    #[inline]
    pub(crate) fn note(self, guard: Entry) -> Entry {
        guard.with_note(self.0)
    }

    /// Replaces the facts that are stored in `guard`.
    pub(crate) fn note_in(self, guard: &mut Entry) {
        guard.set_note(self.0);
    }

    pub(crate) fn classes(self) -> ClassNumber {
        ClassNumber::from_number((self.0 >> CLASSES_SHIFT) as u16)
    }

    pub(crate) fn grpc_type(self) -> Option<GrpcType> {
        GrpcType::from_number((self.0 >> GRPC_TYPE_SHIFT) as u8)
    }

    #[inline]
    pub(crate) fn is_http1(self) -> bool {
        self.0 & HTTP_1 != 0
    }

    pub(crate) fn is_head(self) -> bool {
        self.0 & HEAD != 0
    }

    #[inline]
    pub(crate) fn asks_to_upgrade(self) -> bool {
        self.0 & ASKS_TO_UPGRADE != 0
    }

    /// Notes that the trailers of the response carry a gRPC status.
    pub(crate) fn ending_with_status(self) -> Self {
        Self(self.0 | ENDS_WITH_STATUS)
    }

    pub(crate) fn ends_with_status(self) -> bool {
        self.0 & ENDS_WITH_STATUS != 0
    }

    /// Returns whether a response with `status` upgrades the connection, or its HTTP/2 stream.
    pub(crate) fn is_upgraded_by(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.0 & CONNECT != 0 && status.is_success())
    }

    /// Adds `Connection: close` to an HTTP/1 response, in a way that the server of this crate can undo.
    #[cold]
    pub(crate) fn ask_to_leave<T>(self, response: &mut Response<T>) {
        if !self.is_http1() {
            return;
        }
        // The server must not undo a header that the application has set.
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

/// Returns the facts that follow from a method other than GET.
///
/// Generic, so that it is compiled where it is used: the compiler then sees that it keeps no pointer.
#[inline(never)]
fn of_other_method<T>(request: &Request<T>) -> u32 {
    match *request.method() {
        // Every gRPC call is a POST, so the headers of other requests need not be checked.
        Method::POST => {
            let number = GrpcType::of(request.headers()).map_or(0, GrpcType::number);
            u32::from(number) << GRPC_TYPE_SHIFT
        }
        Method::HEAD => HEAD,
        Method::CONNECT => CONNECT | ASKS_TO_UPGRADE,
        _ => 0,
    }
}

#[inline]
fn has_upgrade(headers: &HeaderMap) -> bool {
    // Hashing a name costs as much as comparing it with eight others.
    match headers.keys_len() {
        ..=8 => headers.keys().any(|name| *name == UPGRADE),
        _ => has_upgrade_among_many(headers),
    }
}

/// Out of line, so that the other checks of the request headers are inlined.
#[inline(never)]
fn has_upgrade_among_many(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use http::HeaderName;

    use super::*;

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
}
