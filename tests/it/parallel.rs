//! P1 and P2 under parallel load.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portable_atomic::{AtomicI64, AtomicU64};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
};

const THREADS: u64 = 8;

/// A million admissions race with a trigger: each is admitted or refused, the counts add up, and no
/// admitted guard is alive after the drain.
#[test]
fn admitted_and_refused_are_all_that_tried_and_none_is_alive_after_drained() {
    const ROUNDS: u64 = 1_000;
    const TRIES: u64 = 1_000_000 / ROUNDS / THREADS;
    let mut raced = 0;
    for round in 0..ROUNDS {
        let ctl = ShutdownController::new();
        let alive = AtomicI64::new(0);
        let (admitted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let begin = Barrier::new(THREADS as usize + 1);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    begin.wait();
                    for n in 0..TRIES {
                        let Ok(guard) = ctl.try_admit() else {
                            refused.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        alive.fetch_add(1, Ordering::Relaxed);
                        admitted.fetch_add(1, Ordering::Relaxed);
                        if n % 8 == 0 {
                            // There are more threads than cores: some are preempted here.
                            thread::yield_now();
                        }
                        alive.fetch_sub(1, Ordering::Relaxed);
                        drop(guard);
                    }
                });
            }
            begin.wait();
            // Somewhere in the middle, later in each round.
            while admitted.load(Ordering::Relaxed) < round * TRIES * THREADS / ROUNDS {
                std::hint::spin_loop();
            }
            ctl.trigger(ShutdownReason::Manual);
            within_a_minute(ctl.drained());
            assert_eq!(alive.load(Ordering::Relaxed), 0, "round {round}");
        });
        let (admitted, refused) = (admitted.into_inner(), refused.into_inner());
        assert_eq!(admitted + refused, TRIES * THREADS);
        let report = within_a_minute(ctl.shutdown(ShutdownReason::Manual));
        assert_eq!((report.admitted(), ctl.in_flight()), (admitted, 0));
        raced += u64::from(admitted > 0 && refused > 0);
    }
    assert!(raced > 0, "no round had both");
}

/// The same through the layer, with clones on every thread, as in servers.
#[test]
fn through_the_layer_every_request_is_answered_or_refused() {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    let late = through_the_layer(&config, |ctl, alive| {
        within_a_minute(ctl.drained());
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
    assert_eq!(late, 0);
}

/// Late requests come and go after the service has drained, and none is alive after it stops.
#[test]
fn through_the_layer_every_late_request_is_answered_or_refused() {
    let late = through_the_layer(&ShutdownConfig::default(), |ctl, alive| {
        within_a_minute(ctl.wait_for(LifecycleState::Stopping));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
    assert!(late > 0, "no round had any");
}

/// Calls `look` with the number alive, while requests continue after a trigger. Returns how many
/// late ones were served.
fn through_the_layer(
    config: &ShutdownConfig,
    look: impl Fn(&ShutdownController, &AtomicI64),
) -> u64 {
    const TRIES: u64 = 20_000;
    let mut late = 0;
    for _ in 0..5 {
        let ctl = ShutdownController::with_config(config.clone()).unwrap();
        let alive = Arc::new(AtomicI64::new(0));
        let service = DrainLayer::new(ctl.clone()).layer(service_fn({
            let alive = Arc::clone(&alive);
            move |_: Request<String>| {
                let alive = Arc::clone(&alive);
                async move {
                    alive.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    alive.fetch_sub(1, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
                }
            }
        }));
        let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let begin = Barrier::new(THREADS as usize + 1);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let service = service.clone();
                let (begin, served, refused) = (&begin, &served, &refused);
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..TRIES {
                        let response = one_request(service.clone());
                        let count = match response.status() {
                            StatusCode::OK => served,
                            StatusCode::SERVICE_UNAVAILABLE => refused,
                            status => panic!("{status}"),
                        };
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            begin.wait();
            while served.load(Ordering::Relaxed) < TRIES {
                std::hint::spin_loop();
            }
            ctl.trigger(ShutdownReason::Manual);
            look(&ctl, &alive);
        });
        let served = served.into_inner();
        assert_eq!(served + refused.into_inner(), TRIES * THREADS);
        assert_eq!(ctl.in_flight(), 0);
        let report = within_a_minute(ctl.shutdown(ShutdownReason::Manual));
        assert_eq!(report.admitted(), served);
        late += report.late_requests();
    }
    late
}

/// P6: of all that trigger at once, exactly one is first, and there is one shutdown.
#[test]
fn of_all_that_trigger_at_once_one_is_the_first() {
    for _ in 0..200 {
        let ctl = ShutdownController::new();
        let hooks = Arc::new(AtomicU64::new(0));
        ctl.on_shutdown("count", {
            let hooks = Arc::clone(&hooks);
            move |_| async move {
                hooks.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .unwrap();
        let begin = Barrier::new(THREADS as usize);
        let first: u64 = thread::scope(|scope| {
            let trigger = || {
                begin.wait();
                u64::from(ctl.trigger(ShutdownReason::Manual))
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(trigger)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        within_a_minute(ctl.stopped());
        assert_eq!((first, hooks.load(Ordering::Relaxed)), (1, 1));
    }
}

/// Waits, and fails if a wake-up was lost.
fn within_a_minute<F: Future>(wait: F) -> F::Output {
    let minute = Duration::from_secs(60);
    let result = tokio_test::block_on(async { tokio::time::timeout(minute, wait).await });
    result.expect("a lost wake-up")
}

/// Drives one request to its response, by polling it repeatedly.
fn one_request<S, B>(mut service: S) -> Response<B>
where
    S: Service<Request<String>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let mut future = pin!(service.call(Request::new(String::new())));
    loop {
        if let Poll::Ready(response) = future.as_mut().poll(cx) {
            return response.unwrap();
        }
    }
}
