//! P8 for random start-ups, triggers, forces and drops, compared with a simple model.

use std::future::pending;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_lifecycle::startup::{StartupCause, StartupError, Step, step};
use tower_lifecycle::{
    BoxError, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    Startup,
};

use crate::support::panics::silence_scripted_panics;
use crate::support::runtime::paused;
use crate::support::shutdown::ms;

// ===== plans =====

/// All times are in milliseconds, from the beginning of their phase. Times of steps are multiples
/// of four, and no two of one step are equal, unless they are zero. Triggers come in between, so
/// that no two events that exclude each other happen at the same time.
#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<Group>,
    /// The `Startup` is dropped before this step, or, after the last one, instead of `finish`.
    drop_before: Option<usize>,
    trigger: u64,
    force: Option<u64>,
    /// How long a guard is held after the drain begins.
    work: Option<u64>,
    hook: Option<Stop>,
}

#[derive(Debug, Clone)]
struct Group {
    pause_before: u64,
    members: Vec<Member>,
    /// The future of the whole step is dropped after this time.
    drop_after: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    start: Start,
    stop: Stop,
    stop_timeout: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Succeeds(u64),
    Fails(u64),
    Panics(u64),
    TimesOut(u64),
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stop {
    Completes(u64),
    Fails,
    Panics,
    Hangs,
}

const TOTAL: u64 = 10_000;
const RESERVE: u64 = 2_000;

fn name(step: usize, place: usize) -> String {
    format!("{step}.{place}")
}

impl Start {
    fn after(self) -> u64 {
        match self {
            Self::Succeeds(after) | Self::Fails(after) => after,
            Self::Panics(after) | Self::TimesOut(after) => after,
            Self::Hangs => u64::MAX,
        }
    }
}

// ===== random plans =====

fn any_stop() -> impl Strategy<Value = Stop> {
    prop_oneof![
        3 => Just(Stop::Completes(0)),
        2 => Just(Stop::Completes(10)),
        2 => Just(Stop::Completes(40)),
        1 => Just(Stop::Fails),
        1 => Just(Stop::Panics),
        2 => Just(Stop::Hangs),
    ]
}

fn any_member() -> impl Strategy<Value = Member> {
    // Its index in the group is added to these.
    let after = (1..5_u64).prop_map(|n| 40 * n);
    let start = prop_oneof![
        10 => Just(Start::Succeeds(0)),
        16 => after.clone().prop_map(Start::Succeeds),
        1 => Just(Start::Fails(0)),
        1 => after.clone().prop_map(Start::Fails),
        1 => Just(Start::Panics(0)),
        1 => after.clone().prop_map(Start::Panics),
        1 => after.prop_map(Start::TimesOut),
        1 => Just(Start::Hangs),
    ];
    let stop_timeout = prop_oneof![2 => Just(None), 1 => Just(Some(20))];
    (start, any_stop(), stop_timeout).prop_map(|(start, stop, stop_timeout)| Member {
        start,
        stop,
        stop_timeout,
    })
}

fn any_group() -> impl Strategy<Value = Group> {
    let members = prop::collection::vec(any_member(), 1..=4).prop_map(|mut members| {
        for (place, member) in members.iter_mut().enumerate() {
            let own = 4 * place as u64;
            member.start = match member.start {
                Start::Succeeds(after) if after > 0 => Start::Succeeds(after + own),
                Start::Fails(after) if after > 0 => Start::Fails(after + own),
                Start::Panics(after) if after > 0 => Start::Panics(after + own),
                Start::TimesOut(after) => Start::TimesOut(after + own),
                other => other,
            };
        }
        members
    });
    let pause = prop_oneof![3 => Just(0), 1 => (1..30_u64).prop_map(|n| 4 * n)];
    let drop_after = prop_oneof![6 => Just(None), 1 => (0..5_u64).prop_map(|n| Some(40 * n + 20))];
    (pause, members, drop_after).prop_map(|(pause_before, members, drop_after)| Group {
        pause_before,
        members,
        drop_after,
    })
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let steps = prop::collection::vec(any_group(), 0..=5);
    let drop_before = prop_oneof![5 => Just(None), 1 => (0..=5_usize).prop_map(Some)];
    let trigger = prop_oneof![2 => 0..200_u64, 1 => 200..600_u64].prop_map(|n| 4 * n + 2);
    let force = prop_oneof![1 => 0..300_u64, 1 => 300..2_500_u64].prop_map(|n| 4 * n + 1);
    let work = prop_oneof![1 => 0..250_u64, 1 => 250..3_000_u64].prop_map(|n| 4 * n);
    (
        steps,
        drop_before,
        trigger,
        prop::option::weighted(0.4, force),
        prop::option::of(work),
        prop::option::weighted(0.3, any_stop()),
    )
        .prop_map(|(steps, drop_before, trigger, force, work, hook)| Plan {
            drop_before: drop_before.filter(|before| *before <= steps.len()),
            steps,
            trigger,
            force,
            work,
            hook,
        })
}

// ===== the model =====

/// How the start-up ends, and when.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Finished,
    Triggered,
    Dropped,
    Failed(String, &'static str),
}

/// The expected result of a plan.
#[derive(Debug)]
struct Expected {
    /// In start order.
    started: Vec<String>,
    end: End,
    /// The end of the drain, and the deadline of the whole.
    drained: u64,
    deadline: u64,
    is_forced: bool,
    is_graceful: bool,
    /// In order.
    stops: Vec<StepStops>,
    /// Something ends exactly at a force: either outcome is possible.
    is_open: bool,
}

/// The stops of one step: when they begin, if they must, and how each of them ends.
#[derive(Debug)]
struct StepStops {
    begin: Option<u64>,
    services: Vec<(String, &'static str)>,
}

impl Expected {
    fn of(plan: &Plan) -> Self {
        let mut steps = vec![Vec::new(); plan.steps.len()];
        let mut started = Vec::new();
        let (end, began) = start_up(plan, |step, place| {
            steps[step].push(place);
            started.push(name(step, place));
        });

        // The drain: the work ends, or is cut.
        let force = plan.force.unwrap_or(u64::MAX);
        let work_ends = began + plan.work.unwrap_or(0);
        let cut = force.min(began + TOTAL - RESERVE);
        let drained = work_ends.min(cut);
        let mut is_forced = cut < work_ends || force <= drained;
        let deadline = if is_forced {
            (drained + RESERVE).min(began + TOTAL)
        } else {
            began + TOTAL
        };

        // The clean-up: the hook, except in a rollback, and the steps, the latest first.
        let mut phases = Vec::new();
        let mut cleanup = Cleanup {
            now: drained,
            deadline,
            force: Some(force).filter(|force| *force > drained && *force < u64::MAX),
            is_cut: false,
            is_open: plan.work == Some(TOTAL - RESERVE),
        };
        let mut all_completed = true;
        let stopped: Vec<_> = (0..steps.len())
            .rev()
            .filter(|step| !steps[*step].is_empty())
            .collect();
        if let (Some(hook), End::Finished) = (plan.hook, &end) {
            let phases_left = 1 + u64::from(!stopped.is_empty());
            let (_, outcomes) = cleanup.run(&[(hook, None)], phases_left);
            all_completed &= outcomes[0] == "completed";
        }
        for (index, step) in stopped.iter().enumerate() {
            let places = &mut steps[*step];
            places.sort_unstable_by(|a, b| b.cmp(a));
            let members = places.iter().map(|place| plan.steps[*step].members[*place]);
            let jobs: Vec<_> = members.map(|m| (m.stop, m.stop_timeout)).collect();
            let (begin, outcomes) = cleanup.run(&jobs, (stopped.len() - index) as u64);
            all_completed &= outcomes.iter().all(|outcome| *outcome == "completed");
            let names = places.iter().map(|place| name(*step, *place));
            let services = names.zip(outcomes).collect();
            phases.push(StepStops { begin, services });
        }
        is_forced |= force < cleanup.now || cleanup.is_cut;
        Self {
            started,
            is_graceful: matches!(end, End::Finished | End::Triggered)
                && !is_forced
                && all_completed,
            end,
            drained,
            deadline,
            is_forced,
            stops: phases,
            is_open: cleanup.is_open || (force == cleanup.now && !cleanup.is_cut),
        }
    }
}

/// Goes through the steps, and reports each start. Returns the end of the start-up and when the
/// shutdown or the rollback begins.
fn start_up(plan: &Plan, mut started: impl FnMut(usize, usize)) -> (End, u64) {
    let asked = plan.trigger.min(plan.force.unwrap_or(u64::MAX));
    let mut now = 0;
    for (step, group) in plan.steps.iter().enumerate() {
        if plan.drop_before == Some(step) {
            return (End::Dropped, now);
        }
        now += group.pause_before;
        let mut order: Vec<_> = (0..group.members.len()).collect();
        order.sort_by_key(|place| (group.members[*place].start.after(), *place));
        let dropped = now.saturating_add(group.drop_after.unwrap_or(u64::MAX));
        let begins = now;
        for place in order {
            let start = group.members[place].start;
            let at = begins.saturating_add(start.after());
            if asked < at.min(dropped) {
                return (End::Triggered, asked);
            }
            now = at.min(dropped);
            if dropped < at {
                break;
            }
            let cause = match start {
                Start::Succeeds(_) => {
                    started(step, place);
                    continue;
                }
                Start::Fails(_) => "connection refused",
                Start::Panics(_) => "panicked: scripted",
                Start::TimesOut(_) | Start::Hangs => "not started within",
            };
            return (End::Failed(name(step, place), cause), at);
        }
    }
    if plan.drop_before.is_some() {
        return (End::Dropped, now);
    }
    (End::Finished, asked)
}

struct Cleanup {
    now: u64,
    deadline: u64,
    force: Option<u64>,
    is_cut: bool,
    is_open: bool,
}

impl Cleanup {
    /// Returns when the jobs of the next phase begin, and how they end.
    fn run(
        &mut self,
        jobs: &[(Stop, Option<u64>)],
        phases_left: u64,
    ) -> (Option<u64>, Vec<&'static str>) {
        if self.is_cut {
            return (None, vec!["not started"; jobs.len()]);
        }
        let begins = self.now;
        let share = (self.deadline - begins).div_ceil(phases_left);
        let mut outcomes = Vec::new();
        for (stop, own_limit) in jobs {
            let limit = share.min(own_limit.unwrap_or(u64::MAX));
            let (took, outcome) = match *stop {
                Stop::Completes(takes) if takes <= limit => (takes, "completed"),
                Stop::Completes(_) | Stop::Hangs => (limit, "timed out"),
                Stop::Fails => (0, "failed"),
                Stop::Panics => (0, "panicked"),
            };
            let ends = begins + took;
            self.is_open |= Some(ends) == self.force;
            match self.force {
                Some(force) if force < ends => {
                    self.is_cut = true;
                    outcomes.push("cut");
                    self.now = self.now.max(force);
                }
                _ => {
                    outcomes.push(outcome);
                    self.now = self.now.max(ends);
                }
            }
        }
        (Some(begins), outcomes)
    }
}

// ===== the real start-up =====

#[derive(Debug, Clone, PartialEq)]
enum Event {
    Started(String),
    Stops(String),
    WorkEnds,
    HookRuns,
}

#[derive(Clone)]
struct Log {
    events: Arc<Mutex<Vec<(Event, u64)>>>,
    since: Instant,
}

impl Log {
    fn note(&self, event: Event) {
        let at = self.now();
        self.events.lock().unwrap().push((event, at));
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis().try_into().unwrap()
    }

