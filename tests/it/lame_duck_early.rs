//! The lame duck ends early once each prober has seen readiness red and no request comes any more,
//! and not before.

use std::future::{pending, ready};
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::health::HealthLayer;
use tower_lifecycle::report::LameDuckEnd;
use tower_lifecycle::{
    DrainLayer, HealthService, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    ShutdownReport,
};

use crate::support::log::Lines;
use crate::support::shutdown::ms;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const FULL: Duration = ms(5_000);
const QUIET: Duration = ms(300);
/// Between the moment at which both conditions hold and the check that finds it.
const CHECK: Duration = ms(75);

fn config() -> ShutdownConfig {
    ShutdownConfig::default()
        .lame_duck(FULL)
        .lame_duck_probes(2)
        .lame_duck_quiet(QUIET)
}

/// A service, and who probes it.
struct Fixture {
    ctl: ShutdownController,
    health: HealthService,
}

impl Fixture {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: ShutdownConfig) -> Self {
        let ctl = ShutdownController::with_config(config).unwrap();
        let health = HealthService::new(ctl.clone());
        Self { ctl, health }
    }

    /// Sends a probe, and returns its status.
    async fn probe(&self, agent: &str) -> u16 {
        let probe = Request::get("/health").header("user-agent", agent);
        self.send(probe.body(()).unwrap()).await
    }

    async fn send(&self, probe: Request<()>) -> u16 {
        let response = self.health.clone().oneshot(probe).await.unwrap();
        response.status().as_u16()
    }

    /// Probes at these times from now on, in milliseconds.
    async fn probe_at(&self, agent: &str, times: &[u64]) {
        let began = Instant::now();
        for time in times {
            tokio::time::sleep_until(began + ms(*time)).await;
            self.probe(agent).await;
        }
    }

    fn request(&self) {
        drop(self.ctl.try_admit());
    }

    async fn end(&self) -> (LameDuckEnd, Duration) {
        let report = self.ctl.shutdown(MANUAL).await;
        end_of(&report)
    }
}

fn end_of(report: &ShutdownReport) -> (LameDuckEnd, Duration) {
    let phase = report.phases()[0];
    assert_eq!(phase.state(), LifecycleState::LameDuck);
    (report.lame_duck_end().unwrap(), phase.duration())
}

/// Checks that the lame duck ended early, as soon as it could.
#[track_caller]
fn assert_early_at((end, lasted): (LameDuckEnd, Duration), could: Duration) {
    assert_eq!(end, LameDuckEnd::Early, "{lasted:?}");
    // The last request is noticed at the check after it.
    let latest = could + 2 * CHECK;
    assert!(lasted >= could && lasted <= latest, "{lasted:?}, {could:?}");
}

const IN_FULL: (LameDuckEnd, Duration) = (LameDuckEnd::InFull, FULL);

// ===== the two conditions =====

#[tokio::test(start_paused = true)]
async fn it_ends_when_red_was_seen_and_it_is_quiet_whichever_is_last() {
    for (last_request, could) in [(100, 700), (650, 950)] {
        let of = Fixture::new();
        assert_eq!(of.probe("balancer").await, 200);
        of.request();
        of.ctl.trigger(MANUAL);
        let requests = async {
            sleep(ms(last_request)).await;
            of.request();
        };
        let probes = of.probe_at("balancer", &[200, 700]);
        let (end, (), ()) = tokio::join!(of.end(), requests, probes);
        assert_early_at(end, ms(could));
    }
}

