//! Late arrivals: requests that come in the lame duck are counted, and the last one shows whether
//! the lame duck was too short.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::io;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{advance, sleep};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::{
    DrainLayer, LifecycleState, RequestTrackingLayer, ShutdownConfig, ShutdownController,
    ShutdownReason, ShutdownReport,
};

use crate::support::log::Lines;
use crate::support::runtime::one_thread;
use crate::support::shutdown::ms;

const MANUAL: ShutdownReason = ShutdownReason::Manual;

/// A total of 30 s, with a lame duck of 5 s.
fn lame_duck() -> ShutdownController {
    with_lame_duck(ms(5_000))
}

fn with_lame_duck(time: Duration) -> ShutdownController {
    let config = ShutdownConfig::default().lame_duck(time);
    ShutdownController::with_config(config).unwrap()
}

fn figures(report: &ShutdownReport) -> (u64, Option<Duration>) {
    (report.late_arrivals(), report.last_arrival())
}

type Hello = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn hello(_: Request<String>) -> Hello {
    ready(Ok(Response::new(Full::default())))
}

/// Sends a request, which completes at once. Returns whether it reached the handler.
fn send<S, B>(service: &mut S, path: &str) -> bool
where
    S: Service<Request<String>, Response = Response<B>>,
{
    let readiness = std::future::poll_fn(|cx| service.poll_ready(cx)).now_or_never();
    assert!(readiness.unwrap().is_ok());
    let request = Request::get(path).body(String::new()).unwrap();
    let response = service.call(request).now_or_never().unwrap();
    response.is_ok_and(|response| response.status() == 200)
}

/// Sends one request, and returns whether it was admitted.
type WayIn = Box<dyn FnMut() -> bool>;

/// All ways to admit a request, by name.
fn ways_in(ctl: &ShutdownController) -> Vec<(&'static str, WayIn)> {
    let inner = service_fn(hello as fn(Request<String>) -> Hello);
    let mut http = DrainLayer::new(ctl.clone()).layer(inner);
    let any = DrainLayer::new(ctl.clone()).reject_with_error();
    let mut any = any.layer(inner);
    let mut tracking = RequestTrackingLayer::new(ctl.clone()).layer(inner);
    let until_response = RequestTrackingLayer::new(ctl.clone()).until_response();
    let mut until_response = until_response.layer(inner);
    let ctl = ctl.clone();
    vec![
        ("http", Box::new(move || send(&mut http, "/"))),
        ("any", Box::new(move || send(&mut any, "/"))),
        ("tracking", Box::new(move || send(&mut tracking, "/"))),
        (
            "until_response",
            Box::new(move || send(&mut until_response, "/")),
        ),
        ("try_admit", Box::new(move || ctl.try_admit().is_ok())),
    ]
}

// ===== counted requests =====

