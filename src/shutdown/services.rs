//! The services that were started. They are stopped in reverse order.

use std::fmt;
use std::future::{Future, ready};
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::cleanup::{Cleanup, Job, Note, Progress};
use super::outcome::{Outcome, ServiceReport};
use crate::log::{millis, tell};
use crate::panic;
use crate::sync::{Arc, Mutex, lock};

/// The services of one lifecycle, in the order in which they were started.
#[derive(Debug, Default)]
pub(crate) struct Services(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: Vec<Service>,
    /// How many steps of the start-up are starting services now.
    steps_running: u32,
    /// When the current step ends at the latest. `None` if it has no limit, or there is no step.
    step_deadline: Option<Instant>,
    /// `true` once the stops have begun, or the shutdown is given up. The caller has to stop a service that it
    /// starts later.
    closed: bool,
}

#[derive(Debug)]
struct Service {
    name: Arc<str>,
    /// The services of one step are stopped at the same time.
    step: u32,
    status: Status,
}

#[derive(Debug)]
enum Status {
    Starting,
    #[cfg_attr(not(feature = "health"), expect(dead_code, reason = "health shows it"))]
    NotStarted(String),
    Healthy(Stop),
    Stopping {
        stop: Stop,
        since: Instant,
    },
    /// How the stop ended, and how long it took.
    Stopped(Outcome, Duration),
}

/// The stops that run at the same time.
#[derive(Default)]
struct Stops {
    jobs: Vec<Job>,
    /// The indexes of their services.
    order: Vec<usize>,
    steps_before: Vec<u32>,
}

/// The stop of a service. It is kept until it begins, even if the task that was to begin it is dropped.
#[derive(Clone)]
pub(crate) struct Stop(Arc<Mutex<Option<Job>>>);

/// The status of a service, for health reports.
#[cfg(feature = "health")]
#[derive(Debug, Clone)]
pub(crate) struct ServiceHealth {
    pub(crate) name: Arc<str>,
    pub(crate) status: &'static str,
    pub(crate) error: Option<String>,
}

// ===== impl Services =====

impl Services {
    /// Adds the services of one step, as starting, which takes `limit` at most. Returns the name as an
    /// error if it is taken.
    pub(crate) fn begin_step(
        &self,
        step: u32,
        names: &[Arc<str>],
        limit: Option<Duration>,
    ) -> Result<(), Arc<str>> {
        let mut inner = lock(&self.0);
        if !inner.closed {
            // A service that was not started may be started again.
            inner.services.retain(|service| {
                !matches!(service.status, Status::NotStarted(_)) || !names.contains(&service.name)
            });
        }
        let taken = |name: &Arc<str>, before: &[Arc<str>]| {
            before.contains(name) || inner.services.iter().any(|other| other.name == *name)
        };
        for (index, name) in names.iter().enumerate() {
            if taken(name, &names[..index]) {
                return Err(Arc::clone(name));
            }
        }
        inner.services.extend(names.iter().map(|name| Service {
            name: Arc::clone(name),
            step,
            status: Status::Starting,
        }));
        inner.steps_running += 1;
        inner.step_deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        Ok(())
    }

