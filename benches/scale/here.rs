//! The measurements of a separate process.

use std::hint::black_box;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::sleep;
use tower_lifecycle::{HealthService, ShutdownController, ShutdownReason};

use crate::common::request::{pending as yielding, ready, request_on_clone, waker};
use crate::cpu::thread_time;
use crate::pending::{Countdown, never, respond, start};
use crate::results::{Further, Questions};
use crate::stats::{Median, sorted};
use crate::ways::Way;
use crate::{Cut, Load, Measurement, RUNTIMES};

/// Runs the measurement, and writes its result as JSON.
pub fn measure<W: Way>(measurement: Measurement) {
    let json = match measurement {
        Measurement::Force { runtime, pending } => {
            let runtime = new_runtime(&runtime);
            serde_json::to_string(&runtime.block_on(force_here::<W>(pending)))
        }
        Measurement::Drained { runtime, times } => {
            let runtime = new_runtime(&runtime);
            serde_json::to_string(&runtime.block_on(drained_here(times)))
        }
        Measurement::Further { most } => {
            let runtime = new_runtime(RUNTIMES[0]);
            let _inside = runtime.enter();
            serde_json::to_string(&further_here::<W>(most))
        }
    };
    println!("{}", json.expect("plain data"));
}

fn new_runtime(name: &str) -> Runtime {
    let mut builder = match RUNTIMES.iter().position(|runtime| *runtime == name) {
        Some(0) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let builder = builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime")
}

async fn force_here<W: Way>(pending: usize) -> Cut {
    let way = W::new();
    let service = way.around(never::<0>());
    let countdown = Countdown::of(pending);
    let tasks = start(&service, &countdown, W::ABORTS).await;
    countdown.all_pending().await;
    // Lets the workers go to sleep, as in an idle service.
    sleep(Duration::from_millis(20)).await;
    let began = Instant::now();
    way.cut(tasks);
    let caller = began.elapsed();
    let resolved = countdown.all_gone().await - began;
    let [caller_ms, resolved_ms] = [caller, resolved].map(|time| time.as_secs_f64() * 1e3);
    Cut {
        caller_ms,
        resolved_ms,
    }
}

/// In µs, in ascending order.
async fn drained_here(times: usize) -> Vec<f64> {
    let mut us = Vec::with_capacity(times);
    for _ in 0..times {
        let ctl = ShutdownController::new();
        let last = ctl.track();
        let drained = ctl.drained();
        let waiter = tokio::spawn(async move {
            drained.await;
            Instant::now()
        });
        ctl.trigger(ShutdownReason::Manual);
        // Lets all tasks and workers go to sleep: they are woken from that state.
        sleep(Duration::from_millis(2)).await;
        assert!(!waiter.is_finished(), "one is in flight");
        let began = Instant::now();
        drop(last);
        let woken = waiter.await.expect("no panic in the waiter");
        us.push((woken - began).as_secs_f64() * 1e6);
        ctl.stopped().await;
    }
    sorted(us)
}

fn further_here<W: Way>(most: usize) -> Load {
    let way = W::new();
    let pending = way.around(never::<0>());
    let (ready, yielding) = (way.around(ready()), way.around(yielding(1)));
    let waker = waker();
    let mut cx = Context::from_waker(&waker);

    let mut held = Vec::with_capacity(most);
    let (mut further, mut questions) = (Vec::new(), Vec::new());
    let mut in_flight = 1;
    while in_flight <= most {
        while held.len() < in_flight {
            let mut response = Box::pin(respond(&pending));
            assert!(response.as_mut().poll(&mut cx).is_pending());
            held.push(response);
        }
        further.push(Further {
            name: W::NAME.to_owned(),
            in_flight,
            ready_ns: time(2_000, || request_on_clone(&ready, &mut cx)),
            pending_ns: time(2_000, || request_on_clone(&yielding, &mut cx)),
        });
        questions.extend(way.controller().map(|ctl| {
            let health = HealthService::new(ctl.clone());
            Questions {
                in_flight,
                in_flight_ns: time(2_000, || assert_eq!(ctl.in_flight(), in_flight as u64)),
                health_ns: time(500, || request_on_clone(&health, &mut cx)),
            }
        }));
        in_flight *= 10;
    }
    drop(black_box(held));
    Load { further, questions }
}

/// Returns the time of one call, in ns.
fn time(count: u32, mut one: impl FnMut()) -> f64 {
    let times = (0..25).map(|_| {
        let had = thread_time();
        for _ in 0..count {
            one();
        }
        (thread_time() - had).as_secs_f64() * 1e9 / f64::from(count)
    });
    Median::of(times).expect("enough of them").median
}