#[tokio::test(start_paused = true)]
async fn each_way_in_counts_from_the_trigger_to_the_beginning_of_draining() {
    for way in 0..5 {
        let ctl = lame_duck();
        let (name, mut request) = ways_in(&ctl).remove(way);
        assert!(request(), "{name}: before");
        sleep(ms(700)).await;
        let held = ctl.track();

        ctl.trigger(MANUAL);
        for wait in [0, 1_000, 2_250] {
            sleep(ms(wait)).await;
            assert!(request(), "{name}: in the lame duck");
        }
        ctl.draining().await;
        assert_eq!(ctl.metrics().late_arrivals, 3, "{name}");
        // Work without a connection is refused at once.
        let refuses = matches!(name, "try_admit" | "any");
        assert_eq!(!request(), refuses, "{name}: draining");
        let late = ctl.metrics().late_requests;
        assert_eq!(late, u64::from(!refuses), "{name}: draining");

        drop(held);
        let report = ctl.shutdown(MANUAL).await;
        assert_eq!(figures(&report), (3, Some(ms(3_250))), "{name}");
        assert!(!report.lame_duck_was_too_short(), "{name}");
        assert_eq!(ctl.metrics().late_arrivals, 3, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn exempt_paths_are_not_counted_and_others_of_the_same_layer_are() {
    let ctl = lame_duck();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/health", "/metrics"]);
    let mut app = layer.layer(service_fn(hello));
    ctl.trigger(MANUAL);
    assert!(send(&mut app, "/healthy"));
    sleep(ms(4_900)).await;
    assert!(send(&mut app, "/health"));
    assert!(send(&mut app, "/metrics"));
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (1, Some(ms(0))));
    assert!(!report.lame_duck_was_too_short(), "only probes came late");
}

#[tokio::test(start_paused = true)]
async fn guards_and_tasks_are_not_counted() {
    let ctl = lame_duck();
    ctl.trigger(MANUAL);
    sleep(ms(4_900)).await;
    drop(ctl.track());
    drop(ctl.spawn("task", ready(())));
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (0, None));
    assert!(report.admitted() == 1 && !report.lame_duck_was_too_short());
}

#[tokio::test(start_paused = true)]
async fn in_a_pause_only_what_is_not_refused_is_counted() {
    for way in 0..5 {
        let ctl = lame_duck();
        let (name, mut request) = ways_in(&ctl).remove(way);
        ctl.pause();
        request(); // paused, but not in a lame duck
        ctl.trigger(MANUAL);
        sleep(ms(1_000)).await;
        let admitted = request();
        let report = ctl.shutdown(MANUAL).await;
        assert_eq!(report.late_arrivals(), u64::from(admitted), "{name}");
        let last = admitted.then_some(ms(1_000));
        assert_eq!(report.last_arrival(), last, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lame_duck_nobody_comes_late() {
    let ctl = with_lame_duck(Duration::ZERO);
    drop(ctl.try_admit());
    let held = ctl.track();
    ctl.trigger(MANUAL);
    assert!(ctl.try_admit().is_err());
    sleep(ms(3)).await;
    drop(held);
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (0, None));
    assert!(!report.lame_duck_was_too_short());
    assert!(!report.to_string().contains("late requests"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_lame_duck_has_no_line_in_the_report() {
    let ctl = lame_duck();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(report.phases()[0].state(), LifecycleState::LameDuck);
    assert_eq!(figures(&report), (0, None));
    assert!(!report.to_string().contains("late requests"), "{report}");
}

// ===== reset =====

#[tokio::test(start_paused = true)]
async fn the_figures_are_of_the_last_lame_duck() {
    let ctl = lame_duck();
    ctl.trigger(MANUAL);
    sleep(ms(4_000)).await;
    drop([ctl.try_admit(), ctl.try_admit()]);
    assert_eq!(ctl.metrics().late_arrivals, 2);
    ctl.resume().unwrap();
    drop(ctl.try_admit());
    sleep(ms(60_000)).await;
    drop(ctl.try_admit());
    assert_eq!(ctl.metrics().late_arrivals, 2);

    ctl.trigger(MANUAL);
    assert_eq!(ctl.metrics().late_arrivals, 0);
    sleep(ms(1_500)).await;
    drop(ctl.try_admit());
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (1, Some(ms(1_500))));
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_that_was_called_off_leaves_no_trace() {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = lame_duck();
    let _stop = ctl.stop_accepting();
    let (end, ended) = oneshot::channel::<()>();
    let run = tokio::spawn(ctl.run(async move { ended.await.map_err(io::Error::other) }));
    sleep(ms(1)).await;
    ctl.trigger(MANUAL);
    sleep(ms(4_900)).await;
    drop(ctl.try_admit());
    ctl.resume().unwrap();
    // With no server left, the shutdown that begins here has no lame duck.
    end.send(()).unwrap();
    let report = run.await.unwrap();
    assert_eq!(report.phases()[0].state(), LifecycleState::Draining);
    assert_eq!(figures(&report), (0, None));
    assert!(!report.lame_duck_was_too_short());
    assert!(log.containing("WARN").is_empty());
}

// ===== threads =====

#[tokio::test(start_paused = true)]
async fn all_threads_count_and_the_last_of_all_is_the_last() {
    let ctl = lame_duck();
    ctl.trigger(MANUAL);
    for _ in 0..4 {
        advance(ms(600)).await;
        // With the paused clock, like the workers of a runtime.
        let runtime = Handle::current();
        let request = || {
            let _entered = runtime.enter();
            (0..100).for_each(|_| drop(ctl.try_admit().unwrap()));
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(request))));
    }
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (1_600, Some(ms(2_400))));
    assert_eq!(report.admitted(), 1_600);
}

#[test]
fn threads_that_race_with_the_closing_are_counted_if_they_are_admitted() {
    let runtime = one_thread();
    for _ in 0..20 {
        let ctl = lame_duck();
        ctl.trigger(MANUAL);
        let admitted: u64 = thread::scope(|scope| {
            let requests = || std::iter::from_fn(|| ctl.try_admit().ok()).count() as u64;
            let threads = [(); 4].map(|()| scope.spawn(requests));
            while ctl.metrics().late_arrivals < 100 {
                thread::yield_now();
            }
            ctl.force();
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        let report = runtime.block_on(ctl.shutdown(MANUAL));
        let (late, last) = figures(&report);
        assert_eq!((late, report.admitted()), (admitted, admitted));
        assert!(last.unwrap() <= report.phases()[0].duration(), "{report}");
    }
}

#[test]
fn outside_a_runtime_requests_are_counted_too() {
    let ctl = lame_duck();
    let mut ways = ways_in(&ctl);
    ctl.trigger(MANUAL); // driven by a separate thread
    for (name, request) in &mut ways {
        assert!(request(), "{name}");
    }
    ctl.force();
    let report = one_thread().block_on(ctl.shutdown(MANUAL));
    assert_eq!(report.late_arrivals(), 5);
    assert!(report.last_arrival().unwrap() <= report.phases()[0].duration());
}

// ===== too short =====

/// Runs a shutdown, with requests at 100 ms and at `last` into a lame duck of 5 s, and with `then`
/// afterwards. Returns its report, and the logged warnings.
async fn shutdown<F: Future<Output = ()>>(
    last: Duration,
    then: impl FnOnce(ShutdownController) -> F,
) -> (ShutdownReport, Vec<String>) {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = lame_duck();
    ctl.trigger(MANUAL);
    sleep(ms(100)).await;
    drop(ctl.try_admit().unwrap());
    sleep(last - ms(100)).await;
    drop(ctl.try_admit().unwrap());
    then(ctl.clone()).await;
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(figures(&report), (2, Some(last)));
    (report, log.containing("WARN"))
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_whose_last_fifth_is_quiet_is_long_enough() {
    for last in [3_950, 4_000] {
        let (report, warnings) = shutdown(ms(last), |_| ready(())).await;
        assert!(!report.lame_duck_was_too_short(), "{last}");
        assert!(warnings.is_empty(), "{last}: {warnings:?}");
        let line = format!(
            "  late requests 2 in the lame duck, the last {:.3?} into it",
            ms(last)
        );
        assert!(report.to_string().lines().any(|l| l == line), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_in_whose_last_fifth_a_request_came_is_warned_of_once() {
    for last in [4_001, 4_050, 4_999] {
        let (report, warnings) = shutdown(ms(last), |_| ready(())).await;
        assert!(report.lame_duck_was_too_short(), "{last}");
        assert!(report.is_graceful(), "{last}");
        let [warning] = &warnings[..] else {
            panic!("{last}: {warnings:?}");
        };
        let fields = format!("late_arrivals=2 last_arrival_ms={last}.0 lame_duck_ms=5000.0");
        assert!(warning.contains(&fields), "{warning}");
        assert!(warning.contains("set a longer `lame_duck`"), "{warning}");
        let line = format!(
            "  late requests 2 in the lame duck, the last {:.3?} into it: the lame duck was too short",
            ms(last)
        );
        assert!(report.to_string().lines().any(|l| l == line), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_cut_short_is_not_judged() {
    let (report, warnings) = shutdown(ms(4_900), |ctl| async move {
        sleep(ms(50)).await;
        ctl.force();
    })
    .await;
    assert_eq!(report.phases()[0].duration(), ms(4_950));
    assert!(report.is_forced() && !report.lame_duck_was_too_short());
    let short: Vec<_> = warnings.iter().filter(|w| w.contains("short")).collect();
    assert!(short.is_empty(), "{short:?}");

    let (report, warnings) = shutdown(ms(4_900), |ctl| async move {
        // The only server ends: nothing is left that could be a lame duck.
        drop(tokio::spawn(ctl.run(sleep(ms(50)))));
    })
    .await;
    assert_eq!(report.phases()[0].duration(), ms(4_950));
    assert!(report.is_graceful() && !report.lame_duck_was_too_short());
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_ran_its_time_is_judged_also_when_the_drain_is_forced() {
    let (report, warnings) = shutdown(ms(4_900), |ctl| async move {
        let _held = ctl.track();
        sleep(ms(1_000)).await;
        ctl.force();
    })
    .await;
    assert!(report.is_forced() && report.lame_duck_was_too_short());
    let short = warnings.iter().filter(|w| w.contains("too short"));
    assert_eq!(short.count(), 1, "{warnings:?}");
}

#[test]
fn an_interrupted_shutdown_has_figures_and_no_judgement() {
    let runtime = one_thread();
    let ctl = runtime.block_on(async {
        tokio::time::pause();
        let ctl = lame_duck();
        ctl.trigger(MANUAL);
        advance(ms(4_900)).await;
        drop(ctl.try_admit().unwrap());
        ctl
    });
    drop(runtime);
    let report = one_thread().block_on(ctl.shutdown(MANUAL));
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
    assert_eq!(figures(&report), (1, Some(ms(4_900))));
    assert!(!report.lame_duck_was_too_short());
}

#[tokio::test(start_paused = true)]
async fn a_request_of_the_lame_duck_that_is_cut_later_is_counted() {
    let ctl = lame_duck();
    let inner = service_fn(|()| pending::<Result<(), Infallible>>());
    let layer = DrainLayer::new(ctl.clone()).reject_with_error();
    let mut service = layer.layer(inner);
    ctl.trigger(MANUAL);
    sleep(ms(2_000)).await;
    let readiness = std::future::poll_fn(|cx| service.poll_ready(cx)).now_or_never();
    assert!(readiness.unwrap().is_ok());
    let call = tokio::spawn(service.call(()));
    let report = ctl.shutdown(MANUAL).await;
    assert!(call.await.unwrap().is_err());
    assert_eq!(report.aborted(), 1);
    assert_eq!(figures(&report), (1, Some(ms(2_000))));
}
