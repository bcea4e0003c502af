//! Failures around a shutdown: runtimes that end, blocked threads, panics, hostile wakers.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use portable_atomic::AtomicU64;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::limit::ConcurrencyLimitLayer;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_lifecycle::error::Forced;
use tower_lifecycle::{
    DrainLayer, Hook, InFlightGuard, LifecycleState, LongLived, ShutdownConfig, ShutdownController,
    ShutdownReason, ShutdownReport,
};

use crate::support::log::listen;
use crate::support::panics::Unspeakable;
use crate::support::runtime::{TIMEOUT, in_time, one_thread, threads};
use crate::support::shutdown::{controller, hook_outcomes, ms};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

fn taking(total: Duration) -> ShutdownConfig {
    ShutdownConfig::default().shutdown_timeout(total)
}

/// A controller whose runtime has ended.
fn without_runtime() -> ShutdownController {
    one_thread().block_on(async { ShutdownController::new() })
}

/// A service whose requests never end.
fn endless(
    ctl: &ShutdownController,
) -> impl Service<(), Response = (), Error = BoxError, Future: Send + 'static> + use<> {
    DrainLayer::new(ctl.clone())
        .reject_with_error()
        .layer(service_fn(|()| pending::<Result<(), Infallible>>()))
}

async fn call<S: Service<R>, R>(service: &mut S, request: R) -> S::Future
where
    S::Error: fmt::Debug,
{
    service.ready().await.unwrap().call(request)
}

/// Spawns a task, and returns when it has been polled and is pending.
async fn waiting<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (pending, told) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut future = pin!(future);
        let mut pending = Some(pending);
        poll_fn(move |cx| {
            let poll = future.as_mut().poll(cx);
            if let Some(pending) = pending.take() {
                assert!(poll.is_pending(), "it was to wait");
                pending.send(()).unwrap();
            }
            poll
        })
        .await
    });
    told.await.unwrap();
    task
}

/// A hook that never ends, and signals when it runs.
fn endless_hook(name: &str) -> (Hook, mpsc::Receiver<()>) {
    let (runs, told) = mpsc::channel();
    let hook = Hook::new(name, move |_| async move {
        runs.send(())?;
        pending().await
    });
    (hook, told)
}

// ===== runtimes that end =====

#[test]
fn guards_are_told_of_draining_when_the_runtime_had_ended() {
    in_time(|| {
        let ctl = without_runtime();
        let report = one_thread().block_on(async {
            let guard = ctl.track();
            let told = waiting(async move { guard.draining().await }).await;
            ctl.trigger(MANUAL);
            told.await.unwrap();
            ctl.shutdown(MANUAL).await
        });
        assert!(report.is_graceful(), "{report}");
    });
}

#[test]
fn who_waits_for_readiness_is_woken_when_the_runtime_had_ended() {
    in_time(|| {
        let ctl = without_runtime();
        one_thread().block_on(async {
            let mut service = ServiceBuilder::new()
                .layer(DrainLayer::new(ctl.clone()).reject_with_error())
                .layer(ConcurrencyLimitLayer::new(1))
                .service(service_fn(|()| pending::<Result<(), Infallible>>()));
            let mut other = service.clone();
            let _only = call(&mut service, ()).await;
            let ready = waiting(async move { other.ready().await.map(drop) }).await;
            ctl.trigger(MANUAL);
            ready.await.unwrap().unwrap();
        });
    });
}

#[test]
fn force_cuts_when_the_runtime_had_ended() {
    in_time(|| {
        let ctl = without_runtime();
        let report = one_thread().block_on(async {
            let request = call(&mut endless(&ctl), ()).await;
            let request = waiting(request).await;
            ctl.trigger(MANUAL);
            ctl.force();
            assert!(request.await.unwrap().unwrap_err().is::<Forced>());
            ctl.shutdown(MANUAL).await
        });
        assert_eq!((report.aborted(), report.abandoned()), (1, 0));
        assert_eq!(report.reason(), MANUAL);
    });
}

