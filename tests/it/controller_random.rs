//! Whatever is done with a controller, in whatever order: random operations against a plain model.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::mem;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

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

use crate::support::panics::hush_scripted_panics;
use LifecycleState::{Draining, LameDuck, Running, Stopped, Stopping};

// ===== what is done =====

/// All times are milliseconds. What is done is done at multiples of twenty, and the deadlines, the
/// ends of guards and those of tasks each have a remainder of their own, so that no two things that
/// exclude each other happen at the same moment.
#[derive(Debug, Clone)]
struct Plan {
    times: Times,
    moves: Vec<Move>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    lame_duck: u64,
    /// From the trigger to the drain deadline.
    drain: u64,
    reserve: u64,
    late_for: u64,
    refuse_for: u64,
}

#[derive(Debug, Clone)]
struct Move {
    op: Op,
    /// Those who wait are polled before anything else can run.
    poll: bool,
    then: Then,
    poll_then: bool,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    /// No task runs before the next operation.
    Nothing,
    /// All that can run does, and no time passes.
    Settle,
    Sleep(u64),
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Trigger(ShutdownReason),
    Force,
    Resume,
    Pause,
    Unpause,
    Admit,
    Track,
    /// Its handler answers at once, or never.
    Request {
        layer: Through,
        hangs: bool,
    },
    /// The client of one that hangs goes away.
    HangUp(usize),
    Release(usize),
    Lend(Lease),
    Spawn(When, How),
    AddHook(HookPlan),
    Wait(Kind),
    Cancel(usize),
    Observe(React),
}

/// What an observer does itself, at the first move to a lame duck, or back.
#[derive(Debug, Clone, Copy, PartialEq)]
enum React {
    Not,
    Panics,
    Pauses,
    Resumes,
    Forces,
    Triggers,
}

impl React {
    fn is_at(self, state: LifecycleState) -> bool {
        match self {
            Self::Pauses | Self::Resumes | Self::Forces => state == LameDuck,
            Self::Triggers => state == Running,
            Self::Not | Self::Panics => false,
        }
    }
}

/// Which layer a request comes through.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Through {
    /// Refuses, and cuts.
    Drain,
    /// Counts, also what comes late.
    Tracking,
}

/// How long a guard is held by a task of its own.
#[derive(Debug, Clone, Copy)]
enum Lease {
    For(u64),
    AfterDraining(u64),
    UntilForced,
    /// It waits for the force half of the time, no longer, and goes on.
    Impatient(u64),
}

/// When a task ends, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Triggered,
    Draining,
    After(u64),
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Completes,
    Fails,
    Panics,
}

