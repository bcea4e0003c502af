//! The moves of the state: each is made under one lock, together with what belongs to it, and told
//! outside it.

use std::collections::VecDeque;
use std::time::Duration;

use super::Core;
use crate::in_flight::event;
use crate::log::tell;
use crate::panic;
use crate::shutdown::attempt::Shutdown;
use crate::shutdown::notice::ShutdownNotice;
use crate::shutdown::tasks::Role;
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, Mutex, lock};

/// What the first moves of a shutdown can have reached.
const BEGINNING: u32 = event::TRIGGERED
    | event::CLOSED
    | event::STOP_ACCEPTING
    | LifecycleState::LameDuck.bit()
    | LifecycleState::Draining.bit();

type Observer = Arc<dyn Fn(LifecycleState, LifecycleState) + Send + Sync>;

/// Every move of the state is made under its lock, together with what belongs to it: the gate turns,
/// and a shutdown is there or is called off.
#[derive(Default)]
pub(super) struct Life {
    /// The one under way, or over.
    pub(super) shutdown: Option<Arc<Shutdown>>,
    /// The moves that have been made and not yet told, and whom to tell.
    pending: VecDeque<(LifecycleState, LifecycleState)>,
    observers: Vec<Observer>,
    /// A thread is telling; it will tell what is added meanwhile, too.
    telling: bool,
}

// ===== impl Core =====

impl Core {
    /// Begins a shutdown, or the rollback of a start-up, with its first move; `None` if there is one.
    /// Whoever calls it has it driven, and then calls [`tell_beginning`](Self::tell_beginning).
    pub(crate) fn announce(&self, reason: ShutdownReason) -> Option<Arc<Shutdown>> {
        let runtime = self.capture_runtime().cloned();
        let mut life = lock(&self.life);
        if life.shutdown.is_some() {
            return None;
        }
        let in_flight = self.gate.in_flight();
        self.gate.forget_arrivals();
        let for_workers = match self.tasks.running(&[Role::Worker]) {
            0 => Duration::ZERO,
            _ => self.config.reserve_for_workers(),
        };
        let notice = ShutdownNotice::new(reason, &self.config, for_workers, runtime);
        let shutdown = Arc::new(Shutdown::new(notice, in_flight));
        // Readiness is red from here on, which is before any shard is closed.
        life.shutdown = Some(Arc::clone(&shutdown));
        self.milestones().publish(event::TRIGGERED);
        if self.is_starting_up() {
            // What has been started is stopped again: nothing new is admitted meanwhile.
            self.gate.close();
            self.milestones().publish(self.closing_events());
        } else if self.config.lame_duck.is_zero() || self.servers.have_ended() {
            // With no server left there is nobody to be a lame duck.
            self.make(&mut life, LifecycleState::Draining);
        } else {
            self.make(&mut life, LifecycleState::LameDuck);
        }
        Some(shutdown)
    }

    /// Tells of the first moves. Not before it is driven, so that no observer and no log can hold it
    /// up.
    pub(crate) fn tell_beginning(&self, shutdown: &Shutdown) {
        let (reason, in_flight) = (shutdown.notice.reason(), shutdown.in_flight_at_trigger);
        let shutdown_timeout = self.config.shutdown_timeout;
        if self.is_starting_up() {
            tell!(info, %reason, in_flight, ?shutdown_timeout, "rolling the start-up back");
        } else {
            let lame_duck = self.config.lame_duck;
            tell!(info, %reason, in_flight, ?lame_duck, ?shutdown_timeout, "shutdown triggered");
            if self.servers.running() > 0 && !self.listener_waits() {
                tell!(
                    warn,
                    "a server runs, and nobody has asked for `stop_accepting`: unless it ends by \
                     itself, the drain waits for it until its deadline"
                );
            }
        }
        self.tell(BEGINNING);
    }

    /// Sees to it that nothing is admitted any more; `false` if `shutdown` was called off.
    pub(crate) fn begin_draining(&self, shutdown: &Arc<Shutdown>) -> bool {
        let is_current = self.close(shutdown);
        self.tell_draining();
        is_current
    }

    pub(crate) fn tell_draining(&self) {
        self.tell(BEGINNING);
    }

