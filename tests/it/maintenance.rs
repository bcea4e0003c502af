//! Changing one's mind: calling a shutdown off, and refusing work for a while.

use std::future::{Future, ready};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower_lifecycle::future::Wait;
use tower_lifecycle::report::PhaseReport;
use tower_lifecycle::{
    LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

use crate::support::runtime::one_thread;
use LifecycleState::*;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
const ERROR: ShutdownReason = ShutdownReason::Error;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn controller(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config).unwrap()
}

/// A total of 10 s, of which 2 s are reserved.
fn ten_seconds() -> ShutdownConfig {
    ShutdownConfig::default()
        .shutdown_timeout(ms(10_000))
        .cleanup_reserve(ms(2_000))
}

/// As that, of which 3 s are the lame duck's.
fn lame_duck() -> ShutdownController {
    controller(ten_seconds().lame_duck(ms(3_000)))
}

/// For controllers that many threads use, none of which has a runtime.
fn one_worker() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// Lets every other task run until it waits. The clock is paused, so no real time passes.
async fn settle() {
    sleep(ms(1)).await;
}

/// Waits, and fails when a wake-up was lost.
fn within_a_minute<F: Future>(wait: F) -> F::Output {
    let minute = Duration::from_secs(60);
    let result = one_thread().block_on(async { tokio::time::timeout(minute, wait).await });
    result.expect("a lost wake-up")
}

/// Waits for what another thread is about to do, which tells nobody.
fn until(holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        thread::yield_now();
    }
}

/// Records every move.
fn record(ctl: &ShutdownController) -> Arc<Mutex<Vec<(LifecycleState, LifecycleState)>>> {
    let moves = Arc::new(Mutex::new(Vec::new()));
    ctl.on_state_change({
        let moves = Arc::clone(&moves);
        move |old, new| moves.lock().unwrap().push((old, new))
    });
    moves
}

/// Asserts that not one of the futures that a shutdown resolves does.
macro_rules! none_resolves {
    ($($wait:expr),* $(,)?) => {$(
        assert!(
            tokio::time::timeout(Duration::ZERO, $wait).await.is_err(),
            stringify!($wait)
        );
    )*};
}

// ===== resume =====

#[tokio::test(start_paused = true)]
async fn resume_in_the_lame_duck_makes_all_as_it_was() {
    let ctl = lame_duck();
    let moves = record(&ctl);
    ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(ctl.state(), LameDuck);
    assert_eq!(ctl.notice().unwrap().reason(), MANUAL);

    ctl.resume().unwrap();
    assert_eq!(ctl.state(), Running);
    assert!(ctl.notice().is_none() && !ctl.is_draining() && !ctl.is_paused());
    none_resolves!(ctl.triggered(), ctl.lame_duck_begun());
    drop(ctl.try_admit().unwrap());
    settle().await;
    assert_eq!(
        *moves.lock().unwrap(),
        [(Running, LameDuck), (LameDuck, Running)]
    );
    // Long after what would have been its end.
    advance(ms(60_000)).await;
    settle().await;
    assert_eq!((ctl.state(), moves.lock().unwrap().len()), (Running, 2));
    assert_eq!(ctl.wait_for(Running).await, Running);
}

