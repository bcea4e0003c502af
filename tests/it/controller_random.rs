//! Random operations on a controller, in random order, compared with a simple model.

mod dice;
mod model;
mod plan;
mod world;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::mem;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_test::task::{self, Spawn};
use tower::{Layer, ServiceExt, service_fn};
use tower_lifecycle::controller::TaskPolicy::Note;
use tower_lifecycle::future::Wait;
use tower_lifecycle::{
    BoxError, DrainLayer, Hook, InFlightGuard, LifecycleState, RequestTrackingLayer,
    ShutdownConfig, ShutdownController, ShutdownNotice, ShutdownReason, ShutdownReport,
};

use self::dice::*;
use self::model::*;
use self::plan::*;
use self::world::*;
use crate::support::panics::silence_scripted_panics;
use crate::support::runtime::paused;
use crate::support::shutdown::ms;
use LifecycleState::{Draining, LameDuck, Running, Stopped, Stopping};

async fn check(plan: Plan) {
    let (mut model, mut world) = (Model::new(plan.times), World::new(plan.times));
    carry_out(Op::Observe(React::Not), &mut model, &mut world);
    for Move {
        op,
        poll,
        then,
        poll_then,
    } in plan.moves
    {
        carry_out(op, &mut model, &mut world);
        compare(&model, &world);
        if poll {
            poll_all(&mut model, &mut world);
        }
        match then {
            Then::Nothing => continue,
            Then::Settle => model.settle(),
            Then::Sleep(time) => {
                model.pass(time);
                sleep(ms(time)).await;
            }
        }
        settle().await;
        compare(&model, &world);
        if poll_then {
            poll_all(&mut model, &mut world);
        }
    }

    // It always ends; each observer may resume once.
    let signal = ShutdownReason::Signal("SIGTERM");
    while model.shutdown.is_none() {
        carry_out(Op::Trigger(signal), &mut model, &mut world);
    }
    carry_out(Op::Trigger(signal), &mut model, &mut world);
    let total = plan.times.drain + plan.times.reserve;
    model.pass(total + 20);
    sleep(ms(total + 20)).await;
    settle().await;
    compare(&model, &world);
    assert_eq!(world.ctl.state(), Stopped, "it does not end in time");
    poll_all(&mut model, &mut world);
    check_report(&model, &world);

    // The rest ends, and nothing else happens.
    model.pass(10_000);
    sleep(ms(10_000)).await;
    world.guards.clear();
    model.held = 0;
    while world.hang_up(0).is_some() {}
    model
        .leases
        .retain(|lease| !matches!(lease, Held::Request(_)));
    model.look();
    compare(&model, &world);
    poll_all(&mut model, &mut world);
    let waiting = model.waiters.iter().map(|waiter| waiter.kind);
    let may_wait = |kind| match kind {
        Kind::Forced => !model.forced,
        Kind::Drained => model.in_flight() > 0,
        _ => false,
    };
    for kind in waiting {
        assert!(may_wait(kind), "{kind:?} waits for ever");
    }
}