#[tokio::test(start_paused = true)]
async fn red_alone_does_not_end_it() {
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    let requests = async {
        loop {
            sleep(ms(250)).await;
            of.request();
        }
    };
    let rest = async { tokio::join!(of.end(), of.probe_at("balancer", &[100, 200, 300])).0 };
    tokio::select! {
        () = requests => unreachable!(),
        end = rest => assert_eq!(end, IN_FULL),
    }
    let report = of.ctl.shutdown(MANUAL).await;
    assert!(report.lame_duck_was_too_short(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn quiet_alone_does_not_end_it() {
    for probes in [&[][..], &[100]] {
        let of = Fixture::new();
        of.ctl.trigger(MANUAL);
        let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", probes));
        assert_eq!(end, IN_FULL, "{probes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_ends_it() {
    let of = Fixture::with(ShutdownConfig::default().lame_duck(FULL));
    of.ctl.trigger(MANUAL);
    let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[1, 2, 3, 4]));
    assert_eq!(end, IN_FULL);
}

#[tokio::test(start_paused = true)]
async fn without_a_time_to_be_quiet_red_ends_it() {
    let of = Fixture::with(config().lame_duck_quiet(Duration::ZERO));
    of.ctl.trigger(MANUAL);
    let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[100, 200]));
    assert_early_at(end, ms(200));
}

#[tokio::test(start_paused = true)]
async fn it_lasts_no_longer_than_set() {
    for quiet in [FULL - ms(1), FULL + ms(1), Duration::MAX] {
        let of = Fixture::with(config().lame_duck_quiet(quiet));
        of.ctl.trigger(MANUAL);
        let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[100, 200]));
        assert_eq!(end.1, FULL, "{quiet:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_pause_refuses_is_a_request() {
    let of = Fixture::new();
    let refuses = service_fn(|_: Request<String>| ready(Ok::<_, tower::BoxError>(empty())));
    let app = DrainLayer::new(of.ctl.clone()).layer(refuses);
    of.ctl.pause();
    of.ctl.trigger(MANUAL);
    let requests = async {
        sleep(ms(600)).await;
        let request = Request::get("/").body(String::new()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 503);
    };
    let probes = of.probe_at("balancer", &[100, 200]);
    let (end, (), ()) = tokio::join!(of.end(), requests, probes);
    // It was quiet before it, too.
    assert_early_at(end, QUIET);

    let of = Fixture::new();
    let app = DrainLayer::new(of.ctl.clone()).layer(refuses);
    of.ctl.pause();
    of.ctl.trigger(MANUAL);
    let requests = async {
        for _ in 0..5 {
            sleep(ms(200)).await;
            let request = Request::get("/").body(String::new()).unwrap();
            app.clone().oneshot(request).await.unwrap();
        }
    };
    let probes = of.probe_at("balancer", &[100, 200]);
    let (end, (), ()) = tokio::join!(of.end(), requests, probes);
    assert_early_at(end, ms(1_000) + QUIET);
}

fn empty() -> Response<Full<bytes::Bytes>> {
    Response::new(Full::default())
}

// ===== what counts as seen =====

#[tokio::test(start_paused = true)]
async fn red_counts_from_the_trigger_on() {
    let of = Fixture::new();
    of.ctl.pause();
    for _ in 0..5 {
        assert_eq!(of.probe("balancer").await, 503);
    }
    of.ctl.unpause();
    of.ctl.trigger(MANUAL);
    let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[100]));
    assert_eq!(end, IN_FULL);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_before_it_was_called_off_does_not_count() {
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    sleep(ms(10)).await;
    of.probe_at("balancer", &[0, 10, 20]).await;
    of.ctl.resume().unwrap();
    assert_eq!(of.ctl.metrics().lame_duck_end, None);
    sleep(ms(1_000)).await;
    assert_eq!(of.ctl.state(), LifecycleState::Running);

    of.ctl.trigger(MANUAL);
    let (end, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[400, 900]));
    assert_early_at(end, ms(900));
}

#[tokio::test(start_paused = true)]
async fn only_answers_about_readiness_count() {
    let of = Fixture::new();
    let liveness = of.health.clone().liveness();
    of.ctl.trigger(MANUAL);
    for _ in 0..3 {
        let probe = Request::get("/livez").body(()).unwrap();
        liveness.clone().oneshot(probe).await.unwrap();
        let post = Request::post("/health").body(()).unwrap();
        assert_eq!(of.send(post).await, 405);
    }
    assert_eq!(of.end().await, IN_FULL);

    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    for method in [Method::GET, Method::HEAD] {
        let probe = Request::builder().method(method).body(()).unwrap();
        assert_eq!(of.send(probe).await, 503);
    }
    assert_early_at(of.end().await, QUIET);
}