#[derive(Debug, Clone, Copy)]
struct HookPlan {
    name: usize,
    phase: i32,
    timeout: Option<u64>,
    /// When it ends, unless it hangs.
    takes: Option<u64>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    LameDuck,
    Draining,
    Drained,
    Forced,
    Stopped,
    StopAccepting,
    Idle,
    Triggered,
    State(LifecycleState),
    Shutdown(ShutdownReason),
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// ===== any plan =====

/// What a number says, digit by digit: far cheaper than a strategy for each choice, and it shrinks
/// towards the first of each.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let rolled = self.0 % sides;
        self.0 /= sides;
        rolled
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }

    /// Once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == times - 1
    }

    fn times(&mut self) -> Times {
        let drain = self.pick(&[
            104, 204, 504, 1004, 104, 204, 504, 1004, 104, 204, 504, 1004, 0,
        ]);
        let lame_duck = self.pick(&[0, 22, 62, 102, 0, 22, 62, 102, 0]);
        Times {
            drain,
            lame_duck: if drain == 0 { 0 } else { lame_duck },
            reserve: self.pick(&[216, 16, 56, 416, 1216, 216, 16, 56, 416, 1216, 0]),
            late_for: self.pick(&[0, 24, 84, 1004]),
            refuse_for: self.pick(&[0, 14, 0, 54, 0, 214]),
        }
    }

    fn next_move(&mut self) -> Move {
        let then = match self.roll(7) {
            0..=2 => Then::Nothing,
            3..=4 => Then::Settle,
            _ => Then::Sleep(20 * (1 + self.roll(7))),
        };
        Move {
            then,
            poll: self.once_in(2),
            poll_then: self.once_in(2),
            op: self.op(),
        }
    }

    fn op(&mut self) -> Op {
        match self.roll(88) {
            0..=5 => Op::Trigger(self.reason()),
            6..=10 => Op::Resume,
            11..=15 => Op::Pause,
            16..=19 => Op::Unpause,
            20..=27 => Op::Admit,
            28..=31 => Op::Track,
            32..=41 => Op::Release(self.roll(64) as usize),
            42..=45 => Op::Lend(self.lease()),
            46..=49 => Op::Spawn(self.when(), self.how()),
            50..=55 => Op::AddHook(self.hook()),
            56..=70 => Op::Wait(self.kind()),
            71..=73 => Op::Cancel(self.roll(64) as usize),
            74 => Op::Observe(self.pick(&[
                React::Not,
                React::Panics,
                React::Pauses,
                React::Resumes,
                React::Forces,
                React::Triggers,
            ])),
            75 => Op::Force,
            76..=78 => Op::HangUp(self.roll(64) as usize),
            _ => Op::Request {
                layer: self.pick(&[Through::Drain, Through::Drain, Through::Tracking]),
                hangs: self.once_in(2),
            },
        }
    }

    fn reason(&mut self) -> ShutdownReason {
        self.pick(&[
            ShutdownReason::Manual,
            ShutdownReason::Timeout,
            ShutdownReason::Error,
        ])
    }

    fn lease(&mut self) -> Lease {
        let after = 20 * self.roll(20) + 7;
        self.pick(&[
            Lease::For(after),
            Lease::AfterDraining(after),
            Lease::For(after),
            Lease::AfterDraining(after),
            Lease::UntilForced,
            Lease::Impatient(after),
        ])
    }

    fn when(&mut self) -> When {
        let after = When::After(20 * self.roll(15) + 11);
        self.pick(&[
            When::Triggered,
            When::Draining,
            after,
            after,
            When::Triggered,
            When::Draining,
            after,
            When::Never,
        ])
    }

    fn how(&mut self) -> How {
        use How::{Completes, Fails, Panics};
        self.pick(&[Completes, Completes, Completes, Completes, Fails, Panics])
    }

    fn hook(&mut self) -> HookPlan {
        let takes = [0, 3, 17, 40, 90, 300, 0].map(Some);
        HookPlan {
            name: self.roll(6) as usize,
            phase: self.pick(&[0, 1, -1, 2]),
            timeout: self.pick(&[None, None, Some(1), None, None, Some(20), Some(70)]),
            takes: if self.once_in(8) {
                None
            } else {
                self.pick(&takes)
            },
            how: self.how(),
        }
    }

    fn kind(&mut self) -> Kind {
        match self.roll(14) {
            0 => Kind::LameDuck,
            1 => Kind::Draining,
            2..=3 => Kind::Drained,
            4 => Kind::Forced,
            5 => Kind::Stopped,
            6 => Kind::StopAccepting,
            7..=9 => Kind::Idle,
            10..=11 => Kind::Triggered,
            12 => Kind::State(self.pick(&[
                LameDuck,
                Draining,
                Stopping,
                Stopped,
                LifecycleState::Failed,
                Running,
                LifecycleState::Starting,
            ])),
            _ => Kind::Shutdown(self.reason()),
        }
    }
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let moves = prop::collection::vec(any::<u64>(), 1..=40);
    (any::<u32>(), moves).prop_map(|(times, moves)| {
        let times = Dice(times.into()).times();
        let moves = moves.into_iter().map(|number| Dice(number).next_move());
        let mut moves: Vec<_> = moves.collect();
        if times.drain == 0 {
            // What ends at the trigger or at the force may be cut just before: how is open.
            for Move { op, .. } in &mut moves {
                match op {
                    Op::Spawn(when @ (When::Triggered | When::Draining), _) => *when = When::Never,
                    Op::Lend(lease @ Lease::UntilForced) => *lease = Lease::For(7),
                    Op::Request { hangs, .. } => *hangs = false,
                    _ => {}
                }
            }
        }
        for Move { op, then, .. } in &mut moves {
            // Who waits for the force does so already when it comes.
            let waits = matches!(
                op,
                Op::Lend(Lease::UntilForced) | Op::Request { hangs: true, .. }
            );
            if waits && matches!(then, Then::Nothing) {
                *then = Then::Settle;
            }
        }
        Plan { times, moves }
    })
}

// ===== the model =====