    fn events(&self) -> Vec<(Event, u64)> {
        self.events.lock().unwrap().clone()
    }

    async fn wait_until(&self, at: u64) {
        sleep_until(self.since + ms(at)).await;
    }

    fn step(&self, name: String, member: Member) -> Step<'static, String> {
        let (log, started) = (self.clone(), name.clone());
        let start = async move {
            let after = match member.start {
                Start::TimesOut(_) | Start::Hangs => pending().await,
                start => start.after(),
            };
            if after > 0 {
                sleep(ms(after)).await;
            }
            match member.start {
                Start::Fails(_) => Err(BoxError::from("connection refused")),
                Start::Panics(_) => panic!("scripted"),
                _ => {
                    log.note(Event::Started(started.clone()));
                    Ok(started)
                }
            }
        };
        let log = self.clone();
        let stop = move |name| {
            log.note(Event::Stops(name));
            end(member.stop)
        };
        let mut step = step(name, start, stop);
        if let Start::TimesOut(after) = member.start {
            step = step.timeout(ms(after));
        }
        match member.stop_timeout {
            Some(limit) => step.stop_timeout(ms(limit)),
            None => step,
        }
    }
}

async fn end(stop: Stop) -> Result<(), BoxError> {
    match stop {
        Stop::Completes(0) => Ok(()),
        Stop::Completes(takes) => {
            sleep(ms(takes)).await;
            Ok(())
        }
        Stop::Fails => Err("does not close".into()),
        Stop::Panics => panic!("scripted"),
        Stop::Hangs => pending().await,
    }
}

/// Starts up as planned. Returns the error, unless its waiter was dropped.
async fn play(plan: &Plan, mut startup: Startup, log: &Log) -> Option<StartupError> {
    for (step, group) in plan.steps.iter().enumerate() {
        if plan.drop_before == Some(step) {
            return None;
        }
        if group.pause_before > 0 {
            sleep(ms(group.pause_before)).await;
        }
        let members = group.members.iter().enumerate();
        let steps: Vec<_> = members
            .map(|(place, member)| log.step(name(step, place), *member))
            .collect();
        let starting = startup.start_all(steps);
        let started = match group.drop_after {
            Some(after) => match timeout(ms(after), starting).await {
                Ok(started) => started,
                Err(_) => continue,
            },
            None => starting.await,
        };
        if let Err(error) = started {
            return Some(error);
        }
    }
    if plan.drop_before.is_some() {
        return None;
    }
    startup.finish().await.err()
}

fn spawn_what_happens_meanwhile(plan: &Plan, ctl: &ShutdownController, log: &Log) {
    let (trigger, force) = (plan.trigger, plan.force);
    let (handle, clock) = (ctl.clone(), log.clone());
    tokio::spawn(async move {
        clock.wait_until(trigger).await;
        handle.trigger(ShutdownReason::Manual);
    });
    if let Some(force) = force {
        let (handle, clock) = (ctl.clone(), log.clone());
        tokio::spawn(async move {
            clock.wait_until(force).await;
            handle.force();
        });
    }
    if let Some(takes) = plan.work {
        let (guard, log) = (ctl.track(), log.clone());
        tokio::spawn(async move {
            let work = async {
                guard.draining().await;
                sleep(ms(takes)).await;
            };
            tokio::select! {
                () = work => {}
                () = guard.forced() => {}
            }
            log.note(Event::WorkEnds);
        });
    }
    if let Some(hook) = plan.hook {
        let log = log.clone();
        let run = move |_| async move {
            log.note(Event::HookRuns);
            end(hook).await
        };
        ctl.on_shutdown("hook", run).unwrap();
    }
}

// ===== comparison =====

async fn check(plan: Plan) {
    let expected = Expected::of(&plan);
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(TOTAL))
        .cleanup_reserve(ms(RESERVE));
    let startup = Startup::new(config).unwrap();
    let ctl = startup.controller();
    let log = Log {
        events: Arc::default(),
        since: Instant::now(),
    };
    spawn_what_happens_meanwhile(&plan, &ctl, &log);
    let (moves, clock) = (Arc::new(Mutex::new(0)), log.clone());
    let ended = Arc::clone(&moves);
    ctl.on_state_change(move |_, _| *moves.lock().unwrap() = clock.now());
    let patience = ms(100_000);
    let error = timeout(patience, play(&plan, startup, &log)).await;
    let error = error.expect("those who start up wait for ever");
    timeout(patience, ctl.stopped())
        .await
        .expect("there is no end");
    let ended_at = *ended.lock().unwrap();
    let events = log.events();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    sleep(patience).await;
    assert_eq!(log.events(), events, "something happens after the end");

