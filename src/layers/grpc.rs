//! Responses and trailers for gRPC calls that are refused, cut or ended.
//!
//! A status is sent in trailers. A response without a body carries it in its headers ("trailers-only"
//! in the gRPC over HTTP/2 protocol). A client that gets no status treats the call as broken.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};

pub(crate) const REFUSED: HeaderValue = HeaderValue::from_static("service is shutting down");
pub(crate) const PAUSED: HeaderValue = HeaderValue::from_static("service is paused");
pub(crate) const CUT: HeaderValue =
    HeaderValue::from_static("service stopped before the call was finished");

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// The known content types. A longer one comes before its prefixes.
const TYPES: [&str; 8] = [
    "application/grpc-web-text+proto",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc+thrift",
    "application/grpc",
];

/// A known gRPC content type, as its index in [`TYPES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcType(u8);

// ===== impl GrpcType =====

impl GrpcType {
    /// Returns the gRPC content type of a request or response: `application/grpc`, alone or followed
    /// by `+`, `;`, `-web`, or white space (RFC 9110 §5.6.6 allows it before `;`).
    #[inline(never)]
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let starts_with = |prefix: &str| {
            let start = value.get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        if !starts_with("application/grpc") {
            return None;
        }
        let rest = &value["application/grpc".len()..];
        let is_grpc = matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
            || starts_with("application/grpc-web");
        if !is_grpc {
            return None;
        }
        let index = TYPES.iter().position(|known| starts_with(known))?;
        Some(Self(index as u8))
    }

    /// Returns the type as a number that is not zero.
    pub(crate) fn number(self) -> u8 {
        self.0 + 1
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        let index = number.checked_sub(1)?;
        (usize::from(index) < TYPES.len()).then_some(Self(index))
    }

    pub(crate) fn name(self) -> &'static str {
        TYPES[usize::from(self.0)]
    }
}

/// Creates a response without a body that ends a call.
pub(crate) fn trailers_only(content_type: HeaderValue, message: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    put_status(response.headers_mut(), message);
    response
}

/// Creates the trailers that end a call after its messages.
pub(crate) fn trailers(message: HeaderValue) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    put_status(&mut trailers, message);
    trailers
}

fn put_status(headers: &mut HeaderMap, message: HeaderValue) {
    headers.insert(STATUS, UNAVAILABLE);
    headers.insert(MESSAGE, message);
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    fn type_of(content_type: &'static str) -> Option<GrpcType> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        GrpcType::of(&headers)
    }

    #[test]
    fn a_call_is_told_by_its_content_type() {
        for (grpc, known) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc;charset=utf-8", "application/grpc"),
            ("application/grpc ; charset=utf-8", "application/grpc"),
            ("application/grpc\t;charset=utf-8", "application/grpc"),
            ("application/grpc+other", "application/grpc"),
            ("application/grpc-web", "application/grpc-web"),
            (
                "application/grpc-web-text+proto",
                "application/grpc-web-text+proto",
            ),
            ("Application/GRPC+json", "application/grpc+json"),
        ] {
            assert_eq!(type_of(grpc).map(GrpcType::name), Some(known), "{grpc}");
        }
        for other in [
            "application/grpcurl",
            "application/grp",
            "application/json",
            "text/plain",
            "",
        ] {
            assert_eq!(type_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_type_is_what_it_was_as_a_number() {
        for name in TYPES {
            let known = type_of(name).expect("it is of gRPC");
            assert_eq!(known.name(), name);
            assert_eq!(GrpcType::from_number(known.number()), Some(known));
        }
        assert_eq!(GrpcType::from_number(0), None);
        assert_eq!(GrpcType::from_number(9), None);
    }
}
