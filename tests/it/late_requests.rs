//! Requests that arrive while draining, and requests that wait for the readiness of an inner
//! service.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::limit::ConcurrencyLimitLayer;
use tower::util::{BoxCloneSyncService, ServiceFn};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_lifecycle::{
    DrainLayer, LifecycleState, RequestTrackingLayer, ShutdownConfig, ShutdownController,
    ShutdownReason,
};

#[cfg(feature = "http2")]
use crate::support::loopback::loopback;
use crate::support::shutdown::{controller, ms, settle};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

type Body = Full<Bytes>;
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;
type App = BoxCloneSyncService<Request<Body>, Response<Bytes>, Infallible>;

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::default()).unwrap()
}

/// Takes as many milliseconds as the path says.
fn handle<B>(request: Request<B>) -> Answer {
    let time = request.uri().path()[1..].parse().unwrap_or(0);
    Box::pin(async move {
        sleep(ms(time)).await;
        Ok(Response::new(Body::from("hello")))
    })
}

/// The handler behind `layer`.
fn app<L, B>(layer: L) -> App
where
    L: Layer<ServiceFn<fn(Request<Body>) -> Answer>>,
    L::Service: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Error: std::fmt::Debug, Data: Send> + Send + 'static,
{
    collected(layer.layer(service_fn(handle as fn(Request<Body>) -> Answer)))
}

/// The service, with each response read to its end.
fn collected<S, B>(service: S) -> App
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Error: std::fmt::Debug, Data: Send> + Send + 'static,
{
    BoxCloneSyncService::new(service.and_then(|response: Response<B>| async {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Ok(Response::from_parts(
            head,
            body.unwrap_or_else(|_| "cut".into()),
        ))
    }))
}

/// Sends a request in a separate task, as a server does.
fn send(app: &App, path: &str) -> JoinHandle<Response<Bytes>> {
    let call = app.clone().oneshot(request(path));
    tokio::spawn(call.map(|answer| answer.unwrap()))
}

/// Sends a request, and returns the status of the response.
async fn status(app: &App, path: &str) -> StatusCode {
    send(app, path).await.unwrap().status()
}

/// Triggers, and returns when new requests are late.
async fn drain(ctl: &ShutdownController) -> Instant {
    ctl.trigger(MANUAL);
    ctl.draining().await;
    Instant::now()
}

// ===== late requests =====

