//! P7: a bad hook affects only itself; phases, limits, names, force.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_lifecycle::report::Outcome;
use tower_lifecycle::{
    Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
};

use crate::support::shutdown::ms;

/// A total of 10 s, with a reserve of 2 s.
fn ten_seconds() -> ShutdownController {
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(10_000))
        .cleanup_reserve(ms(2_000));
    ShutdownController::with_config(config).unwrap()
}

/// The hooks that ran, and when after the trigger.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(&'static str, Duration)>>>);

impl Log {
    fn hook(&self, name: &'static str, takes: Duration) -> Hook {
        let log = self.clone();
        Hook::new(name, move |notice| async move {
            let at = notice.triggered_at().elapsed();
            log.0.lock().unwrap().push((name, at));
            sleep(takes).await;
            Ok(())
        })
    }

    fn entries(&self) -> Vec<(&'static str, Duration)> {
        self.0.lock().unwrap().clone()
    }
}

fn outcomes(report: &ShutdownReport) -> Vec<String> {
    let outcome = |hook: &tower_lifecycle::report::HookReport| {
        format!("{}: {} {:?}", hook.name(), hook.outcome(), hook.duration())
    };
    report.hooks().iter().map(outcome).collect()
}

#[tokio::test(start_paused = true)]
async fn phases_run_in_ascending_order_and_one_phase_at_the_same_time() {
    let (ctl, log) = (ten_seconds(), Log::default());
    ctl.add_hook(log.hook("last", ms(1)).phase(7)).unwrap();
    ctl.add_hook(log.hook("a", ms(300))).unwrap();
    ctl.add_hook(log.hook("first", ms(100)).phase(-1)).unwrap();
    ctl.add_hook(log.hook("b", ms(200))).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(
        log.entries(),
        [
            ("first", ms(0)),
            ("a", ms(100)),
            ("b", ms(100)),
            ("last", ms(400))
        ]
    );
    let reported: Vec<_> = report
        .hooks()
        .iter()
        .map(|h| (h.name(), h.phase()))
        .collect();
    assert_eq!(reported, [("first", -1), ("a", 0), ("b", 0), ("last", 7)]);
    assert!(report.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_bad_hook_harms_only_itself() {
    let (ctl, log) = (ten_seconds(), Log::default());
    ctl.on_shutdown("fails", |_| async { Err("disk full".into()) })
        .unwrap();
    ctl.on_shutdown("panics", |_| async { panic!("at the {}", "disk") })
        .unwrap();
    // The call itself panics, before there is a future.
    ctl.add_hook(Hook::new("panics early", |_| -> std::future::Ready<_> {
        panic!("early")
    }))
    .unwrap();
    ctl.add_hook(Hook::new("hangs", |_| pending()).timeout(ms(500)))
        .unwrap();
    ctl.add_hook(log.hook("good", ms(100))).unwrap();
    ctl.add_hook(log.hook("later", ms(100)).phase(1)).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(
        outcomes(&report),
        [
            "fails: failed: disk full 0ns",
            "panics: panicked: at the disk 0ns",
            "panics early: panicked: early 0ns",
            "hangs: timed out 500ms",
            "good: completed 100ms",
            "later: completed 100ms",
        ]
    );
    assert_eq!(log.entries(), [("good", ms(0)), ("later", ms(500))]);
    assert!(!report.is_graceful() && !report.is_forced());
    assert_eq!(ctl.state(), LifecycleState::Stopped);
    let Outcome::Failed(error) = report.hooks()[0].outcome() else {
        panic!("it failed")
    };
    assert_eq!(error.to_string(), "disk full");
}

#[tokio::test(start_paused = true)]
async fn what_one_phase_leaves_goes_to_the_next() {
    let ctl = ten_seconds();
    // 10 s for two phases: 5 s each; the first takes 1 s, so the second has 9 s.
    ctl.add_hook(Log::default().hook("quick", ms(1_000)))
        .unwrap();
    ctl.add_hook(Hook::new("hangs", |_| pending()).phase(1))
        .unwrap();
    let start = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(
        outcomes(&report),
        ["quick: completed 1s", "hangs: timed out 9s"]
    );
    assert_eq!(start.elapsed(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_hangs_leaves_the_later_ones_their_share() {
    let (ctl, log) = (ten_seconds(), Log::default());
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    ctl.add_hook(log.hook("second", ms(10)).phase(1)).unwrap();
    ctl.add_hook(log.hook("third", ms(10)).phase(2)).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    // 10 s for three phases; the sleep is a third, rounded up to whole milliseconds.
    assert_eq!(log.entries(), [("second", ms(3_334)), ("third", ms(3_344))]);
    assert_eq!(report.hooks()[0].outcome().to_string(), "timed out");
}

#[tokio::test(start_paused = true)]
async fn an_own_timeout_only_shortens() {
    let ctl = ten_seconds();
    ctl.add_hook(Hook::new("greedy", |_| pending()).timeout(ms(60_000)))
        .unwrap();
    ctl.add_hook(Hook::new("later", |_| async { Ok(()) }).phase(1))
        .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(
        outcomes(&report),
        ["greedy: timed out 5s", "later: completed 0ns"]
    );
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_a_forced_drain_in_their_reserve() {
    let (ctl, log) = (ten_seconds(), Log::default());
    let _stuck = ctl.track();
    ctl.add_hook(log.hook("flush", ms(1_000))).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(log.entries(), [("flush", ms(8_250))]);
    assert!(report.hooks()[0].is_completed());
    assert!(report.is_forced());
}

#[tokio::test(start_paused = true)]
async fn force_while_stopping_cuts_what_is_left_of_the_clean_up() {
    let (ctl, log) = (ten_seconds(), Log::default());
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    ctl.add_hook(log.hook("done", ms(100))).unwrap();
    ctl.on_shutdown("hangs", move |_| async move {
        let _alive = alive;
        pending().await
    })
    .unwrap();
    ctl.add_hook(log.hook("later", ms(100)).phase(1)).unwrap();
    let (start, report) = (Instant::now(), ctl.shutdown(ShutdownReason::Manual));
    tokio::spawn({
        let ctl = ctl.clone();
        async move {
            ctl.wait_for(LifecycleState::Stopping).await;
            sleep(ms(400)).await;
            ctl.force();
        }
    });
    let report = report.await;
    assert_eq!(
        outcomes(&report),
        [
            "done: completed 100ms",
            "hangs: cut 400ms",
            "later: not started 0ns"
        ]
    );
    assert_eq!(start.elapsed(), ms(400));
    assert!(gone.await.is_err(), "the hook is dropped, not left behind");
    assert!(report.is_forced());
    tokio::time::timeout(ms(1), ctl.forced()).await.unwrap();
}

#[test]
fn a_hook_that_blocks_its_thread_is_left_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let report = runtime.block_on(async {
        let ctl = ten_seconds();
        ctl.add_hook(
            Hook::new("blocks", move |_| async move {
                blocked.recv().map_err(Into::into)
            })
            .timeout(ms(50)),
        )
        .unwrap();
        ctl.add_hook(Hook::new("later", |_| async { Ok(()) }).phase(1))
            .unwrap();
        ctl.shutdown(ShutdownReason::Manual).await
    });
    release.send(()).unwrap();
    let outcomes: Vec<_> = report
        .hooks()
        .iter()
        .map(|h| h.outcome().to_string())
        .collect();
    assert_eq!(outcomes, ["timed out", "completed"]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_call_the_controller_and_use_the_service() {
    let ctl = ten_seconds();
    let handle = ctl.clone();
    ctl.on_shutdown("calls", move |notice| async move {
        assert_eq!(notice.reason(), ShutdownReason::Manual);
        assert_eq!(handle.state(), LifecycleState::Stopping);
        assert!(!handle.trigger(ShutdownReason::Error));
        drop(handle.track());
        Ok(())
    })
    .unwrap();
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_late_hook_gets_a_clear_error() {
    let ctl = ten_seconds();
    ctl.trigger(ShutdownReason::Manual);
    let error = ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap_err();
    assert!(error.is_late() && !error.is_duplicate());
    let text = error.to_string();
    assert!(
        text.starts_with(concat!("shutdown hook `flush` (", file!(), ":")),
        "{text}"
    );
    assert!(
        text.ends_with("was added too late: register hooks before the trigger"),
        "{text}"
    );
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(outcomes(&report), ["flush: not started 0ns"]);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_name_is_an_error_that_names_both() {
    let ctl = ten_seconds();
    ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
    let first = format!("{}:{}", file!(), line!() - 1);
    let error = ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap_err();
    let second = format!("{}:{}", file!(), line!() - 1);
    assert!(error.is_duplicate() && !error.is_late());
    let text = error.to_string();
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    assert_eq!(ctl.shutdown(ShutdownReason::Manual).await.hooks().len(), 1);
}
