//! What the handle, the waits and the sequence share: the synchronous half of the lifecycle.

mod moves;

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use self::moves::Life;
use super::attempt::Shutdown;
use super::hooks::{Hook, HookError, HookKind, Hooks};
#[cfg(feature = "signal")]
use super::listening::Listening;
use super::notice::ShutdownNotice;
use super::readiness::ReadinessChanges;
use super::report::ShutdownReport;
use super::servers::Servers;
use super::services::Services;
use super::startup_failure::{StartupCause, StartupFailure};
use super::tasks::{Role, Tasks};
use crate::config::ShutdownConfig;
#[cfg(feature = "server")]
use crate::in_flight::Connections;
use crate::in_flight::{Gate, LayerTables, Milestones, event};
use crate::log;
use crate::log::tell;
use crate::state::LifecycleState;
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, lock};

pub(crate) struct Core {
    pub(crate) config: ShutdownConfig,
    pub(crate) gate: Arc<Gate>,
    pub(crate) hooks: Arc<Hooks>,
    /// What saves the state, last of all.
    pub(crate) saves: Arc<Hooks>,
    pub(crate) services: Arc<Services>,
    pub(crate) servers: Servers,
    pub(crate) tasks: Tasks,
    pub(crate) readiness: ReadinessChanges,
    #[cfg(feature = "server")]
    pub(crate) connections: Arc<Connections>,
    pub(crate) layers: LayerTables,
    pub(crate) started_at: std::time::Instant,
    life: Mutex<Life>,
    runtime: OnceLock<Handle>,
    report: OnceLock<ShutdownReport>,
    /// Somebody makes the report.
    reporting: AtomicBool,
    in_flight_at_force: OnceLock<u64>,
    /// How much had been cut when what was left was counted as abandoned.
    aborted: OnceLock<u64>,
    /// What a start-up failed by, if not by a trigger.
    startup_failure: OnceLock<StartupFailure>,
    /// The latest signal that was heard.
    signal: Mutex<Option<&'static str>>,
    /// Somebody closes a listener when `stop_accepting` says so.
    listener_waits: AtomicBool,
    #[cfg(feature = "signal")]
    pub(crate) listening: Listening,
}