/// What must be, as plain values.
#[derive(Debug)]
struct Model {
    times: Times,
    now: u64,
    state: LifecycleState,
    paused: bool,
    shutdown: Option<Shutdown>,
    shutdowns: usize,
    held: u64,
    leases: Vec<Held>,
    admitted: u64,
    refused: u64,
    aborted: u64,
    /// Requests that came in the lame duck, and when the last one did.
    arrivals: (u64, Option<u64>),
    /// Requests that arrive now are served as late ones.
    serves_late: bool,
    late_requests: u64,
    drained: bool,
    forced: bool,
    stop_accepting: bool,
    /// Somebody has asked when to close the listener.
    listener: bool,
    /// Tasks that come now are cut.
    tasks_closed: bool,
    tasks: Vec<Task>,
    spawned: usize,
    ended: Vec<EndedTask>,
    /// How many had ended before what runs now.
    ended_before: usize,
    hooks: Vec<HookPlan>,
    /// Those that came after a trigger, and have not come again before one.
    late_hooks: Vec<HookPlan>,
    jobs: Vec<Job>,
    in_cleanup: bool,
    cleanup_cut: bool,
    /// What each will still do.
    observers: Vec<React>,
    untold: VecDeque<(LifecycleState, LifecycleState)>,
    is_telling: bool,
    told: Vec<Told>,
    waiters: Vec<Waiter>,
    in_flight_at_force: Option<u64>,
    abandoned: u64,
    /// What is dropped from now on has been counted as abandoned.
    is_counted: bool,
    report: Option<Report>,
}

#[derive(Debug)]
struct Shutdown {
    id: usize,
    reason: ShutdownReason,
    at: u64,
    in_flight: u64,
    stage: Stage,
    phases: Vec<(LifecycleState, u64)>,
    phase_began: u64,
    late_until: u64,
    refused_until: u64,
    cut_at: Option<u64>,
    cleanup_deadline: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    New,
    LameDuck,
    Draining,
    Refusing,
    Ending,
    CutRefusing,
    Unwinding,
    Hooks,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    Until(u64),
    AfterDraining(u64),
    UntilForced,
    Request(Through),
}

#[derive(Debug)]
struct Task {
    name: String,
    when: When,
    how: How,
}

#[derive(Debug)]
struct EndedTask {
    name: String,
    outcome: &'static str,
    /// It ended while it was being cut: it may have been cut.
    or_cut: bool,
    shutdown: Option<usize>,
}

#[derive(Debug)]
struct Job {
    plan: HookPlan,
    began: Option<u64>,
    ends: u64,
    outcome: &'static str,
}

#[derive(Debug)]
struct Waiter {
    kind: Kind,
    /// For `idle`, which is about any moment since.
    was_idle: bool,
}

/// To whom, when, and of which move.
type Told = (usize, u64, LifecycleState, LifecycleState);

/// As of the end.
#[derive(Debug)]
struct Report {
    admitted: u64,
    refused: u64,
    forced: bool,
    /// How many tasks had ended.
    ended: usize,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Completes => "completed",
            Self::Fails => "failed",
            Self::Panics => "panicked",
        }
    }
}

impl Times {
    fn unwinding(self) -> u64 {
        (self.reserve / 4).clamp(1, 250)
    }
}

impl Model {
    fn new(times: Times) -> Self {
        Self {
            times,
            now: 0,
            state: Running,
            paused: false,
            shutdown: None,
            shutdowns: 0,
            held: 0,
            leases: Vec::new(),
            admitted: 0,
            refused: 0,
            aborted: 0,
            arrivals: (0, None),
            serves_late: false,
            late_requests: 0,
            drained: false,
            forced: false,
            stop_accepting: false,
            listener: false,
            tasks_closed: false,
            tasks: Vec::new(),
            spawned: 0,
            ended: Vec::new(),
            ended_before: 0,
            hooks: Vec::new(),
            late_hooks: Vec::new(),
            jobs: Vec::new(),
            in_cleanup: false,
            cleanup_cut: false,
            observers: Vec::new(),
            untold: VecDeque::new(),
            is_telling: false,
            told: Vec::new(),
            waiters: Vec::new(),
            in_flight_at_force: None,
            abandoned: 0,
            is_counted: false,
            report: None,
        }
    }

    fn in_flight(&self) -> u64 {
        self.held + self.leases.len() as u64
    }

    fn is_closed(&self) -> bool {
        self.state >= Draining
    }

    fn is_paused(&self) -> bool {
        self.paused && !self.is_closed()
    }

    fn make(&mut self, next: LifecycleState) {
        let old = mem::replace(&mut self.state, next);
        let serves_late = self.times.late_for > 0 && self.times.refuse_for == 0;
        self.serves_late = match next {
            Draining => serves_late && !self.paused,
            _ => false,
        };
        self.untold.push_back((old, next));
        self.look();
    }

    /// Tells all of one move before anybody of the next, also when one of them makes that.
    fn tell(&mut self) {
        if mem::replace(&mut self.is_telling, true) {
            return;
        }
        while let Some((old, new)) = self.untold.pop_front() {
            for id in 0..self.observers.len() {
                self.told.push((id, self.now, old, new));
                if !self.observers[id].is_at(new) {
                    continue;
                }
                match mem::replace(&mut self.observers[id], React::Not) {
                    React::Pauses => drop(self.pause()),
                    React::Resumes => drop(self.resume()),
                    React::Forces => self.force(),
                    _ => drop(self.trigger(ShutdownReason::ServerExited)),
                }
            }
        }
        self.is_telling = false;
    }

