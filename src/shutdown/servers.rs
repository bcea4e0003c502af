//! Counts of the server futures that `run` polls.

use std::error::Error;

use crate::sync::{Arc, Mutex, lock};

/// The error that a server ended with.
pub(crate) type ServerError = Arc<dyn Error + Send + Sync>;

/// How many servers run and have run, and the errors that they ended with.
#[derive(Default)]
pub(crate) struct Servers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    begun: u64,
    running: u64,
    /// How many were dropped by the end of their runtime.
    killed: u64,
    errors: Vec<ServerError>,
}

impl Servers {
    pub(crate) fn begin(&self) {
        let mut servers = lock(&self.0);
        servers.begun += 1;
        servers.running += 1;
    }

    pub(crate) fn end(&self, error: Option<ServerError>) {
        let mut servers = lock(&self.0);
        servers.running -= 1;
        servers.errors.extend(error);
    }

    /// Returns whether there were servers and all of them have ended.
    pub(crate) fn have_ended(&self) -> bool {
        let servers = lock(&self.0);
        servers.begun > 0 && servers.running == 0
    }

    /// Returns whether any server has ended.
    pub(crate) fn one_has_ended(&self) -> bool {
        let servers = lock(&self.0);
        servers.running < servers.begun
    }

    pub(crate) fn running(&self) -> u64 {
        lock(&self.0).running
    }

    /// Records that a server was dropped by the end of its runtime, during a shutdown.
    pub(crate) fn end_killed(&self) {
        let mut servers = lock(&self.0);
        servers.running -= 1;
        servers.killed += 1;
    }

    /// Returns how many are running, or were dropped by the end of their runtime.
    pub(crate) fn abandoned(&self) -> u64 {
        let servers = lock(&self.0);
        servers.running + servers.killed
    }

    pub(crate) fn errors(&self) -> Vec<ServerError> {
        lock(&self.0).errors.clone()
    }
}