    pub(crate) fn end_step(&self) {
        let mut inner = lock(&self.0);
        inner.steps_running -= 1;
        inner.step_deadline = None;
        for service in &mut inner.services {
            if matches!(service.status, Status::Starting) {
                service.status = Status::NotStarted("its start was cut short".to_owned());
            }
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        lock(&self.0).steps_running > 0
    }

    /// Returns how long the current step of the start-up takes from now, at most. Returns `None` if it has no
    /// limit, or there is no step.
    #[cfg(all(unix, feature = "systemd"))]
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let deadline = lock(&self.0).step_deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns how many services are being started.
    pub(crate) fn starting(&self) -> u64 {
        let inner = lock(&self.0);
        let starting = |service: &&Service| matches!(service.status, Status::Starting);
        inner.services.iter().filter(starting).count() as u64
    }

    /// Records that a service was started. Returns its stop if the stops have already begun.
    pub(crate) fn started(&self, name: &Arc<str>, stop: Stop) -> Result<(), Stop> {
        let mut inner = lock(&self.0);
        if inner.closed {
            return Err(stop);
        }
        if let Some(service) = inner.find(name) {
            service.status = Status::Healthy(stop);
        }
        Ok(())
    }

    pub(crate) fn failed(&self, name: &Arc<str>, cause: String) {
        if let Some(service) = lock(&self.0).find(name) {
            service.status = Status::NotStarted(cause);
        }
    }

    /// Returns whether the stop of a service has begun or ended.
    pub(crate) fn stop_has_begun(&self, name: &str) -> bool {
        let inner = lock(&self.0);
        let mut services = inner.services.iter();
        services.any(|service| {
            let has_begun = matches!(
                service.status,
                Status::Stopping { .. } | Status::Stopped(..)
            );
            has_begun && *service.name == *name
        })
    }

    /// Returns how many services are running.
    pub(crate) fn len(&self) -> usize {
        let inner = lock(&self.0);
        inner.services.iter().filter(|s| s.is_running()).count()
    }

    /// Takes the stops of the latest running step, or of all steps, and collects the steps before it.
    fn take(&self, all: bool) -> Option<Stops> {
        let mut inner = lock(&self.0);
        inner.closed = true;
        let waiting = inner.services.iter().enumerate().rev();
        let waiting = waiting.filter_map(|(index, s)| Some((index, s.step, s.stop()?)));
        let mut waiting = waiting.peekable();
        let last = waiting.peek()?.1;
        let mut stops = Stops::default();
        for (index, step, stop) in waiting {
            if all || step == last {
                stops.order.push(index);
                stops.jobs.push(stop.job());
            } else {
                if !stops.steps_before.contains(&step) {
                    stops.steps_before.push(step);
                }
            }
        }
        Some(stops)
    }

    /// Stops the services in reverse order. The services of one step are stopped at the same time.
    pub(super) async fn stop<C>(self: &Arc<Self>, cleanup: &mut Cleanup<'_, C>)
    where
        C: Future<Output = ()>,
    {
        // One step at a time: if the runtime ends, the next driver runs the remaining stops.
        while !cleanup.was_cut() {
            let Some(stops) = self.take(cleanup.is_out_of_time()) else {
                return;
            };
            let (order, services) = (stops.order, Arc::clone(self));
            let note: Note = Arc::new(move |place, progress| services.note(order[place], progress));
            let later = stops.steps_before.len();
            cleanup.run(vec![stops.jobs], later, &note).await;
        }
    }

    fn note(&self, index: usize, progress: Progress) {
        let mut inner = lock(&self.0);
        let service = &mut inner.services[index];
        match (progress, &service.status) {
            (Progress::Running, Status::Healthy(stop)) => {
                service.status = Status::Stopping {
                    stop: stop.clone(),
                    since: Instant::now(),
                };
            }
            (Progress::Ended(outcome, duration), Status::Stopping { .. }) => {
                let stopped = Status::Stopped(outcome.clone(), duration);
                let stopping = mem::replace(&mut service.status, stopped);
                let name = Arc::clone(&service.name);
                drop(inner);
                // A stop that was never polled still holds user code, which is dropped outside the lock.
                panic::dropped(stopping);
                log(name, outcome, duration);
            }
            // Already recorded.
            _ => {}
        }
    }

    /// Leaves a service that is started from now on to its caller, which has to stop it. Returns the names of
    /// those that were started and whose stop has not begun.
    pub(crate) fn close(&self) -> Vec<Arc<str>> {
        let mut inner = lock(&self.0);
        inner.closed = true;
        let waiting = inner.services.iter().rev();
        let waiting = waiting.filter(|service| service.stop().is_some());
        waiting.map(|service| Arc::clone(&service.name)).collect()
    }

    /// Returns the reports of the stops, in their order. Stops that have not begun will not run.
    pub(crate) fn reports(&self) -> Vec<ServiceReport> {
        let inner = lock(&self.0);
        let services = &inner.services;
        let reports = services.iter().rev().filter_map(Service::report).collect();
        let stops: Vec<_> = services.iter().filter_map(|s| s.stop().cloned()).collect();
        drop(inner);
        // The stops hold user code, which is dropped outside the lock.
        stops.iter().filter_map(Stop::take).for_each(panic::dropped);
        reports
    }

    #[cfg(feature = "health")]
    pub(crate) fn health(&self) -> Vec<ServiceHealth> {
        let services: Vec<_> = {
            let inner = lock(&self.0);
            inner.services.iter().map(Service::health).collect()
        };
        // Formatting an error runs user code, so it happens outside the lock.
        let health = |(name, status, start_error, stopped): (_, _, _, Option<Outcome>)| {
            let stop_error = || stopped.map(|outcome| format!("stop {outcome}"));
            let error = Option::or_else(start_error, stop_error);
            ServiceHealth {
                name,
                status,
                error,
            }
        };
        services.into_iter().map(health).collect()
    }
}

impl Inner {
    fn find(&mut self, name: &Arc<str>) -> Option<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == *name)
    }
}

