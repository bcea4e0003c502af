//! State is saved last, in time that nothing else can use.

use std::future::pending;
use std::sync::{Arc, Mutex};

use tokio::time::{Instant, sleep};
use tower_lifecycle::report::Outcome;
use tower_lifecycle::store::{MemoryStore, StateStore};
use tower_lifecycle::{
    BoxError, Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    ShutdownReport, Startup,
};

use crate::support::shutdown::ms;

/// A total of 10 s, with a reserve of 2 s, of which half a second is for saves.
fn ten_seconds() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(10_000))
        .cleanup_reserve(ms(2_000))
}

fn controller() -> ShutdownController {
    ShutdownController::with_config(ten_seconds()).unwrap()
}

fn saves(report: &ShutdownReport) -> Vec<String> {
    report.saves().iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_does_until_its_service_has_stopped_is_saved() {
    let done = Arc::new(Mutex::new(0));
    let mut startup = Startup::new(ten_seconds()).unwrap();
    let worker = Arc::clone(&done);
    let start = async move {
        let task = tokio::spawn(async move {
            loop {
                sleep(ms(10)).await;
                *worker.lock().unwrap() += 1;
            }
        });
        Ok::<_, BoxError>(Arc::new(task))
    };
    let stop = |task: Arc<tokio::task::JoinHandle<()>>| async move {
        sleep(ms(500)).await; // the last batch
        task.abort();
    };
    startup.start("worker", start, stop).await.unwrap();
    let ctl = startup.finish().await.unwrap();
    let store = MemoryStore::new();
    let state = Arc::clone(&done);
    ctl.persist("done", store.clone(), move || async move {
        Ok(state.lock().unwrap().to_string())
    })
    .unwrap();

    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful(), "{report}");
    sleep(ms(100)).await;
    let saved = store.load("done").await.unwrap().unwrap();
    assert_eq!(saved, done.lock().unwrap().to_string());
    assert_eq!(saves(&report), ["`done`: completed after 0.000ns"]);
}

