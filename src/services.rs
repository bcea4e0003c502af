//! What has been started, to be stopped again in reverse order.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::time::Duration;

use tracing::{info, warn};

use crate::cleanup::{Cleanup, Job, Progress};
use crate::outcome::{Outcome, ServiceReport};
use crate::sync::{Arc, Mutex, lock};

/// The services of one lifecycle, in the order in which they were started.
#[derive(Debug, Default)]
pub(crate) struct Services(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: Vec<Service>,
    /// How many calls of the start-up are starting some just now.
    steps_running: u32,
    /// They are being stopped, or were: what is started later has to be stopped by who started it.
    closed: bool,
}

#[derive(Debug)]
struct Service {
    name: Arc<str>,
    /// Those of one step are stopped at the same time.
    step: u32,
    status: Status,
    duration: Duration,
}

#[derive(Debug)]
enum Status {
    Starting,
    #[cfg_attr(not(feature = "health"), expect(dead_code, reason = "health shows it"))]
    NotStarted(String),
    Healthy(Stop),
    Stopping,
    Stopped(Outcome),
}

/// How a service is stopped.
pub(crate) struct Stop(pub(crate) Job);

/// How a service is, for whoever looks at its health.
#[cfg(feature = "health")]
#[derive(Debug, Clone)]
pub(crate) struct ServiceHealth {
    pub(crate) name: Arc<str>,
    pub(crate) status: &'static str,
    pub(crate) error: Option<String>,
}

// ===== impl Services =====

impl Services {
    /// Makes places for the services of one step; `Err` is the name that is taken.
    pub(crate) fn begin_step(&self, step: u32, names: &[Arc<str>]) -> Result<(), Arc<str>> {
        let mut inner = lock(&self.0);
        if !inner.closed {
            // What was not started, such as one that was dropped, may be tried again.
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
            duration: Duration::ZERO,
        }));
        inner.steps_running += 1;
        Ok(())
    }

    pub(crate) fn end_step(&self) {
        let mut inner = lock(&self.0);
        inner.steps_running -= 1;
        for service in &mut inner.services {
            if matches!(service.status, Status::Starting) {
                service.status = Status::NotStarted("its start was cut short".to_owned());
            }
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        lock(&self.0).steps_running > 0
    }

    /// Notes that a service is there; gives its stop back if it came too late to be stopped by us.
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

    /// Returns how many have been started.
    pub(crate) fn len(&self) -> usize {
        let inner = lock(&self.0);
        inner.services.iter().filter(|s| s.was_started()).count()
    }

    /// Stops what was started, in reverse order, the services of one step at the same time.
    pub(crate) async fn stop<C>(&self, cleanup: &mut Cleanup<'_, C>)
    where
        C: Future<Output = ()>,
    {
        let (order, phases) = self.take();
        let note = |place: usize, progress| self.note(order[place], progress);
        cleanup.run(phases, 0, note).await;
    }

    /// Takes the stops, with the places of their services.
    fn take(&self) -> (Vec<usize>, Vec<Vec<Job>>) {
        let mut inner = lock(&self.0);
        inner.closed = true;
        let mut order = Vec::new();
        // By their steps, the latest first.
        let mut phases: BTreeMap<Reverse<u32>, Vec<Job>> = BTreeMap::new();
        for (index, service) in inner.services.iter_mut().enumerate().rev() {
            match mem::replace(&mut service.status, Status::Stopped(Outcome::NotStarted)) {
                Status::Healthy(Stop(job)) => {
                    order.push(index);
                    phases.entry(Reverse(service.step)).or_default().push(job);
                }
                other => service.status = other,
            }
        }
        (order, phases.into_values().collect())
    }

    fn note(&self, index: usize, progress: Progress) {
        let mut inner = lock(&self.0);
        let service = &mut inner.services[index];
        match progress {
            Progress::Running => service.status = Status::Stopping,
            Progress::Ended(outcome, duration) => {
                service.status = Status::Stopped(outcome.clone());
                service.duration = duration;
                let name = Arc::clone(&service.name);
                drop(inner);
                log(&name, &outcome, duration);
            }
        }
    }

    /// Returns how the stops have fared, in their order; those that were not taken will not run.
    pub(crate) fn reports(&self) -> Vec<ServiceReport> {
        // What the stops hold is foreign: it is dropped outside the lock.
        drop(self.take());
        let inner = lock(&self.0);
        inner
            .services
            .iter()
            .rev()
            .filter_map(Service::report)
            .collect()
    }

    #[cfg(feature = "health")]
    pub(crate) fn health(&self) -> Vec<ServiceHealth> {
        lock(&self.0).services.iter().map(Service::health).collect()
    }
}

impl Inner {
    fn find(&mut self, name: &Arc<str>) -> Option<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == *name)
    }
}

fn log(service: &str, outcome: &Outcome, took: Duration) {
    if matches!(outcome, Outcome::Completed) {
        info!(service, ?took, "service stopped");
    } else {
        warn!(service, ?took, %outcome, "service did not stop well");
    }
}

// ===== impl Service =====

impl Service {
    fn was_started(&self) -> bool {
        !matches!(self.status, Status::Starting | Status::NotStarted(_))
    }

    fn report(&self) -> Option<ServiceReport> {
        let outcome = match &self.status {
            Status::Starting | Status::NotStarted(_) => return None,
            Status::Healthy(_) => Outcome::NotStarted,
            // Until there is more to report, it will have been cut.
            Status::Stopping => Outcome::Cut,
            Status::Stopped(outcome) => outcome.clone(),
        };
        Some(ServiceReport {
            name: Arc::clone(&self.name),
            outcome,
            duration: self.duration,
        })
    }

    #[cfg(feature = "health")]
    fn health(&self) -> ServiceHealth {
        let (status, error) = match &self.status {
            Status::Starting => ("starting", None),
            Status::NotStarted(cause) => ("failed", Some(cause.clone())),
            Status::Healthy(_) => ("healthy", None),
            Status::Stopping => ("stopping", None),
            Status::Stopped(Outcome::Completed) => ("stopped", None),
            Status::Stopped(outcome) => ("failed", Some(format!("stop {outcome}"))),
        };
        ServiceHealth {
            name: Arc::clone(&self.name),
            status,
            error,
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").finish_non_exhaustive()
    }
}