fn log(service: Arc<str>, outcome: Outcome, took: Duration) {
    if matches!(outcome, Outcome::Completed) {
        tell!(
            info,
            service = &*service,
            took_ms = millis(took),
            "service stopped"
        );
    } else {
        tell!(warn, service = &*service, took_ms = millis(took), %outcome, "service failed to stop");
    }
}

// ===== impl Service =====

impl Service {
    fn is_running(&self) -> bool {
        matches!(self.status, Status::Healthy(_) | Status::Stopping { .. })
    }

    /// Returns the stop, if it has not begun.
    fn stop(&self) -> Option<&Stop> {
        match &self.status {
            Status::Healthy(stop) | Status::Stopping { stop, .. } => {
                Some(stop).filter(|s| s.is_pending())
            }
            _ => None,
        }
    }

    fn report(&self) -> Option<ServiceReport> {
        let (outcome, duration) = match &self.status {
            Status::NotStarted(_) => return None,
            // The start blocks its thread, or is no longer polled.
            Status::Starting => (Outcome::Abandoned, Duration::ZERO),
            _ if self.stop().is_some() => (Outcome::NotStarted, Duration::ZERO),
            // Counts as cut until the stop reports its end.
            Status::Healthy(_) => (Outcome::Cut, Duration::ZERO),
            Status::Stopping { since, .. } => (Outcome::Cut, since.elapsed()),
            Status::Stopped(outcome, duration) => (outcome.clone(), *duration),
        };
        Some(ServiceReport {
            name: Arc::clone(&self.name),
            outcome,
            duration,
        })
    }

    /// Returns the name, the status, and the error of the start or the stop.
    #[cfg(feature = "health")]
    fn health(&self) -> (Arc<str>, &'static str, Option<String>, Option<Outcome>) {
        let (status, start_error, stopped) = match &self.status {
            Status::Starting => ("starting", None, None),
            Status::NotStarted(cause) => ("failed", Some(cause.clone()), None),
            Status::Healthy(_) => ("healthy", None, None),
            Status::Stopping { .. } => ("stopping", None, None),
            Status::Stopped(Outcome::Completed, _) => ("stopped", None, None),
            Status::Stopped(outcome, _) => ("failed", None, Some(outcome.clone())),
        };
        (Arc::clone(&self.name), status, start_error, stopped)
    }
}

// ===== impl Stop =====

impl Stop {
    pub(crate) fn new(job: Job) -> Self {
        Self(Arc::new(Mutex::new(Some(job))))
    }

    fn is_pending(&self) -> bool {
        lock(&self.0).is_some()
    }

    pub(crate) fn take(&self) -> Option<Job> {
        lock(&self.0).take()
    }

    /// Creates a job that takes the stop when it begins.
    fn job(&self) -> Job {
        let stop = self.clone();
        Job {
            timeout: lock(&self.0).as_ref().and_then(|job| job.timeout),
            run: Box::new(move |notice| match stop.take() {
                Some(job) => (job.run)(notice),
                None => Box::pin(ready(Ok(()))),
            }),
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").finish_non_exhaustive()
    }
}