#[tokio::test(start_paused = true)]
async fn hooks_and_stops_that_hang_leave_the_saves_their_time() {
    let mut startup = Startup::new(ten_seconds()).unwrap();
    let hangs = |()| pending::<()>();
    startup
        .start("hangs", async { Ok::<_, BoxError>(()) }, hangs)
        .await
        .unwrap();
    let ctl = startup.finish().await.unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    let stuck = ctl.track();
    let store = MemoryStore::new();
    for (key, takes) in [("a", 300), ("b", 400)] {
        ctl.persist(key, store.clone(), move || async move {
            sleep(ms(takes)).await;
            Ok(key)
        })
        .unwrap();
    }
    ctl.persist("hangs", store.clone(), pending::<Result<&str, _>>)
        .unwrap();

    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    drop(stuck);
    assert_eq!(began.elapsed().as_millis() / 10, 1000, "the deadline holds");
    assert!(matches!(report.hooks()[0].outcome(), Outcome::TimedOut));
    assert!(matches!(report.services()[0].outcome(), Outcome::TimedOut));
    let outcomes: Vec<_> = report
        .saves()
        .iter()
        .map(|save| save.is_completed())
        .collect();
    assert_eq!(outcomes, [true, true, false], "{report}");
    assert!(matches!(report.saves()[2].outcome(), Outcome::TimedOut));
    assert!(!report.is_graceful());
    assert!(store.load("a").await.unwrap().is_some());
    assert!(store.load("b").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_state_the_hooks_have_all_of_the_reserve() {
    let ctl = controller();
    ctl.on_shutdown("asks", |notice| async move {
        assert_eq!(notice.time_remaining(), Some(ms(10_000)));
        Ok(())
    })
    .unwrap();
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());

    let ctl = controller();
    ctl.on_shutdown("asks", |notice| async move {
        assert_eq!(
            notice.time_remaining(),
            Some(ms(9_500)),
            "a quarter of the reserve is kept"
        );
        Ok(())
    })
    .unwrap();
    ctl.persist("state", MemoryStore::new(), || async { Ok("state") })
        .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_force_while_stopping_cuts_the_hooks_and_not_the_saves_and_the_next_one_cuts_those() {
    for cut_saves in [false, true] {
        let ctl = controller();
        let forces = ctl.clone();
        ctl.add_hook(Hook::new("hangs", move |_| async move {
            sleep(ms(100)).await;
            forces.force();
            pending().await
        }))
        .unwrap();
        let store = MemoryStore::new();
        let forces = ctl.clone();
        ctl.persist("state", store.clone(), move || async move {
            sleep(ms(50)).await;
            if cut_saves {
                forces.force();
                pending::<()>().await;
            }
            Ok("state")
        })
        .unwrap();
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert!(report.is_forced());
        assert!(matches!(report.hooks()[0].outcome(), Outcome::Cut));
        let saved = store.load("state").await.unwrap();
        match report.saves()[0].outcome() {
            Outcome::Completed => assert!(!cut_saves && saved.is_some()),
            Outcome::Cut => assert!(cut_saves && saved.is_none()),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn state_and_hooks_that_come_after_the_trigger_are_in_the_report() {
    let ctl = controller();
    let job = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let state = || async { Ok("state") };
    let error = ctl.persist("state", MemoryStore::new(), state).unwrap_err();
    assert!(error.is_late());
    assert!(error.to_string().starts_with("state `state` ("), "{error}");
    ctl.on_shutdown("hook", |_| async { Ok(()) }).unwrap_err();
    ctl.on_shutdown("hook", |_| async { Ok(()) }).unwrap_err();
    drop(job);
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(saves(&report), ["`state`: not started"]);
    let hooks: Vec<_> = report.hooks().iter().map(ToString::to_string).collect();
    assert_eq!(hooks, ["`hook` (phase 0): not started"]);
    assert!(
        !report.is_graceful(),
        "clean-up was asked for and did not run"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_came_late_to_a_shutdown_that_was_called_off_may_come_again() {
    let config = ten_seconds().lame_duck(ms(1_000));
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.trigger(ShutdownReason::Manual);
    ctl.on_shutdown("hook", |_| async { Ok(()) }).unwrap_err();
    ctl.resume().unwrap();
    ctl.on_shutdown("hook", |_| async { Ok(()) }).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.hooks().len(), 1);
    assert!(report.is_graceful(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn two_states_may_not_have_one_key_but_a_hook_may_be_called_like_one() {
    let ctl = controller();
    let state = || async { Ok("state") };
    ctl.persist("jobs", MemoryStore::new(), state).unwrap();
    let error = ctl.persist("jobs", MemoryStore::new(), state).unwrap_err();
    assert!(error.is_duplicate());
    assert!(error.to_string().contains("keys must be unique"), "{error}");
    ctl.on_shutdown("jobs", |_| async { Ok(()) }).unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!((report.hooks().len(), report.saves().len()), (1, 1));
    assert_eq!(ctl.state(), LifecycleState::Stopped);
}

/// Its start blocks the only worker, so nothing can wait for it.
#[test]
fn a_start_that_blocks_its_thread_is_in_the_report() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (started, starts) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let config = ShutdownConfig::default().shutdown_timeout(ms(200));
            let mut startup = Startup::new(config).unwrap();
            let ctl = startup.controller();
            let start = async move {
                started.send(ctl).unwrap();
                blocked.recv().ok();
                Ok::<_, BoxError>(())
            };
            drop(startup.start("db", start, |()| async {}).await);
        });
    });
    let ctl = starts.recv().unwrap();
    ctl.trigger(ShutdownReason::Manual);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let report = runtime.block_on(ctl.shutdown(ShutdownReason::Manual));
    assert!(
        matches!(report.services()[0].outcome(), Outcome::Abandoned),
        "{report}"
    );
    assert!(
        report
            .to_string()
            .contains("service       `db`: start abandoned"),
        "{report}"
    );
    drop(release);
    thread.join().unwrap();
}
