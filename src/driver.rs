//! Who drives a shutdown: a task of the controller's runtime, or a thread. And who watches that it
//! ends.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::core::Core;
use crate::gate::interest;
use crate::hooks;
use crate::milestones::event;
use crate::notice::ShutdownNotice;
use crate::report::ShutdownReport;
use crate::sequence::{Account, shut_down};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::wait::Wait;

/// How long after its final deadline a shutdown is given up.
const LATE: Duration = Duration::from_millis(50);

/// Has the shutdown run by the controller's runtime, or by a thread of its own, if there is no
/// runtime or it has ended.
pub(crate) fn drive(core: Arc<Core>) {
    watch(Arc::clone(&core));
    match core.capture_runtime().cloned() {
        Some(runtime) => {
            let taken = Arc::new(AtomicBool::new(false));
            let driver = Driver {
                core,
                taken: Arc::clone(&taken),
            };
            // A runtime that has ended drops the task inside `spawn`: see `Driver::drop`.
            drop(runtime.spawn(driver.run()));
            // Relaxed: a flag of this thread's, for the drop that happens inside the call above.
            taken.store(true, Ordering::Relaxed);
        }
        None => drive_by_thread(core),
    }
}

/// Gives the shutdown up when it is overdue. In a thread of its own, for a runtime whose workers are
/// all blocked has no timer either.
fn watch(core: Arc<Core>) {
    if core
        .notice()
        .and_then(ShutdownNotice::final_deadline)
        .is_none()
    {
        return;
    }
    let thread = thread::Builder::new().name("tower-lifecycle-watch".to_owned());
    if let Err(cause) = thread.spawn(move || give_up_when_overdue(&core)) {
        error!(%cause, "no thread to watch the deadline");
    }
}

fn give_up_when_overdue(core: &Arc<Core>) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut stopped: Wait = Wait::new(core, event::STOPPED);
    let mut overdue_since = None;
    while Pin::new(&mut stopped).poll(&mut cx).is_pending() {
        // By the clock of the shutdown, which may be paused; what is left then is the longest sleep.
        let left = core.notice().and_then(ShutdownNotice::time_remaining);
        let left = left.unwrap_or_default();
        if left.is_zero() {
            let overdue = overdue_since.get_or_insert_with(Instant::now).elapsed();
            if overdue >= LATE {
                return give_up(core);
            }
            thread::park_timeout(LATE - overdue);
        } else {
            thread::park_timeout(left);
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

fn drive_by_thread(core: Arc<Core>) {
    let taken = Arc::new(AtomicBool::new(true));
    let driver = Driver { core, taken };
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(driver.run()),
            Err(cause) => error!(%cause, "no runtime for the shutdown"),
        }
    };
    let thread = std::thread::Builder::new().name("tower-lifecycle".to_owned());
    if let Err(cause) = thread.spawn(run) {
        error!(%cause, "no thread for the shutdown");
    }
}

/// Lives as long as the shutdown is driven. If that ends early, because its runtime does, those who
/// wait are told so instead of waiting for ever.
struct Driver {
    core: Arc<Core>,
    /// The runtime was there to take the task.
    taken: Arc<AtomicBool>,
}

impl Driver {
    async fn run(self) {
        self.taken.store(true, Ordering::Relaxed);
        let core = &self.core;
        if let Some(notice) = core.notice() {
            let report = shut_down(core, notice).await;
            if core.claim_report() {
                log_end(&report);
                core.finish(report);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.core.report().is_some() {
            return;
        }
        if self.taken.load(Ordering::Relaxed) {
            give_up(&self.core);
        } else {
            drive_by_thread(Arc::clone(&self.core));
        }
    }
}

/// Ends a shutdown that is driven no more, or not in time: cuts what there is, and tells those who
/// wait. Hooks that have not run will not.
pub(crate) fn give_up(core: &Core) {
    let Some(notice) = core.notice() else {
        return;
    };
    if core.report().is_some() {
        return;
    }
    let mut account = Account::open(notice);
    account.reason = ShutdownReason::Interrupted;
    account.interrupted = true;
    core.cut();
    for shard in core.gate.shards() {
        shard.wake_all(interest::CLOSED | interest::FORCED);
    }
    account.note_abandoned(core);
    account.close_phase(core.state());
    core.milestones().reach(event::STOP_ACCEPTING);
    core.advance(LifecycleState::Stopping);
    if !core.claim_report() {
        return;
    }
    let mut hooks = core.hooks.reports();
    hooks.extend(hooks::not_started(&core.hooks.take()));
    let report = account.report(core, hooks);
    log_end(&report);
    core.finish(report);
}

fn log_end(report: &ShutdownReport) {
    let (reason, took) = (report.reason(), report.duration());
    let (aborted, abandoned) = (report.aborted(), report.abandoned());
    if report.is_graceful() {
        info!(%reason, ?took, "shutdown complete");
    } else {
        let forced = report.is_forced();
        warn!(%reason, ?took, forced, aborted, abandoned, "shutdown not graceful");
    }
}