fn carry_out(op: Op, model: &mut Model, world: &mut World) {
    let ctl = &world.ctl;
    match op {
        Op::Trigger(reason) => assert_eq!(ctl.trigger(reason), model.trigger(reason)),
        Op::Force => {
            ctl.force();
            model.force();
        }
        Op::Resume => assert_eq!(ctl.resume().map_err(|error| error.state()), model.resume()),
        Op::Pause => assert_eq!(ctl.pause(), model.pause()),
        Op::Unpause => assert_eq!(ctl.unpause(), model.unpause()),
        Op::Admit => {
            let admitted = ctl.try_admit();
            assert_eq!(
                admitted.as_ref().map(|_| ()).map_err(|e| e.is_paused()),
                model.admit()
            );
            model.held += u64::from(admitted.is_ok());
            world.guards.extend(admitted);
        }
        Op::Track => {
            world.guards.push(ctl.track());
            model.held += 1;
            model.admitted += 1;
        }
        Op::Request { layer, hangs } => {
            let is_served = model.request(layer);
            match world.request(layer, hangs) {
                None => {
                    assert!(hangs && is_served);
                    model.leases.push(Held::Request(layer));
                }
                Some((status, closes)) => {
                    assert_eq!(status == 200, is_served, "{status}");
                    assert!(!(hangs && is_served));
                    let is_leaving = model.state >= LameDuck && layer == Through::Drain;
                    assert_eq!(closes, is_leaving || !is_served, "connection: close");
                    model.look();
                }
            }
        }
        Op::HangUp(which) => {
            if let Some(layer) = world.hang_up(which) {
                let held = Held::Request(layer);
                let place = model.leases.iter().position(|lease| *lease == held);
                model.leases.swap_remove(place.unwrap());
                // It had not ended, no matter who drops it.
                model.aborted += u64::from(model.forced && !model.is_counted);
                model.look();
            }
        }
        Op::Release(which) => {
            if !world.guards.is_empty() {
                drop(world.guards.swap_remove(which % world.guards.len()));
                model.held -= 1;
                model.look();
            }
        }
        Op::Lend(lease) => {
            world.lend(lease);
            model.admitted += 1;
            model.leases.push(match lease {
                Lease::For(time) | Lease::Impatient(time) => Held::Until(model.now + time),
                Lease::AfterDraining(time) => Held::AfterDraining(time),
                Lease::UntilForced => Held::UntilForced,
            });
        }
        Op::Spawn(when, how) => {
            let name = format!("task {}", model.spawned);
            world.spawn(name.clone(), when, how);
            model.spawn(name, when, how);
        }
        Op::AddHook(plan) => {
            let added = ctl.add_hook(world.hook(plan));
            let is_known = model.hooks.iter().any(|hook| hook.name == plan.name);
            match added {
                Ok(()) => {
                    assert!(model.shutdown.is_none() && !is_known);
                    model.late_hooks.retain(|late| late.name != plan.name);
                    model.hooks.push(plan);
                }
                Err(error) => {
                    let mut late = model.late_hooks.iter();
                    let is_noted = late.any(|late| late.name == plan.name);
                    if error.is_late() && !is_noted && model.report.is_none() {
                        model.late_hooks.push(plan);
                    }
                    assert_eq!(error.is_late(), model.shutdown.is_some());
                    assert_eq!(error.is_duplicate(), !error.is_late());
                    assert!(error.is_late() || is_known);
                }
            }
        }
        Op::Wait(kind) => {
            world.wait(kind);
            model.wait(kind);
        }
        Op::Cancel(which) => {
            if !world.waiters.is_empty() {
                let which = which % world.waiters.len();
                drop((world.waiters.remove(which), model.waiters.remove(which)));
            }
        }
        Op::Observe(react) => {
            world.observe(model.observers.len(), react);
            model.observers.push(react);
        }
    }
}

fn compare(model: &Model, world: &World) {
    let (ctl, metrics) = (&world.ctl, world.ctl.metrics());
    assert_eq!(*world.told.lock().unwrap(), model.told);
    assert_eq!(ctl.state(), model.state);
    assert_eq!(ctl.is_draining(), model.state == Draining);
    assert_eq!(ctl.is_paused(), model.is_paused());
    assert_eq!(ctl.in_flight(), model.in_flight());
    match (ctl.notice(), &model.shutdown) {
        (Some(notice), Some(shutdown)) => check_notice(&notice, shutdown, model, world),
        (notice, shutdown) => assert_eq!(notice.is_some(), shutdown.is_some()),
    }
    assert_eq!(metrics.state, model.state);
    assert_eq!(metrics.paused, model.is_paused());
    assert_eq!(metrics.late_requests, model.late_requests);
    assert_eq!(metrics.in_flight, model.in_flight());
    assert_eq!(metrics.admitted, model.admitted);
    assert_eq!(metrics.refused, model.refused);
    assert_eq!(metrics.tasks, model.tasks.len() as u64);
    assert_eq!(metrics.hooks, model.hooks.len());
    assert_eq!(metrics.aborted, model.aborted);
    let abandoned = model.report.as_ref().map_or(0, |_| model.abandoned);
    assert_eq!(metrics.abandoned, abandoned);

    let began = world.hooks.lock().unwrap();
    let mut began: Vec<_> = began.iter().map(|(name, at, _)| (*at, *name)).collect();
    let jobs = model.jobs.iter();
    let mut expected: Vec<_> = jobs
        .filter_map(|job| Some((job.began?, job.plan.name)))
        .collect();
    began.sort_unstable();
    expected.sort_unstable();
    assert_eq!(began, expected, "hooks run once, phase by phase");
}

fn check_notice(notice: &ShutdownNotice, shutdown: &Shutdown, model: &Model, world: &World) {
    let drain_deadline = shutdown.at + model.times.drain;
    assert_eq!(notice.reason(), shutdown.reason);
    assert_eq!(world.millis(notice.triggered_at()), shutdown.at);
    let given = notice.drain_deadline().map(|at| world.millis(at));
    assert_eq!(given, Some(drain_deadline));
    let given = notice.final_deadline().map(|at| world.millis(at));
    assert_eq!(given, Some(drain_deadline + model.times.reserve));
}

