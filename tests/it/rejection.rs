//! The extension that marks the layers' own responses, for classifiers and metrics.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::classify::{
    ClassifiedResponse, ClassifyResponse, NeverClassifyEos, ServerErrorsAsFailures,
    ServerErrorsFailureClass, SharedClassifier,
};
use tower_http::trace::TraceLayer;
use tower_lifecycle::layers::Rejection;
use tower_lifecycle::{DrainLayer, LongLived, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::log::Lines;

type Body = Full<Bytes>;

/// Requests for each kind of response.
fn requests() -> Vec<(&'static str, Request<Body>)> {
    let request = |method, version, name, value: &str| {
        let request = Request::builder()
            .method(method)
            .version(version)
            .uri("/watch");
        request.header(name, value).body(Body::default()).unwrap()
    };
    let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
    let mut upgrade = request(Method::GET, http1, UPGRADE, "websocket");
    upgrade
        .headers_mut()
        .insert(CONNECTION, "upgrade".parse().unwrap());
    let mut upload = request(Method::POST, http1, CONTENT_TYPE, "text/plain");
    *upload.body_mut() = Body::from("which is read before the answer");
    vec![
        ("HTTP/1", request(Method::GET, http1, CONTENT_TYPE, "")),
        ("HTTP/2", request(Method::GET, http2, CONTENT_TYPE, "")),
        ("HEAD", request(Method::HEAD, http1, CONTENT_TYPE, "")),
        ("CONNECT", request(Method::CONNECT, http2, CONTENT_TYPE, "")),
        (
            "gRPC",
            request(Method::POST, http2, CONTENT_TYPE, "application/grpc"),
        ),
        (
            "gRPC-Web",
            request(
                Method::POST,
                http1,
                CONTENT_TYPE,
                "application/grpc-web+proto",
            ),
        ),
        ("upgrade", upgrade),
        ("upload", upload),
    ]
}

/// The extension of `layer`'s response, around a service that responds with `answer`.
fn ask<A>(
    layer: &DrainLayer,
    request: Request<Body>,
    answer: A,
) -> impl Future<Output = (StatusCode, Option<Rejection>)> + 'static
where
    A: Future<Output = Result<Response<Body>, Infallible>> + 'static,
{
    let mut answer = Some(answer);
    let service = service_fn(move |_| answer.take().expect("it is called once"));
    let response = layer.layer(service).oneshot(request);
    async {
        let response = response.await.unwrap();
        let rejection = response.extensions().get::<Rejection>().copied();
        (response.status(), rejection)
    }
}

fn stopped() -> ShutdownController {
    let ctl = ShutdownController::new();
    ctl.force();
    ctl
}

fn layers(ctl: &ShutdownController) -> [DrainLayer; 3] {
    [
        DrainLayer::new(ctl.clone()),
        DrainLayer::new(ctl.clone()).long_lived(LongLived::path("/watch")),
        DrainLayer::new(ctl.clone()).refuse_with(|_| Response::new(Bytes::from("later"))),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_refusal_says_so() {
    for layer in layers(&stopped()) {
        for (kind, request) in requests() {
            let (_, rejection) = ask(&layer, request, pending()).await;
            assert_eq!(rejection, Some(Rejection::Refused), "{kind}, {layer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_pause_says_so_too() {
    let ctl = ShutdownController::new();
    assert!(ctl.pause());
    let (_, request) = requests().swap_remove(0);
    let (status, rejection) = ask(&DrainLayer::new(ctl), request, pending()).await;
    assert_eq!(status, 503);
    assert_eq!(rejection, Some(Rejection::Refused));
}

#[tokio::test(start_paused = true)]
async fn every_answer_to_what_is_cut_says_so() {
    for number in 0..3 {
        for (kind, request) in requests() {
            let ctl = ShutdownController::new();
            let layer = &layers(&ctl)[number];
            let mut asked = task::spawn(ask(layer, request, pending()));
            assert_pending!(asked.poll());
            ctl.force();
            let (_, rejection) = asked.await;
            assert_eq!(rejection, Some(Rejection::Cut), "{kind}, {layer:?}");
            assert_eq!(ctl.metrics().aborted, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_of_the_application_says_so() {
    let unavailable = || {
        let response = Response::builder().status(503).body(Body::default());
        ready(Ok(response.unwrap()))
    };
    for (kind, request) in requests() {
        // Running, late, and exempt.
        let ctl = ShutdownController::new();
        let layer = DrainLayer::new(ctl.clone());
        let (_, rejection) = ask(&layer, request.clone(), unavailable()).await;
        assert_eq!(rejection, None, "{kind}");
        let _working = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        let (_, rejection) = ask(&layer, request.clone(), unavailable()).await;
        assert_eq!(rejection, None, "{kind}");
        ctl.force();
        let exempt = layer.exempt_paths(["/watch"]);
        let (_, rejection) = ask(&exempt, request, unavailable()).await;
        assert_eq!(rejection, None, "{kind}");
    }
}

// ===== with tower-http's TraceLayer =====

/// Server errors are failures, except those planned by the shutdown.
#[derive(Clone)]
struct Unplanned;

impl ClassifyResponse for Unplanned {
    type FailureClass = ServerErrorsFailureClass;
    type ClassifyEos = NeverClassifyEos<ServerErrorsFailureClass>;

    fn classify_response<B>(
        self,
        response: &Response<B>,
    ) -> ClassifiedResponse<Self::FailureClass, Self::ClassifyEos> {
        match response.extensions().get() {
            Some(Rejection::Refused) => ClassifiedResponse::Ready(Ok(())),
            _ => ServerErrorsAsFailures::new().classify_response(response),
        }
    }

    fn classify_error<E: std::fmt::Display + 'static>(self, error: &E) -> Self::FailureClass {
        ServerErrorsAsFailures::new().classify_error(error)
    }
}

/// Returns how many error lines are logged for a response through `service`.
async fn errors<S, B>(service: S) -> usize
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let log = Lines::default();
    let _listening = log.listen();
    let response = service.oneshot(Request::new(Body::default())).await;
    response.unwrap().into_body().collect().await.unwrap();
    log.containing("ERROR").len()
}

#[tokio::test(start_paused = true)]
async fn a_classifier_can_tell_a_refusal_from_a_failure() {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    let broken = service_fn(async |_: Request<Body>| {
        let response = Response::builder().status(503).body(Body::default());
        Ok::<_, Infallible>(response.unwrap())
    });
    let app = DrainLayer::new(ctl.clone()).layer(broken);
    let plain = TraceLayer::new_for_http().layer(app.clone());
    let ours = TraceLayer::new(SharedClassifier::new(Unplanned)).layer(app);

    assert_eq!(
        errors(plain.clone()).await,
        1,
        "a failure of the application"
    );
    assert_eq!(errors(ours.clone()).await, 1, "it still is one");
    let _working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    assert_eq!(errors(plain).await, 1, "a refusal, taken for one");
    assert_eq!(errors(ours).await, 0, "it is none");
}
