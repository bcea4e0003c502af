//! What a stream says last when it is ended before it has ended by itself.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::layers::grpc;
use crate::layers::grpc::GrpcType;

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

impl Farewell {
    /// What the stream of a response with these headers needs.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(name) = GrpcType::of(headers).map(GrpcType::name) else {
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
            Self::Trailers => Some(Frame::trailers(grpc::trailers(grpc::REFUSED))),
            Self::Data(data) => Some(Frame::data(Bytes::from_static(data).into())),
        }
    }
}
