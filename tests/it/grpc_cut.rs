//! How gRPC streams end when they are cut: which with a status, and which with an error.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::error::Forced;
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{BoxError, DrainLayer, LongLived, ShutdownController, ShutdownReason};

type AppBody = UnsyncBoxBody<Bytes, Infallible>;
type LastFrame = Result<HeaderMap, BoxError>;

/// A call, and the response to it.
struct Call {
    version: Version,
    asks: &'static str,
    answers: &'static str,
    has_length: bool,
    body: AppBody,
}

impl Call {
    fn new() -> Self {
        Self {
            version: Version::HTTP_2,
            asks: "application/grpc",
            answers: "application/grpc",
            has_length: false,
            body: frames([Frame::data(Bytes::from_static(b"half a mess"))], true),
        }
    }

    /// Sends it through the layer. Returns the body of its response.
    async fn send(self, layer: &DrainLayer) -> ResponseBody<AppBody> {
        let mut response = Response::new(self.body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.answers.parse().unwrap());
        if self.has_length {
            headers.insert(CONTENT_LENGTH, 100.into());
        }
        let mut response = Some(response);
        let service = service_fn(move |_| {
            let response = response.take().expect("it is called once");
            async move { Ok::<_, Infallible>(response) }
        });
        let request = Request::post("/test.Echo/Stream")
            .version(self.version)
            .header(CONTENT_TYPE, self.asks)
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = layer.layer(service).oneshot(request).await;
        response.unwrap().into_body()
    }

    /// Returns its last frame or error, when it is cut after its first frame.
    async fn cut(self, with: impl FnOnce(DrainLayer) -> DrainLayer) -> LastFrame {
        let ctl = ShutdownController::new();
        let mut body = self.send(&with(DrainLayer::new(ctl.clone()))).await;
        assert!(body.frame().await.unwrap().unwrap().is_data());
        ctl.force();
        assert_eq!(ctl.in_flight(), 1);
        let last = body.frame().await.expect("never a clean end");
        assert!(body.is_end_stream() && body.frame().await.is_none());
        assert_eq!((ctl.in_flight(), ctl.metrics().aborted), (0, 1));
        last.map(|frame| frame.into_trailers().expect("not data"))
    }
}

/// A body with these frames, which never ends if `goes_on`.
fn frames<const N: usize>(frames: [Frame<Bytes>; N], goes_on: bool) -> AppBody {
    let frames = stream::iter(frames);
    if goes_on {
        BodyExt::boxed_unsync(StreamBody::new(
            frames.chain(stream::pending()).map(Ok::<_, Infallible>),
        ))
    } else {
        BodyExt::boxed_unsync(StreamBody::new(frames.map(Ok::<_, Infallible>)))
    }
}

#[track_caller]
fn assert_unavailable(last: &LastFrame) {
    let trailers = last.as_ref().expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    let message = "service stopped before the call was finished";
    assert_eq!(trailers["grpc-message"], message);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_grpc_ends_with_the_status_unavailable() {
    for answers in ["application/grpc", "application/grpc+proto"] {
        let call = Call {
            answers,
            ..Call::new()
        };
        assert_unavailable(&call.cut(|layer| layer).await);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_a_long_lived_class_does_so_too() {
    let class = LongLived::path("/test.Echo/Stream");
    let last = Call::new().cut(|layer| layer.long_lived(class)).await;
    assert_unavailable(&last);
}

#[tokio::test(start_paused = true)]
async fn where_the_client_would_not_read_the_status_the_body_ends_with_an_error() {
    let known_length = Full::from("a message").with_trailers(std::future::pending());
    let cases = [
        (
            "HTTP/1 has no trailers that anybody reads",
            Call {
                version: Version::HTTP_11,
                ..Call::new()
            },
        ),
        (
            "in gRPC-Web they are data, and would be a part of the half message",
            Call {
                asks: "application/grpc-web+proto",
                answers: "application/grpc-web+proto",
                ..Call::new()
            },
        ),
        (
            "a length that is not reached is an error of its own",
            Call {
                has_length: true,
                ..Call::new()
            },
        ),
        (
            "hyper tells the length of a body that knows it",
            Call {
                body: BodyExt::boxed_unsync(known_length),
                ..Call::new()
            },
        ),
        (
            "an answer of something before the service",
            Call {
                answers: "text/html",
                ..Call::new()
            },
        ),
        (
            "a download",
            Call {
                asks: "application/json",
                answers: "application/octet-stream",
                ..Call::new()
            },
        ),
    ];
    for (why, call) in cases {
        let error = call.cut(|layer| layer).await.expect_err(why);
        assert!(error.is::<Forced>(), "{why}: {error:?}");
    }
}

/// Some bodies do not report their end after their trailers.
#[tokio::test(start_paused = true)]
async fn after_trailers_of_its_own_a_stream_has_ended_and_gets_no_others() {
    let ctl = ShutdownController::new();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let call = Call {
        body: frames([Frame::trailers(trailers)], true),
        ..Call::new()
    };
    let mut body = call.send(&DrainLayer::new(ctl.clone())).await;
    let last = body.frame().await.unwrap().unwrap();
    assert_eq!(last.trailers_ref().unwrap()["grpc-status"], "0");
    assert_eq!(ctl.in_flight(), 0);
    ctl.force();
    assert!(body.frame().await.is_none());
    assert_eq!(ctl.metrics().aborted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_is_woken_for_its_status() {
    let ctl = ShutdownController::new();
    let call = Call {
        body: frames([], true),
        ..Call::new()
    };
    let body = call.send(&DrainLayer::new(ctl.clone())).await;
    let mut body = task::spawn(body);
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    ctl.shutdown(ShutdownReason::Manual).await;
    assert!(body.is_woken());
    let last = assert_ready!(body.enter(|cx, body| body.poll_frame(cx))).unwrap();
    assert_unavailable(&last.map(|frame| frame.into_trailers().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_in_time_ends_with_its_own_status() {
    let ctl = ShutdownController::new();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 5.into());
    let whole = [
        Frame::data(Bytes::from_static(b"a")),
        Frame::trailers(trailers),
    ];
    let call = Call {
        body: frames(whole, false),
        ..Call::new()
    };
    let body = call.send(&DrainLayer::new(ctl.clone())).await;
    ctl.trigger(ShutdownReason::Manual);
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "5");
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}