#[tokio::test(start_paused = true)]
async fn the_layer_counts_probes_too() {
    let of = Fixture::new();
    let inner = service_fn(|_: Request<()>| ready(Ok::<_, tower::BoxError>(empty())));
    let app = HealthLayer::new(of.ctl.clone()).layer(inner);
    of.ctl.trigger(MANUAL);
    for _ in 0..2 {
        let probe = Request::get("/readyz").body(()).unwrap();
        let response = app.clone().oneshot(probe).await.unwrap();
        assert_eq!(response.status(), 503);
    }
    assert_early_at(of.end().await, QUIET);
}

// ===== several probers =====

#[tokio::test(start_paused = true)]
async fn each_of_two_balancers_has_to_see_it() {
    let of = Fixture::new();
    of.probe_at("a", &[0, 100]).await;
    of.probe_at("b", &[0]).await;
    of.ctl.trigger(MANUAL);
    let a = of.probe_at("a", &[10, 20, 30, 40, 50]);
    let b = of.probe_at("b", &[1_500, 3_000]);
    let (end, (), ()) = tokio::join!(of.end(), a, b);
    assert_early_at(end, ms(3_000));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_after_the_trigger_has_to_see_it_as_often() {
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    let a = of.probe_at("a", &[10, 400]);
    let b = of.probe_at("b", &[300, 900]);
    let (end, (), ()) = tokio::join!(of.end(), a, b);
    assert_early_at(end, ms(900));
}

#[tokio::test(start_paused = true)]
async fn one_that_probes_no_more_keeps_it_to_its_end() {
    let of = Fixture::new();
    of.probe_at("a", &[0]).await;
    of.probe_at("b", &[0]).await;
    of.ctl.trigger(MANUAL);
    let a = of.probe_at("a", &[100, 200, 300]);
    let (end, (), ()) = tokio::join!(of.end(), a, of.probe_at("b", &[100]));
    assert_eq!(end, IN_FULL);
}

#[tokio::test(start_paused = true)]
async fn one_that_stopped_a_lame_duck_before_the_trigger_is_not_waited_for() {
    for (before, is_waited_for) in [(FULL, true), (FULL + ms(1), false)] {
        let of = Fixture::new();
        of.probe("gone").await;
        sleep(before).await;
        of.ctl.trigger(MANUAL);
        let (end, ()) = tokio::join!(of.end(), of.probe_at("a", &[100, 200]));
        if is_waited_for {
            assert_eq!(end, IN_FULL);
        } else {
            assert_early_at(end, QUIET);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_address_tells_probers_apart_and_the_port_does_not() {
    fn from(address: &str, by_axum: bool) -> Request<()> {
        let mut probe = Request::new(());
        let address: SocketAddr = address.parse().unwrap();
        #[cfg(feature = "axum")]
        if by_axum {
            let info = axum::extract::ConnectInfo(address);
            probe.extensions_mut().insert(info);
            return probe;
        }
        let _ = by_axum;
        probe.extensions_mut().insert(address);
        probe
    }
    for by_axum in [false, true] {
        let of = Fixture::new();
        of.ctl.trigger(MANUAL);
        of.send(from("10.0.0.1:1", by_axum)).await;
        of.send(from("10.0.0.2:1", by_axum)).await;
        assert_eq!(of.end().await, IN_FULL, "each once");

        let of = Fixture::new();
        of.ctl.trigger(MANUAL);
        of.send(from("10.0.0.1:1", by_axum)).await;
        of.send(from("10.0.0.1:2", by_axum)).await;
        assert_early_at(of.end().await, QUIET);
    }
}

// ===== what it says =====

#[tokio::test(start_paused = true)]
async fn log_report_and_metrics_say_when_and_why() {
    let log = Lines::default();
    let _listening = log.listen();
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    assert_eq!(of.ctl.metrics().lame_duck_end, None);
    let requests = async {
        sleep(ms(50)).await;
        of.request();
    };
    let probes = of.probe_at("balancer", &[0, 10]);
    let (report, (), ()) = tokio::join!(of.ctl.shutdown(MANUAL), requests, probes);
    // Noticed at 75 ms, then four checks.
    assert_eq!(end_of(&report), (LameDuckEnd::Early, ms(375)));
    assert!(!report.lame_duck_was_too_short() && report.is_graceful());
    let text = report.to_string();
    assert!(
        text.contains("\n  lame_duck     375.000ms, early\n"),
        "{text}"
    );
    let metrics = of.ctl.metrics();
    assert_eq!(metrics.lame_duck_end, Some(LameDuckEnd::Early));
    assert_eq!(metrics.lame_duck_lasted, Some(ms(375)));
    let said = log.containing("lame duck over");
    let fields = "end=early lasted_ms=375.0 late_arrivals=1 probers=1 probers_seen_red=1";
    assert!(said.len() == 1 && said[0].contains(fields), "{said:?}");
    assert!(log.containing("WARN").is_empty());
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn the_metrics_can_be_exported() {
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    let (_, ()) = tokio::join!(of.end(), of.probe_at("balancer", &[0, 10]));
    let json = serde_json::to_value(of.ctl.metrics()).unwrap();
    assert_eq!(json["lame_duck_end"], "early");
    assert_eq!(json["lame_duck_lasted"], 0.3);
}

#[tokio::test(start_paused = true)]
async fn one_that_ran_in_full_says_who_has_not_seen_it() {
    let log = Lines::default();
    let _listening = log.listen();
    let of = Fixture::new();
    of.probe("b").await;
    of.ctl.trigger(MANUAL);
    let (end, ()) = tokio::join!(of.end(), of.probe_at("a", &[0, 10]));
    assert_eq!(end, IN_FULL);
    let said = log.containing("lame duck over");
    let fields = "end=in full lasted_ms=5000.0 late_arrivals=0 probers=2 probers_seen_red=1";
    assert!(said.len() == 1 && said[0].contains(fields), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_force_and_the_end_of_the_servers_are_told_apart() {
    let of = Fixture::new();
    of.ctl.trigger(MANUAL);
    let force = async {
        sleep(ms(100)).await;
        of.ctl.force();
    };
    let (end, ()) = tokio::join!(of.end(), force);
    assert_eq!(end, (LameDuckEnd::Forced, ms(100)));

    let of = Fixture::new();
    let server = tokio::spawn(of.ctl.run(sleep(ms(100))));
    sleep(ms(1)).await;
    of.ctl.trigger(MANUAL);
    assert_eq!(of.end().await, (LameDuckEnd::ServersEnded, ms(99)));
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_lame_duck_none_has_ended() {
    let log = Lines::default();
    let _listening = log.listen();
    let of = Fixture::with(config().lame_duck(Duration::ZERO));
    let report = of.ctl.shutdown(MANUAL).await;
    assert_eq!(report.lame_duck_end(), None);
    assert_eq!(of.ctl.metrics().lame_duck_end, None);
    assert!(log.containing("lame duck over").is_empty());
}

// ===== the time that is saved =====

#[tokio::test(start_paused = true)]
async fn the_drain_gets_the_time_and_the_deadlines_stay() {
    let of = Fixture::new();
    let stuck = of.ctl.track();
    let task = of.ctl.spawn("stuck", pending::<()>());
    of.ctl.trigger(MANUAL);
    let (report, ()) = tokio::join!(of.ctl.shutdown(MANUAL), of.probe_at("a", &[0, 10]));
    drop((stuck, task));
    assert!(report.is_forced());
    assert_eq!(end_of(&report), (LameDuckEnd::Early, QUIET));
    let [_, draining, ..] = report.phases() else {
        panic!("{report}");
    };
    // 30 s, less the reserve and the lame duck; then the cut has a moment.
    let drain = draining.duration();
    assert!(drain >= ms(24_700) && drain <= ms(25_000), "{drain:?}");
}