thread_local! {
    /// This thread drives a shutdown, in a runtime that goes when that ends or is called off.
    static OWN_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Sees to it that no controller takes the runtime of the calling thread for its own.
pub(crate) fn note_own_thread() {
    OWN_THREAD.set(true);
}

/// How long an idle connection may still bring a request when draining has begun.
#[cfg(any(feature = "server", feature = "axum"))]
const IDLE: Duration = Duration::from_millis(200);

/// The end, of a shutdown or of a start-up.
pub(crate) const ENDED: u32 = event::STOPPED | event::FAILED;

// ===== impl Core =====

impl Core {
    pub(crate) fn new(config: ShutdownConfig, state: LifecycleState) -> Arc<Self> {
        // Twice the cores: there are other threads than the workers of the runtime, and a thread
        // beyond the number of the shards shares one with a worker.
        let shards = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let gate = Gate::new(shards, state.bit());
        let core = Arc::new(Self {
            config,
            hooks: Hooks::new(HookKind::Hook),
            saves: Hooks::new(HookKind::Save),
            services: Arc::default(),
            servers: Servers::default(),
            tasks: Tasks::default(),
            readiness: ReadinessChanges::default(),
            #[cfg(feature = "server")]
            connections: Connections::new(&gate),
            layers: LayerTables::default(),
            gate,
            started_at: std::time::Instant::now(),
            life: Mutex::default(),
            runtime: OnceLock::new(),
            report: OnceLock::new(),
            reporting: AtomicBool::new(false),
            in_flight_at_force: OnceLock::new(),
            aborted: OnceLock::new(),
            startup_failure: OnceLock::new(),
            signal: Mutex::default(),
            listener_waits: AtomicBool::new(false),
            #[cfg(feature = "signal")]
            listening: Listening::default(),
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
        if self.runtime.get().is_none() && !OWN_THREAD.get() {
            if let Ok(handle) = Handle::try_current() {
                // Whoever was first is as good.
                let _ = self.runtime.set(handle);
            }
        }
        self.runtime.get()
    }

    /// Before `Running`: what began then ends as a rollback.
    pub(crate) fn is_starting_up(&self) -> bool {
        self.state() < LifecycleState::Running
    }

    /// Returns the shutdown that is under way or over.
    pub(crate) fn shutdown(&self) -> Option<Arc<Shutdown>> {
        lock(&self.life).shutdown.clone()
    }

    /// Returns whether to send traffic: running, and neither paused nor told to shut down.
    pub(crate) fn is_ready(&self) -> bool {
        // The notice is there before the state changes, and before the first refusal.
        self.state() == LifecycleState::Running && !self.is_triggered() && !self.gate.is_paused()
    }

    pub(crate) fn is_triggered(&self) -> bool {
        lock(&self.life).shutdown.is_some()
    }

    pub(crate) fn notice(&self) -> Option<ShutdownNotice> {
        let life = lock(&self.life);
        life.shutdown
            .as_ref()
            .map(|shutdown| shutdown.notice.clone())
    }

    pub(crate) fn report(&self) -> Option<&ShutdownReport> {
        self.report.get()
    }

    /// Returns how many connections are open, of those that are known.
    pub(crate) fn open_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.open();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns how many of them have no server of ours that waits for them.
    pub(crate) fn watched_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.watched();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns how many are open of our own servers.
    pub(crate) fn served_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.served();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns how much there is to wait for at the end of a drain, all in all.
    pub(crate) fn left(&self) -> u64 {
        let tasks = self.tasks.running(&[Role::Task]);
        let (servers, starts) = (self.servers.running(), self.services.starting());
        self.gate.in_flight() + tasks + servers + starts + self.open_connections()
    }

    /// Returns until when requests that arrive are served, in a drain that begins now.
    pub(crate) fn late_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        let time = match self.config.serves_late() {
            true => self.config.late_for,
            false => Duration::ZERO,
        };
        in_first_half(notice, time)
    }

    /// Returns until when the listener stays open, refusing, in a drain that begins now.
    pub(crate) fn refused_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        in_first_half(notice, self.config.refuse_for)
    }

    /// Returns until when an idle connection may bring one more request, in a drain that begins now.
    #[cfg(any(feature = "server", feature = "axum"))]
    pub(crate) fn idle_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        let time = match self.config.serves_late() {
            true => IDLE.min(self.config.late_for),
            false => self.config.refuse_for,
        };
        in_first_half(notice, time)
    }

    /// Notes how much has been cut: what is cut later is counted as abandoned.
    pub(crate) fn note_aborted(&self, aborted: u64) {
        // Whoever was first has counted what is abandoned, too.
        let _ = self.aborted.set(aborted);
    }

    pub(crate) fn aborted(&self) -> u64 {
        let noted = self.aborted.get().copied();
        noted.unwrap_or_else(|| self.gate.aborted())
    }

    pub(crate) fn in_flight_at_force(&self) -> u64 {
        self.in_flight_at_force.get().copied().unwrap_or(0)
    }

    pub(crate) fn note_startup_failure(&self, failure: StartupFailure) {
        // The first one is the cause of all that follows.
        let _ = self.startup_failure.set(failure);
    }

    /// Returns why the start-up failed, if it has.
    pub(crate) fn startup_failure(&self) -> Option<StartupFailure> {
        if self.milestones().has(LifecycleState::Running.bit()) {
            return None;
        }
        self.startup_failure.get().cloned().or_else(|| {
            // The trigger's reason, and not the report's, which may have been interrupted.
            let cause = StartupCause::Triggered(self.notice()?.reason());
            Some(StartupFailure { step: None, cause })
        })
    }

    #[cfg(feature = "signal")]
    pub(crate) fn note_signal(&self, name: &'static str) {
        *lock(&self.signal) = Some(name);
    }

    pub(crate) fn signal(&self) -> Option<&'static str> {
        *lock(&self.signal)
    }

    pub(crate) fn note_listener(&self) {
        // Relaxed: the sequence looks after the trigger; a server that asks later than that is told
        // by the milestone all the same.
        self.listener_waits.store(true, Ordering::Relaxed);
    }

    pub(crate) fn listener_waits(&self) -> bool {
        self.listener_waits.load(Ordering::Relaxed)
    }

    /// Has admitted work cut, in a shutdown that drains. The sequence wakes it, so that the caller does not
    /// have to.
    pub(crate) fn cut(&self) {
        if self.milestones().has(ENDED) {
            return;
        }
        let in_flight = *self
            .in_flight_at_force
            .get_or_init(|| self.gate.in_flight());
        self.gate.force();
        self.tasks.refuse(&[Role::Task]);
        // One operation: either this sees that clean-up has begun, or the sequence, which looks after
        // it has begun it, sees the force.
        let milestones = self.milestones();
        let Some(before) = milestones.publish_unless(ENDED, event::FORCED) else {
            return;
        };
        if before & event::FORCED == 0 {
            milestones.wake(event::FORCED);
            tell!(info, in_flight, "forced: cutting what is in flight");
        }
        let in_cleanup = before & event::CLEANUP != 0;
        let among_workers = before & event::STOP_WORKERS != 0 && !in_cleanup;
        if among_workers && milestones.reach(event::CUT_WORKERS) {
            tell!(info, "forced while workers are being stopped: cutting them");
        }
        if in_cleanup && milestones.reach(event::CUT_CLEANUP) {
            tell!(
                info,
                "forced while stopping: cutting what is left of the clean-up"
            );
        }
        if before & event::SAVING != 0 && milestones.reach(event::CUT_SAVES) {
            tell!(warn, "forced while saving: cutting what is left of it");
        }
    }

    /// Cuts what is left of a shutdown that is interrupted. Gives how much was in flight, or had been dropped
    /// by the end of its runtime.
    pub(crate) fn interrupt(&self) -> u64 {
        let in_flight = self.gate.interrupt();
        // A force may have been before.
        let _ = self.in_flight_at_force.set(in_flight);
        self.cut();
        self.tasks.cut(&Role::ALL);
        in_flight
    }

    pub(crate) fn add_hook(&self, hook: Hook) -> Result<(), HookError> {
        self.hooks.add(hook, || self.is_triggered())
    }

    #[cfg(feature = "persist")]
    pub(crate) fn add_save(&self, save: Hook) -> Result<(), HookError> {
        self.saves.add(save, || self.is_triggered())
    }

    /// Returns what of the reserve no hook and no stop may use up.
    pub(crate) fn time_for_saves(&self) -> Duration {
        match self.saves.len() {
            0 => Duration::ZERO,
            _ => self.config.reserve() / 4,
        }
    }

    /// Whether the caller is the one to make the report: the sequence, or who gives it up.
    pub(crate) fn claim_report(&self) -> bool {
        // AcqRel: whoever comes second leaves the hooks to the first.
        !self.reporting.swap(true, Ordering::AcqRel)
    }

    /// Stores the report, before the end is published to those who wait for it.
    pub(crate) fn finish(&self, report: ShutdownReport) {
        if self.report.set(report.clone()).is_ok() {
            // Before anybody can know of the end: the next signal is not ours.
            #[cfg(feature = "signal")]
            self.listening.stop();
            if let Some(shutdown) = self.shutdown() {
                shutdown.note_exit_code(report.status());
            }
            // Whoever sees the end may end the process, and the log with it.
            report.log();
            log::flush();
            if !self.advance(LifecycleState::Stopped) {
                self.advance(LifecycleState::Failed);
            }
            // Their options may hold the controller.
            self.layers.close();
        }
    }
}

/// Returns when `time` is over, from now on. It is at most half of the drain, so that a server has
/// the other half to end in.
fn in_first_half(notice: &ShutdownNotice, time: Duration) -> Option<Instant> {
    let half = notice.drain_remaining().map(|left| left / 2);
    let time = half.map_or(time, |half| time.min(half));
    notice.now().checked_add(time)
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("state", &self.state())
            .field("in_flight", &self.gate.in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn there_are_shards_for_as_many_other_threads_as_there_are_workers() {
        let core = Core::new(ShutdownConfig::default(), LifecycleState::Running);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(core.gate.shards().len() >= 2 * cores);
    }
}