#[test]
fn what_another_runtime_runs_is_told_and_cut_when_the_driving_one_ends() {
    in_time(|| {
        let driving = one_thread();
        let ctl = driving.block_on(async { ShutdownController::new() });
        one_thread().block_on(async {
            let guard = ctl.track();
            let told = waiting(async move { guard.draining().await }).await;
            let request = call(&mut endless(&ctl), ()).await;
            let request = waiting(request).await;
            ctl.trigger(MANUAL);
            driving.shutdown_background();
            told.await.unwrap();
            assert!(request.await.unwrap().unwrap_err().is::<Forced>());
            let report = ctl.shutdown(MANUAL).await;
            assert_eq!(report.reason(), ShutdownReason::Interrupted);
        });
    });
}

#[test]
fn hooks_are_in_the_report_when_the_runtime_ends_while_they_run() {
    in_time(|| {
        let runtime = threads(1);
        let ctl = runtime.block_on(async { ShutdownController::new() });
        let (second, runs) = endless_hook("second");
        ctl.on_shutdown("first", |_| async { Ok(()) }).unwrap();
        ctl.add_hook(second.phase(1)).unwrap();
        ctl.add_hook(Hook::new("third", |_| async { Ok(()) }).phase(2))
            .unwrap();
        ctl.trigger(MANUAL);
        runs.recv().unwrap();
        drop(runtime);
        let report = one_thread().block_on(ctl.shutdown(MANUAL));
        assert_eq!(report.reason(), ShutdownReason::Interrupted);
        assert_eq!(hook_outcomes(&report), ["completed", "cut", "not started"]);
    });
}

#[test]
fn there_is_an_end_in_whatever_state_the_runtime_ends() {
    use LifecycleState::*;
    for at in [Running, LameDuck, Draining, Stopping, Stopped] {
        in_time(move || {
            let runtime = threads(2);
            let ctl = {
                let _entered = runtime.enter();
                controller(taking(ms(60)).lame_duck(ms(10)))
            };
            ctl.on_shutdown("endless", |_| pending()).unwrap();
            let guard = ctl.track();
            let stop = ctl.stop_accepting();
            let server = async move {
                stop.await;
                pending::<()>().await
            };
            let server = runtime.spawn(ctl.run(server));
            let (moves, states) = mpsc::channel();
            let moves = Mutex::new(moves);
            ctl.on_state_change(move |_, new| moves.lock().unwrap().send(new).unwrap());
            if at != Running {
                ctl.trigger(MANUAL);
                while states.recv().unwrap() != at {}
            }
            drop(runtime);
            let report = one_thread().block_on(ctl.shutdown(MANUAL));
            assert_eq!(ctl.state(), Stopped, "at {at}");
            assert!(!report.is_graceful(), "at {at}");
            drop((guard, server));
        });
    }
}

// ===== threads that block =====

#[test]
fn run_keeps_the_deadline_when_the_driving_runtime_does_not_run() {
    in_time(|| {
        let idle = one_thread();
        let ctl = idle.block_on(async { controller(taking(ms(100))) });
        let report = one_thread().block_on(async {
            let run = ctl.run(ctl.stop_accepting());
            // Polled in this order, so it is triggered while `run` waits.
            tokio::join!(run, async { ctl.trigger(MANUAL) }).0
        });
        assert_eq!(report.reason(), ShutdownReason::Interrupted);
    });
}

#[test]
fn run_keeps_the_deadline_when_the_one_who_triggers_blocks_its_thread() {
    in_time(|| {
        let runtime = threads(2);
        let (release, blocked) = mpsc::channel::<()>();
        let ctl = runtime.block_on(async { controller(taking(ms(100))) });
        runtime.block_on(async {
            // A task spawned by this runtime's task waits for the thread that spawned it.
            let bad = ctl.clone();
            tokio::spawn(async move {
                bad.trigger(MANUAL);
                let _ = blocked.recv();
            });
            ctl.run(ctl.stop_accepting()).await
        });
        assert_eq!(ctl.state(), LifecycleState::Stopped);
        drop(release);
    });
}

#[test]
fn those_who_wait_are_told_when_every_worker_is_blocked() {
    in_time(|| {
        let runtime = threads(1);
        let (release, blocked) = mpsc::channel::<()>();
        let ctl = runtime.block_on(async { controller(taking(ms(100))) });
        ctl.on_shutdown("blocks", move |_| async move {
            let _ = blocked.recv();
            Ok(())
        })
        .unwrap();
        ctl.on_shutdown("waits", |_| pending()).unwrap();
        ctl.trigger(MANUAL);
        let report = one_thread().block_on(ctl.shutdown(MANUAL));
        assert_eq!(report.reason(), ShutdownReason::Interrupted);
        assert_eq!(report.hooks().len(), 2, "{report}");
        drop(release);
    });
}

