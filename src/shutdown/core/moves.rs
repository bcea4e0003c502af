//! State transitions. Each is made under one lock, together with its effect on the gate and the
//! shutdown. Observers and waiters are notified outside the lock.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::Core;
use crate::in_flight::event;
use crate::log::{millis, tell};
use crate::panic;
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::notice::ShutdownNotice;
use crate::shutdown::tasks::Role;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, Mutex, lock};

/// The events that the first transitions of a shutdown can reach.
const BEGINNING: u32 = event::TRIGGERED
    | event::CLOSED
    | event::STOP_ACCEPTING
    | LifecycleState::LameDuck.bit()
    | LifecycleState::Draining.bit();

type Observer = Arc<dyn Fn(LifecycleState, LifecycleState) + Send + Sync>;

/// The data that changes with the state. Every transition is made under its lock, together with its
/// effect on the gate and the shutdown.
#[derive(Default)]
pub(super) struct Life {
    /// The shutdown that is under way or over.
    pub(super) shutdown: Option<Arc<Shutdown>>,
    /// Transitions that the observers have not been notified of yet.
    pending: VecDeque<(LifecycleState, LifecycleState)>,
    observers: Vec<Observer>,
    /// `true` while a thread notifies the observers. It also handles transitions added meanwhile.
    notifying: bool,
}

// ===== impl Core =====

impl Core {
    /// Begins a shutdown, or the rollback of a start-up, with its first transition. Returns `None` if one
    /// has already begun. The caller starts the driver, and then calls
    /// [`tell_beginning`](Self::tell_beginning).
    pub(crate) fn announce(&self, reason: ShutdownReason) -> Option<Arc<Shutdown>> {
        let runtime = self.capture_runtime().cloned();
        let mut life = lock(&self.life);
        if life.shutdown.is_some() {
            return None;
        }
        let in_flight = self.gate.in_flight();
        self.gate.forget_arrivals();
        self.roster.forget_cut();
        self.probers.forget_red();
        let for_workers = match self.tasks.running(&[Role::Worker]) {
            0 => Duration::ZERO,
            _ => self.config.reserve_for_workers(),
        };
        let notice = ShutdownNotice::new(reason, &self.config, for_workers, runtime);
        let shutdown = Arc::new(Shutdown::new(notice, in_flight));
        // From here on the service is not ready, which is before any shard is closed.
        life.shutdown = Some(Arc::clone(&shutdown));
        self.milestones().publish(event::TRIGGERED);
        if self.is_starting_up() {
            // The rollback stops what was started. Nothing new is admitted meanwhile.
            self.gate.close();
            self.milestones().publish(self.closing_events());
        } else if self.config.lame_duck.is_zero() || self.servers.have_ended() {
            // Without a server no request can arrive, so there is no lame duck.
            self.transition(&mut life, LifecycleState::Draining);
        } else {
            self.transition(&mut life, LifecycleState::LameDuck);
        }
        Some(shutdown)
    }

    /// Logs the first transitions and notifies of them. Must be called after the driver has started, so
    /// that no observer and no log can delay the shutdown.
    pub(crate) fn tell_beginning(&self, shutdown: &Shutdown) {
        shutdown.spans.in_scope(|| self.log_beginning(shutdown));
        self.notify(BEGINNING);
    }

    fn log_beginning(&self, shutdown: &Shutdown) {
        let (reason, in_flight) = (shutdown.notice.reason(), shutdown.in_flight_at_trigger);
        let shutdown_timeout = self.config.shutdown_timeout;
        if self.is_starting_up() {
            tell!(info, %reason, in_flight, shutdown_timeout_ms = millis(shutdown_timeout), "rolling back the start-up");
        } else {
            let lame_duck = self.config.lame_duck;
            tell!(info, %reason, in_flight, lame_duck_ms = millis(lame_duck), shutdown_timeout_ms = millis(shutdown_timeout), "shutdown triggered");
            if self.servers.running() > 0 && !self.listener_waits() {
                tell!(
                    warn,
                    "a server is running, but nothing waits for `stop_accepting`: unless the server ends by itself, the drain lasts until its deadline"
                );
            }
        }
    }

    /// Ends admission for good, and notifies. Returns `false` if `shutdown` was called off.
    pub(crate) fn begin_draining(&self, shutdown: &Arc<Shutdown>) -> bool {
        let is_current = self.close(shutdown);
        self.tell_draining();
        is_current
    }

    pub(crate) fn tell_draining(&self) {
        self.notify(BEGINNING);
    }

    /// Like [`begin_draining`](Self::begin_draining), but notifies nobody.
    pub(crate) fn close(&self, shutdown: &Arc<Shutdown>) -> bool {
        let mut life = lock(&self.life);
        let current = life.shutdown.as_ref();
        let is_current = current.is_some_and(|current| Arc::ptr_eq(current, shutdown));
        if is_current {
            self.transition(&mut life, LifecycleState::Draining);
        }
        is_current
    }