    /// Whether nothing is in flight while nothing is admitted.
    fn look(&mut self) {
        if self.in_flight() == 0 && (self.paused || self.is_closed()) {
            self.waiters.iter_mut().for_each(|w| w.was_idle = true);
            self.drained |= self.is_closed();
        }
    }

    // ----- what is asked for -----

    fn trigger(&mut self, reason: ShutdownReason) -> bool {
        let begins = self.announce(reason);
        self.tell();
        begins
    }

    fn announce(&mut self, reason: ShutdownReason) -> bool {
        if self.shutdown.is_some() {
            return false;
        }
        self.shutdowns += 1;
        self.arrivals = (0, None);
        self.shutdown = Some(Shutdown {
            id: self.shutdowns,
            reason,
            at: self.now,
            in_flight: self.in_flight(),
            stage: Stage::New,
            phases: Vec::new(),
            phase_began: self.now,
            late_until: u64::MAX,
            refused_until: 0,
            cut_at: None,
            cleanup_deadline: 0,
        });
        self.make(match self.times.lame_duck {
            0 => Draining,
            _ => LameDuck,
        });
        true
    }

    fn force(&mut self) {
        self.announce(ShutdownReason::Manual);
        if self.state == LameDuck {
            self.make(Draining);
        }
        if self.state != Stopped {
            self.mark_forced();
            self.cleanup_cut |= self.in_cleanup;
        }
        self.tell();
    }

    fn mark_forced(&mut self) {
        let in_flight = self.in_flight();
        self.in_flight_at_force.get_or_insert(in_flight);
        self.tasks_closed = true;
        self.forced = true;
        self.serves_late = false;
    }

    fn resume(&mut self) -> Result<(), LifecycleState> {
        if self.state != LameDuck {
            return Err(self.state);
        }
        self.shutdown = None;
        self.make(Running);
        self.tell();
        Ok(())
    }

    fn pause(&mut self) -> bool {
        let pauses = !self.paused && !self.is_closed();
        self.paused |= pauses;
        self.look();
        pauses
    }

    fn unpause(&mut self) -> bool {
        let unpauses = self.is_paused();
        self.paused &= !unpauses;
        unpauses
    }

    /// Gives whether it is admitted, or else whether the refusal is that of a pause.
    fn admit(&mut self) -> Result<(), bool> {
        if self.is_closed() || self.paused {
            self.refused += 1;
            return Err(self.is_paused());
        }
        self.admitted += 1;
        self.note_arrival();
        Ok(())
    }

    fn note_arrival(&mut self) {
        if self.state == LameDuck {
            let trigger = self.shutdown.as_ref().unwrap().at;
            self.arrivals = (self.arrivals.0 + 1, Some(self.now - trigger));
        }
    }

    /// Gives whether it is served.
    fn request(&mut self, layer: Through) -> bool {
        match layer {
            Through::Drain if !self.serves_late => self.admit().is_ok(),
            Through::Drain | Through::Tracking => {
                self.admitted += 1;
                self.note_arrival();
                self.late_requests += u64::from(self.is_closed());
                true
            }
        }
    }

    fn spawn(&mut self, name: String, when: When, how: How) {
        let when = match when {
            When::After(after) => When::After(self.now + after),
            when => when,
        };
        self.spawned += 1;
        let task = Task { name, when, how };
        if self.tasks_closed {
            self.note_ended(vec![task], Some("cut"));
        } else {
            self.tasks.push(task);
        }
    }

    // ----- what comes of it -----

    fn pass(&mut self, time: u64) {
        let until = self.now + time;
        self.settle();
        while let Some(next) = self.next_event().filter(|next| *next <= until) {
            self.now = next;
            self.settle();
        }
        self.now = until;
    }

    fn next_event(&self) -> Option<u64> {
        let tasks = self.tasks.iter().filter_map(|task| match task.when {
            When::After(at) => Some(at),
            _ => None,
        });
        let leases = self.leases.iter().filter_map(|lease| match lease {
            Held::Until(at) => Some(*at),
            _ => None,
        });
        let jobs = self.jobs.iter().filter(|job| job.began.is_some());
        let jobs = jobs.map(|job| job.ends);
        let deadlines = self.shutdown.iter().flat_map(|shutdown| {
            let unwound = shutdown.cut_at.map_or(0, |at| at + self.times.unwinding());
            [
                shutdown.at + self.times.lame_duck,
                shutdown.at + self.times.drain,
                shutdown.refused_until,
                shutdown.late_until,
                unwound,
            ]
        });
        (tasks.chain(leases).chain(jobs).chain(deadlines))
            .filter(|at| *at > self.now)
            .min()
    }

