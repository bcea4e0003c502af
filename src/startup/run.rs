//! Running all starts of one step at the same time.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::step::{AnyStep, Started};
use crate::controller::ShutdownController;
use crate::log::tell;
use crate::panic;
use crate::shutdown::{Core, Outcome, Stop};
use crate::shutdown::{StartupCause, StartupFailure};
use crate::spawn;
use crate::sync::Arc;

/// Starts all services of one step at the same time. At the first failure, drops the other starts and
/// returns that failure.
pub(super) async fn run_all(
    ctl: &ShutdownController,
    steps: Vec<AnyStep<'_>>,
) -> Result<(), StartupFailure> {
    let mut running: Vec<_> = (steps.into_iter())
        .map(|step| Some(Box::pin(step.run(ctl))))
        .collect();
    poll_fn(|cx| {
        let mut is_pending = false;
        for place in &mut running {
            let Some(step) = place else { continue };
            match step.as_mut().poll(cx) {
                Poll::Pending => is_pending = true,
                Poll::Ready(Ok(())) => *place = None,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            }
        }
        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    })
    .await
}

impl AnyStep<'_> {
    async fn run(self, ctl: &ShutdownController) -> Result<(), StartupFailure> {
        let Self { name, run, timeout } = self;
        let core = ctl.core();
        let cause = match panic::caught(within(timeout, run)).await {
            Ok(Ok(Ok(Started {
                stop,
                watch,
                cloned,
            }))) => {
                // Begun before the service counts as started, so that an immediate end is not missed.
                let (stop, watched) = match watch {
                    Some(watch) => watch.begin(ctl, &name, stop),
                    None => (stop, Ok(())),
                };
                let started = core.services.started(&name, Stop::new(stop));
                let service = Arc::clone(&name);
                tell!(info, service = &*service, "service started");
                if let Err(stop) = started {
                    stop_now(core, Arc::clone(&name), &stop);
                }
                let cloned =
                    cloned.map_err(|panic| StartupCause::Panicked(panic::into_message(panic)));
                return cloned.and(watched).map_err(|cause| StartupFailure {
                    step: Some(name),
                    cause,
                });
            }
            Ok(Ok(Err(error))) => match panic::caught(async { Outcome::of(Err(error)) }).await {
                Ok(Outcome::Failed(error)) => StartupCause::Failed(error),
                Ok(_) => StartupCause::Dropped,
                Err(panic) => StartupCause::Panicked(panic::into_message(panic)),
            },
            Ok(Err(limit)) => StartupCause::TimedOut(limit),
            Err(panic) => StartupCause::Panicked(panic::into_message(panic)),
        };
        core.services.failed(&name, cause.chain());
        Err(StartupFailure {
            step: Some(name),
            cause,
        })
    }
}

/// Waits for `future`, for at most `limit`. Returns `Err(limit)` if that time has passed.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Result<F::Output, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}

/// Stops a service whose start blocked its thread until the rollback had stopped waiting for it.
///
/// The stop runs in its own task, because the caller has already received its error.
fn stop_now(core: &Core, name: Arc<str>, stop: &Stop) {
    // The caller may poll the start outside the runtime.
    let runtime = Handle::try_current().ok();
    let runtime = runtime.or_else(|| core.capture_runtime().cloned());
    let (Some(notice), Some(runtime), Some(job)) = (core.notice(), runtime, stop.take()) else {
        return;
    };
    let service = Arc::clone(&name);
    let limit = job.timeout.unwrap_or_else(|| core.config.reserve());
    spawn::task(&runtime, async move {
        let stop = async move { timeout(limit, (job.run)(notice)).await };
        if !matches!(panic::caught(stop).await, Ok(Ok(Ok(())))) {
            tell!(warn, service = &*name, "service failed to stop");
        }
    });
    tell!(
        warn,
        service = &*service,
        "service started too late: stopping it"
    );
}
