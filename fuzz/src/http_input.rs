//! Arbitrary requests and responses. Relevant ones are more frequent.

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};

/// A client's request.
#[derive(Debug, Clone, Arbitrary)]
pub struct AnyRequest {
    method: AnyMethod,
    version: AnyVersion,
    target: AnyTarget,
    headers: Vec<AnyHeader>,
}

/// The head of an application's response.
#[derive(Debug, Clone, Arbitrary)]
pub struct AnyHead {
    status: AnyStatus,
    headers: Vec<AnyHeader>,
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyMethod {
    Get,
    Head,
    Post,
    Connect,
    Options,
    Other(String),
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyVersion {
    Http09,
    Http10,
    Http11,
    Http2,
    Http3,
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyTarget {
    Exempt,
    ExemptAndMore(String),
    Livez,
    Readyz,
    Star,
    Authority,
    Other(String),
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyStatus {
    Ok,
    SwitchingProtocols,
    NoContent,
    Unavailable,
    Other(u16),
}

#[derive(Debug, Clone, Arbitrary)]
struct AnyHeader {
    name: AnyName,
    value: AnyValue,
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyName {
    ContentType,
    ContentLength,
    Connection,
    Upgrade,
    RetryAfter,
    GrpcStatus,
    Other(Vec<u8>),
}

#[derive(Debug, Clone, Arbitrary)]
enum AnyValue {
    Grpc(GrpcTail),
    EventStream,
    Ndjson,
    Close,
    Upgrade,
    WebSocket,
    Zero,
    Other(Vec<u8>),
}

#[derive(Debug, Clone, Arbitrary)]
enum GrpcTail {
    None,
    Proto,
    Charset,
    Web,
    WebText,
    InCapitals,
    Other(Vec<u8>),
}

/// The path that the layers exempt.
pub const EXEMPT: &str = "/exempt";

impl AnyRequest {
    pub fn build(&self) -> Request<Bytes> {
        let mut request = Request::new(Bytes::from_static(b"question"));
        *request.method_mut() = self.method.build();
        *request.version_mut() = match self.version {
            AnyVersion::Http09 => Version::HTTP_09,
            AnyVersion::Http10 => Version::HTTP_10,
            AnyVersion::Http11 => Version::HTTP_11,
            AnyVersion::Http2 => Version::HTTP_2,
            AnyVersion::Http3 => Version::HTTP_3,
        };
        *request.uri_mut() = self.target.build();
        *request.headers_mut() = headers(&self.headers);
        request
    }
}

impl AnyHead {
    pub fn build<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = match self.status {
            AnyStatus::Ok => StatusCode::OK,
            AnyStatus::SwitchingProtocols => StatusCode::SWITCHING_PROTOCOLS,
            AnyStatus::NoContent => StatusCode::NO_CONTENT,
            AnyStatus::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            AnyStatus::Other(code) => StatusCode::from_u16(code).unwrap_or_default(),
        };
        *response.headers_mut() = headers(&self.headers);
        response
    }
}

impl AnyMethod {
    fn build(&self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Head => Method::HEAD,
            Self::Post => Method::POST,
            Self::Connect => Method::CONNECT,
            Self::Options => Method::OPTIONS,
            Self::Other(name) => Method::from_bytes(name.as_bytes()).unwrap_or(Method::PUT),
        }
    }
}

impl AnyTarget {
    fn build(&self) -> Uri {
        let text = match self {
            Self::Exempt => EXEMPT,
            Self::ExemptAndMore(more) => &format!("{EXEMPT}{more}"),
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Star => "*",
            Self::Authority => "example.org:443",
            Self::Other(text) => text,
        };
        text.parse().unwrap_or_default()
    }
}

fn headers(given: &[AnyHeader]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for AnyHeader { name, value } in given {
        if let (Some(name), Some(value)) = (name.build(), value.build()) {
            headers.append(name, value);
        }
    }
    headers
}

impl AnyName {
    fn build(&self) -> Option<HeaderName> {
        Some(match self {
            Self::ContentType => header::CONTENT_TYPE,
            Self::ContentLength => header::CONTENT_LENGTH,
            Self::Connection => header::CONNECTION,
            Self::Upgrade => header::UPGRADE,
            Self::RetryAfter => header::RETRY_AFTER,
            Self::GrpcStatus => HeaderName::from_static("grpc-status"),
            Self::Other(name) => return HeaderName::from_bytes(name).ok(),
        })
    }
}

impl AnyValue {
    fn build(&self) -> Option<HeaderValue> {
        let text: &[u8] = match self {
            Self::Grpc(tail) => &tail.build(),
            Self::EventStream => b"text/event-stream; charset=utf-8",
            Self::Ndjson => b"application/x-ndjson",
            Self::Close => b"close",
            Self::Upgrade => b"upgrade",
            Self::WebSocket => b"websocket",
            Self::Zero => b"0",
            Self::Other(bytes) => bytes,
        };
        HeaderValue::from_bytes(text).ok()
    }
}

impl GrpcTail {
    fn build(&self) -> Vec<u8> {
        let tail: &[u8] = match self {
            Self::None => b"",
            Self::Proto => b"+proto",
            Self::Charset => b"; charset=utf-8",
            Self::Web => b"-web",
            Self::WebText => b"-web-text+proto",
            Self::InCapitals => return b"APPLICATION/GRPC".to_vec(),
            Self::Other(bytes) => bytes,
        };
        [b"application/grpc", tail].concat()
    }
}

/// The properties of a request that its response depends on, computed without the crate.
#[derive(Debug, Clone)]
pub struct Asked {
    pub is_http1: bool,
    pub is_head: bool,
    pub is_connect: bool,
    /// Whether the request may take over the connection, or its stream, from HTTP.
    pub asks_to_upgrade: bool,
    /// The content type, if it is a gRPC call.
    pub grpc: Option<HeaderValue>,
    pub path: String,
}

impl Asked {
    pub fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let is_post = request.method() == Method::POST;
        let is_connect = request.method() == Method::CONNECT;
        let is_http11 = request.version() == Version::HTTP_11;
        Self {
            is_http1: !matches!(request.version(), Version::HTTP_2 | Version::HTTP_3),
            is_head: request.method() == Method::HEAD,
            is_connect,
            asks_to_upgrade: is_connect
                || (is_http11 && request.headers().contains_key(header::UPGRADE)),
            grpc: content_type
                .filter(|value| is_post && is_grpc(value))
                .cloned(),
            path: request.uri().path().to_owned(),
        }
    }

    /// Whether a response with this status ends HTTP on the connection, or its stream.
    pub fn is_upgraded_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }

    /// Returns the headers after the client is asked to close.
    pub fn with_close(&self, status: StatusCode, mut headers: HeaderMap) -> HeaderMap {
        if self.is_http1 && !self.is_upgraded_by(status) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers
    }
}

/// `application/grpc`, alone or followed by `+`, `;` or `-web`.
pub fn is_grpc(content_type: &HeaderValue) -> bool {
    let lower = content_type.as_bytes().to_ascii_lowercase();
    lower.strip_prefix(b"application/grpc").is_some_and(|rest| {
        rest.is_empty()
            || [b"+".as_slice(), b";", b"-web"]
                .iter()
                .any(|next| rest.starts_with(next))
    })
}

/// Makes a header map from a list of pairs.
pub fn header_map<const N: usize>(pairs: [(&'static str, &str); N]) -> HeaderMap {
    let pair = |(name, value): (&'static str, &str)| {
        let value = HeaderValue::from_str(value).expect("a header value");
        (HeaderName::from_static(name), value)
    };
    pairs.map(pair).into_iter().collect()
}