#[tokio::test(start_paused = true)]
async fn resume_is_an_error_that_says_why_in_every_other_state() {
    let no_shutdown =
        |state: LifecycleState| format!("there is no shutdown to call off: the state is `{state}`");
    let starting_up =
        |state: LifecycleState| format!("a start-up cannot be called off: the state is `{state}`");
    let too_late = |state: LifecycleState| {
        format!(
            "the shutdown is past the lame duck and cannot be called off: in `{state}`, waits \
             have resolved and the listener may be closed"
        )
    };
    let mut seen = Vec::new();
    let mut refuses = |ctl: &ShutdownController, text: &str| {
        let error = ctl.resume().unwrap_err();
        assert_eq!(
            (error.state(), error.to_string().as_str()),
            (ctl.state(), text)
        );
        seen.push(error.state());
    };

    let mut startup = Startup::new(ten_seconds()).unwrap();
    let starting = startup.controller();
    refuses(&starting, &starting_up(Initializing));
    let start = startup.start("one", ready(Ok::<_, &str>(())), |()| ready(()));
    start.await.unwrap();
    refuses(&starting, &starting_up(Starting));
    drop(startup);
    starting.stopped().await;
    refuses(&starting, &too_late(Failed));

    let ctl = lame_duck();
    refuses(&ctl, &no_shutdown(Running));
    let guard = ctl.track();
    let (hook, hook_runs) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    ctl.on_shutdown("held", move |_| async move {
        hook.send(()).unwrap();
        Ok(released.await?)
    })
    .unwrap();
    ctl.trigger(MANUAL);
    ctl.draining().await;
    refuses(&ctl, &too_late(Draining));
    drop(guard);
    hook_runs.await.unwrap();
    refuses(&ctl, &too_late(Stopping));
    release.send(()).unwrap();
    assert!(ctl.shutdown(MANUAL).await.is_graceful());
    refuses(&ctl, &too_late(Stopped));
    assert_eq!(
        seen,
        [
            Initializing,
            Starting,
            Failed,
            Running,
            Draining,
            Stopping,
            Stopped
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_shutdown_is_a_whole_new_one() {
    let ctl = lame_duck();
    let moves = record(&ctl);
    let ran = Arc::new(AtomicU64::new(0));
    let hook = |ctl: &ShutdownController, name| {
        let ran = Arc::clone(&ran);
        ctl.on_shutdown(name, move |_| async move {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    };
    hook(&ctl, "early").unwrap();
    ctl.trigger(MANUAL);
    advance(ms(2_900)).await;
    assert!(hook(&ctl, "late").unwrap_err().is_late());
    ctl.resume().unwrap();
    // At once, so that the old sequence has not run meanwhile.
    let guard = ctl.track();
    hook(&ctl, "after the resume").unwrap();
    let start = Instant::now();
    assert!(ctl.trigger(ERROR));
    let notice = ctl.notice().unwrap();
    assert_eq!((notice.reason(), notice.triggered_at()), (ERROR, start));
    assert_eq!(notice.drain_deadline(), Some(start + ms(8_000)));
    assert_eq!(notice.final_deadline(), Some(start + ms(10_000)));

    // The lame duck is as long as ever, whatever the old timer says.
    advance(ms(2_990)).await;
    settle().await;
    assert_eq!(ctl.state(), LameDuck);
    ctl.draining().await;
    assert_eq!(start.elapsed(), ms(3_000));
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(start.elapsed(), ms(8_250), "with its own deadline");
    assert_eq!(report.reason(), ERROR);
    assert_eq!((report.in_flight_at_trigger(), report.abandoned()), (1, 1));
    let phases: Vec<_> = report.phases().iter().map(PhaseReport::state).collect();
    assert_eq!(phases, [LameDuck, Draining, Stopping]);
    assert_eq!(report.phases()[0].duration(), ms(3_000));
    assert_eq!(ran.load(Ordering::Relaxed), 2);
    assert_eq!(
        *moves.lock().unwrap(),
        [
            (Running, LameDuck),
            (LameDuck, Running),
            (Running, LameDuck),
            (LameDuck, Draining),
            (Draining, Stopping),
            (Stopping, Stopped),
        ]
    );
    drop(guard);
}

/// The deadline of the first one passes in real time, while the second one is under way.
#[test]
fn the_thread_that_watched_the_old_deadline_does_not_end_the_new_shutdown() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(300))
        .lame_duck(ms(200))
        .cleanup_reserve(ms(20));
    let ctl = one_thread().block_on(async { controller(config) });
    // A thread drives each, for the runtime has ended.
    ctl.trigger(MANUAL);
    thread::sleep(ms(150));
    ctl.resume().unwrap();
    let began = std::time::Instant::now();
    let guard = ctl.track();
    let report = within_a_minute(ctl.shutdown(ERROR));
    assert!(began.elapsed() >= ms(280), "{:?}", began.elapsed());
    assert_eq!(report.reason(), ERROR);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn futures_made_before_the_resume_go_on_to_the_next_shutdown() {
    let ctl = lame_duck();
    let guard = ctl.track();
    let mut ended = task::spawn(ctl.shutdown(MANUAL));
    let mut stopped = task::spawn(ctl.stopped());
    let mut draining = task::spawn(ctl.draining());
    let mut drained = task::spawn(ctl.drained());
    let mut forced = task::spawn(ctl.forced());
    let mut stop_accepting = task::spawn(ctl.stop_accepting());
    let mut stopping = task::spawn(ctl.wait_for(Stopping));
    let mut idle = task::spawn(ctl.idle());
    let mut told = task::spawn(guard.draining());
    let mut run = task::spawn(ctl.run(ctl.stop_accepting()));
    macro_rules! all_wait {
        ($($wait:ident)*) => {$(
            assert!(!$wait.is_woken() && $wait.poll().is_pending(), stringify!($wait));
        )*};
    }
    assert_pending!(ended.poll());
    assert_pending!(stopped.poll());
    assert_pending!(draining.poll());
    assert_pending!(drained.poll());
    assert_pending!(forced.poll());
    assert_pending!(stop_accepting.poll());
    assert_pending!(stopping.poll());
    assert_pending!(idle.poll());
    assert_pending!(told.poll());
    assert_pending!(run.poll());
    settle().await;
    ctl.resume().unwrap();
    advance(ms(60_000)).await;
    settle().await;
    all_wait!(ended stopped draining drained forced stop_accepting stopping idle told run);

    let start = Instant::now();
    ctl.trigger(ERROR);
    assert_pending_until_draining(&ctl, draining).await;
    assert!(told.is_woken());
    assert_ready!(told.poll());
    drop(told);
    drop(guard);
    drained.await;
    idle.await;
    stop_accepting.await;
    let draining = ms(3_001); // `settle` took the last of it
    assert_eq!(start.elapsed(), draining, "nothing was in flight");
    assert_eq!(run.await.reason(), ERROR);
    assert_eq!(ended.await.reason(), ERROR);
    stopped.await;
    assert_eq!(stopping.await, Stopped);
    assert_pending!(forced.poll());
}

async fn assert_pending_until_draining(ctl: &ShutdownController, mut draining: task::Spawn<Wait>) {
    advance(ms(2_999)).await;
    assert!(draining.poll().is_pending(), "in {}", ctl.state());
    draining.await;
    assert_eq!(ctl.state(), Draining);
    // The sequence wakes the guards, after those who wait.
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn who_slept_through_a_resume_waits_for_the_next_notice() {
    let ctl = lame_duck();
    let mut triggered = task::spawn(ctl.triggered());
    assert_pending!(triggered.poll());
    ctl.trigger(MANUAL);
    assert!(triggered.is_woken());
    ctl.resume().unwrap();
    assert_pending!(triggered.poll());
    assert!(ctl.trigger(ERROR));
    assert!(triggered.is_woken());
    assert_eq!(assert_ready!(triggered.poll()).reason(), ERROR);
}

#[tokio::test(start_paused = true)]
async fn force_after_a_resume_cuts_a_new_shutdown() {
    let ctl = lame_duck();
    ctl.trigger(ERROR);
    ctl.resume().unwrap();
    ctl.force();
    assert_eq!(ctl.state(), Draining);
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_forced());
    assert_eq!(report.reason(), MANUAL);
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_call_the_shutdown_off() {
    let ctl = lame_duck();
    let moves = record(&ctl);
    ctl.on_state_change({
        let ctl = ctl.clone();
        move |_, new| {
            if new == LameDuck {
                ctl.resume().unwrap();
            }
        }
    });
    let mut triggered = task::spawn(ctl.triggered());
    assert_pending!(triggered.poll());
    ctl.trigger(MANUAL);
    settle().await;
    assert_eq!(
        *moves.lock().unwrap(),
        [(Running, LameDuck), (LameDuck, Running)]
    );
    assert_eq!(ctl.state(), Running);
    assert_pending!(triggered.poll());
}

/// As `run` promises: a server that has ended is not replaced by anybody.
#[tokio::test(start_paused = true)]
async fn a_shutdown_is_not_called_off_once_the_last_server_has_ended() {
    let ctl = lame_duck();
    let mut run = task::spawn(ctl.run(ready(())));
    ctl.trigger(MANUAL);
    assert_pending!(run.poll());
    let resumed = ctl.resume();
    let report = tokio::time::timeout(ms(60_000), run).await;
    assert!(report.expect("it waits for ever").is_graceful());
    assert_eq!(resumed.unwrap_err().state(), LameDuck);
}

/// Of a force and a resume at the same time one comes first: the shutdown is off and a new one is
/// forced, or the resume comes too late. Never half.
#[test]
fn a_force_and_a_resume_at_the_same_time_do_not_mix() {
    const ROUNDS: usize = 400;
    const RESUMERS: usize = 3;
    let (mut off, mut late) = (0, 0);
    let runtime = one_worker();
    for _ in 0..ROUNDS {
        let ctl = runtime.block_on(async { lame_duck() });
        let guard = ctl.track();
        ctl.trigger(ERROR);
        let begin = Barrier::new(RESUMERS + 1);
        let resumed = thread::scope(|scope| {
            let resume = || {
                begin.wait();
                ctl.resume()
            };
            let threads: Vec<_> = (0..RESUMERS).map(|_| scope.spawn(resume)).collect();
            begin.wait();
            ctl.force();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.filter(Result::is_ok).count()
        });
        // Force is given a guard's time to be heeded, which a busy machine may use up.
        assert!(ctl.state() >= Draining, "{resumed} resumed");
        assert!(ctl.try_admit().is_err());
        within_a_minute(guard.forced());
        drop(guard);
        let report = within_a_minute(ctl.shutdown(MANUAL));
        assert!(report.is_forced());
        let reason = if resumed == 0 { ERROR } else { MANUAL };
        assert_eq!(report.reason(), reason);
        off += usize::from(resumed > 0);
        late += usize::from(resumed == 0);
    }
    assert!(
        off > 0 && late > 0,
        "{off} were called off, {late} were not"
    );
}

/// A thread of its own drives each shutdown then, and that one's runtime goes with the first.
#[test]
fn without_a_runtime_a_resume_does_not_interrupt_the_next_shutdown() {
    for round in 0..200_u32 {
        let ctl = lame_duck();
        ctl.trigger(MANUAL);
        // From before the thread has begun until after.
        thread::sleep(Duration::from_micros(u64::from(round) * 5));
        ctl.resume().unwrap();
        ctl.trigger(ERROR);
        thread::sleep(ms(1));
        assert_eq!(ctl.state(), LameDuck, "round {round}");
        ctl.force();
        let report = within_a_minute(ctl.shutdown(MANUAL));
        assert_eq!(report.reason(), ERROR);
    }
}

/// As the second signal does: it forces what is under way, and there may be nothing any more.
#[test]
fn triggers_and_resumes_from_many_threads_are_each_whole() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 500;
    let ctl = one_thread().block_on(async { lame_duck() });
    let moves = record(&ctl);
    let (triggered, resumed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ctl, triggered, resumed) = (&ctl, &triggered, &resumed);
            scope.spawn(move || {
                let mut rounds = 0;
                // Who resumes goes on until one has, also when the others begin late: each of
                // them triggers at least once, and then there is a lame duck to call off.
                while rounds < ROUNDS || thread % 2 == 1 && resumed.load(Ordering::Relaxed) == 0 {
                    rounds += 1;
                    if thread % 2 == 0 {
                        triggered.fetch_add(ctl.trigger(MANUAL).into(), Ordering::Relaxed);
                    } else {
                        resumed.fetch_add(ctl.resume().is_ok().into(), Ordering::Relaxed);
                    }
                    drop(ctl.try_admit().unwrap());
                }
            });
        }
    });
    let (triggered, resumed) = (triggered.into_inner(), resumed.into_inner());
    let left = triggered - resumed;
    assert_eq!(ctl.state(), if left == 1 { LameDuck } else { Running });
    assert_eq!(ctl.notice().is_some(), left == 1);
    let mut expected = [(Running, LameDuck), (LameDuck, Running)]
        .into_iter()
        .cycle();
    let moves = moves.lock().unwrap().clone();
    assert!(moves.iter().all(|seen| Some(*seen) == expected.next()));
    assert_eq!(moves.len() as u64, triggered + resumed);
    assert!(resumed > 0);
    ctl.force();
    assert!(within_a_minute(ctl.shutdown(MANUAL)).is_forced());
}

// ===== pause =====

#[tokio::test(start_paused = true)]
async fn a_pause_refuses_new_work_and_shuts_nothing_down() {
    let ctl = controller(ten_seconds());
    let moves = record(&ctl);
    let guard = ctl.track();
    assert!(!ctl.is_paused());
    assert!(ctl.pause());
    assert!(ctl.is_paused());
    assert!(!ctl.pause(), "it is paused already");
    let refused = ctl.try_admit().unwrap_err();
    assert!(refused.is_paused());
    assert_eq!(refused.to_string(), "service is paused");
    assert_eq!(ctl.in_flight(), 1);

    advance(ms(60_000)).await;
    assert_eq!((ctl.state(), ctl.is_draining()), (Running, false));
    assert!(ctl.notice().is_none());
    ctl.on_shutdown("not late", |_| ready(Ok(()))).unwrap();
    assert_pending!(task::spawn(guard.draining()).poll());
    assert_pending!(task::spawn(guard.forced()).poll());
    drop(guard);
    none_resolves!(
        ctl.triggered(),
        ctl.lame_duck_begun(),
        ctl.draining(),
        ctl.drained(),
        ctl.forced(),
        ctl.stopped(),
        ctl.stop_accepting(),
        ctl.wait_for(LameDuck),
    );
    assert!(moves.lock().unwrap().is_empty());

    assert!(ctl.unpause());
    assert!(!ctl.is_paused() && !ctl.unpause());
    drop(ctl.try_admit().unwrap());
    assert!(ctl.pause() && ctl.unpause(), "again and again");
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waited_before_the_pause_is_not_told_of_a_shutdown() {
    let ctl = controller(ten_seconds());
    let guard = ctl.track();
    let mut told = task::spawn(guard.draining());
    let mut draining = task::spawn(ctl.draining());
    let mut drained = task::spawn(ctl.drained());
    let mut stop_accepting = task::spawn(ctl.stop_accepting());
    assert_pending!(told.poll());
    assert_pending!(draining.poll());
    assert_pending!(drained.poll());
    assert_pending!(stop_accepting.poll());
    ctl.pause();
    settle().await;
    assert!(!told.is_woken() && !draining.is_woken() && !drained.is_woken());
    assert_pending!(told.poll());
    drop(told);
    drop(guard);
    settle().await;
    assert!(!drained.is_woken() && !stop_accepting.is_woken());
    assert_pending!(drained.poll());
}

/// Readiness goes by `is_paused`, and is red no later than the first refusal.
#[test]
fn a_pause_shows_no_later_than_its_first_refusal_and_no_longer_than_its_last() {
    const ROUNDS: u64 = 20_000;
    let ctl = ShutdownController::new();
    let (refused, admitted) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            for round in 1..=ROUNDS {
                while ctl.try_admit().is_ok() {}
                let was_paused = ctl.is_paused();
                // Told first: else who waits for it would do so for ever.
                refused.store(round, Ordering::Release);
                while ctl.is_paused() {}
                let was_admitted = ctl.try_admit().is_ok();
                admitted.store(round, Ordering::Release);
                if !(was_paused && was_admitted) {
                    refused.store(ROUNDS, Ordering::Release);
                    admitted.store(ROUNDS, Ordering::Release);
                    return Err((round, was_paused, was_admitted));
                }
            }
            Ok(())
        });
        for round in 1..=ROUNDS {
            ctl.pause();
            until(|| refused.load(Ordering::Acquire) >= round);
            ctl.unpause();
            until(|| admitted.load(Ordering::Acquire) >= round);
        }
        assert_eq!(client.join().unwrap(), Ok(()), "(round, paused, admitted)");
    });
}

