//! Drives a shutdown, by a task of the controller's runtime or by a thread. Another thread watches that
//! it ends in time.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeFlavor;

use super::attempt::Shutdown;
use super::core::{Core, ENDED, mark_driver_thread};
use super::exit;
use super::race::race;
use super::report::ShutdownReport;
use super::sequence::{Record, roll_back, shut_down};
use super::wait::Wait;
use crate::in_flight::{event, interest, runtime_is_ending};
use crate::log::tell;
use crate::spawn::{self, Boxed};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, AtomicBool, Ordering};

/// How long after its final deadline a shutdown is given up.
const GRACE: Duration = Duration::from_millis(50);
/// How often the runtime is woken. If a worker is blocked, a limit can be late by this much.
const WAKE_INTERVAL: Duration = Duration::from_millis(10);

/// Runs the shutdown on the controller's runtime. Without a runtime, or if it has ended, the shutdown
/// runs on its own thread.
pub(crate) fn drive(core: &Arc<Core>, shutdown: &Arc<Shutdown>) {
    #[cfg(feature = "signal")]
    core.listening.absorb();
    watch(core, shutdown);
    if let Some(after) = core.config.exit_after {
        exit::guard(shutdown, after);
    }
    match core.capture_runtime().cloned() {
        Some(runtime) => {
            let spawned = Arc::new(AtomicBool::new(false));
            let driver = Driver {
                core: Arc::clone(core),
                shutdown: Arc::clone(shutdown),
                spawned: Arc::clone(&spawned),
                is_last: false,
            };
            // A runtime that has ended drops the task inside `spawn`; see `Driver::drop`.
            drop(spawn::boxed(&runtime, driver.run()));
            // Relaxed: `Driver::drop` reads it. Only a drop inside the call above must see `false`, and
            // that is on this thread.
            spawned.store(true, Ordering::Relaxed);
        }
        None => {
            drop(drive_by_thread(core, shutdown));
        }
    }
}

/// Ensures that the shutdown ends in time. Uses a separate thread, because the timers of a runtime do not
/// fire while all of its workers are blocked.
fn watch(core: &Arc<Core>, shutdown: &Arc<Shutdown>) {
    let (watched, watching) = (Arc::clone(core), Arc::clone(shutdown));
    let watch = move || watch_until_over(&watched, &watching);
    if let Err(cause) = spawn::thread("tower-lifecycle-watch", watch) {
        shutdown.stop_pulse();
        tell!(error, %cause, "cannot start a thread to watch the deadline");
    }
}

fn watch_until_over(core: &Arc<Core>, shutdown: &Arc<Shutdown>) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let ended: Wait = Wait::new(core, ENDED);
    let mut over = pin!(race(ended, shutdown.called_off()));
    let mut overdue_since = None;
    while over.as_mut().poll(&mut cx).is_pending() {
        wake_runtime(core);
        let notice = shutdown.notice.clone().later_by(shutdown.frozen());
        // By the clock of the shutdown, which may be paused.
        if notice.time_remaining() == Some(Duration::ZERO) {
            let overdue_since = overdue_since.get_or_insert_with(Instant::now);
            if overdue_since.elapsed() >= GRACE {
                give_up(core, shutdown);
                return;
            }
        }
        thread::park_timeout(WAKE_INTERVAL);
    }
}

/// Makes an idle worker of the runtime process its timers. Tokio leaves them to the worker that processed
/// them last, even if a task that it woke blocks that worker.
fn wake_runtime(core: &Core) {
    if let Some(runtime) = core.capture_runtime() {
        if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
            drop(spawn::task(runtime, async {}));
        }
    }
}

/// A waker for a thread that parks.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn drive_by_thread(core: &Arc<Core>, shutdown: &Arc<Shutdown>) -> Option<JoinHandle<()>> {
    let driver = Driver {
        core: Arc::clone(core),
        shutdown: Arc::clone(shutdown),
        spawned: Arc::new(AtomicBool::new(true)),
        is_last: true,
    };
    let run = move || {
        mark_driver_thread();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(driver.run()),
            Err(cause) => tell!(error, %cause, "cannot create a runtime for the shutdown"),
        }
    };
    spawn::thread("tower-lifecycle", run)
        .map_err(|cause| tell!(error, %cause, "cannot start a thread for the shutdown"))
        .ok()
}

/// The future that drives the shutdown. If it is dropped early because its runtime ends, the shutdown goes
/// on in a thread or is given up, so that nothing waits for it forever.
struct Driver {
    core: Arc<Core>,
    shutdown: Arc<Shutdown>,
    /// `true` if the runtime accepted the task.
    spawned: Arc<AtomicBool>,
    /// `true` if no other driver can continue after this one.
    is_last: bool,
}

impl Driver {
    /// Boxed, so that the code of the whole sequence exists once, and not for each way to run it.
    fn run(self) -> Boxed {
        Box::pin(async move { self.shutdown.spans.instrument(self.drive()).await })
    }

    async fn drive(&self) {
        let Self { core, shutdown, .. } = self;
        let report = if core.is_starting_up() {
            roll_back(core, shutdown).await
        } else {
            match shut_down(core, shutdown).await {
                Some(report) => report,
                None => return,
            }
        };
        finish(core, report);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Self { core, shutdown, .. } = &*self;
        if core.report().is_some() || shutdown.is_called_off() {
            return;
        }
        let spawned = self.spawned.load(Ordering::Relaxed);
        if self.is_last || (spawned && !core.is_starting_up()) {
            give_up(core, shutdown);
            return;
        }
        // A `Startup` is often dropped right before its runtime, when `main` returns an error, or with it.
        // The runtime, and so the process, does not end until the remaining services are stopped.
        let is_waited_for = core.is_starting_up() && (spawned || runtime_is_ending());
        if is_waited_for && !core.milestones().has(event::CLEANUP) {
            // What is left on that runtime will not run any more, and is dropped after this.
            core.interrupt();
        }
        let thread = drive_by_thread(core, shutdown);
        if let Some(thread) = thread.filter(|_| is_waited_for) {
            let _ = thread.join();
        }
    }
}

/// Ends a shutdown that is no longer driven, or is overdue. Cuts the remaining work, and wakes the waiters.
/// Hooks that have not run are not started.
fn give_up(core: &Core, shutdown: &Arc<Shutdown>) {
    if core.report().is_some() || !core.begin_draining(shutdown) {
        return;
    }
    let mut record = Record::new(shutdown);
    record.reason = ShutdownReason::Interrupted;
    record.interrupted = true;
    let aborted = core.gate.aborted();
    let in_flight = core.interrupt();
    for shard in core.gate.all_shards() {
        shard.wake_all(interest::CLOSED | interest::DRAINING | interest::FORCED);
    }
    record.note_abandoned(core, in_flight, aborted);
    record.close_phase(core.state());
    core.milestones()
        .reach(event::STOP_ACCEPTING | event::CLOSE_ADMIN);
    core.advance(LifecycleState::Stopping);
    for service in core.services.close() {
        tell!(warn, service = &*service, "service not stopped");
    }
    finish(core, record.report(core));
}

/// Publishes the report, unless another one was published first.
fn finish(core: &Core, report: ShutdownReport) {
    if core.claim_report() {
        core.finish(report);
    }
}
