//! Who drives a shutdown: a task of the controller's runtime, or a thread.

use tracing::{error, info, warn};

use crate::core::Core;
use crate::gate::interest;
use crate::hooks;
use crate::milestones::event;
use crate::report::ShutdownReport;
use crate::sequence::{Account, shut_down};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, AtomicBool, Ordering};

/// Has the shutdown run by the controller's runtime, or by a thread of its own, if there is no
/// runtime or it has ended.
pub(crate) fn drive(core: Arc<Core>) {
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
            log_end(&report);
            core.finish(report);
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
