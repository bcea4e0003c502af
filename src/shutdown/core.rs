//! The state that the handle, the waits and the sequence share: the synchronous half of the lifecycle.

mod moves;

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use self::moves::Life;
use super::attempt::Shutdown;
#[cfg(all(unix, any(feature = "restart", feature = "systemd")))]
use super::hand_over::HandOvers;
use super::hooks::{Hook, HookError, HookKind, Hooks};
use super::lame_duck::{Probers, Witnesses};
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
use crate::in_flight::{
    ConnectionItem, InFlightItem, LayerTables, Lease, Milestones, Oldest, Roster, event,
};
use crate::log;
use crate::log::tell;
use crate::panic;
use crate::state::LifecycleState;
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, lock};

pub(crate) struct Core {
    pub(crate) config: ShutdownConfig,
    pub(crate) gate: Lease,
    pub(crate) hooks: Arc<Hooks>,
    /// The saves of the state, which run last.
    pub(crate) saves: Arc<Hooks>,
    pub(crate) services: Arc<Services>,
    pub(crate) servers: Servers,
    pub(crate) tasks: Tasks,
    pub(crate) readiness: ReadinessChanges,
    pub(crate) probers: Probers,
    #[cfg(feature = "server")]
    pub(crate) connections: Arc<Connections>,
    pub(crate) layers: LayerTables,
    /// The names of what is in flight, as far as it has some.
    pub(crate) roster: Arc<Roster>,
    pub(crate) started_at: std::time::Instant,
    life: Mutex<Life>,
    runtime: OnceLock<Handle>,
    report: OnceLock<ShutdownReport>,
    /// Called with the report when it is stored.
    receivers: Mutex<Vec<Receiver>>,
    /// `true` once the report is being published.
    reporting: AtomicBool,
    in_flight_at_force: OnceLock<u64>,
    /// How many requests had been cut when the rest was counted as abandoned.
    aborted: OnceLock<u64>,
    /// Why the start-up failed, unless a trigger ended it.
    startup_failure: OnceLock<StartupFailure>,
    /// The latest signal received.
    signal: Mutex<Option<&'static str>>,
    /// `true` if a server closes its listener when `stop_accepting` resolves.
    listener_waits: AtomicBool,
    #[cfg(feature = "signal")]
    pub(crate) listening: Listening,
    #[cfg(all(unix, any(feature = "restart", feature = "systemd")))]
    pub(crate) hand_over: HandOvers,
    /// `true` once systemd is notified.
    #[cfg(all(unix, feature = "systemd"))]
    pub(crate) notifies_systemd: AtomicBool,
}

thread_local! {
    /// `true` on a thread that drives a shutdown. Its runtime is dropped when the shutdown ends or is
    /// called off.
    static DRIVES_SHUTDOWN: Cell<bool> = const { Cell::new(false) };
}

/// Prevents controllers from capturing the runtime of the calling thread.
pub(crate) fn mark_driver_thread() {
    DRIVES_SHUTDOWN.set(true);
}

/// How long an idle connection may still send a request after draining has begun.
#[cfg(any(feature = "server", feature = "axum"))]
const IDLE: Duration = Duration::from_millis(200);

type Receiver = Box<dyn FnOnce(&ShutdownReport) + Send>;

/// The end of a shutdown or of a start-up.
pub(crate) const ENDED: u32 = event::STOPPED | event::FAILED;

// ===== impl Core =====