    /// Calls the shutdown off if it is in the lame duck. Otherwise returns the current state.
    pub(crate) fn call_off(&self) -> Result<(), LifecycleState> {
        let mut life = lock(&self.life);
        let state = self.state();
        // A server that has ended cannot be started again here, so the shutdown has to go on.
        if state != LifecycleState::LameDuck || self.servers.one_has_ended() {
            return Err(state);
        }
        let Some(shutdown) = life.shutdown.take() else {
            return Err(state);
        };
        self.milestones()
            .take_back(event::TRIGGERED | LifecycleState::LameDuck.bit());
        self.gate.unshed();
        life.pending.push_back((state, LifecycleState::Running));
        shutdown.call_off();
        drop(life);
        #[cfg(feature = "signal")]
        self.listening.release();
        self.notify(0);
        shutdown
            .spans
            .in_scope(|| tell!(info, "shutdown called off"));
        shutdown.spans.close();
        Ok(())
    }

    /// Makes the transition to `next` if it is legal, and notifies.
    pub(crate) fn advance(&self, next: LifecycleState) -> bool {
        let moved = self.transition(&mut lock(&self.life), next);
        if moved {
            self.notify(next.bit());
        }
        moved
    }

    /// Ends the start-up, unless it is being rolled back.
    pub(crate) fn finish_startup(&self) -> bool {
        let mut life = lock(&self.life);
        if life.shutdown.is_some() {
            return false;
        }
        self.transition(&mut life, LifecycleState::Starting);
        let moved = self.transition(&mut life, LifecycleState::Running);
        drop(life);
        self.notify(LifecycleState::Starting.bit() | LifecycleState::Running.bit());
        moved
    }

    /// Makes the transition to `next` if it is legal, with its effect on the gate. Does not notify.
    fn transition(&self, life: &mut Life, next: LifecycleState) -> bool {
        let now = self.state();
        if !now.can_become(next) {
            return false;
        }
        let mut events = next.bit();
        match next {
            LifecycleState::LameDuck => self.gate.shed(),
            LifecycleState::Draining => {
                self.gate.begin_drain(self.config.serves_late());
                events |= self.closing_events();
            }
            _ => {}
        }
        self.milestones().publish(events);
        life.pending.push_back((now, next));
        true
    }

    /// Returns the events that are reached when the gate is closed for good.
    fn closing_events(&self) -> u32 {
        if self.config.refuse_for.is_zero() {
            event::CLOSED | event::STOP_ACCEPTING
        } else {
            event::CLOSED
        }
    }

    /// Notifies of pending transitions, and wakes the waiters for those of `events` that are still
    /// reached.
    pub(crate) fn notify(&self, events: u32) {
        // Work that ended between the closing and the publishing did not report that it ended.
        self.gate.scan();
        panic::contained(|| self.readiness.notify());
        // Observers first: a task that waits for the end may exit the process when it is woken. A
        // panic of an observer or of the log does not prevent wakeups.
        panic::contained(|| self.notify_observers());
        self.milestones().wake(events & self.milestones().reached());
    }

    pub(crate) fn observe(&self, observer: Observer) {
        let mut life = lock(&self.life);
        if life.pending.is_empty() && self.state().is_terminal() {
            // No transition is left, and the observer may hold the controller.
            drop(life);
            drop(observer);
            return;
        }
        life.observers.push(observer);
    }

    /// Notifies of each transition once and in order, outside the lock, on one thread at a time.
    fn notify_observers(&self) {
        let mut life = lock(&self.life);
        if life.notifying {
            return;
        }
        life.notifying = true;
        let reset = ResetNotifying(&self.life);
        while let Some((old, new)) = life.pending.pop_front() {
            let observers = life.observers.clone();
            let shutdown = life.shutdown.clone();
            drop(life);
            if let Some(shutdown) = shutdown {
                shutdown.spans.enter(new);
            }
            tell!(debug, from = %old, to = %new, "state changed");
            for observer in observers {
                if !panic::contained(|| observer(old, new)) {
                    tell!(error, from = %old, to = %new, "an observer of state changes panicked");
                }
                panic::dropped(observer);
            }
            life = lock(&self.life);
            if new.is_terminal() {
                // No transition is left, and the observers may hold the controller.
                let observers = mem::take(&mut life.observers);
                drop(life);
                observers.into_iter().for_each(panic::dropped);
                life = lock(&self.life);
            }
        }
        // Still under the lock that found nothing pending, so no transition is left to this thread.
        life.notifying = false;
        mem::forget(reset);
    }
}

/// Resets `Life::notifying` after a panic.
struct ResetNotifying<'a>(&'a Mutex<Life>);

impl Drop for ResetNotifying<'_> {
    fn drop(&mut self) {
        lock(self.0).notifying = false;
    }
}