    /// Lets all run that can.
    fn settle(&mut self) {
        self.ended_before = self.ended.len();
        loop {
            let ended = self.end_tasks();
            // The driver wakes those that wait for the force.
            let moved = self.drive();
            if !(ended | moved | self.end_leases()) {
                break;
            }
        }
    }

    fn end_tasks(&mut self) -> bool {
        let (now, state) = (self.now, self.state);
        let is_triggered = self.shutdown.is_some();
        let has_ended = |task: &Task| match task.when {
            When::Triggered => is_triggered,
            When::Draining => state >= Draining,
            When::After(at) => now >= at,
            When::Never => false,
        };
        let (ended, running) = mem::take(&mut self.tasks).into_iter().partition(has_ended);
        self.tasks = running;
        self.note_ended(ended, None)
    }

    fn cut_tasks(&mut self) {
        for task in &mut self.ended[self.ended_before..] {
            task.or_cut = true;
        }
        let cut = mem::take(&mut self.tasks);
        self.note_ended(cut, Some("cut"));
    }

    fn note_ended(&mut self, tasks: Vec<Task>, outcome: Option<&'static str>) -> bool {
        let any = !tasks.is_empty();
        let shutdown = self.shutdown.as_ref().map(|shutdown| shutdown.id);
        self.ended.extend(tasks.into_iter().map(|task| EndedTask {
            name: task.name,
            outcome: outcome.unwrap_or(task.how.name()),
            or_cut: false,
            shutdown,
        }));
        any
    }

    fn end_leases(&mut self) -> bool {
        let (now, before) = (self.now, self.leases.len());
        let (closed, forced) = (self.is_closed(), self.forced);
        for lease in &mut self.leases {
            if let (Held::AfterDraining(after), true) = (*lease, closed) {
                *lease = Held::Until(now + after);
            }
        }
        if forced {
            let leases = self.leases.iter();
            let cut = leases.filter(|held| **held == Held::Request(Through::Drain));
            self.aborted += cut.count() as u64;
        }
        self.leases.retain(|lease| match lease {
            Held::Until(at) => *at > now,
            Held::AfterDraining(_) | Held::Request(Through::Tracking) => true,
            Held::UntilForced | Held::Request(Through::Drain) => !forced,
        });
        self.look();
        self.leases.len() < before
    }

    fn drive(&mut self) -> bool {
        let Some(mut shutdown) = self.shutdown.take() else {
            return false;
        };
        let stage = shutdown.stage;
        self.drive_on(&mut shutdown);
        let moved = shutdown.stage != stage;
        // What is told, and who ends, is of this shutdown.
        self.shutdown = Some(shutdown);
        match self.shutdown.as_ref().map(|s| s.stage) {
            Some(Stage::CutRefusing | Stage::Unwinding) if moved => self.cut_tasks(),
            Some(Stage::Hooks) if moved => self.cut_tasks(),
            _ => {}
        }
        moved || (stage == Stage::Hooks && self.run_hooks())
    }

    fn drive_on(&mut self, shutdown: &mut Shutdown) {
        let (now, times) = (self.now, self.times);
        self.serves_late &= now < shutdown.late_until;
        let is_gone = self.tasks.is_empty() && self.in_flight() == 0;
        let drain_deadline = shutdown.at + times.drain;
        match shutdown.stage {
            Stage::New if self.state == LameDuck => shutdown.stage = Stage::LameDuck,
            Stage::LameDuck if now < shutdown.at + times.lame_duck && !self.forced => {}
            Stage::New | Stage::LameDuck => {
                if shutdown.stage == Stage::LameDuck {
                    shutdown.close_phase(LameDuck, now);
                }
                if self.state == LameDuck {
                    self.make(Draining);
                    self.tell();
                }
                let half = (drain_deadline - now) / 2;
                shutdown.late_until = now + times.late_for.min(half);
                shutdown.refused_until = now + times.refuse_for.min(half);
                shutdown.stage = Stage::Draining;
            }
            Stage::Draining if self.drained && self.listener && now < shutdown.refused_until => {
                shutdown.stage = Stage::Refusing;
                self.cut_if_due(shutdown);
            }
            Stage::Draining if self.drained => {
                self.stop_accepting = true;
                shutdown.stage = Stage::Ending;
            }
            Stage::Refusing if now >= shutdown.refused_until => {
                self.stop_accepting = true;
                shutdown.stage = Stage::Ending;
            }
            Stage::Ending if is_gone => self.begin_cleanup(shutdown),
            Stage::Draining | Stage::Refusing | Stage::Ending => self.cut_if_due(shutdown),
            Stage::CutRefusing if now >= shutdown.refused_until => {
                self.stop_accepting = true;
                shutdown.stage = Stage::Unwinding;
            }
            Stage::Unwinding => {
                let is_over = shutdown.cut_at.unwrap() + times.unwinding() <= now;
                if is_gone {
                    self.begin_cleanup(shutdown);
                } else if is_over {
                    self.abandoned = self.in_flight();
                    self.is_counted = true;
                    self.begin_cleanup(shutdown);
                }
            }
            Stage::CutRefusing | Stage::Hooks | Stage::Over => {}
        }
    }

