//! Resume.

use super::*;

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
    // Long after its former end.
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

    // The lame duck has its full length, whatever the old timer says.
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

/// The deadline of the first shutdown passes in real time, during the second one.
#[test]
fn the_thread_that_watched_the_old_deadline_does_not_end_the_new_shutdown() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(300))
        .lame_duck(ms(200))
        .cleanup_reserve(ms(20));
    let ctl = one_thread().block_on(async { controller(config) });
    // A thread drives each, because the runtime has ended.
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
    let draining = ms(3_001); // the rest passed in `settle`
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
    // The sequence wakes the guards after the waiters.
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

/// As documented for `run`: a server that has ended is not replaced.
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

/// A force and a resume at the same time have an order: either the shutdown is cancelled and a new
/// one is forced, or the resume comes too late. Never half of each.
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
        // Force gives guards time to end, which a busy machine may use up.
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

/// Then a separate thread drives each shutdown, and the runtime ends with the first.
#[test]
fn without_a_runtime_a_resume_does_not_interrupt_the_next_shutdown() {
    for round in 0..200_u32 {
        let ctl = lame_duck();
        ctl.trigger(MANUAL);
        // From before the start of the thread until after it.
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

/// As the second signal does: it forces the current shutdown, and there may be none any more.
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
                // Resuming threads continue until one has succeeded, even when the others start
                // late: each of them triggers at least once, and then there is a lame duck to
                // cancel.
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
