//! What the handle, the waits and the sequence share: the synchronous half of the lifecycle.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tokio::runtime::Handle;
use tracing::{debug, error, info};

use crate::config::ShutdownConfig;
use crate::error::BoxError;
use crate::gate::Gate;
use crate::hooks::Hooks;
use crate::layer_shard::LayerTables;
use crate::milestones::{Milestones, event};
use crate::notice::ShutdownNotice;
use crate::report::ShutdownReport;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, lock};

pub(crate) struct Core {
    pub(crate) config: ShutdownConfig,
    pub(crate) gate: Arc<Gate>,
    pub(crate) hooks: Hooks,
    pub(crate) servers: Servers,
    pub(crate) layers: LayerTables,
    pub(crate) started_at: Instant,
    moves: Mutex<Moves>,
    runtime: OnceLock<Handle>,
    notice: OnceLock<ShutdownNotice>,
    report: OnceLock<ShutdownReport>,
    /// Somebody makes the report.
    reporting: AtomicBool,
    in_flight_at_trigger: AtomicU64,
    in_flight_at_force: OnceLock<u64>,
    /// Somebody closes a listener when `stop_accepting` says so.
    listener_waits: AtomicBool,
    #[cfg(feature = "signal")]
    pub(crate) listening: crate::signal::Listening,
}

type Observer = Arc<dyn Fn(LifecycleState, LifecycleState) + Send + Sync>;

/// The moves that have been made and not yet told, and whom to tell.
#[derive(Default)]
struct Moves {
    untold: VecDeque<(LifecycleState, LifecycleState)>,
    observers: Vec<Observer>,
    /// A thread is telling; it will tell what is added meanwhile, too.
    telling: bool,
}

/// The server futures that `run` polls.
#[derive(Default)]
pub(crate) struct Servers(Mutex<ServersInner>);

#[derive(Default)]
struct ServersInner {
    begun: u64,
    running: u64,
    errors: Vec<Arc<dyn std::error::Error + Send + Sync>>,
}

// ===== impl Core =====

