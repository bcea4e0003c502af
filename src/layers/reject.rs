//! Responses to requests that are refused or cut, in the client's protocol.
//!
//! - HTTP: 503 (RFC 9110 §15.6.4). A refusal carries `Retry-After` (§10.2.3). The response to a cut
//!   request does not, since work had begun and a retry may repeat it.
//! - gRPC: a trailers-only response with status 14 `UNAVAILABLE`, as the gRPC over HTTP/2 protocol
//!   defines it.
//! - For logs and metrics of this process, each response has a [`Rejection`] in its extensions.
//! - HTTP/1 responses carry `Connection: close` (RFC 9112 §9.6), so that the client's next request
//!   goes to another instance instead of being refused here again.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};

use super::facts::Facts;
use super::grpc;
use super::options::Options;
use super::rejection::Rejection;
use crate::error::ShuttingDown;

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

/// A fixed response body and its length. A length that is formatted at run time would be reference
/// counted. The cores would contend for that count when a hundred thousand responses are cloned.
#[derive(Clone, Copy)]
struct Json {
    text: &'static str,
    length: &'static str,
}

/// Creates the response to a request that is not admitted.
#[cold]
pub(crate) fn refuse<T>(
    options: &Options,
    request: Request<T>,
    why: ShuttingDown,
) -> Response<Bytes> {
    let (json, message) = if why.is_paused() {
        (PAUSED_JSON, grpc::PAUSED)
    } else {
        (REFUSED_JSON, grpc::REFUSED)
    };
    let facts = Facts::of(&request);
    let (parts, _) = request.into_parts();
    let mut response = match &options.refuse_with {
        Some(refuse_with) => refuse_with(&parts),
        None => match facts.grpc_type() {
            Some(known) => {
                // Echoes the header of the client, which may be more exact than `Facts`.
                let content_type = parts.headers.get(CONTENT_TYPE).cloned();
                let known = || HeaderValue::from_static(known.name());
                grpc::trailers_only(content_type.unwrap_or_else(known), message)
            }
            None => {
                let mut response = unavailable(json);
                let headers = response.headers_mut();
                headers.insert(RETRY_AFTER, options.retry_after.clone());
                response
            }
        },
    };
    finish(&mut response, facts);
    response.extensions_mut().insert(Rejection::Refused);
    response
}

/// Creates the response to an admitted request that is cut before it had a response.
#[cold]
pub(crate) fn cut(facts: Facts) -> Response<Bytes> {
    // Created once, since a hundred thousand requests may be cut at a time: cloning headers costs less
    // than inserting them.
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
    remove_body_of_head(&mut response, facts);
    response.extensions_mut().insert(Rejection::Cut);
    response
}

/// Adapts a response to the method and the version of the request.
fn finish(response: &mut Response<Bytes>, facts: Facts) {
    remove_body_of_head(response, facts);
    facts.close_connection(response.status(), response.headers_mut());
}

/// Removes the body if the request was a HEAD.
///
/// The `Content-Length` stays, as RFC 9110 §8.6 allows. The body must be at its end from the start.
/// Otherwise, hyper's HTTP/2 breaks the stream.
fn remove_body_of_head(response: &mut Response<Bytes>, facts: Facts) {
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
}