    fn cut_if_due(&mut self, shutdown: &mut Shutdown) {
        let (now, times) = (self.now, self.times);
        if now < shutdown.at + times.drain && !self.forced {
            return;
        }
        self.mark_forced();
        shutdown.cut_at = Some(now);
        let refused_until = shutdown.phase_began + times.refuse_for;
        shutdown.refused_until = refused_until.min(now + times.unwinding().div_ceil(2));
        if self.listener && now < shutdown.refused_until {
            shutdown.stage = Stage::CutRefusing;
        } else {
            self.stop_accepting = true;
            shutdown.stage = Stage::Unwinding;
        }
    }

    fn begin_cleanup(&mut self, shutdown: &mut Shutdown) {
        shutdown.close_phase(Draining, self.now);
        self.make(Stopping);
        self.tell();
        self.tasks_closed = true;
        self.in_cleanup = true;
        shutdown.cleanup_deadline = shutdown.at + self.times.drain + self.times.reserve;
        if self.forced {
            let begins = shutdown.cut_at.unwrap_or(self.now);
            let deadline = begins + self.times.reserve;
            shutdown.cleanup_deadline = shutdown.cleanup_deadline.min(deadline);
        }
        let mut hooks = mem::take(&mut self.hooks);
        hooks.sort_by_key(|hook| hook.phase);
        self.jobs.extend(hooks.into_iter().map(|plan| Job {
            plan,
            began: None,
            ends: u64::MAX,
            outcome: "not started",
        }));
        shutdown.stage = Stage::Hooks;
    }

    /// Runs what is to run now; gives whether anything has changed.
    fn run_hooks(&mut self) -> bool {
        let now = self.now;
        let running = |job: &&mut Job| job.began.is_some() && job.ends > now;
        if self.cleanup_cut {
            for job in self.jobs.iter_mut().filter(running) {
                (job.ends, job.outcome) = (now, "cut");
            }
        } else if self.jobs.iter_mut().any(|job| running(&job)) {
            return false;
        } else {
            let waits = self.jobs.iter().filter(|job| job.began.is_none());
            let mut phases: Vec<_> = waits.map(|job| job.plan.phase).collect();
            phases.dedup();
            let deadline = self.shutdown.as_ref().unwrap().cleanup_deadline;
            let left = deadline.saturating_sub(now);
            if let (Some(first), Some(last)) = (phases.first(), phases.last()) {
                // With no time left, all of them come as far as they can.
                let last = if left == 0 { last } else { first };
                let waits = |job: &&mut Job| job.began.is_none() && job.plan.phase <= *last;
                let share = left.div_ceil(phases.len() as u64);
                self.jobs
                    .iter_mut()
                    .filter(waits)
                    .for_each(|job| job.begin(now, share));
                return true;
            }
        }
        self.make(Stopped);
        self.tell();
        self.is_counted = true;
        self.report = Some(Report {
            admitted: self.admitted,
            refused: self.refused,
            forced: self.forced,
            ended: self.ended.len(),
        });
        let shutdown = self.shutdown.as_mut().unwrap();
        shutdown.close_phase(Stopping, now);
        shutdown.stage = Stage::Over;
        true
    }

    // ----- who waits -----

    fn wait(&mut self, kind: Kind) {
        match kind {
            Kind::Shutdown(reason) => drop(self.trigger(reason)),
            Kind::StopAccepting => self.listener = true,
            _ => {}
        }
        let was_idle = false;
        self.waiters.push(Waiter { kind, was_idle });
        self.look();
    }

    fn is_ready(&self, waiter: &Waiter) -> bool {
        // Without `refuse_for` the listener closes when draining begins.
        let closes_at = match self.times.refuse_for {
            0 => Draining,
            _ => Stopping,
        };
        match waiter.kind {
            Kind::LameDuck => self.state >= LameDuck,
            Kind::Draining => self.state >= Draining,
            Kind::Drained => self.drained,
            Kind::Forced => self.forced,
            Kind::Stopped | Kind::Shutdown(_) => self.state == Stopped,
            Kind::StopAccepting => self.stop_accepting || self.state >= closes_at,
            Kind::Idle => waiter.was_idle || self.state == Stopped,
            Kind::Triggered => self.shutdown.is_some(),
            Kind::State(state) => self.state >= state || self.state == Stopped,
        }
    }

