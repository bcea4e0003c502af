//! An application's responses through a `DrainLayer`, with draining and force at any moment.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::Request;
use http::header::{self, HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::error::Forced;
use tower_lifecycle::{
    BoxError, DrainLayer, LongLived, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::http_input::{AnyHead, AnyRequest, Asked, EXEMPT, header_map, is_grpc};
use crate::on_paused_clock;
use crate::phase::Phase;

#[derive(Debug, Arbitrary)]
pub struct Input {
    in_lame_duck: bool,
    /// The polls of the body before which draining begins, and force comes.
    draining: Option<u8>,
    forced: Option<u8>,
    /// The poll after which the body is dropped.
    dropped: Option<u8>,
    no_classes: bool,
    classes: Vec<Class>,
    body: Script,
    // Last, because it takes most of the bytes.
    request: AnyRequest,
    head: AnyHead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Class {
    Ndjson,
    Grpc,
    Path,
}

/// A scripted body.
#[derive(Debug, Clone, Arbitrary)]
struct Script {
    end: End,
    /// Whether it reports its size hint, and that it has ended.
    tells: bool,
    /// The last frame first.
    frames: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum End {
    Clean,
    Trailers,
    Error,
    Never,
    Ended,
}

/// The result of polling a body.
#[derive(Debug, PartialEq)]
enum Polled {
    Data(Bytes),
    Trailers(HeaderMap),
    Failed,
    /// Cut with an error, or with a gRPC status.
    Forced,
    Status,
    End,
    Pending,
}

pub fn check(input: &Input) {
    on_paused_clock(input.holds());
}

impl Input {
    async fn holds(&self) {
        let phase = if self.in_lame_duck {
            Phase::LameDuck
        } else {
            Phase::Running
        };
        let held = phase.reach(ShutdownConfig::default()).await;
        let ctl = &held.ctl;
        let request = self.request.build().map(Full::new);
        let asked = Asked::of(&request);
        let given = self.head.build(self.body.clone());
        let (status, headers) = (given.status(), given.headers().clone());
        let mut app = Some(given);
        let app = service_fn(move |_: Request<Full<Bytes>>| {
            ready(Ok::<_, Infallible>(app.take().expect("one call")))
        });
        let Ok(answer) = self.layer(ctl).layer(app).oneshot(request).await;
        let (head, body) = answer.into_parts();

        assert_eq!(head.status, status);
        let expected = if self.in_lame_duck {
            asked.with_close(status, headers.clone())
        } else {
            headers.clone()
        };
        assert_eq!(head.headers, expected);
        let is_upgraded = asked.asks_to_upgrade && asked.is_upgraded_by(status);
        let is_long_lived = !is_upgraded && self.is_long_lived(&asked, &headers);
        let mut model = Model {
            script: self.body.clone(),
            clean_end: is_long_lived.then(|| CleanEnd::of(&headers)),
            has_status: !is_upgraded && self.has_status(&asked, &headers),
            ended: false,
        };
        // The head holds the guard of an upgraded connection, as a server does.
        let held_by_head = u64::from(is_upgraded);
        let mut body = Some(Box::pin(body));
        let (mut draining, mut forced, mut cut) = (false, false, 0);
        let comes_at = |moment: Option<u8>, n| moment.is_some_and(|moment| moment % 8 == n);
        for n in 0..8 {
            if comes_at(self.draining, n) {
                begin_draining(ctl).await;
                draining = true;
            }
            if comes_at(self.forced, n) {
                ctl.force();
                (draining, forced) = (true, true);
            }
            let Some(live) = &mut body else { break };
            assert!(ctl.in_flight() == 1 || model.ended || live.is_end_stream());
            let hint = live.size_hint();
            let expected = model.next(draining, forced);
            let polled = poll(live.as_mut()).await;
            assert_eq!(
                polled, expected,
                "poll {n}, draining {draining}, forced {forced}"
            );
            cut += u64::from(matches!(polled, Polled::Forced | Polled::Status));
            if let Polled::Data(data) = &polled {
                assert!(
                    hint.upper().is_none_or(|most| data.len() as u64 <= most),
                    "{hint:?}"
                );
            } else if polled == Polled::End {
                assert_eq!(hint.lower(), 0, "it had promised more");
            }
            if model.ended {
                assert_eq!(ctl.in_flight(), held_by_head, "after the end");
                assert!(live.is_end_stream());
                assert_eq!(live.size_hint().exact(), Some(0));
            }
            if comes_at(self.dropped, n) {
                body = None;
            }
        }
        drop(body);
        assert_eq!(ctl.in_flight(), held_by_head, "after the body is dropped");
        drop(head);
        assert_eq!(ctl.in_flight(), 0);
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert_eq!((report.admitted(), report.refused()), (1, 0));
        // An upgraded connection is cut if it is open at the force.
        let cut = if is_upgraded { u64::from(forced) } else { cut };
        assert_eq!(report.aborted(), cut);
        assert_eq!(report.abandoned(), 0);
    }

    fn layer(&self, ctl: &ShutdownController) -> DrainLayer {
        let mut layer = DrainLayer::new(ctl.clone());
        if self.no_classes {
            layer = layer.no_long_lived();
        }
        for class in &self.classes {
            layer = layer.long_lived(match class {
                Class::Ndjson => LongLived::content_type("application/x-ndjson"),
                Class::Grpc => LongLived::content_type("Application/gRPC; proto"),
                Class::Path => LongLived::path(EXEMPT),
            });
        }
        layer
    }

    /// Whether the response has a length.
    fn has_end(&self, headers: &HeaderMap) -> bool {
        self.body.size_hint().exact().is_some()
            || self.body.is_end_stream()
            || headers.contains_key(header::CONTENT_LENGTH)
    }

    /// Whether the body ends with a status, in trailers.
    fn has_status(&self, asked: &Asked, headers: &HeaderMap) -> bool {
        let is_call = asked.grpc.is_some() && !asked.is_http1;
        let has_trailers = matches!(CleanEnd::of(headers), CleanEnd::Trailers);
        is_call && has_trailers && !self.has_end(headers)
    }

    /// Whether the body ends when draining begins.
    fn is_long_lived(&self, asked: &Asked, headers: &HeaderMap) -> bool {
        let has_end = self.has_end(headers);
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let essence = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
        let essence = essence
            .unwrap_or_default()
            .trim_ascii()
            .to_ascii_lowercase();
        let class = match &*essence {
            b"text/event-stream" => !self.no_classes,
            b"application/x-ndjson" => self.classes.contains(&Class::Ndjson),
            b"application/grpc" => self.classes.contains(&Class::Grpc),
            _ => false,
        };
        let path = self.classes.contains(&Class::Path) && asked.path == EXEMPT;
        !has_end && (class || path)
    }
}

async fn begin_draining(ctl: &ShutdownController) {
    ctl.trigger(ShutdownReason::Manual);
    // In a lame duck, draining begins later.
    ctl.draining().await;
}

// ===== the body =====

impl Script {
    fn is_over(&self) -> bool {
        self.frames.is_empty() && self.end == End::Ended
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(length) = self.frames.pop() {
            let data = Bytes::from(vec![length; usize::from(length)]);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.end {
            End::Never => Poll::Pending,
            End::Clean | End::Ended => {
                self.end = End::Ended;
                Poll::Ready(None)
            }
            End::Trailers => {
                self.end = End::Ended;
                let trailers =
                    HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))]);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            End::Error => {
                self.end = End::Ended;
                Poll::Ready(Some(Err("broken".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells && self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        if self.tells && matches!(self.end, End::Clean | End::Ended) {
            SizeHint::with_exact(self.frames.iter().map(|n| u64::from(*n)).sum())
        } else {
            SizeHint::new()
        }
    }
}

// ===== the expected polls =====

struct Model {
    script: Script,
    /// For a body that draining ends.
    clean_end: Option<CleanEnd>,
    /// For a gRPC call, which ends with its trailers.
    has_status: bool,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
enum CleanEnd {
    None,
    Trailers,
    WebTrailers,
    WebTextTrailers,
}

impl Model {
    fn next(&mut self, draining: bool, forced: bool) -> Polled {
        if self.ended {
            return Polled::End;
        }
        if forced && !self.script.is_end_stream() {
            self.ended = true;
            return if self.has_status {
                Polled::Status
            } else {
                Polled::Forced
            };
        }
        if draining && let Some(clean_end) = self.clean_end {
            self.ended = true;
            return clean_end.polled();
        }
        let mut script = pin!(&mut self.script);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let polled = Polled::of(script.as_mut().poll_frame(&mut cx));
        self.ended = match &polled {
            Polled::Data(_) => self.script.is_end_stream(),
            Polled::Trailers(_) => {
                self.clean_end.is_some() || self.has_status || self.script.is_end_stream()
            }
            Polled::Pending => false,
            Polled::Failed | Polled::Forced | Polled::Status | Polled::End => true,
        };
        polled
    }
}

impl CleanEnd {
    fn of(headers: &HeaderMap) -> Self {
        let Some(content_type) = headers.get(header::CONTENT_TYPE).filter(|v| is_grpc(v)) else {
            return Self::None;
        };
        let lower = content_type.as_bytes().to_ascii_lowercase();
        if lower.starts_with(b"application/grpc-web-text") {
            Self::WebTextTrailers
        } else if lower.starts_with(b"application/grpc-web") {
            Self::WebTrailers
        } else {
            Self::Trailers
        }
    }

    fn polled(self) -> Polled {
        let web = b"grpc-status:14\r\ngrpc-message:service is shutting down\r\n";
        match self {
            Self::None => Polled::End,
            Self::Trailers => Polled::Trailers(header_map([
                ("grpc-status", "14"),
                ("grpc-message", "service is shutting down"),
            ])),
            Self::WebTrailers => {
                let head = [0x80, 0, 0, 0, web.len() as u8];
                Polled::Data([head.as_slice(), web].concat().into())
            }
            Self::WebTextTrailers => Polled::Data(Bytes::from_static(
                b"gAAAADdncnBjLXN0YXR1czoxNA0KZ3JwYy1tZXNzYWdlOnNlcnZpY2UgaXMgc2h1dHRpbmcgZG93bg0K",
            )),
        }
    }
}

impl Polled {
    fn of(polled: Poll<Option<Result<Frame<Bytes>, BoxError>>>) -> Self {
        match polled {
            Poll::Pending => Self::Pending,
            Poll::Ready(None) => Self::End,
            Poll::Ready(Some(Err(error))) if error.is::<Forced>() => Self::Forced,
            Poll::Ready(Some(Err(_))) => Self::Failed,
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Self::Data(data),
                Err(frame) => match frame.into_trailers().unwrap_or_default() {
                    trailers if trailers == cut_status() => Self::Status,
                    trailers => Self::Trailers(trailers),
                },
            },
        }
    }
}

fn cut_status() -> HeaderMap {
    header_map([
        ("grpc-status", "14"),
        (
            "grpc-message",
            "service stopped before the call was finished",
        ),
    ])
}

async fn poll<B: Body<Data = Bytes, Error = BoxError>>(mut body: Pin<&mut B>) -> Polled {
    poll_fn(|cx| Poll::Ready(Polled::of(body.as_mut().poll_frame(cx)))).await
}
