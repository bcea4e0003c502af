//! Log lines for operators: one for each cut request, in its own span, and from time to time what a
//! drain waits for.

use std::future::pending;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason};
use tracing::Instrument;

use crate::support::log::Lines;

#[tokio::test(start_paused = true)]
async fn a_cut_request_logs_one_warning_inside_its_span_and_nothing_of_the_client() {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = ShutdownController::new();
    let mut app = DrainLayer::new(ctl.clone()).layer(service_fn(|_: Request<String>| {
        pending::<Result<Response<Full<bytes::Bytes>>, std::convert::Infallible>>()
    }));
    assert_ready_ok!(
        task::spawn(()).enter(|cx, _| { Service::<Request<String>>::poll_ready(&mut app, cx) })
    );
    let request = Request::get("/secret?token=1").body(String::new()).unwrap();
    let span = tracing::info_span!("request", id = 7);
    let mut response = task::spawn(app.call(request).instrument(span));
    assert_pending!(response.poll());
    ctl.force();
    assert_ready_ok!(response.poll());

    let warnings = log.containing("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("request{id=7}"), "{}", warnings[0]);
    let event = "request cut by the shutdown stage=\"handler\"";
    assert!(warnings[0].contains(event), "{}", warnings[0]);
    assert!(log.containing("secret").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_at_each_interval_what_it_waits_for() {
    let log = Lines::default();
    let _listening = log.listen();
    let config = ShutdownConfig::default().progress_interval(Duration::from_secs(4));
    let ctl = ShutdownController::with_config(config).unwrap();
    let guard = ctl.track();
    tokio::spawn(async move {
        sleep(Duration::from_secs(10)).await;
        drop(guard);
    });
    ctl.shutdown(ShutdownReason::Manual).await;
    let progress = log.containing("in_flight=1 tasks=0 workers=0 servers=0");
    assert_eq!(progress.len(), 2, "{progress:?}");
    assert!(
        progress[0].contains("drain_remaining_ms=21000.0"),
        "{}",
        progress[0]
    );
    assert!(
        progress[1].contains("drain_remaining_ms=17000.0"),
        "{}",
        progress[1]
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_tells_to_stop_is_warned_of_at_the_trigger() {
    let log = Lines::default();
    let _listening = log.listen();
    for (asks, warnings) in [(true, 0), (false, 1)] {
        let ctl = ShutdownController::new();
        let stop = asks.then(|| ctl.stop_accepting());
        let run = ctl.run(async {
            match stop {
                Some(stop) => stop.await,
                None => pending().await,
            }
        });
        ctl.trigger(ShutdownReason::Manual);
        let report = run.await;
        assert_eq!(report.is_graceful(), asks, "{report}");
        let warned = log.containing("nothing waits for `stop_accepting`");
        assert_eq!(warned.len(), warnings, "{warned:?}");
    }
}