    fn is_graceful(&self, report: &Report) -> bool {
        let fails = |task: &EndedTask| task.outcome != "completed";
        let hooks = self.jobs.iter().all(|job| job.outcome == "completed");
        let hooks = hooks && self.late_hooks.is_empty();
        !report.forced && hooks && !self.ended[..report.ended].iter().any(fails)
    }
}

impl Shutdown {
    fn close_phase(&mut self, state: LifecycleState, now: u64) {
        self.phases.push((state, now - self.phase_began));
        self.phase_began = now;
    }
}

impl Job {
    fn begin(&mut self, now: u64, share: u64) {
        let limit = share.min(self.plan.timeout.unwrap_or(u64::MAX));
        let in_time = self.plan.takes.filter(|takes| *takes <= limit);
        self.began = Some(now);
        self.ends = now + in_time.unwrap_or(limit);
        self.outcome = in_time.map_or("timed out", |_| self.plan.how.name());
    }
}

// ===== the real thing =====

struct World {
    ctl: ShutdownController,
    since: Instant,
    guards: Vec<InFlightGuard>,
    requests: Vec<Hanging>,
    waiters: Vec<Real>,
    told: Arc<Mutex<Vec<Told>>>,
    /// Which hook has begun, when, by which notice.
    hooks: Arc<Mutex<Vec<(usize, u64, ShutdownNotice)>>>,
}

/// A request under way, until it ends or its client goes.
struct Hanging {
    layer: Through,
    answer: Shared,
}

type Shared = Arc<Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>>;

struct Real {
    future: Spawn<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    was_pending: bool,
}

/// What a future has told.
enum Answer {
    Nothing,
    State(LifecycleState),
    Notice(ShutdownNotice),
    Report(ShutdownReport),
}