    /// As [`begin_draining`](Self::begin_draining), without telling anybody.
    pub(crate) fn close(&self, shutdown: &Arc<Shutdown>) -> bool {
        let mut life = lock(&self.life);
        let current = life.shutdown.as_ref();
        let is_current = current.is_some_and(|current| Arc::ptr_eq(current, shutdown));
        if is_current {
            self.make(&mut life, LifecycleState::Draining);
        }
        is_current
    }

    /// Calls the shutdown off, if it is a lame duck; else gives the state that it has come to.
    pub(crate) fn call_off(&self) -> Result<(), LifecycleState> {
        let mut life = lock(&self.life);
        let state = self.state();
        // A server that has ended is not started again by this: its end was to be a shutdown.
        if state != LifecycleState::LameDuck || self.servers.one_has_ended() {
            return Err(state);
        }
        self.milestones()
            .take_back(event::TRIGGERED | LifecycleState::LameDuck.bit());
        self.gate.unshed();
        life.pending.push_back((state, LifecycleState::Running));
        if let Some(shutdown) = life.shutdown.take() {
            shutdown.call_off();
        }
        drop(life);
        #[cfg(feature = "signal")]
        self.listening.release();
        self.tell(0);
        tell!(info, "shutdown called off");
        Ok(())
    }

    /// Moves on to `next`, if that is legal, and tells everybody.
    pub(crate) fn advance(&self, next: LifecycleState) -> bool {
        let moved = self.make(&mut lock(&self.life), next);
        if moved {
            self.tell(next.bit());
        }
        moved
    }

    /// Ends the start-up, unless it is being rolled back.
    pub(crate) fn finish_startup(&self) -> bool {
        let mut life = lock(&self.life);
        if life.shutdown.is_some() {
            return false;
        }
        self.make(&mut life, LifecycleState::Starting);
        let moved = self.make(&mut life, LifecycleState::Running);
        drop(life);
        self.tell(LifecycleState::Starting.bit() | LifecycleState::Running.bit());
        moved
    }

    /// Makes a legal move, with what it means to the gate.
    fn make(&self, life: &mut Life, next: LifecycleState) -> bool {
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

    /// Returns what has come when the gate has been closed for good.
    fn closing_events(&self) -> u32 {
        match self.config.refuse_for.is_zero() {
            true => event::CLOSED | event::STOP_ACCEPTING,
            false => event::CLOSED,
        }
    }

    /// Tells of moves that were made, and wakes those who wait for any of `events`, if they are still
    /// reached.
    pub(crate) fn tell(&self, events: u32) {
        // Who left between the closing and the publishing did not announce it.
        self.gate.scan();
        panic::contained(|| self.readiness.notify());
        // Observers first: whoever waits for the end may end the process when it is woken. Whatever
        // they and the log do, those who wait are woken.
        panic::contained(|| self.tell_observers());
        self.milestones().wake(events & self.milestones().reached());
    }

    pub(crate) fn observe(&self, observer: Observer) {
        let mut life = lock(&self.life);
        if life.pending.is_empty() && self.state().is_terminal() {
            // There is nothing left to tell, and it may hold the controller.
            drop(life);
            return drop(observer);
        }
        life.observers.push(observer);
    }

    /// Tells each move once and in order, outside the lock, by one thread at a time.
    fn tell_observers(&self) {
        let mut life = lock(&self.life);
        if life.telling {
            return;
        }
        life.telling = true;
        let _done = Telling(&self.life);
        while let Some((old, new)) = life.pending.pop_front() {
            let observers = life.observers.clone();
            drop(life);
            tell!(debug, from = %old, to = %new, "state changed");
            for observer in observers {
                if !panic::contained(|| observer(old, new)) {
                    tell!(error, from = %old, to = %new, "an observer of state changes panicked");
                }
                panic::dropped(observer);
            }
            life = lock(&self.life);
            if new.is_terminal() {
                // There is nothing left to tell, and they may hold the controller.
                let observers = std::mem::take(&mut life.observers);
                drop(life);
                observers.into_iter().for_each(panic::dropped);
                life = lock(&self.life);
            }
        }
        drop(life);
    }
}

/// Lets others tell again, on whatever path.
struct Telling<'a>(&'a Mutex<Life>);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        lock(self.0).telling = false;
    }
}
