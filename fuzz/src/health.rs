//! Requests to `HealthService` and `HealthLayer`.

use std::convert::Infallible;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::health::HealthLayer;
use tower_lifecycle::{HealthService, ShutdownConfig};

use crate::http_input::{AnyRequest, header_map};
use crate::on_paused_clock;
use crate::phase::Phase;

#[derive(Debug, Arbitrary)]
pub struct Input {
    phase: Phase,
    request: AnyRequest,
    place: Place,
    version: Option<String>,
    check: Option<Check>,
}

#[derive(Debug, Clone, Arbitrary)]
enum Place {
    Readiness,
    Liveness,
    /// At its default paths.
    Layer,
    /// At other paths.
    LayerAt {
        liveness: String,
        readiness: String,
    },
}

#[derive(Debug, Clone, Arbitrary)]
struct Check {
    name: String,
    is_critical: bool,
    error: Option<String>,
}

/// A response that was read to its end.
#[derive(Debug, PartialEq)]
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    is_end_stream: bool,
    size: Option<u64>,
    body: Bytes,
}

pub fn check(input: &Input) {
    on_paused_clock(async {
        let held = input.phase.reach(ShutdownConfig::default()).await;
        let mut service = HealthService::new(held.ctl.clone());
        if let Some(version) = &input.version {
            service = service.version(version);
        }
        if let Some(Check {
            name,
            is_critical,
            error,
        }) = input.check.clone()
        {
            let run = move || {
                let error = error.clone();
                async { error.map_or(Ok(()), |error| Err(error.into())) }
            };
            service = if is_critical {
                service.critical_check(name, run)
            } else {
                service.check(name, run)
            };
        }
        let request = input.request.build();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match &input.place {
            Place::Readiness => {
                let read = read(service.oneshot(request)).await;
                input.assert_probe(&method, false, &read);
            }
            Place::Liveness => {
                let read = read(service.liveness().oneshot(request)).await;
                input.assert_probe(&method, true, &read);
            }
            Place::Layer => {
                let layer = HealthLayer::from(service);
                input
                    .assert_layer(layer, request, &path, "/livez", "/readyz")
                    .await;
            }
            Place::LayerAt {
                liveness,
                readiness,
            } => {
                let layer = HealthLayer::from(service)
                    .liveness_path(liveness)
                    .readiness_path(readiness);
                let [liveness, readiness] = [liveness, readiness].map(with_slash);
                input
                    .assert_layer(layer, request, &path, &liveness, &readiness)
                    .await;
            }
        }
        assert_eq!(held.in_flight(), 0, "probes are not counted");
    });
}

/// Adds the leading slash of a probe's path; an empty path disables the probe.
fn with_slash(path: &String) -> String {
    if path.is_empty() || path.starts_with('/') {
        path.clone()
    } else {
        format!("/{path}")
    }
}

impl Input {
    /// The probes respond at their paths. Everywhere else the application responds, as if there
    /// were no layer.
    async fn assert_layer(
        &self,
        layer: HealthLayer,
        request: Request<Bytes>,
        path: &str,
        liveness: &str,
        readiness: &str,
    ) {
        let method = request.method().clone();
        let sent = request.clone();
        let app = service_fn(move |request: Request<Bytes>| {
            assert_eq!(format!("{request:?}"), format!("{sent:?}"));
            let mut response = Response::new(Full::from("application"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let read = read(layer.layer(app).oneshot(request)).await;
        if !path.is_empty() && path == liveness {
            self.assert_probe(&method, true, &read);
        } else if !path.is_empty() && path == readiness {
            self.assert_probe(&method, false, &read);
        } else {
            assert_eq!(read.status, StatusCode::IM_A_TEAPOT);
            assert_eq!(read.headers, HeaderMap::new());
            assert_eq!(read.body, "application");
        }
    }

    /// The response matches the phase and the checks, and contains nothing from the request.
    fn assert_probe(&self, method: &Method, liveness: bool, read: &Read) {
        if method != Method::GET && method != Method::HEAD {
            assert_eq!(read.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(read.headers, header_map([("allow", "GET, HEAD")]));
            assert!(read.is_end_stream && read.body.is_empty());
            return;
        }
        let (text, is_green) = self.status(liveness);
        let status = if is_green {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(read.status, status, "{text}");
        let length = read.headers.get("content-length").expect("the length");
        let length = length.to_str().unwrap().to_owned();
        let headers = header_map([
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("content-length", &length),
        ]);
        assert_eq!(read.headers, headers);
        if method == Method::HEAD {
            assert!(read.is_end_stream && read.body.is_empty());
            assert_eq!(read.size, Some(0));
            return;
        }
        assert_eq!(length, read.body.len().to_string());
        assert_eq!(read.size, Some(read.body.len() as u64));
        let body: Value = serde_json::from_slice(&read.body).expect("JSON");
        assert_eq!(body["status"], text);
        assert_eq!(
            body["version"],
            self.version.as_deref().unwrap_or("unknown")
        );
        let keys: Vec<_> = body
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = [
            "status",
            "version",
            "services",
            "uptime",
            "in_flight_requests",
            "timestamp",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        let services = body["services"].as_object().unwrap();
        match (&self.check, self.runs_checks(liveness)) {
            (Some(Check { name, error, .. }), true) => {
                let shown = &services[name];
                assert_eq!(services.len(), 1);
                assert_eq!(
                    shown["status"],
                    if error.is_some() { "failed" } else { "healthy" }
                );
                assert_eq!(shown.get("error").and_then(Value::as_str), error.as_deref());
            }
            _ => assert!(services.values().all(|shown| shown.get("error").is_none())),
        }
    }

    fn runs_checks(&self, liveness: bool) -> bool {
        self.phase == Phase::Running && !liveness
    }

    /// The expected status text, and whether it is green.
    fn status(&self, liveness: bool) -> (&'static str, bool) {
        let (text, ready) = match self.phase {
            Phase::Running => match &self.check {
                Some(Check {
                    error: Some(_),
                    is_critical,
                    ..
                }) if !liveness => {
                    if *is_critical {
                        ("unhealthy", false)
                    } else {
                        ("degraded", true)
                    }
                }
                _ => ("healthy", true),
            },
            Phase::Paused => ("paused", false),
            Phase::LameDuck | Phase::Late | Phase::Draining | Phase::Forced => ("draining", false),
            Phase::Stopped => ("stopped", false),
        };
        let alive = self.phase != Phase::Stopped;
        (text, if liveness { alive } else { ready })
    }
}

async fn read<B>(response: impl Future<Output = Result<Response<B>, Infallible>>) -> Read
where
    B: Body<Data = Bytes, Error = Infallible>,
{
    let Ok(response) = response.await;
    let (head, body) = response.into_parts();
    let (is_end_stream, size) = (body.is_end_stream(), body.size_hint().exact());
    let Ok(body) = body.collect().await;
    Read {
        status: head.status,
        headers: head.headers,
        is_end_stream,
        size,
        body: body.to_bytes(),
    }
}