impl World {
    fn new(times: Times) -> Self {
        let config = ShutdownConfig::default()
            .shutdown_timeout(ms(times.drain + times.reserve))
            .lame_duck(ms(times.lame_duck))
            .cleanup_reserve(ms(times.reserve))
            .late_for(ms(times.late_for))
            .refuse_for(ms(times.refuse_for));
        Self {
            ctl: ShutdownController::with_config(config).unwrap(),
            since: Instant::now(),
            guards: Vec::new(),
            requests: Vec::new(),
            waiters: Vec::new(),
            told: Arc::default(),
            hooks: Arc::default(),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        (at - self.since).as_millis().try_into().unwrap()
    }

    /// Gives the status of the answer, and whether it asks the client to leave.
    fn request(&mut self, layer: Through, hangs: bool) -> Option<(u16, bool)> {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            if hangs {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let request = Request::new(Full::default());
        let ctl = self.ctl.clone();
        match layer {
            Through::Drain => {
                self.send(layer, DrainLayer::new(ctl).layer(handler).oneshot(request))
            }
            Through::Tracking => {
                let service = RequestTrackingLayer::new(ctl).layer(handler);
                self.send(layer, service.oneshot(request))
            }
        }
    }

    fn send<B: 'static>(
        &mut self,
        layer: Through,
        answer: impl Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    ) -> Option<(u16, bool)> {
        let mut answer = Box::pin(answer);
        if let Poll::Ready(answer) = task::spawn(answer.as_mut()).poll() {
            let answer = answer.unwrap();
            let closes = answer.headers().get(CONNECTION);
            let closes = closes.is_some_and(|value| value == "close");
            return Some((answer.status().as_u16(), closes));
        }
        let answer: Shared = Arc::new(Mutex::new(Some(Box::pin(async {
            let _ = answer.await;
        }))));
        let shared = Arc::clone(&answer);
        tokio::spawn(poll_fn(move |cx| {
            let mut answer = shared.lock().unwrap();
            let poll = answer
                .as_mut()
                .map_or(Poll::Ready(()), |answer| answer.as_mut().poll(cx));
            if poll.is_ready() {
                *answer = None;
            }
            poll
        }));
        self.requests.push(Hanging { layer, answer });
        None
    }

    /// Drops one of the requests that hang; gives what layer that one came through.
    fn hang_up(&mut self, which: usize) -> Option<Through> {
        self.requests
            .retain(|request| request.answer.lock().unwrap().is_some());
        let which = which.checked_rem(self.requests.len())?;
        let request = self.requests.swap_remove(which);
        *request.answer.lock().unwrap() = None;
        Some(request.layer)
    }

    fn lend(&self, lease: Lease) {
        let guard = self.ctl.track();
        let until = match lease {
            Lease::For(time) | Lease::Impatient(time) => Instant::now() + ms(time),
            _ => self.since,
        };
        tokio::spawn(async move {
            match lease {
                Lease::For(_) => sleep_until(until).await,
                Lease::AfterDraining(time) => {
                    guard.draining().await;
                    sleep(ms(time)).await;
                }
                Lease::UntilForced => guard.forced().await,
                Lease::Impatient(time) => {
                    let _ = timeout(ms(time / 2), guard.forced()).await;
                    sleep_until(until).await;
                }
            }
        });
    }

    fn spawn(&self, name: String, when: When, how: How) {
        let (triggered, draining) = (self.ctl.triggered(), self.ctl.draining());
        let begun = Instant::now();
        let task = async move {
            match when {
                When::Triggered => drop(triggered.await),
                When::Draining => draining.await,
                When::After(time) => sleep_until(begun + ms(time)).await,
                When::Never => pending().await,
            }
            end(how)
        };
        // What begins a shutdown is the trigger's, and the force's.
        let task = tower_lifecycle::Task::new(name, task);
        drop((self.ctl).spawn_task(task.on_error(Note).on_panic(Note)));
    }

    fn hook(&self, plan: HookPlan) -> Hook {
        let (log, since) = (Arc::clone(&self.hooks), self.since);
        let hook = Hook::new(plan.name.to_string(), move |notice| async move {
            let at = since.elapsed().as_millis().try_into().unwrap();
            log.lock().unwrap().push((plan.name, at, notice));
            match plan.takes {
                Some(0) => {}
                Some(takes) => sleep(ms(takes)).await,
                None => pending().await,
            }
            end(plan.how)
        });
        let hook = hook.phase(plan.phase);
        match plan.timeout {
            Some(timeout) => hook.timeout(ms(timeout)),
            None => hook,
        }
    }

    fn wait(&mut self, kind: Kind) {
        fn unit(wait: Wait) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            Box::pin(async {
                wait.await;
                Answer::Nothing
            })
        }
        let ctl = &self.ctl;
        let future: Pin<Box<dyn Future<Output = Answer> + Send>> = match kind {
            Kind::LameDuck => unit(ctl.lame_duck_begun()),
            Kind::Draining => unit(ctl.draining()),
            Kind::Drained => unit(ctl.drained()),
            Kind::Forced => unit(ctl.forced()),
            Kind::Stopped => unit(ctl.stopped()),
            Kind::StopAccepting => unit(ctl.stop_accepting()),
            Kind::Idle => unit(ctl.idle()),
            Kind::Triggered => {
                let wait = ctl.triggered();
                Box::pin(async { Answer::Notice(wait.await) })
            }
            Kind::State(state) => {
                let wait = ctl.wait_for(state);
                Box::pin(async { Answer::State(wait.await) })
            }
            Kind::Shutdown(reason) => {
                let wait = ctl.shutdown(reason);
                Box::pin(async { Answer::Report(wait.await) })
            }
        };
        self.waiters.push(Real {
            future: task::spawn(future),
            was_pending: false,
        });
    }

    fn observe(&self, id: usize, react: React) {
        let (log, since) = (Arc::clone(&self.told), self.since);
        let (ctl, react) = (self.ctl.clone(), Mutex::new(react));
        self.ctl.on_state_change(move |old, new| {
            let at = since.elapsed().as_millis().try_into().unwrap();
            log.lock().unwrap().push((id, at, old, new));
            let mut due = React::Not;
            {
                let mut react = react.lock().unwrap_or_else(PoisonError::into_inner);
                assert!(*react != React::Panics, "scripted");
                if react.is_at(new) {
                    mem::swap(&mut due, &mut react);
                }
            }
            match due {
                React::Not | React::Panics => {}
                React::Pauses => drop(ctl.pause()),
                React::Resumes => drop(ctl.resume()),
                React::Forces => ctl.force(),
                _ => drop(ctl.trigger(ShutdownReason::ServerExited)),
            }
        });
    }
}

fn end(how: How) -> Result<(), BoxError> {
    match how {
        How::Completes => Ok(()),
        How::Fails => Err("scripted".into()),
        How::Panics => panic!("scripted"),
    }
}

/// Lets all run that can, without time passing.
async fn settle() {
    for _ in 0..24 {
        yield_now().await;
    }
}

// ===== the one and the other =====

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

    // Whatever there was, it ends; an observer may call it off, but each only once.
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

    // What is left ends, and nothing else happens.
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
                // Whoever drops it: it had not ended.
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

/// Polls all who wait: whoever is ready must be, must have been woken, and the others must not be.
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

/// Who ended badly is reported, once, with whether it was during this shutdown.
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

/// As many as asked for by the usual variable.
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
        hush_scripted_panics();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(plan));
    }
}