// ===== idle =====

#[tokio::test(start_paused = true)]
async fn idle_wakes_with_the_last_guard_without_a_tick() {
    let ctl = controller(ten_seconds());
    let (one, two) = (ctl.try_admit().unwrap(), ctl.track());
    let mut before = task::spawn(ctl.idle());
    assert_pending!(before.poll());
    ctl.pause();
    let mut after = task::spawn(ctl.idle());
    assert_pending!(after.poll());
    drop(one);
    assert!(!before.is_woken() && !after.is_woken(), "one is left");
    drop(two);
    assert!(before.is_woken() && after.is_woken());
    assert_ready!(before.poll());
    assert_ready!(after.poll());
    assert_ready!(task::spawn(ctl.idle()).poll(), "nothing has begun since");
    assert_eq!(ctl.state(), Running);
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_a_pause() {
    let ctl = controller(ten_seconds());
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll(), "nothing is in flight, but all is admitted");
    drop(ctl.track());
    assert!(!idle.is_woken());
    ctl.pause();
    assert!(idle.is_woken());
    assert_ready!(idle.poll());
    ctl.unpause();
    assert_pending!(task::spawn(ctl.idle()).poll());
}

#[tokio::test(start_paused = true)]
async fn what_is_tracked_during_a_pause_is_counted_and_holds_idle() {
    let ctl = controller(ten_seconds());
    let early = ctl.track();
    ctl.pause();
    let late = ctl.track();
    assert_eq!(ctl.in_flight(), 2);
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    drop(early);
    assert!(!idle.is_woken());
    drop(late);
    assert!(idle.is_woken());
    assert_ready!(idle.poll());

    // Also when it was idle once.
    let later = ctl.track();
    let mut again = task::spawn(ctl.idle());
    assert_pending!(again.poll());
    drop(later);
    assert_ready!(again.poll());
    assert_eq!((ctl.in_flight(), ctl.metrics().admitted), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_was_tracked_during_a_pause_may_end_after_it() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    let tracked = ctl.track();
    ctl.unpause();
    let admitted = ctl.try_admit().unwrap();
    assert_eq!(ctl.in_flight(), 2);
    ctl.pause();
    let mut idle = task::spawn(ctl.idle());
    drop(admitted);
    assert_pending!(idle.poll());
    drop(tracked);
    assert_ready!(idle.poll());
    assert_eq!((ctl.in_flight(), ctl.metrics().admitted), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn idle_of_an_earlier_pause_is_not_taken_for_this_ones() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    ctl.idle().await;
    ctl.unpause();
    let first = ctl.try_admit().unwrap();
    ctl.pause();
    let mut early = task::spawn(ctl.idle());
    assert_pending!(early.poll());
    ctl.unpause();
    drop(first); // nothing is in flight, but anything may begin
    assert_pending!(early.poll());
    let guard = ctl.try_admit().unwrap();
    ctl.pause();
    assert_pending!(early.poll());
    drop(guard);
    assert_ready!(early.poll());
}

/// It has been idle since the call: what begins between that and the poll is not waited for.
#[tokio::test(start_paused = true)]
async fn who_was_woken_as_idle_is_told_so_whatever_begins_before_its_poll() {
    let ctl = controller(ten_seconds());
    let guard = ctl.try_admit().unwrap();
    ctl.pause();
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    drop(guard);
    assert!(idle.is_woken());
    let _begun = ctl.track();
    let mut other = task::spawn(ctl.idle());
    assert_pending!(other.poll());
    assert_ready!(idle.poll());
}

#[tokio::test(start_paused = true)]
async fn idle_resolves_in_a_shutdown_too_and_after_the_end() {
    let ctl = controller(ten_seconds());
    let guard = ctl.track();
    let mut idle = task::spawn(ctl.idle());
    assert_pending!(idle.poll());
    ctl.trigger(MANUAL);
    assert_pending!(idle.poll());
    drop(guard);
    assert_ready!(idle.poll());
    ctl.stopped().await;
    let _late = ctl.track();
    assert_ready!(task::spawn(ctl.idle()).poll());
}

// ===== a shutdown during a pause =====

#[tokio::test(start_paused = true)]
async fn a_shutdown_during_a_pause_goes_its_way_and_ends_the_pause() {
    for lame_duck in [ms(0), ms(3_000)] {
        for unpaused in [false, true] {
            let ctl = controller(ten_seconds().lame_duck(lame_duck));
            let moves = record(&ctl);
            let guard = ctl.try_admit().unwrap();
            ctl.pause();
            let late = ctl.track();
            assert!(ctl.try_admit().is_err());
            let (start, hook) = (Instant::now(), ctl.on_shutdown("hook", |_| ready(Ok(()))));
            hook.unwrap();
            let mut told = task::spawn(guard.draining());
            assert_pending!(told.poll());
            ctl.trigger(MANUAL);
            settle().await;
            assert_eq!(told.is_woken(), lame_duck.is_zero());
            if lame_duck.is_zero() {
                assert!(!ctl.is_paused());
            } else {
                assert!(ctl.is_paused() && ctl.try_admit().unwrap_err().is_paused());
                if unpaused {
                    assert!(ctl.unpause());
                    drop(ctl.try_admit().unwrap());
                }
                ctl.draining().await;
                assert_eq!(start.elapsed(), lame_duck);
                settle().await;
                assert!(told.is_woken());
            }
            drop(told);
            // From here on a pause is nothing to begin or to end.
            assert!(!ctl.is_paused() && !ctl.unpause() && !ctl.pause());
            assert!(!ctl.is_paused());
            assert!(!ctl.try_admit().unwrap_err().is_paused());
            let mut drained = task::spawn(ctl.drained());
            drop(guard);
            assert_pending!(drained.poll());
            drop(late);
            assert_ready!(drained.poll());

            let report = ctl.shutdown(MANUAL).await;
            assert!(report.is_graceful() && report.hooks()[0].is_completed());
            let in_lame_duck = u64::from(!lame_duck.is_zero());
            let unpaused = in_lame_duck * u64::from(unpaused);
            assert_eq!(
                (report.admitted(), report.refused()),
                (2 + unpaused, 2 + in_lame_duck)
            );
            assert_eq!(report.in_flight_at_trigger(), 2);
            assert!(!ctl.pause() && !ctl.unpause() && !ctl.is_paused());
            assert_eq!(moves.lock().unwrap().last(), Some(&(Stopping, Stopped)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_idle_in_the_pause_is_drained_at_the_trigger() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    ctl.idle().await;
    let mut drained = task::spawn(ctl.drained());
    assert_pending!(drained.poll());
    ctl.trigger(MANUAL);
    assert_ready!(drained.poll());
    assert!(ctl.shutdown(MANUAL).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_resume_leaves_the_pause_and_an_unpause_the_lame_duck() {
    let ctl = lame_duck();
    ctl.pause();
    ctl.trigger(MANUAL);
    ctl.resume().unwrap();
    assert!(ctl.is_paused() && ctl.try_admit().is_err());
    assert_eq!(ctl.state(), Running);
    ctl.trigger(MANUAL);
    assert!(ctl.unpause());
    assert_eq!(ctl.state(), LameDuck);
    drop(ctl.try_admit().unwrap());
    assert!(ctl.pause(), "a lame duck can be paused");
    assert!(ctl.try_admit().is_err());
    ctl.resume().unwrap();
    assert!(ctl.unpause());
    drop(ctl.try_admit().unwrap());
}

#[tokio::test(start_paused = true)]
async fn force_cuts_what_runs_in_a_pause() {
    let ctl = lame_duck();
    let guard = ctl.track();
    ctl.pause();
    ctl.force();
    assert_eq!(ctl.state(), Draining);
    guard.forced().await;
    drop(guard);
    assert!(ctl.shutdown(MANUAL).await.is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_start_up_may_be_paused_and_goes_on_being_so() {
    let startup = Startup::new(ten_seconds()).unwrap();
    assert!(startup.controller().pause());
    let ctl = startup.finish().await.unwrap();
    assert_eq!((ctl.state(), ctl.is_paused()), (Running, true));
    assert!(ctl.try_admit().is_err());
    assert!(ctl.unpause() && ctl.try_admit().is_ok());
}

// ===== the figures =====

#[tokio::test(start_paused = true)]
async fn the_figures_are_exact_over_pauses() {
    let ctl = controller(ten_seconds());
    let (mut admitted, mut refused) = (0, 0);
    for round in 0..10 {
        let guards: Vec<_> = (0..round).map(|_| ctl.try_admit().unwrap()).collect();
        admitted += round;
        assert_eq!(ctl.metrics().admitted, admitted);
        ctl.pause();
        assert_eq!(ctl.metrics().admitted, admitted);
        for _ in 0..=round {
            assert!(ctl.try_admit().is_err());
            drop(ctl.track());
        }
        (admitted, refused) = (admitted + round + 1, refused + round + 1);
        let figures = ctl.metrics();
        assert_eq!((figures.admitted, figures.refused), (admitted, refused));
        assert_eq!(figures.in_flight, round);
        ctl.unpause();
        let figures = ctl.metrics();
        assert_eq!((figures.admitted, figures.refused), (admitted, refused));
        drop(guards);
    }
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!((report.admitted(), report.refused()), (admitted, refused));
}

/// A refusal that has counted itself and not yet taken itself out again may outlast the pause, and
/// meet the next closing.
#[test]
fn a_refusal_that_outlasts_its_pause_is_not_admitted() {
    const ROUNDS: u64 = 200;
    const THREADS: u64 = 2;
    for round in 0..ROUNDS {
        let ctl = ShutdownController::new();
        let (admitted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let (mut ins, mut outs) = (0, 0);
                    while !over.load(Ordering::Relaxed) {
                        match ctl.try_admit() {
                            Ok(_) => ins += 1,
                            Err(_) => outs += 1,
                        }
                    }
                    admitted.fetch_add(ins, Ordering::Relaxed);
                    refused.fetch_add(outs, Ordering::Relaxed);
                });
            }
            let _over = Over(&over);
            until(|| ctl.metrics().admitted > 0);
            for _ in 0..100 {
                ctl.pause();
                ctl.unpause();
            }
            ctl.pause();
        });
        let figures = ctl.metrics();
        assert_eq!(
            (figures.admitted, figures.refused),
            (admitted.into_inner(), refused.into_inner()),
            "round {round}"
        );
    }
}

// ===== many threads =====

/// A small generator: nothing here needs more than to differ.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What the threads have done, to be compared with what the controller says.
#[derive(Default)]
struct Ledger {
    admitted: AtomicU64,
    refused: AtomicU64,
    tracked: AtomicU64,
    /// Alive, of those that `try_admit` admitted.
    alive: AtomicI64,
    over: AtomicBool,
}

/// Ends the threads also when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    fn work(&self, ctl: &ShutdownController, mut dice: Dice) {
        while !self.over.load(Ordering::Relaxed) {
            if dice.below(64) == 0 {
                let guard = ctl.track();
                self.tracked.fetch_add(1, Ordering::Relaxed);
                drop(guard);
                continue;
            }
            let Ok(guard) = ctl.try_admit() else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                // Else there is hardly a moment without a refusal that comes and goes.
                thread::yield_now();
                continue;
            };
            // Relaxed, as in `parallel.rs`: the gate alone is to order these.
            self.alive.fetch_add(1, Ordering::Relaxed);
            self.admitted.fetch_add(1, Ordering::Relaxed);
            if dice.below(16) == 0 {
                thread::yield_now();
            }
            self.alive.fetch_sub(1, Ordering::Relaxed);
            drop(guard);
        }
    }
}

#[test]
fn nothing_that_was_admitted_is_alive_once_it_is_idle_and_every_figure_adds_up() {
    const WORKERS: u64 = 6;
    const ROUNDS: u64 = 12;
    const TIME: Duration = ms(2_000);
    let (mut pauses, mut resumes) = (0, 0);
    let runtime = one_worker();
    for round in 0..ROUNDS {
        let ctl = runtime.block_on(async { lame_duck() });
        let ledger = Ledger::default();
        let mut dice = Dice(0x9E37_79B9 + round);
        thread::scope(|scope| {
            let over = Over(&ledger.over);
            for worker in 1..=WORKERS {
                let (ctl, ledger) = (&ctl, &ledger);
                scope.spawn(move || ledger.work(ctl, Dice(worker * 0xABCD_EF01 + round)));
            }
            // Resumes and triggers come at any moment; only `main` ends a pause.
            scope.spawn(|| {
                let mut dice = Dice(77 + round);
                while !ledger.over.load(Ordering::Relaxed) {
                    ctl.trigger(MANUAL);
                    for _ in 0..dice.below(2_000) {
                        std::hint::spin_loop();
                    }
                    // Too late once `main` has forced it.
                    let _ = ctl.resume();
                }
            });
            let began = std::time::Instant::now();
            while began.elapsed() < TIME / ROUNDS as u32 {
                assert!(ctl.pause());
                if dice.below(3) == 0 {
                    drop(ctl.idle());
                }
                within_a_minute(ctl.idle());
                assert_eq!(ledger.alive.load(Ordering::Relaxed), 0, "idle {pauses}");
                let admitted = ledger.admitted.load(Ordering::Relaxed);
                for _ in 0..dice.below(500) {
                    std::hint::spin_loop();
                }
                assert_eq!(ledger.admitted.load(Ordering::Relaxed), admitted);
                assert!(ctl.unpause());
                pauses += 1;
                resumes += u64::from(ctl.state() == Running);
                for _ in 0..dice.below(5_000) {
                    std::hint::spin_loop();
                }
            }
            if dice.below(2) == 0 {
                ctl.pause();
            }
            ctl.force();
            within_a_minute(ctl.drained());
            assert_eq!(ledger.alive.load(Ordering::Relaxed), 0);
            drop(over);
        });
        assert_eq!(ctl.in_flight(), 0);
        let figures = ctl.metrics();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(figures.admitted, of(&ledger.admitted) + of(&ledger.tracked));
        assert_eq!(figures.refused, of(&ledger.refused));
        let report = within_a_minute(ctl.shutdown(MANUAL));
        assert!(report.is_forced());
    }
    assert!(
        pauses > ROUNDS && resumes > 0,
        "{pauses} pauses, {resumes} resumes"
    );
}

/// The report is made when all is quiet, and says what the threads know.
#[test]
fn the_report_has_the_sums_of_the_threads() {
    const WORKERS: u64 = 4;
    let runtime = one_worker();
    for round in 0..50 {
        let ctl = runtime.block_on(async { controller(ten_seconds()) });
        let ledger = Ledger::default();
        // Holds the drain until the threads are gone.
        let last = ctl.track();
        thread::scope(|scope| {
            let over = Over(&ledger.over);
            for worker in 1..=WORKERS {
                let (ctl, ledger) = (&ctl, &ledger);
                scope.spawn(move || ledger.work(ctl, Dice(worker * 31 + round)));
            }
            for _ in 0..20 {
                ctl.pause();
                thread::yield_now();
                ctl.unpause();
            }
            ctl.trigger(MANUAL);
            thread::yield_now();
            drop(over);
        });
        drop(last);
        let report = within_a_minute(ctl.shutdown(MANUAL));
        let (admitted, tracked) = (ledger.admitted.into_inner(), ledger.tracked.into_inner());
        assert_eq!(report.admitted(), admitted + tracked + 1, "round {round}");
        assert_eq!(report.refused(), ledger.refused.into_inner());
        assert!(report.is_graceful());
    }
}

// ===== health =====

#[cfg(feature = "health")]
#[tokio::test(start_paused = true)]
async fn readiness_is_green_again_after_a_resume_and_red_in_a_pause() {
    use tower::ServiceExt;
    let ctl = lame_duck();
    let status = async |liveness: bool| {
        let health = tower_lifecycle::HealthService::new(ctl.clone());
        let health = if liveness { health.liveness() } else { health };
        let answer = health.oneshot(http::Request::new(())).await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(status(false).await, 200);
    ctl.trigger(MANUAL);
    assert_eq!(status(false).await, 503);
    ctl.resume().unwrap();
    assert_eq!(status(false).await, 200);
    ctl.pause();
    assert_eq!(status(false).await, 503);
    assert_eq!(status(true).await, 200);
    ctl.unpause();
    assert_eq!(status(false).await, 200);
}
