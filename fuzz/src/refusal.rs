//! Requests through a `DrainLayer`: served, refused, exempt or cut.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::layers::{Rejection, ResponseBody};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownReason};

use crate::http_input::{AnyHead, AnyRequest, Asked, EXEMPT, header_map};
use crate::on_paused_clock;
use crate::phase::{Held, Phase};

#[derive(Debug, Arbitrary)]
pub struct Input {
    phase: Phase,
    request: AnyRequest,
    /// Force is called while the handler is pending.
    is_cut: bool,
    has_exempt_paths: bool,
    retry_after: (u64, u32),
    /// The application's own refusal response.
    refuse_with: Option<(AnyHead, String)>,
}

/// A response whose body has not been read yet.
type Answer = Response<ResponseBody<Full<Bytes>>>;

pub fn check(input: &Input) {
    on_paused_clock(input.holds());
}

impl Input {
    async fn holds(&self) {
        let held = self.phase.reach(ShutdownConfig::default()).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let (is_cut, called) = (self.is_cut, Arc::clone(&calls));
        let app = service_fn(move |_: Request<Full<Bytes>>| {
            called.fetch_add(1, Ordering::SeqCst);
            async move {
                if is_cut {
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Full::from("answer")))
            }
        });
        let request = self.request.build().map(Full::new);
        let asked = Asked::of(&request);
        let is_exempt = self.has_exempt_paths && asked.path == EXEMPT;

        let mut answer = pin!(self.layer(&held).layer(app).oneshot(request));
        let first = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        // Late exempt requests are not counted.
        let admitted = match self.phase {
            Phase::Late => !is_exempt,
            phase => !phase.refuses(),
        };
        assert_eq!(
            calls.load(Ordering::SeqCst),
            usize::from(admitted || is_exempt)
        );
        assert_eq!(
            held.in_flight(),
            u64::from(admitted),
            "while it is answered"
        );
        let answer = match first {
            Poll::Ready(Ok(answer)) => answer,
            Poll::Pending if is_exempt && !admitted => return, // neither counted nor cut
            Poll::Pending => {
                assert!(admitted && is_cut, "a refusal has nothing to wait for");
                held.ctl.force();
                let Poll::Ready(Ok(answer)) =
                    poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await
                else {
                    panic!("not cut by force");
                };
                assert_eq!(answer.extensions().get(), Some(&Rejection::Cut));
                assert_cut(&asked, answer).await;
                return self.assert_report(held, 1, 1).await;
            }
        };
        if admitted {
            assert_served(&asked, self.phase.sends_close(), answer).await;
            self.assert_report(held, 1, 0).await;
        } else if is_exempt {
            assert_served(&asked, self.phase.sends_close(), answer).await;
            assert_eq!(held.in_flight(), 0);
        } else {
            assert_eq!(answer.extensions().get(), Some(&Rejection::Refused));
            self.assert_refused(&asked, answer).await;
            if self.phase != Phase::Stopped {
                self.assert_report(held, 0, 0).await;
            }
        }
    }

    fn layer(&self, held: &Held) -> DrainLayer {
        let mut layer = DrainLayer::new(held.ctl.clone()).retry_after(self.retry_after());
        if self.has_exempt_paths {
            layer = layer.exempt_paths([EXEMPT, "/other"]);
        }
        if let Some((head, body)) = self.refuse_with.clone() {
            layer = layer.refuse_with(move |_| head.build(Bytes::from(body.clone())));
        }
        layer
    }

    fn retry_after(&self) -> Duration {
        Duration::new(self.retry_after.0, self.retry_after.1 % 1_000_000_000)
    }

    async fn assert_refused(&self, asked: &Asked, answer: Answer) {
        let paused = self.phase == Phase::Paused;
        let message = if paused {
            "service is paused"
        } else {
            "service is shutting down"
        };
        let expected = if let Some((head, body)) = &self.refuse_with {
            head.build(Bytes::from(body.clone()))
        } else if let Some(content_type) = &asked.grpc {
            let mut expected = trailers_only(message);
            // As the client wrote it.
            expected
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type.clone());
            expected
        } else {
            let mut expected = unavailable(format!(r#"{{"error":"{message}"}}"#));
            let wait = self.retry_after();
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            expected
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
            expected
        };
        assert_is(asked, expected, answer).await;
    }

    /// Nothing is left in flight, and the request was counted by its outcome.
    async fn assert_report(&self, held: Held, admitted: u64, aborted: u64) {
        assert_eq!(held.in_flight(), 0, "after the end of the body");
        let Held { ctl, guard } = held;
        drop(guard);
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert_eq!(report.refused(), u64::from(self.phase.refuses()));
        // The guard that holds the phase is also admitted, and is never cut.
        let holds = u64::from(self.phase.is_held());
        assert_eq!(report.admitted(), admitted + holds);
        let late = match self.phase {
            Phase::Late => admitted,
            _ => 0,
        };
        assert_eq!(report.late_requests(), late);
        assert_eq!(report.aborted(), aborted);
        assert_eq!(report.abandoned(), 0);
    }
}

/// The response to a cut request: no `Retry-After`, because the handler had started.
async fn assert_cut(asked: &Asked, answer: Answer) {
    let expected = if asked.grpc.is_some() {
        let mut expected = trailers_only("service stopped before the call was finished");
        let content_type = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .expect("a content type");
        // For unknown content types only the beginning is echoed.
        assert!(content_type.as_bytes().starts_with(b"application/grpc"));
        expected
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.clone());
        expected
    } else {
        unavailable(r#"{"error":"service stopped before the request was finished"}"#.to_owned())
    };
    assert_is(asked, expected, answer).await;
}

/// The application's response, and HTTP/1 clients are asked to close.
async fn assert_served(asked: &Asked, sends_close: bool, answer: Answer) {
    assert_eq!(answer.extensions().get::<Rejection>(), None);
    let (head, body) = answer.into_parts();
    assert_eq!(head.status, StatusCode::OK);
    let headers = HeaderMap::new();
    let expected = if sends_close {
        asked.with_close(head.status, headers)
    } else {
        headers
    };
    assert_eq!(head.headers, expected);
    assert_eq!(
        body.collect().await.expect("nobody cuts it").to_bytes(),
        "answer"
    );
}

/// One of the crate's own responses, byte for byte.
async fn assert_is(asked: &Asked, expected: Response<Bytes>, answer: Answer) {
    let (expected, text) = expected.into_parts();
    let text = if asked.is_head { Bytes::new() } else { text };
    let (head, body) = answer.into_parts();
    assert_eq!(head.status, expected.status);
    assert_eq!(
        head.headers,
        asked.with_close(expected.status, expected.headers)
    );
    assert_eq!(
        body.is_end_stream(),
        text.is_empty(),
        "ended from the start"
    );
    assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
    let body = body.collect().await.expect("it is all there");
    assert!(body.trailers().is_none());
    assert_eq!(body.to_bytes(), text);
}

fn unavailable(json: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    *response.headers_mut() = header_map([
        ("content-type", "application/json"),
        ("content-length", &json.len().to_string()),
    ]);
    response.map(|_| json.into())
}

fn trailers_only(message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = header_map([("grpc-status", "14"), ("grpc-message", message)]);
    response
}