impl Core {
    pub(crate) fn new(config: ShutdownConfig, state: LifecycleState) -> Arc<Self> {
        // Twice the number of cores: not all threads are workers of the runtime, and a thread beyond
        // the number of shards shares a shard with a worker.
        let shards = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let gate = Lease::new(shards, state.bit());
        let core = Arc::new(Self {
            config,
            hooks: Hooks::new(HookKind::Hook),
            saves: Hooks::new(HookKind::Save),
            services: Arc::default(),
            servers: Servers::default(),
            tasks: Tasks::default(),
            readiness: ReadinessChanges::default(),
            probers: Probers::default(),
            #[cfg(feature = "server")]
            connections: Connections::new(&gate),
            layers: LayerTables::default(),
            roster: Roster::new(&gate),
            gate,
            started_at: std::time::Instant::now(),
            life: Mutex::default(),
            runtime: OnceLock::new(),
            report: OnceLock::new(),
            receivers: Mutex::default(),
            reporting: AtomicBool::new(false),
            in_flight_at_force: OnceLock::new(),
            aborted: OnceLock::new(),
            startup_failure: OnceLock::new(),
            signal: Mutex::default(),
            listener_waits: AtomicBool::new(false),
            #[cfg(feature = "signal")]
            listening: Listening::default(),
            #[cfg(all(unix, any(feature = "restart", feature = "systemd")))]
            hand_over: HandOvers::default(),
            #[cfg(all(unix, feature = "systemd"))]
            notifies_systemd: AtomicBool::new(false),
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

    /// Stores the runtime of the calling task, unless one is stored already. Returns the stored one.
    pub(crate) fn capture_runtime(&self) -> Option<&Handle> {
        if self.runtime.get().is_none() && !DRIVES_SHUTDOWN.get() {
            if let Ok(handle) = Handle::try_current() {
                // Another thread may have stored its runtime first, which works as well.
                let _ = self.runtime.set(handle);
            }
        }
        self.runtime.get()
    }

    /// Returns whether the state is before `Running`. A shutdown that begins then is a rollback.
    pub(crate) fn is_starting_up(&self) -> bool {
        self.state() < LifecycleState::Running
    }

    /// Returns the shutdown that is under way or over.
    pub(crate) fn shutdown(&self) -> Option<Arc<Shutdown>> {
        lock(&self.life).shutdown.clone()
    }

    /// Returns whether a new process accepts from the listening sockets of this one.
    #[cfg(any(feature = "server", feature = "axum"))]
    pub(crate) fn has_successor(&self) -> bool {
        #[cfg(all(unix, feature = "restart"))]
        return self.hand_over.shares_sockets();
        #[cfg(not(all(unix, feature = "restart")))]
        false
    }

    /// Returns whether the process that the listening sockets are from has them still.
    #[cfg(feature = "server")]
    pub(crate) fn has_predecessor(&self) -> bool {
        #[cfg(all(unix, feature = "restart"))]
        return self.hand_over.has_predecessor();
        #[cfg(not(all(unix, feature = "restart")))]
        false
    }

    /// Returns whether traffic should be sent: the service runs, is not paused, and no shutdown was
    /// triggered.
    pub(crate) fn is_ready(&self) -> bool {
        // The trigger is visible before the state changes, and before the first refusal.
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

    /// Returns the hash of what tells a prober of readiness from others, if probes matter.
    #[cfg(feature = "health")]
    pub(crate) fn prober(&self, prober: impl std::hash::Hash) -> Option<u64> {
        let matters = self.config.lame_duck_probes > 0;
        matters.then(|| self.probers.hash(prober))
    }

    /// Notes that readiness was probed by the prober with this hash, and whether the answer was red.
    #[cfg(feature = "health")]
    pub(crate) fn note_probe(&self, prober: u64, is_red: bool) {
        self.probers.note(prober, is_red, self.config.lame_duck);
    }

    /// Returns who has seen readiness red, if it matters.
    pub(crate) fn witnesses(&self, notice: &ShutdownNotice) -> Option<Witnesses> {
        let (times, window) = (self.config.lame_duck_probes, self.config.lame_duck);
        let trigger = notice.triggered_at();
        (times > 0).then(|| self.probers.witnesses(times, trigger, window))
    }

    /// Returns how many requests have come in the lame duck, and how many were refused.
    pub(crate) fn requests(&self) -> (u64, u64) {
        (self.gate.arrivals().0, self.gate.refused())
    }

    pub(crate) fn report(&self) -> Option<&ShutdownReport> {
        self.report.get()
    }

    /// Calls `receiver` when the report is stored, or now if it is.
    pub(crate) fn on_report(&self, receiver: Receiver) {
        let mut receivers = lock(&self.receivers);
        // Checked under the lock: `finish` stores the report before it takes the receivers.
        let Some(report) = self.report.get() else {
            receivers.push(receiver);
            return;
        };
        drop(receivers);
        deliver(receiver, report);
    }

    /// Returns how many known connections are open.
    pub(crate) fn open_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.open();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns how many of them are not waited for by a server of this crate.
    pub(crate) fn watched_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.watched();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns how many of them belong to servers of this crate.
    pub(crate) fn served_connections(&self) -> u64 {
        #[cfg(feature = "server")]
        return self.connections.served();
        #[cfg(not(feature = "server"))]
        0
    }

    /// Returns at most `most` of them: first those that are not idle, then the oldest.
    pub(crate) fn oldest_connections(&self, most: usize) -> Vec<ConnectionItem> {
        #[cfg(feature = "server")]
        return self.connections.oldest(most);
        #[cfg(not(feature = "server"))]
        {
            let _ = most;
            Vec::new()
        }
    }

    /// Returns how much is left to wait for at the end of a drain, in total.
    pub(crate) fn left(&self) -> u64 {
        let tasks = self.tasks.running(&[Role::Task]);
        let (servers, starts) = (self.servers.running(), self.services.starting());
        self.gate.in_flight() + tasks + servers + starts + self.open_connections()
    }

    /// Returns at most `most` pieces of named work, the oldest first.
    pub(crate) fn oldest_in_flight(&self, most: usize) -> Vec<InFlightItem> {
        let mut oldest = Oldest::new(most);
        self.roster.collect(&mut oldest);
        self.tasks.collect(&mut oldest);
        oldest.into_vec()
    }

    /// Returns until when a drain that begins now serves requests that arrive.
    pub(crate) fn late_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        let time = if self.config.serves_late() {
            self.config.late_for
        } else {
            Duration::ZERO
        };
        in_first_half(notice, time)
    }

    /// Returns until when a drain that begins now keeps the listener open, to refuse requests.
    pub(crate) fn refused_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        in_first_half(notice, self.config.refuse_for)
    }

    /// Returns until when an idle connection may send one more request, in a drain that begins now.
    #[cfg(any(feature = "server", feature = "axum"))]
    pub(crate) fn idle_until(&self, notice: &ShutdownNotice) -> Option<Instant> {
        let time = if self.config.serves_late() {
            IDLE.min(self.config.late_for)
        } else {
            self.config.refuse_for
        };
        in_first_half(notice, time)
    }

    /// Records how many requests have been cut. Requests that are cut later count as abandoned.
    pub(crate) fn note_aborted(&self, aborted: u64) {
        // The first caller has also counted what is abandoned.
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
        // The first failure is the cause of the later ones.
        let _ = self.startup_failure.set(failure);
    }

    /// Returns why the start-up failed, if it has.
    pub(crate) fn startup_failure(&self) -> Option<StartupFailure> {
        if self.milestones().has(LifecycleState::Running.bit()) {
            return None;
        }
        self.startup_failure.get().cloned().or_else(|| {
            // The reason of the trigger. That of the report may be `Interrupted`.
            let cause = StartupCause::Triggered(self.notice()?.reason());
            Some(StartupFailure { step: None, cause })
        })
    }

    #[cfg(feature = "signal")]
    pub(crate) fn note_signal(&self, name: &'static str) {
        *lock(&self.signal) = Some(name);
    }

    #[cfg(all(unix, feature = "restart"))]
    pub(crate) fn forget_signal(&self) {
        *lock(&self.signal) = None;
    }

    pub(crate) fn signal(&self) -> Option<&'static str> {
        *lock(&self.signal)
    }

    pub(crate) fn note_listener(&self) {
        // Relaxed: `listener_waits` reads it after the trigger. A server that asks later than that
        // still learns from the milestone that it must close its listener.
        self.listener_waits.store(true, Ordering::Relaxed);
    }

    pub(crate) fn listener_waits(&self) -> bool {
        self.listener_waits.load(Ordering::Relaxed)
    }

    /// Causes admitted work to be cut, in a shutdown that drains. The sequence wakes that work, so the
    /// caller does not have to.
    pub(crate) fn cut(&self) {
        if self.milestones().has(ENDED) {
            return;
        }
        let in_flight = *self
            .in_flight_at_force
            .get_or_init(|| self.gate.in_flight());
        self.gate.force();
        self.tasks.refuse(&[Role::Task]);
        // One atomic operation: either this call sees that the clean-up has begun, or the sequence,
        // which checks after beginning it, sees the force.
        let milestones = self.milestones();
        let Some(before) = milestones.publish_unless(ENDED, event::FORCED) else {
            return;
        };
        if before & event::FORCED == 0 {
            milestones.wake(event::FORCED);
            tell!(info, in_flight, "forced: cutting work in flight");
        }
        let in_cleanup = before & event::CLEANUP != 0;
        let among_workers = before & event::STOP_WORKERS != 0 && !in_cleanup;
        if among_workers && milestones.reach(event::CUT_WORKERS) {
            tell!(info, "forced while workers are being stopped: cutting them");
        }
        if in_cleanup && milestones.reach(event::CUT_CLEANUP) {
            tell!(
                info,
                "forced while stopping: cutting the rest of the clean-up"
            );
        }
        if before & event::SAVING != 0 && milestones.reach(event::CUT_SAVES) {
            tell!(warn, "forced while saving: cutting the remaining saves");
        }
    }

    /// Cuts what is left of an interrupted shutdown, workers too. Returns how much was in flight, or had been
    /// dropped by the end of its runtime.
    pub(crate) fn interrupt(&self) -> u64 {
        let in_flight = self.gate.interrupt();
        // An earlier force may have set it.
        let _ = self.in_flight_at_force.set(in_flight);
        self.cut();
        self.milestones().reach(event::CUT_WORKERS);
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

    /// Returns the part of the reserve that hooks and stops of services must leave to the saves.
    pub(crate) fn time_for_saves(&self) -> Duration {
        match self.saves.len() {
            0 => Duration::ZERO,
            _ => self.config.reserve() / 4,
        }
    }

    /// Returns whether the caller publishes the report: `true` for the first one only. The callers are the
    /// sequence, and the code that gives it up.
    pub(crate) fn claim_report(&self) -> bool {
        // AcqRel: pairs with the same swap of the other caller. The second one leaves the report to
        // the first.
        !self.reporting.swap(true, Ordering::AcqRel)
    }

    /// Stores the report, and then publishes the end to the waiters.
    pub(crate) fn finish(&self, report: ShutdownReport) {
        if self.report.set(report.clone()).is_ok() {
            // Before the end is visible: later signals are not for this controller.
            #[cfg(feature = "signal")]
            self.listening.stop();
            // Before the end is visible: a task that sees it may exit the process.
            report.log();
            if let Some(shutdown) = self.shutdown() {
                shutdown.note_exit_code(report.status());
                shutdown.spans.close();
            }
            log::flush();
            for receiver in mem::take(&mut *lock(&self.receivers)) {
                deliver(receiver, &report);
            }
            if !self.advance(LifecycleState::Stopped) {
                self.advance(LifecycleState::Failed);
            }
            // The options of the layers may hold the controller.
            self.layers.close();
        }
    }
}

fn deliver(receiver: Receiver, report: &ShutdownReport) {
    if !panic::contained(|| receiver(report)) {
        tell!(error, "a receiver of the report panicked");
    }
}

/// Returns the instant that is `time` from now, limited to half of the remaining drain. A server has
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