    let started = events.iter().filter_map(|(event, _)| match event {
        Event::Started(name) => Some(name.clone()),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), expected.started);
    let last = events.last().map_or(0, |(_, at)| *at);
    let deadline = expected.deadline + 5;
    assert!(
        ended_at <= deadline && last <= deadline,
        "over at {ended_at}"
    );
    check_end(&expected, &ctl, &report, error);
    check_stops(&expected, &report, &events);
}

fn check_end(
    expected: &Expected,
    ctl: &ShutdownController,
    report: &ShutdownReport,
    error: Option<StartupError>,
) {
    let is_rolled_back = expected.end != End::Finished;
    let state = if is_rolled_back {
        LifecycleState::Failed
    } else {
        LifecycleState::Stopped
    };
    assert_eq!(ctl.state(), state);
    let text = report.to_string();
    assert_eq!(
        text.contains("start-up rolled back"),
        is_rolled_back,
        "{text}"
    );
    assert!(is_rolled_back || error.is_none());
    if let Some(error) = error {
        assert_eq!(error.report().to_string(), text);
        match (&expected.end, error.cause()) {
            (End::Failed(step, cause), _) => {
                assert_eq!(error.step(), Some(&**step));
                assert!(error.cause().to_string().starts_with(cause), "{error}");
            }
            (End::Triggered, StartupCause::Triggered(_)) => assert_eq!(error.step(), None),
            (end, _) => panic!("{error}, and not {end:?}"),
        }
    } else if expected.end == End::Dropped {
        assert!(text.contains("dropped before `finish`"), "{text}");
    }
    if !expected.is_open {
        assert_eq!(report.is_forced(), expected.is_forced, "{text}");
        assert_eq!(report.is_graceful(), expected.is_graceful, "{text}");
        let code = ExitCode::from(u8::from(!expected.is_graceful));
        assert_eq!(report.exit_code(), code);
    }
}

