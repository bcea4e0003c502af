//! The final frame of a stream that is ended early.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::layers::grpc;
use crate::layers::grpc::GrpcType;

/// Trailers of gRPC-Web, which are sent as data: a flag, the length, and the lines.
const WEB_TRAILERS: &[u8] =
    b"\x80\x00\x00\x00\x37grpc-status:14\r\ngrpc-message:service is shutting down\r\n";
/// [`WEB_TRAILERS`] in base 64.
const WEB_TEXT_TRAILERS: &[u8] =
    b"gAAAADdncnBjLXN0YXR1czoxNA0KZ3JwYy1tZXNzYWdlOnNlcnZpY2UgaXMgc2h1dHRpbmcgZG93bg0K";

/// The final frame of a stream that is ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinalFrame {
    /// The stream ends without another frame.
    None,
    /// gRPC: clients treat a stream without trailers as broken.
    Trailers,
    /// gRPC-Web: the trailers as data.
    Data(&'static [u8]),
}

impl FinalFrame {
    /// Returns the final frame that a response with these headers needs.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(name) = GrpcType::of(headers).map(GrpcType::name) else {
            return Self::None;
        };
        if name.starts_with("application/grpc-web-text") {
            Self::Data(WEB_TEXT_TRAILERS)
        } else if name.starts_with("application/grpc-web") {
            Self::Data(WEB_TRAILERS)
        } else {
            Self::Trailers
        }
    }

    /// Creates the frame.
    pub(crate) fn frame<D: From<Bytes>>(self) -> Option<Frame<D>> {
        match self {
            Self::None => None,
            Self::Trailers => Some(Frame::trailers(grpc::trailers(grpc::REFUSED))),
            Self::Data(data) => Some(Frame::data(Bytes::from_static(data).into())),
        }
    }
}
