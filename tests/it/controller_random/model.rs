//! The model.

use super::*;

/// The expected state, as plain values.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) times: Times,
    pub(super) now: u64,
    pub(super) state: LifecycleState,
    pub(super) paused: bool,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) shutdowns: usize,
    pub(super) held: u64,
    pub(super) leases: Vec<Held>,
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) aborted: u64,
    /// The number of requests in the lame duck, and the time of the last one.
    pub(super) arrivals: (u64, Option<u64>),
    /// Requests that arrive now are served as late ones.
    pub(super) serves_late: bool,
    pub(super) late_requests: u64,
    pub(super) drained: bool,
    pub(super) forced: bool,
    pub(super) stop_accepting: bool,
    /// `stop_accepting` was called.
    pub(super) listener: bool,
    /// New tasks are cut.
    pub(super) tasks_closed: bool,
    pub(super) tasks: Vec<Task>,
    pub(super) spawned: usize,
    pub(super) ended: Vec<EndedTask>,
    /// How many had ended before the current shutdown.
    pub(super) ended_before: usize,
    pub(super) hooks: Vec<HookPlan>,
    /// Hooks that were added after a trigger, and not added again before one.
    pub(super) late_hooks: Vec<HookPlan>,
    pub(super) jobs: Vec<Job>,
    pub(super) in_cleanup: bool,
    pub(super) cleanup_cut: bool,
    /// What each observer will still do.
    pub(super) observers: Vec<React>,
    pub(super) untold: VecDeque<(LifecycleState, LifecycleState)>,
    pub(super) is_telling: bool,
    pub(super) told: Vec<Told>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) in_flight_at_force: Option<u64>,
    pub(super) abandoned: u64,
    /// Whatever is dropped from now on has been counted as abandoned.
    pub(super) is_counted: bool,
    pub(super) report: Option<Report>,
}

#[derive(Debug)]
pub(super) struct Shutdown {
    pub(super) id: usize,
    pub(super) reason: ShutdownReason,
    pub(super) at: u64,
    pub(super) in_flight: u64,
    pub(super) stage: Stage,
    pub(super) phases: Vec<(LifecycleState, u64)>,
    pub(super) phase_began: u64,
    pub(super) late_until: u64,
    pub(super) refused_until: u64,
    pub(super) cut_at: Option<u64>,
    pub(super) cleanup_deadline: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
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
pub(super) enum Held {
    Until(u64),
    AfterDraining(u64),
    UntilForced,
    Request(Through),
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) when: When,
    pub(super) how: How,
}

#[derive(Debug)]
pub(super) struct EndedTask {
    pub(super) name: String,
    pub(super) outcome: &'static str,
    /// It ended while it was being cut: either outcome is possible.
    pub(super) or_cut: bool,
    pub(super) shutdown: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) plan: HookPlan,
    pub(super) began: Option<u64>,
    pub(super) ends: u64,
    pub(super) outcome: &'static str,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) kind: Kind,
    /// For `idle`, which resolves if any moment since the call was idle.
    pub(super) was_idle: bool,
}

/// The observer, the time, and the change.
pub(super) type Told = (usize, u64, LifecycleState, LifecycleState);

/// At the end.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) forced: bool,
    /// How many tasks had ended.
    pub(super) ended: usize,
}

impl How {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completes => "completed",
            Self::Fails => "failed",
            Self::Panics => "panicked",
        }
    }
}

impl Times {
    pub(super) fn unwinding(self) -> u64 {
        (self.reserve / 4).clamp(1, 250)
    }
}

