//! Services that record when they are started and stopped.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_lifecycle::report::ServiceReport;
use tower_lifecycle::{BoxError, LifecycleState, Startup};

use super::shutdown::{ms, ten_seconds};

pub type Name = &'static str;
pub type Stopping = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

pub fn startup() -> Startup {
    Startup::new(ten_seconds()).unwrap()
}

/// How a stop behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    After(u64),
    Errs,
    Panics,
    Hangs,
}

/// What happened, in order, and when.
#[derive(Clone)]
pub struct Log {
    entries: Arc<Mutex<Vec<(String, Duration)>>>,
    since: Instant,
}

impl Log {
    pub fn new() -> Self {
        Self {
            entries: Arc::default(),
            since: Instant::now(),
        }
    }

    pub fn note(&self, what: impl Into<String>) {
        let entry = (what.into(), self.since.elapsed());
        self.entries.lock().unwrap().push(entry);
    }

    /// A start that takes `takes` milliseconds, and records `+name` at its end.
    pub fn up(
        &self,
        name: Name,
        takes: u64,
    ) -> impl Future<Output = Result<Name, BoxError>> + use<> {
        let log = self.clone();
        async move {
            if takes > 0 {
                sleep(ms(takes)).await;
            }
            log.note(format!("+{name}"));
            Ok(name)
        }
    }

    /// A stop that records `-name` when it begins.
    pub fn down(&self, how: Stop) -> impl FnOnce(Name) -> Stopping + Send + use<> {
        let log = self.clone();
        move |name| {
            log.note(format!("-{name}"));
            Box::pin(async move {
                match how {
                    Stop::After(0) => Ok(()),
                    Stop::After(takes) => {
                        sleep(ms(takes)).await;
                        Ok(())
                    }
                    Stop::Errs => Err(format!("{name} does not close").into()),
                    Stop::Panics => panic!("scripted: {name} panics"),
                    Stop::Hangs => pending().await,
                }
            })
        }
    }

    /// Starts a service whose start and stop complete immediately.
    pub async fn start(&self, startup: &mut Startup, name: Name) {
        self.start_with(startup, name, Stop::After(0)).await;
    }

    pub async fn start_with(&self, startup: &mut Startup, name: Name, stop: Stop) {
        let started = startup.start(name, self.up(name, 0), self.down(stop)).await;
        assert_eq!(started.unwrap(), name);
    }

    pub fn entries(&self) -> Vec<(String, Duration)> {
        self.entries.lock().unwrap().clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.entries().into_iter().map(|(what, _)| what).collect()
    }

    /// Records every change of the state as `old -> new`.
    pub fn observe(&self, startup: &Startup) {
        let log = self.clone();
        startup
            .controller()
            .on_state_change(move |old: LifecycleState, new| log.note(format!("{old} -> {new}")));
    }
}

pub fn outcomes(services: &[ServiceReport]) -> Vec<String> {
    let outcome = |service: &ServiceReport| format!("{}: {}", service.name(), service.outcome());
    services.iter().map(outcome).collect()
}

/// Like `outcomes`, with the time that each took.
pub fn timed_outcomes(services: &[ServiceReport]) -> Vec<String> {
    let outcome = |service: &ServiceReport| {
        let (name, outcome) = (service.name(), service.outcome());
        format!("{name}: {outcome} {:?}", service.duration())
    };
    services.iter().map(outcome).collect()
}