/// Polls all waiters: a ready one must be expected and woken, the others must be pending.
fn poll_all(model: &mut Model, world: &mut World) {
    let waiters = mem::take(&mut model.waiters).into_iter();
    let reals = mem::take(&mut world.waiters).into_iter();
    for (waiter, mut real) in waiters.zip(reals) {
        let (kind, is_woken) = (waiter.kind, real.future.is_woken());
        let polled = real.future.poll();
        assert_eq!(polled.is_ready(), model.is_ready(&waiter), "{kind:?}");
        let Poll::Ready(told) = polled else {
            real.was_pending = true;
            world.waiters.push(real);
            model.waiters.push(waiter);
            continue;
        };
        assert!(is_woken || !real.was_pending, "{kind:?} was not woken");
        match told {
            Answer::Nothing => {}
            Answer::State(state) => assert_eq!(state, model.state),
            Answer::Notice(notice) => {
                check_notice(&notice, model.shutdown.as_ref().unwrap(), model, world);
            }
            Answer::Report(report) => {
                let shutdown = model.shutdown.as_ref().unwrap();
                assert_eq!(report.reason(), shutdown.reason);
                assert_eq!(report.phases().len(), shutdown.phases.len());
            }
        }
    }
}

fn check_report(model: &Model, world: &World) {
    let mut again = task::spawn(world.ctl.shutdown(ShutdownReason::Manual));
    let Poll::Ready(report) = again.poll() else {
        panic!("there is no report");
    };
    let text = report.to_string();
    let (shutdown, expected) = (
        model.shutdown.as_ref().unwrap(),
        model.report.as_ref().unwrap(),
    );
    assert_eq!(report.reason(), shutdown.reason);
    assert_eq!(report.admitted(), expected.admitted);
    assert_eq!(report.refused(), expected.refused);
    let (arrivals, last) = model.arrivals;
    assert_eq!(report.late_arrivals(), arrivals, "{text}");
    assert_eq!(report.last_arrival(), last.map(ms), "{text}");
    assert_eq!(report.in_flight_at_trigger(), shutdown.in_flight);
    let in_flight_at_force = model.in_flight_at_force.unwrap_or(0);
    assert_eq!(report.in_flight_at_force(), in_flight_at_force);
    assert_eq!(report.is_forced(), expected.forced, "{text}");
    assert_eq!(report.aborted(), model.aborted, "{text}");
    assert_eq!(report.abandoned(), model.abandoned, "{text}");
    let phases = report.phases().iter();
    let phases: Vec<_> = phases.map(|p| (p.state(), p.duration())).collect();
    let given = shutdown.phases.iter();
    let given: Vec<_> = given.map(|(state, time)| (*state, ms(*time))).collect();
    assert_eq!(phases, given);
    let total = model.times.drain + model.times.reserve;
    assert!(report.duration() <= ms(total + 5), "{text}");

    let (ran, late) = report.hooks().split_at(model.jobs.len());
    let late: Vec<_> = late.iter().map(|hook| hook.to_string()).collect();
    let expected_late = model.late_hooks.iter();
    let expected_late: Vec<_> = expected_late
        .map(|plan| format!("`{}` (phase {}): not started", plan.name, plan.phase))
        .collect();
    assert_eq!(late, expected_late, "{text}");
    for (hook, job) in ran.iter().zip(&model.jobs) {
        assert_eq!(hook.name(), job.plan.name.to_string());
        assert_eq!(hook.phase(), job.plan.phase);
        let outcome = hook.outcome().to_string();
        assert!(outcome.starts_with(job.outcome), "{text}: {job:?}");
        let took = job.began.map_or(0, |began| job.ends - began);
        assert_eq!(hook.duration(), ms(took), "{text}: {job:?}");
    }
    for (name, _, notice) in &*world.hooks.lock().unwrap() {
        assert_eq!(notice.reason(), shutdown.reason, "{name}");
        let deadline = notice.final_deadline().map(|at| world.millis(at));
        assert_eq!(deadline, Some(shutdown.cleanup_deadline), "{name}");
    }
    check_tasks(model, &report, &model.ended[..expected.ended]);
    let is_graceful = model.is_graceful(expected);
    assert_eq!(report.is_graceful(), is_graceful, "{text}");
    let code = ExitCode::from(u8::from(!is_graceful));
    assert_eq!(report.exit_code(), code);
}

/// Each bad end is reported once, with whether it was during this shutdown.
fn check_tasks(model: &Model, report: &ShutdownReport, ended: &[EndedTask]) {
    let mut reported: Vec<_> = report.tasks().iter().collect();
    for task in ended {
        let found = reported.iter().position(|other| other.name() == task.name);
        let Some(found) = found.map(|place| reported.remove(place)) else {
            assert_eq!(task.outcome, "completed", "{task:?}");
            continue;
        };
        let outcome = found.outcome().to_string();
        let is_cut = task.or_cut && outcome == "cut";
        let is_own = task.outcome != "completed" && outcome.starts_with(task.outcome);
        assert!(is_cut || is_own, "{outcome}, and not {task:?}");
        let in_shutdown = task.shutdown == Some(model.shutdowns);
        assert_eq!(found.is_in_shutdown(), in_shutdown, "{task:?}");
    }
    assert!(reported.is_empty(), "{reported:?}");
}

/// As many as the usual environment variable sets.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_done_the_controller_does_as_the_model(plan in any_plan()) {
        silence_scripted_panics();
        paused().block_on(check(plan));
    }
}