/// Exactly what was started is stopped, once, in reverse order, after the drain and the hook.
fn check_stops(expected: &Expected, report: &ShutdownReport, events: &[(Event, u64)]) {
    let begins = |wanted: &Event| events.iter().position(|(event, _)| event == wanted);
    let is_stop = |event: &(Event, u64)| matches!(event.0, Event::Stops(_));
    let first_stop = events.iter().position(is_stop).unwrap_or(events.len());
    assert!(
        begins(&Event::WorkEnds) <= Some(first_stop),
        "before the drain was over"
    );
    if expected.end == End::Finished {
        assert!(
            begins(&Event::HookRuns) <= Some(first_stop),
            "before the hook"
        );
    } else {
        assert_eq!(
            begins(&Event::HookRuns),
            None,
            "hooks do not run in a rollback"
        );
    }
    let mut stops = events.iter().filter(|event| is_stop(event)).cloned();
    let mut reported = report.services().iter();
    for StepStops { begin, services } in &expected.stops {
        for (name, outcome) in services {
            let report = reported.next().expect("all are in the report");
            assert_eq!(report.name(), name);
            let text = report.outcome().to_string();
            assert!(
                expected.is_open || text.starts_with(outcome),
                "{name}: {text}"
            );
            let was_begun = text != "not started";
            assert!(expected.is_open || was_begun == begin.is_some());
            if was_begun {
                // Those of one step begin in the order of the report.
                let (stop, stopped_at) = stops.next().expect("it was stopped");
                assert_eq!(stop, Event::Stops(name.clone()));
                assert!(
                    expected.is_open || Some(stopped_at) == *begin,
                    "{name}: {stopped_at}"
                );
                assert!(stopped_at >= expected.drained);
            }
        }
    }
    assert!(
        reported.next().is_none(),
        "what did not start is not stopped"
    );
    assert!(stops.next().is_none(), "stopped once");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_comes_exactly_what_was_started_is_stopped_once_and_in_reverse(plan in any_plan()) {
        silence_scripted_panics();
        paused().block_on(check(plan));
    }
}