#[test]
fn a_runtime_without_a_timer_may_run_the_server() {
    in_time(|| {
        let driving = threads(1);
        let ctl = driving.block_on(async { controller(taking(TIMEOUT)) });
        let bare = Builder::new_current_thread().build().unwrap();
        let report = bare.block_on(async {
            let run = ctl.run(ctl.stop_accepting());
            tokio::join!(run, async { ctl.trigger(MANUAL) }).0
        });
        assert!(report.is_graceful(), "{report}");
    });
}

/// The second stream has to wait for its turn.
#[test]
fn a_runtime_without_a_timer_may_serve_streams() {
    in_time(|| {
        let driving = threads(1);
        let ctl = driving.block_on(async { controller(taking(TIMEOUT)) });
        let events = service_fn(|_: Request<String>| async {
            let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
            let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let one_a_second = LongLived::content_type("text/event-stream").rate(1);
        let layer = DrainLayer::new(ctl.clone()).long_lived(one_a_second);
        let service = layer.layer(events);
        let bare = Builder::new_current_thread().build().unwrap();
        bare.block_on(async {
            let request = || Request::new(String::new());
            let first = service.clone().oneshot(request()).await.unwrap();
            let second = service.oneshot(request()).await.unwrap();
            ctl.trigger(MANUAL);
            for response in [first, second] {
                let body = response.into_body().collect().await.unwrap();
                assert!(body.to_bytes().is_empty());
            }
        });
    });
}

#[cfg(feature = "health")]
#[test]
fn a_runtime_without_a_timer_may_answer_a_probe() {
    in_time(|| {
        let health = tower_lifecycle::HealthService::new(ShutdownController::new())
            .check("db", || async { Ok(()) });
        let bare = Builder::new_current_thread().build().unwrap();
        let answer = bare
            .block_on(health.oneshot(Request::new(String::new())))
            .unwrap();
        assert_eq!(answer.status(), 200);
    });
}

#[test]
fn the_options_of_a_layer_may_hold_the_controller() {
    let alive = Arc::new(());
    one_thread().block_on(async {
        let ctl = ShutdownController::new();
        let held = (ctl.clone(), Arc::clone(&alive));
        let layer = DrainLayer::new(ctl.clone()).refuse_with(move |_| {
            let _ = &held;
            Response::default()
        });
        let service = layer.layer(());
        ctl.shutdown(MANUAL).await;
        drop((service, layer));
    });
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn blocked_hooks_are_all_given_up_at_once() {
    const HOOKS: usize = 200;
    in_time(|| {
        // In sequence they would take at least two milliseconds each.
        const TOGETHER: Duration = ms(2 * HOOKS as u64 * 3 / 4);
        let runtime = threads(HOOKS + 2);
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let ctl = runtime.block_on(async { controller(taking(TIMEOUT)) });
        let (blocks, told) = mpsc::channel();
        for n in 0..HOOKS {
            let (blocks, blocked) = (blocks.clone(), Arc::clone(&blocked));
            ctl.on_shutdown(n.to_string(), move |_| async move {
                blocks.send(())?;
                let _ = blocked.lock().unwrap().recv();
                Ok(())
            })
            .unwrap();
        }
        ctl.trigger(MANUAL);
        told.iter().take(HOOKS).for_each(drop);
        let began = Instant::now();
        ctl.force();
        let report = one_thread().block_on(ctl.shutdown(MANUAL));
        let took = began.elapsed();
        drop(release);
        assert!(took < TOGETHER, "{took:?}");
        assert!(hook_outcomes(&report).iter().all(|o| o == "cut"));
    });
}

/// Tokio leaves the timers to the worker that last drove them. Here that worker is blocked; another
/// one has to be woken.
#[test]
fn work_that_blocks_the_worker_with_the_timers_keeps_no_hook_from_running() {
    in_time(|| {
        let runtime = threads(2);
        let (release, blocked) = mpsc::channel::<()>();
        let report = runtime.block_on(async {
            let ctl = controller(taking(ms(1_000)));
            let guard = ctl.track();
            tokio::spawn(async move {
                sleep(ms(10)).await;
                let _ = blocked.recv();
                drop(guard);
            });
            ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
            ctl.shutdown(MANUAL).await
        });
        drop(release);
        assert_eq!(report.reason(), MANUAL, "{report}");
        assert_eq!((report.is_forced(), report.abandoned()), (true, 1));
        assert_eq!(hook_outcomes(&report), ["completed"]);
    });
}

#[test]
fn a_request_that_is_cut_late_is_not_both_aborted_and_abandoned() {
    in_time(|| {
        let runtime = threads(2);
        let (release, blocked) = mpsc::channel::<()>();
        let report = runtime.block_on(async {
            let ctl = ShutdownController::new();
            let (blocks, told) = oneshot::channel();
            let work = Mutex::new(Some((blocks, blocked)));
            let mut service = DrainLayer::new(ctl.clone())
                .reject_with_error()
                .layer(service_fn(move |()| {
                    let (blocks, blocked) = work.lock().unwrap().take().unwrap();
                    async move {
                        tokio::task::yield_now().await;
                        blocks.send(()).unwrap();
                        let _ = blocked.recv();
                        pending::<Result<(), Infallible>>().await
                    }
                }));
            let request = tokio::spawn(call(&mut service, ()).await);
            // It is counted as abandoned when hooks run.
            ctl.on_shutdown("release it", |_| async move {
                drop(release);
                assert!(request.await?.unwrap_err().is::<Forced>());
                Ok(())
            })
            .unwrap();
            told.await.unwrap();
            ctl.force();
            ctl.shutdown(MANUAL).await
        });
        assert!(report.hooks()[0].is_completed(), "{report}");
        assert_eq!((report.aborted(), report.abandoned()), (0, 1), "{report}");
    });
}

#[cfg(feature = "health")]
#[test]
fn a_check_that_blocks_its_thread_does_not_hold_the_probe() {
    use http_body_util::BodyExt;

    in_time(|| {
        let runtime = threads(2);
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let health = tower_lifecycle::HealthService::new(ShutdownController::new())
            .check_timeout(ms(50))
            .check("fine", || async { Ok(()) })
            .check("blocks", move || {
                let blocked = Arc::clone(&blocked);
                async move {
                    let _ = blocked.lock().unwrap().recv();
                    Ok(())
                }
            });
        let probe = health.oneshot(Request::new(String::new()));
        // Inside a task, as in servers.
        let response = runtime.block_on(runtime.spawn(probe)).unwrap().unwrap();
        drop(release);
        let body = tokio_test::block_on(response.into_body().collect());
        let body = body.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], "degraded");
        assert_eq!(body["services"]["fine"]["status"], "healthy");
        let error = &body["services"]["blocks"]["error"];
        assert_eq!(error, "no answer within 50ms");
    });
}

// ===== panics =====

#[test]
fn a_server_that_panics_is_not_graceful() {
    in_time(|| {
        let report = one_thread().block_on(async {
            let ctl = ShutdownController::new();
            let run = ctl.run(async {
                tokio::task::yield_now().await;
                assert_eq!(1, 2, "a bug of the server");
            });
            let run = tokio::spawn(run);
            ctl.stopped().await;
            assert!(run.await.unwrap_err().is_panic());
            ctl.shutdown(MANUAL).await
        });
        assert_eq!(report.reason(), ShutdownReason::Error);
        let errors: Vec<_> = report.server_errors().map(|e| e.to_string()).collect();
        assert_eq!(errors, ["the server panicked"]);
        assert!(!report.is_graceful());
    });
}

#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_shown_harms_only_its_hook() {
    // With a subscriber, so that the error is formatted.
    let log = tracing_subscriber::fmt().with_writer(std::io::sink);
    let _read = listen(log.finish());
    let ctl = ShutdownController::new();
    ctl.on_shutdown("bad", |_| async { Err(Unspeakable.into()) })
        .unwrap();
    ctl.add_hook(Hook::new("good", |_| async { Ok(()) }).phase(1))
        .unwrap();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(report.reason(), MANUAL);
    assert_eq!(
        hook_outcomes(&report),
        ["panicked: unspeakable", "completed"]
    );
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("on drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_that_panics_when_it_is_cut_releases_its_guard() {
    let ctl = ShutdownController::new();
    let mut service = DrainLayer::new(ctl.clone()).layer(service_fn(|_: Request<String>| async {
        let _panics = PanicsOnDrop;
        pending::<()>().await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = call(&mut service, Request::new(String::new())).await;
    let request = waiting(async { request.await.map(drop) }).await;
    ctl.force();
    assert!(request.await.unwrap_err().is_panic());
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

// ===== hostile wakers =====

/// A waker that calls into the crate when it is woken and when it is dropped.
struct Hostile {
    ctl: ShutdownController,
    guard: Mutex<Option<InFlightGuard>>,
}

impl Hostile {
    fn waker(ctl: &ShutdownController, guard: Option<InFlightGuard>) -> Waker {
        let (ctl, guard) = (ctl.clone(), Mutex::new(guard));
        Arc::new(Self { ctl, guard }).into()
    }
}

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        self.ctl.force();
        let _ = self.ctl.in_flight();
        drop(self.guard.lock().unwrap().take());
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.ctl.trigger(MANUAL);
        let _ = pin!(self.ctl.drained()).poll(&mut Context::from_waker(Waker::noop()));
    }
}

#[test]
fn wakers_may_call_anything() {
    in_time(|| {
        let runtime = threads(2);
        let _entered = runtime.enter();
        for _ in 0..50 {
            let ctl = ShutdownController::new();
            let guard = ctl.track();
            let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = vec![
                Box::pin(ctl.draining()),
                Box::pin(ctl.drained()),
                Box::pin(ctl.forced()),
                Box::pin(ctl.stopped()),
                Box::pin(guard.draining()),
                Box::pin(guard.forced()),
            ];
            // The second replaces the first, whose drop triggers.
            for _ in 0..2 {
                for wait in &mut waits {
                    let waker = Hostile::waker(&ctl, Some(ctl.track()));
                    let _ = wait.as_mut().poll(&mut Context::from_waker(&waker));
                }
            }
            ctl.trigger(MANUAL);
            drop(waits);
            drop(guard);
            runtime.block_on(ctl.stopped());
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_force_as_the_drain_ends_leaves_the_clean_up_its_reserve_only() {
    let config = taking(ms(10_000)).cleanup_reserve(ms(2_000));
    let ctl = controller(config.refuse_for(ms(1)));
    ctl.on_shutdown("endless", |_| pending()).unwrap();
    // It is woken, and forces, when the drain has ended except for a last poll of the server.
    let mut stop = ctl.stop_accepting();
    let waker = Hostile::waker(&ctl, None);
    let poll = Pin::new(&mut stop).poll(&mut Context::from_waker(&waker));
    assert!(poll.is_pending());
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!(report.duration(), ms(2_001));
    assert_eq!(hook_outcomes(&report), ["timed out"]);
}

// ===== force, and deadlines =====

/// A lost force would let the hook run until the deadline.
#[test]
fn no_force_is_lost_between_draining_and_stopping() {
    in_time(|| {
        let runtime = threads(2);
        let _entered = runtime.enter();
        let (mut delay, began) = (0, Instant::now());
        while began.elapsed() < ms(2_000) {
            let ctl = controller(taking(TIMEOUT * 2).cleanup_reserve(ms(1)));
            ctl.on_shutdown("endless", |_| pending()).unwrap();
            let guard = ctl.track();
            ctl.trigger(MANUAL);
            drop(guard);
            for _ in 0..delay {
                std::hint::spin_loop();
            }
            ctl.force();
            let report = runtime.block_on(ctl.shutdown(MANUAL));
            assert!(report.is_forced());
            // Keeps close to the moment between the two.
            if hook_outcomes(&report) == ["cut"] {
                delay -= delay / 16;
            } else {
                delay += delay / 16 + 16;
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_force_is_in_the_report_in_whatever_state_it_came() {
    use LifecycleState::*;
    for (state, outcome) in [
        (LameDuck, "timed out"),
        (Draining, "timed out"),
        (Stopping, "cut"),
    ] {
        let ctl = controller(taking(ms(10_000)).lame_duck(ms(1_000)));
        ctl.on_shutdown("endless", |_| pending()).unwrap();
        let guard = ctl.track();
        ctl.trigger(MANUAL);
        if state == Stopping {
            drop(guard);
        }
        assert_eq!(ctl.wait_for(state).await, state);
        sleep(ms(10)).await;
        ctl.force();
        let report = ctl.shutdown(MANUAL).await;
        assert!(report.is_forced(), "{state}");
        assert_eq!(hook_outcomes(&report), [outcome], "{state}");
    }
}

#[test]
fn a_hook_that_holds_up_an_interrupted_shutdown_is_reported_with_its_time() {
    let report = in_time(|| {
        one_thread().block_on(async {
            let ctl = controller(taking(ms(100)));
            let in_hook = ctl.clone();
            ctl.on_shutdown("blocks", |_| async move {
                // Blocks the runtime until the shutdown has been given up.
                while !in_hook.state().is_terminal() {
                    thread::sleep(ms(1));
                }
                Ok(())
            })
            .unwrap();
            ctl.shutdown(MANUAL).await
        })
    });
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
    assert!(report.hooks()[0].duration() >= ms(50), "{report}");
}

/// Shuts down in 20 ms, with more phases than milliseconds. In sequence each would take a timer tick, which is
/// a millisecond.
///
/// Not more phases: the shutdown is given up 50 ms of real time after its deadline, and machines are busy.
async fn shut_down_with_many_phases() -> ShutdownReport {
    const PHASES: u16 = 100;
    let ctl = controller(taking(ms(20)));
    for n in 0..PHASES {
        ctl.add_hook(Hook::new(n.to_string(), |_| pending()).phase(n.into()))
            .unwrap();
    }
    let report = ctl.shutdown(MANUAL).await;
    let outcomes = hook_outcomes(&report);
    assert_eq!(outcomes, vec!["timed out"; PHASES.into()]);
    report
}

#[tokio::test(start_paused = true)]
async fn more_phases_than_milliseconds_keep_the_deadline() {
    let report = shut_down_with_many_phases().await;
    assert!(report.duration() < ms(60), "{:?}", report.duration());
}

/// In real time, since a paused clock ticks at once. If it were given up, some would not be started.
#[tokio::test]
async fn phases_without_time_do_not_wait_for_a_tick_each() {
    shut_down_with_many_phases().await;
}

#[tokio::test(start_paused = true)]
async fn no_lame_duck_is_waited_for_when_no_server_is_left() {
    let fails = std::io::Result::<()>::Err(std::io::Error::other("bind"));
    let config = taking(ms(10_000)).lame_duck(ms(2_000));
    let ctl = controller(config.clone());
    let report = ctl.run(async { fails }).await;
    assert_eq!(report.duration(), Duration::ZERO, "{report}");
    assert_eq!(report.phases()[0].state(), LifecycleState::Draining);

    let ctl = controller(config);
    let server = ctl.run(sleep(ms(500)));
    ctl.trigger(MANUAL);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    assert_eq!(server.await.duration(), ms(500));
}

// ===== counts =====

#[tokio::test]
async fn a_call_without_readiness_counts_as_refused() {
    let ctl = ShutdownController::new();
    endless(&ctl).call(()).await.unwrap_err();
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!((report.admitted(), report.refused()), (0, 1));
}

#[test]
fn refusals_that_come_and_go_are_not_in_the_report_as_admitted() {
    in_time(|| {
        for round in 0..40 {
            let ctl = ShutdownController::new();
            // The counts are read afterwards, at any moment of the refusals.
            ctl.on_shutdown("wait", |_| async {
                sleep(ms(1)).await;
                Ok(())
            })
            .unwrap();
            let (admitted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
            let report = thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            if let Ok(_guard) = ctl.try_admit() {
                                admitted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
                while admitted.load(Ordering::Relaxed) < 100 {
                    thread::yield_now();
                }
                let report = tokio_test::block_on(ctl.shutdown(MANUAL));
                stop.store(true, Ordering::Relaxed);
                report
            });
            assert_eq!(report.admitted(), admitted.into_inner(), "round {round}");
        }
    });
}

#[test]
fn an_observer_that_holds_the_controller_does_not_keep_it() {
    let alive = Arc::new(());
    one_thread().block_on(async {
        let ctl = ShutdownController::new();
        let observe = || {
            let held = (ctl.clone(), Arc::clone(&alive));
            ctl.on_state_change(move |_, _| {
                let _ = &held;
            });
        };
        observe();
        ctl.shutdown(MANUAL).await;
        // An observer added after the last change is not called.
        observe();
    });
    assert_eq!(Arc::strong_count(&alive), 1);
}