impl Core {
    pub(crate) fn new(config: ShutdownConfig, state: LifecycleState) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let core = Arc::new(Self {
            config,
            gate: Gate::new(cores, state.bit()),
            hooks: Hooks::default(),
            servers: Servers::default(),
            layers: LayerTables::default(),
            started_at: Instant::now(),
            moves: Mutex::default(),
            runtime: OnceLock::new(),
            notice: OnceLock::new(),
            report: OnceLock::new(),
            reporting: AtomicBool::new(false),
            in_flight_at_trigger: AtomicU64::new(0),
            in_flight_at_force: OnceLock::new(),
            listener_waits: AtomicBool::new(false),
            #[cfg(feature = "signal")]
            listening: crate::signal::Listening::default(),
        });
        core.capture_runtime();
        core
    }

    pub(crate) fn milestones(&self) -> &Milestones {
        self.gate.milestones()
    }

    pub(crate) fn state(&self) -> LifecycleState {
        LifecycleState::latest(self.milestones().reached() & event::STATES)
    }

    /// Remembers the runtime of the calling task, unless one is remembered already.
    pub(crate) fn capture_runtime(&self) -> Option<&Handle> {
        if self.runtime.get().is_none() {
            if let Ok(handle) = Handle::try_current() {
                // Whoever was first is as good.
                let _ = self.runtime.set(handle);
            }
        }
        self.runtime.get()
    }

    pub(crate) fn notice(&self) -> Option<&ShutdownNotice> {
        self.notice.get()
    }

    pub(crate) fn report(&self) -> Option<&ShutdownReport> {
        self.report.get()
    }

    pub(crate) fn in_flight_at_trigger(&self) -> u64 {
        // Relaxed: written before the sequence was spawned, which is the only reader.
        self.in_flight_at_trigger.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight_at_force(&self) -> u64 {
        self.in_flight_at_force.get().copied().unwrap_or(0)
    }

    pub(crate) fn note_listener(&self) {
        // Relaxed: the sequence looks after the trigger; a server that asks later than that is told
        // by the milestone all the same.
        self.listener_waits.store(true, Ordering::Relaxed);
    }

    pub(crate) fn listener_waits(&self) -> bool {
        self.listener_waits.load(Ordering::Relaxed)
    }

    /// Makes the notice; `false` if there is one. Readiness is red as soon as it is there, which is
    /// before any shard is closed.
    pub(crate) fn announce(&self, reason: ShutdownReason) -> bool {
        if self.notice.get().is_some() {
            return false;
        }
        let runtime = self.capture_runtime().cloned();
        let notice = ShutdownNotice::new(reason, &self.config, runtime);
        if self.notice.set(notice).is_err() {
            return false;
        }
        let in_flight = self.gate.in_flight();
        // Relaxed: as in `in_flight_at_trigger`.
        self.in_flight_at_trigger
            .store(in_flight, Ordering::Relaxed);
        info!(
            reason = %reason,
            in_flight,
            lame_duck = ?self.config.lame_duck,
            shutdown_timeout = ?self.config.shutdown_timeout,
            "shutdown triggered"
        );
        true
    }

    /// Makes the first move of a shutdown that has been announced.
    pub(crate) fn begin(&self) {
        // With no server left there is nobody to be a lame duck.
        if self.config.lame_duck.is_zero() || self.servers.have_ended() {
            self.begin_draining();
        } else {
            self.gate.shed();
            self.advance(LifecycleState::LameDuck);
        }
    }

    /// Closes the gate and publishes `Draining`; nothing is admitted any more when it returns.
    pub(crate) fn begin_draining(&self) {
        self.gate.close();
        self.advance(LifecycleState::Draining);
    }

    /// Marks all admitted work to be cut. The sequence wakes it, off the caller's path.
    pub(crate) fn cut(&self) {
        self.begin_draining();
        if self.milestones().has(event::STOPPED) {
            return;
        }
        let in_flight = *self
            .in_flight_at_force
            .get_or_init(|| self.gate.in_flight());
        self.gate.force();
        // One operation: either this sees that clean-up has begun, or the sequence, which looks after
        // it has begun it, sees the force.
        let milestones = self.milestones();
        let Some(before) = milestones.publish_unless(event::STOPPED, event::FORCED) else {
            return;
        };
        if before & event::FORCED == 0 {
            milestones.wake(event::FORCED);
            info!(in_flight, "forced: cutting what is in flight");
        }
        if before & event::STOPPING != 0 && milestones.reach(event::CUT_CLEANUP) {
            info!("forced while stopping: cutting what is left of the clean-up");
        }
    }

    /// Moves on to `next`, if that is legal, and tells everybody.
    pub(crate) fn advance(&self, next: LifecycleState) -> bool {
        let now = {
            let mut moves = lock(&self.moves);
            let now = self.state();
            if !now.can_become(next) {
                return false;
            }
            self.milestones().publish(next.bit());
            moves.untold.push_back((now, next));
            now
        };
        debug!(from = %now, to = %next, "state changed");
        if next == LifecycleState::Draining {
            // Who left between the closing and the publishing did not announce it.
            self.gate.scan();
        }
        // Observers first: whoever waits for the end may end the process when it is woken.
        self.tell_observers();
        self.milestones().wake(next.bit());
        true
    }

    /// Whether the caller is the one to make the report: the sequence, or who gives it up.
    pub(crate) fn claim_report(&self) -> bool {
        // AcqRel: whoever comes second leaves the hooks to the first.
        !self.reporting.swap(true, Ordering::AcqRel)
    }

    /// Stores the report, before `Stopped` is published to those who wait for it.
    pub(crate) fn finish(&self, report: ShutdownReport) {
        if self.report.set(report).is_ok() {
            // Before anybody can know of the end: the next signal is not ours.
            #[cfg(feature = "signal")]
            self.listening.stop();
            self.advance(LifecycleState::Stopped);
            // Their options may hold the controller.
            self.layers.close();
        }
    }

    pub(crate) fn observe(&self, observer: Observer) {
        let mut moves = lock(&self.moves);
        if moves.untold.is_empty() && self.state().is_terminal() {
            // There is nothing left to tell, and it may hold the controller.
            drop(moves);
            return drop(observer);
        }
        moves.observers.push(observer);
    }

    /// Tells each move once and in order, outside the lock, by one thread at a time.
    fn tell_observers(&self) {
        let mut moves = lock(&self.moves);
        if moves.telling {
            return;
        }
        moves.telling = true;
        while let Some((old, new)) = moves.untold.pop_front() {
            let observers = moves.observers.clone();
            drop(moves);
            for observer in observers {
                if catch_unwind(AssertUnwindSafe(|| observer(old, new))).is_err() {
                    error!(from = %old, to = %new, "an observer of state changes panicked");
                }
            }
            moves = lock(&self.moves);
            if new.is_terminal() {
                // There is nothing left to tell, and they may hold the controller.
                let observers = std::mem::take(&mut moves.observers);
                drop(moves);
                drop(observers);
                moves = lock(&self.moves);
            }
        }
        moves.telling = false;
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("state", &self.state())
            .field("in_flight", &self.gate.in_flight())
            .finish_non_exhaustive()
    }
}

// ===== impl Servers =====

impl Servers {
    pub(crate) fn begin(&self) {
        let mut servers = lock(&self.0);
        servers.begun += 1;
        servers.running += 1;
    }

    pub(crate) fn end(&self, result: Result<(), BoxError>) {
        let mut servers = lock(&self.0);
        servers.running -= 1;
        servers.errors.extend(result.err().map(Arc::from));
    }

    /// Returns whether there were any, and none is left.
    pub(crate) fn have_ended(&self) -> bool {
        let servers = lock(&self.0);
        servers.begun > 0 && servers.running == 0
    }

    pub(crate) fn running(&self) -> u64 {
        lock(&self.0).running
    }

    pub(crate) fn errors(&self) -> Vec<Arc<dyn std::error::Error + Send + Sync>> {
        lock(&self.0).errors.clone()
    }
}