impl Model {
    pub(super) fn new(times: Times) -> Self {
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

    pub(super) fn in_flight(&self) -> u64 {
        self.held + self.leases.len() as u64
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state >= Draining
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused && !self.is_closed()
    }

    pub(super) fn make(&mut self, next: LifecycleState) {
        let old = mem::replace(&mut self.state, next);
        let serves_late = self.times.late_for > 0 && self.times.refuse_for == 0;
        self.serves_late = match next {
            Draining => serves_late && !self.paused,
            _ => false,
        };
        self.untold.push_back((old, next));
        self.look();
    }

    /// Calls all observers for one change before the next, even when an observer causes the next.
    pub(super) fn tell(&mut self) {
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

    /// Checks whether nothing is in flight while nothing is admitted.
    pub(super) fn look(&mut self) {
        if self.in_flight() == 0 && (self.paused || self.is_closed()) {
            self.waiters.iter_mut().for_each(|w| w.was_idle = true);
            self.drained |= self.is_closed();
        }
    }

    // ----- operations -----

    pub(super) fn trigger(&mut self, reason: ShutdownReason) -> bool {
        let begins = self.announce(reason);
        self.tell();
        begins
    }

    pub(super) fn announce(&mut self, reason: ShutdownReason) -> bool {
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

    pub(super) fn force(&mut self) {
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

    pub(super) fn mark_forced(&mut self) {
        let in_flight = self.in_flight();
        self.in_flight_at_force.get_or_insert(in_flight);
        self.tasks_closed = true;
        self.forced = true;
        self.serves_late = false;
    }

    pub(super) fn resume(&mut self) -> Result<(), LifecycleState> {
        if self.state != LameDuck {
            return Err(self.state);
        }
        self.shutdown = None;
        self.make(Running);
        self.tell();
        Ok(())
    }

    pub(super) fn pause(&mut self) -> bool {
        let pauses = !self.paused && !self.is_closed();
        self.paused |= pauses;
        self.look();
        pauses
    }

    pub(super) fn unpause(&mut self) -> bool {
        let unpauses = self.is_paused();
        self.paused &= !unpauses;
        unpauses
    }

    /// Returns whether it is admitted; an error says whether the refusal is because of a pause.
    pub(super) fn admit(&mut self) -> Result<(), bool> {
        if self.is_closed() || self.paused {
            self.refused += 1;
            return Err(self.is_paused());
        }
        self.admitted += 1;
        self.note_arrival();
        Ok(())
    }

    pub(super) fn note_arrival(&mut self) {
        if self.state == LameDuck {
            let trigger = self.shutdown.as_ref().unwrap().at;
            self.arrivals = (self.arrivals.0 + 1, Some(self.now - trigger));
        }
    }

    /// Returns whether it is served.
    pub(super) fn request(&mut self, layer: Through) -> bool {
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

    pub(super) fn spawn(&mut self, name: String, when: When, how: How) {
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

    // ----- effects -----

    pub(super) fn pass(&mut self, time: u64) {
        let until = self.now + time;
        self.settle();
        while let Some(next) = self.next_event().filter(|next| *next <= until) {
            self.now = next;
            self.settle();
        }
        self.now = until;
    }

    pub(super) fn next_event(&self) -> Option<u64> {
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

    /// Runs everything that can run.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn end_tasks(&mut self) -> bool {
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

    pub(super) fn cut_tasks(&mut self) {
        for task in &mut self.ended[self.ended_before..] {
            task.or_cut = true;
        }
        let cut = mem::take(&mut self.tasks);
        self.note_ended(cut, Some("cut"));
    }

    pub(super) fn note_ended(&mut self, tasks: Vec<Task>, outcome: Option<&'static str>) -> bool {
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

    pub(super) fn end_leases(&mut self) -> bool {
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

    pub(super) fn drive(&mut self) -> bool {
        let Some(mut shutdown) = self.shutdown.take() else {
            return false;
        };
        let stage = shutdown.stage;
        self.drive_on(&mut shutdown);
        let moved = shutdown.stage != stage;
        // The report covers only this shutdown.
        self.shutdown = Some(shutdown);
        match self.shutdown.as_ref().map(|s| s.stage) {
            Some(Stage::CutRefusing | Stage::Unwinding) if moved => self.cut_tasks(),
            Some(Stage::Hooks) if moved => self.cut_tasks(),
            _ => {}
        }
        moved || (stage == Stage::Hooks && self.run_hooks())
    }

    pub(super) fn drive_on(&mut self, shutdown: &mut Shutdown) {
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

    pub(super) fn cut_if_due(&mut self, shutdown: &mut Shutdown) {
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

    pub(super) fn begin_cleanup(&mut self, shutdown: &mut Shutdown) {
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

    /// Runs the current hooks. Returns whether anything has changed.
    pub(super) fn run_hooks(&mut self) -> bool {
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
                // With no time left, each hook runs as far as it can.
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

    // ----- waiters -----

    pub(super) fn wait(&mut self, kind: Kind) {
        match kind {
            Kind::Shutdown(reason) => drop(self.trigger(reason)),
            Kind::StopAccepting => self.listener = true,
            _ => {}
        }
        let was_idle = false;
        self.waiters.push(Waiter { kind, was_idle });
        self.look();
    }

    pub(super) fn is_ready(&self, waiter: &Waiter) -> bool {
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

    pub(super) fn is_graceful(&self, report: &Report) -> bool {
        let fails = |task: &EndedTask| task.outcome != "completed";
        let hooks = self.jobs.iter().all(|job| job.outcome == "completed");
        let hooks = hooks && self.late_hooks.is_empty();
        !report.forced && hooks && !self.ended[..report.ended].iter().any(fails)
    }
}

impl Shutdown {
    pub(super) fn close_phase(&mut self, state: LifecycleState, now: u64) {
        self.phases.push((state, now - self.phase_began));
        self.phase_began = now;
    }
}

impl Job {
    pub(super) fn begin(&mut self, now: u64, share: u64) {
        let limit = share.min(self.plan.timeout.unwrap_or(u64::MAX));
        let in_time = self.plan.takes.filter(|takes| *takes <= limit);
        self.began = Some(now);
        self.ends = now + in_time.unwrap_or(limit);
        self.outcome = in_time.map_or("timed out", |_| self.plan.how.name());
    }
}