#[tokio::test(start_paused = true)]
async fn late_requests_are_served_for_a_second_and_then_refused() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let _slow = ctl.track(); // holds the drain
    let began = drain(&ctl).await;

    for late in [0, 500, 498] {
        sleep(ms(late)).await;
        let answer = send(&app, "/0").await.unwrap();
        assert_eq!(answer.status(), 200, "after {:?}", began.elapsed());
        assert_eq!(answer.headers()["connection"], "close");
    }
    sleep_until(began + ms(1_001)).await;
    let refused = send(&app, "/0").await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(ctl.metrics().late_requests, 3);
    assert_eq!((ctl.metrics().admitted, ctl.metrics().refused), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_request_is_counted_waited_for_and_reported() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let first = send(&app, "/300");
    settle().await;
    let began = drain(&ctl).await;
    sleep(ms(200)).await;
    let late = send(&app, "/5000");
    settle().await;
    assert_eq!(ctl.in_flight(), 2);
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(ctl.in_flight(), 1);
    assert_eq!(late.await.unwrap().body(), "hello");

    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(began.elapsed(), ms(5_200));
    assert!(report.is_graceful());
    assert_eq!((report.late_requests(), report.late_arrivals()), (1, 0));
    assert_eq!((report.admitted(), report.refused()), (2, 0));
    let text = report.to_string();
    assert!(text.contains("late requests 1 while draining"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn late_requests_are_served_for_half_of_a_short_drain_at_most() {
    let config = ShutdownConfig::default().shutdown_timeout(ms(400)); // a drain of 300 ms
    let ctl = controller(config);
    let app = app(DrainLayer::new(ctl.clone()));
    let _slow = ctl.track();
    let began = drain(&ctl).await;
    sleep_until(began + ms(148)).await;
    assert_eq!(status(&app, "/0").await, 200);
    sleep_until(began + ms(152)).await;
    assert_eq!(status(&app, "/0").await, 503);
}

#[tokio::test(start_paused = true)]
async fn without_late_for_and_with_refuse_for_what_arrives_is_refused() {
    for config in [
        ShutdownConfig::default().late_for(Duration::ZERO),
        ShutdownConfig::default().refuse_for(ms(1)),
    ] {
        let ctl = controller(config);
        let app = app(DrainLayer::new(ctl.clone()));
        let slow = ctl.track();
        drain(&ctl).await;
        assert_eq!(status(&app, "/0").await, 503);
        drop(slow);
        let report = ctl.shutdown(MANUAL).await;
        assert_eq!((report.late_requests(), report.refused()), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_is_served_when_draining_is_over() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let seen = app.clone();
    ctl.on_shutdown("ask", |_| async move {
        match status(&seen, "/0").await {
            StatusCode::SERVICE_UNAVAILABLE => Ok(()),
            other => Err(other.to_string().into()),
        }
    })
    .unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful(), "{report}");
    assert_eq!(status(&app, "/0").await, 503);
    assert_eq!((report.late_requests(), report.refused()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_request_is_cut_by_force_and_none_is_served_after_it() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let slow = ctl.track();
    drain(&ctl).await;
    let late = send(&app, "/60000");
    settle().await;
    ctl.force();
    let cut = late.await.unwrap();
    assert_eq!(cut.status(), 503);
    assert!(
        !cut.headers().contains_key("retry-after"),
        "its work had begun"
    );
    let refused = send(&app, "/0").await.unwrap();
    assert!(refused.headers().contains_key("retry-after"));
    drop(slow);
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(report.in_flight_at_force(), 2);
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
    assert_eq!((report.late_requests(), report.refused()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_paused_serves_no_late_requests() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let _slow = ctl.track();
    assert!(ctl.pause());
    drain(&ctl).await;
    assert_eq!(status(&app, "/0").await, 503);
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_no_late_requests() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()).exempt_paths(["/7000"]));
    let slow = ctl.track();
    let began = drain(&ctl).await;
    let probe = send(&app, "/7000");
    settle().await;
    assert_eq!(ctl.in_flight(), 1);
    drop(slow);
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(began.elapsed(), ms(1), "a probe is not waited for");
    assert_eq!(report.late_requests(), 0);
    assert_eq!(probe.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn http_2_is_not_told_to_close_the_connection() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(DrainLayer::new(ctl.clone()));
    let _slow = ctl.track();
    drain(&ctl).await;
    let mut request = request("/0");
    *request.version_mut() = Version::HTTP_2;
    let late = app.oneshot(request).await.unwrap();
    assert_eq!(late.status(), 200);
    assert!(!late.headers().contains_key("connection"));
}

#[tokio::test(start_paused = true)]
async fn a_tracking_layer_counts_late_requests_too() {
    let ctl = controller(ShutdownConfig::default());
    let app = app(RequestTrackingLayer::new(ctl.clone()));
    let slow = ctl.track();
    drain(&ctl).await;
    let late = send(&app, "/3000");
    settle().await;
    assert_eq!(ctl.in_flight(), 2);
    drop(slow);
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!(report.late_requests(), 1);
    assert_eq!(late.await.unwrap().body(), "hello");
}

#[tokio::test(start_paused = true)]
async fn work_without_a_connection_is_refused_at_once() {
    let ctl = controller(ShutdownConfig::default());
    let mut jobs = DrainLayer::new(ctl.clone())
        .reject_with_error()
        .layer(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
    let _slow = ctl.track();
    drain(&ctl).await;
    assert!(jobs.ready().await.unwrap().call(1).await.is_err());
    assert!(ctl.try_admit().is_err());
    assert_eq!(ctl.metrics().late_requests, 0);
}

// Each request is sent at a random moment around the end of a drain. It is served or refused, and
// the report has the same counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_meets_the_end_of_the_drain_is_served_or_refused_and_counted() {
    for round in 0..300_u64 {
        let ctl = controller(ShutdownConfig::default());
        let app = app(DrainLayer::new(ctl.clone()));
        let served = ctl.clone();
        let requests = tokio::spawn(async move {
            let mut statuses = Vec::new();
            while served.state() < LifecycleState::Stopped {
                statuses.push(status(&app, "/0").await);
                tokio::task::yield_now().await;
            }
            statuses
        });
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        let report = ctl.shutdown(MANUAL).await;
        let statuses = requests.await.unwrap();
        let ok = statuses.iter().filter(|status| **status == 200).count() as u64;
        assert_eq!(report.admitted(), ok, "round {round}: {report}");
        assert!(report.is_graceful(), "round {round}: {report}");
        assert_eq!(ctl.in_flight(), 0);
    }
}

// ===== waiting for readiness =====

type Limited = fn(&ShutdownController) -> App;

/// A limit of two inside the layer, in both forms: the layer waits for the readiness of the first,
/// and calls the second, which waits inside.
fn limits() -> [(&'static str, Limited); 2] {
    let builder: Limited = |ctl| {
        app(ServiceBuilder::new()
            .layer(DrainLayer::new(ctl.clone()))
            .concurrency_limit(2))
    };
    let router: Limited = |ctl| {
        let router = Router::new()
            .fallback_service(service_fn(handle))
            .layer(ConcurrencyLimitLayer::new(2))
            .layer(DrainLayer::new(ctl.clone()));
        collected(router.map_request(|request: Request<Body>| request.map(axum::body::Body::new)))
    };
    [("builder", builder), ("router", router)]
}

#[tokio::test(start_paused = true)]
async fn both_spellings_of_a_limit_serve_what_was_received_before_the_trigger() {
    for (name, limited) in limits() {
        for lame_duck in [0, 100] {
            // They are not late requests.
            let config = ShutdownConfig::default().late_for(Duration::ZERO);
            let ctl = controller(config.lame_duck(ms(lame_duck)));
            let app = limited(&ctl);
            let began = Instant::now();
            let requests: Vec<_> = (0..6).map(|_| send(&app, "/400")).collect();
            settle().await;
            let report = tokio::spawn(ctl.shutdown(MANUAL));
            settle().await;
            assert_eq!(ctl.in_flight(), 6, "{name}");
            for request in requests {
                assert_eq!(request.await.unwrap().status(), 200, "{name}");
            }
            assert_eq!(began.elapsed(), ms(1_200), "{name}");
            let report = report.await.unwrap();
            assert!(report.is_graceful(), "{name}: {report}");
            assert_eq!((report.admitted(), report.refused()), (6, 0), "{name}");
            assert_eq!(report.late_requests(), 0, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn both_spellings_of_a_limit_serve_late_requests() {
    for (name, limited) in limits() {
        let ctl = controller(ShutdownConfig::default());
        let app = limited(&ctl);
        let slow = ctl.track();
        let began = drain(&ctl).await;
        let late: Vec<_> = (0..6).map(|_| send(&app, "/900")).collect();
        settle().await;
        assert_eq!(ctl.in_flight(), 7, "{name}");
        drop(slow);
        for request in late {
            // Some of them after late requests are no longer admitted: they were admitted before.
            assert_eq!(request.await.unwrap().status(), 200, "{name}");
        }
        assert_eq!(began.elapsed(), ms(2_700), "{name}");
        assert!(ctl.shutdown(MANUAL).await.is_graceful(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_refused_at_the_drain_deadline() {
    for (name, limited) in limits() {
        let ctl = controller(ShutdownConfig::default().shutdown_timeout(ms(4_000)));
        let app = limited(&ctl);
        let requests: Vec<_> = (0..3).map(|_| send(&app, "/60000")).collect();
        settle().await;
        let report = ctl.shutdown(MANUAL).await;
        assert!(report.is_forced(), "{name}");
        for request in requests {
            assert_eq!(request.await.unwrap().status(), 503, "{name}");
        }
        assert_eq!(report.in_flight_at_force(), 3, "{name}: {report}");
        assert_eq!((report.aborted(), report.abandoned()), (3, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_finds_who_waits_where_it_was() {
    let ctl = controller(ShutdownConfig::default().lame_duck(ms(5_000)));
    let (_, limited) = limits()[0];
    let app = limited(&ctl);
    let requests: Vec<_> = (0..3).map(|_| send(&app, "/400")).collect();
    settle().await;
    ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(ctl.in_flight(), 3);
    ctl.resume().unwrap();
    for request in requests {
        assert_eq!(request.await.unwrap().status(), 200);
    }
    assert_eq!(ctl.in_flight(), 0);
}

/// A service that is never ready, behind the layer.
fn never_ready(
    ctl: &ShutdownController,
) -> impl Service<Request<Body>, Error = Infallible> + Clone {
    let inner = ServiceBuilder::new().concurrency_limit(0);
    let inner = inner.service_fn(handle as fn(Request<Body>) -> Answer);
    DrainLayer::new(ctl.clone()).layer(inner)
}

// Polling its readiness does not matter, as long as no request waits.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_asked_for_readiness_and_never_called_holds_nothing_up() {
    let mut before = Vec::new();
    let ctl = controller(ShutdownConfig::default());
    let ready = app(DrainLayer::new(ctl.clone()));
    for _ in 0..3 {
        let mut ready = ready.clone();
        assert!(poll_fn(|cx| ready.poll_ready(cx)).await.is_ok());
        before.push(ready);
    }
    let mut waiting = never_ready(&ctl);
    let mut asked = task::spawn(());
    assert_pending!(asked.enter(|cx, _| waiting.poll_ready(cx)));

    let slow = ctl.track();
    let began = drain(&ctl).await;
    settle().await;
    // One that waits in a drain, and is dropped.
    let mut dropped = never_ready(&ctl);
    assert_pending!(asked.enter(|cx, _| dropped.poll_ready(cx)));
    assert_eq!(ctl.in_flight(), 2);
    drop(dropped);
    assert_eq!(ctl.in_flight(), 1);
    // One that was ready, and is not called.
    let mut late = ready.clone();
    assert!(poll_fn(|cx| late.poll_ready(cx)).await.is_ok());
    assert_eq!(ctl.in_flight(), 1);

    drop(slow);
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());
    drop((before, waiting, late));
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_waited_and_is_ready_counts_again_from_its_call_on() {
    let ctl = controller(ShutdownConfig::default().late_for(Duration::ZERO));
    let (_, limited) = limits()[0];
    let app = limited(&ctl);
    let running = [send(&app, "/400"), send(&app, "/400")];
    settle().await;
    let mut waiting = task::spawn(app.clone());
    assert_pending!(waiting.enter(|cx, mut app| app.poll_ready(cx)));
    drain(&ctl).await;
    settle().await;
    assert!(waiting.is_woken());
    assert_pending!(waiting.enter(|cx, mut app| app.poll_ready(cx)));
    assert_eq!(ctl.in_flight(), 3);
    for request in running {
        assert_eq!(request.await.unwrap().status(), 200);
    }
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.enter(|cx, mut app| app.poll_ready(cx)));
    let answer = waiting.enter(|_, mut app| app.call(request("/0")));
    assert_eq!(ctl.in_flight(), 1);
    assert_eq!(answer.await.unwrap().status(), 200);
}

/// The same with `serve` and reqwest. In real time, because it uses sockets.
#[cfg(feature = "http2")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_around_a_router_serves_what_was_received_before_the_trigger() {
    let ctl = controller(ShutdownConfig::default().late_for(Duration::ZERO));
    let app = ServiceBuilder::new()
        .layer(DrainLayer::new(ctl.clone()))
        .concurrency_limit(2)
        .service(Router::<()>::new().fallback_service(service_fn(handle)));
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}/400", listener.local_addr().unwrap());
    let server = tower_lifecycle::serve(listener, app, ctl.clone()).into_future();
    let server = tokio::spawn(server);

    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..6 {
        // Each on a separate connection.
        requests.spawn(reqwest::get(url.clone()));
    }
    // Two are counted, and four have sent their heads: they wait for the readiness of the limit.
    while ctl.in_flight() < 2 {
        sleep(ms(1)).await;
    }
    sleep(ms(100)).await;
    ctl.trigger(MANUAL);
    while ctl.in_flight() < 6 && ctl.state() == LifecycleState::Draining {
        sleep(ms(1)).await;
    }
    for answer in requests.join_all().await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!((report.admitted(), report.refused()), (6, 0), "{report}");
}
