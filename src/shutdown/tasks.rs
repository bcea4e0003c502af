//! Named background tasks: plain ones, workers and admin servers, and what is watched of services.
//!
//! They are counted apart from requests. Each has a policy for its end, and is named in health and
//! in the report when it ends badly.

mod ends;
mod policy;

pub use self::policy::TaskPolicy;

pub(crate) use self::policy::Policies;

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::task::AbortHandle;

use self::ends::Ends;
use super::attempt::Shutdown;
use super::outcome::{Outcome, TaskReport};
#[cfg(feature = "health")]
use super::services::ServiceHealth;
#[cfg(feature = "health")]
use crate::error::Chain;
use crate::sync::{Arc, Mutex, lock};

/// The tasks of one lifecycle.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<u64, Running>,
    /// How many of each role are running.
    counts: [u64; Role::COUNT],
    spawned: u64,
    ends: Ends,
    /// The roles of which nothing runs any more: what is running is being cut, and what comes is cut
    /// at once.
    refused: [bool; Role::COUNT],
}

#[derive(Debug)]
struct Running {
    name: Arc<str>,
    role: Role,
    policies: Policies,
    started_at: Instant,
    /// Missing for the moment between its entry and the runtime's answer.
    abort: Option<AbortHandle>,
}

/// What a task is for, and so when it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Waited for in the drain.
    Task,
    /// Told to stop after the drain, and waited for before the clean-up.
    Worker,
    /// Told to close right before the end; nothing waits for it before.
    Admin,
    /// Watches a service until that has been stopped; nothing waits for it.
    Watch,
}

// ===== impl Role =====

impl Role {
    const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Task, Self::Worker, Self::Admin, Self::Watch];

    /// Whether one that is cut, or does not end at all, is reported.
    fn is_work(self) -> bool {
        matches!(self, Self::Task | Self::Worker)
    }
}

// ===== impl Tasks =====

impl Tasks {
    /// Enters a task; gives its number, and whether it is cut at once.
    pub(crate) fn begin(&self, name: Arc<str>, role: Role, policies: Policies) -> (u64, bool) {
        let mut tasks = lock(&self.0);
        let id = tasks.spawned;
        tasks.spawned += 1;
        tasks.counts[role as usize] += 1;
        let is_refused = tasks.refused[role as usize];
        #[cfg(feature = "health")]
        if !is_refused {
            tasks.ends.replaced(&name);
        }
        let running = Running {
            name,
            role,
            policies,
            started_at: Instant::now(),
            abort: None,
        };
        tasks.running.insert(id, running);
        (id, is_refused)
    }

    pub(crate) fn spawned(&self, id: u64, abort: AbortHandle) {
        let mut tasks = lock(&self.0);
        // It may have ended meanwhile.
        let Some(role) = tasks.running.get(&id).map(|task| task.role) else {
            return;
        };
        if tasks.refused[role as usize] {
            drop(tasks);
            return abort.abort();
        }
        if let Some(task) = tasks.running.get_mut(&id) {
            task.abort = Some(abort);
        }
    }

    /// Notes that a task has ended: by itself, or else because it was cut or dropped. One that is killed is
    /// dropped by the end of its runtime, in a shutdown. Gives what there is to tell of it, and what its end means.
    pub(crate) fn end(
        &self,
        id: u64,
        ended: Option<Outcome>,
        is_killed: bool,
        shutdown: Option<Arc<Shutdown>>,
    ) -> Option<(TaskReport, TaskPolicy)> {
        let mut tasks = lock(&self.0);
        let task = tasks.running.remove(&id)?;
        tasks.counts[task.role as usize] -= 1;
        let is_cut = task.role.is_work() && tasks.refused[task.role as usize];
        let (outcome, policy) = match ended {
            Some(outcome) => {
                let policy = task.policies.of(&outcome, shutdown.is_some())?;
                (outcome, policy)
            }
            None if is_killed && task.role.is_work() => (Outcome::Abandoned, TaskPolicy::Note),
            None if is_cut => (Outcome::Cut, TaskPolicy::Note),
            // Aborted by its owner, or dropped with its runtime: not ours to report.
            None => return None,
        };
        let report = TaskReport {
            name: task.name,
            outcome,
            duration: task.started_at.elapsed(),
            in_shutdown: shutdown.is_some(),
        };
        if policy != TaskPolicy::Ignore {
            tasks.ends.note(report.clone(), shutdown);
        }
        drop((tasks, task.abort));
        Some((report, policy))
    }

    /// Returns how many of `roles` are running.
    pub(crate) fn running(&self, roles: &[Role]) -> u64 {
        let tasks = lock(&self.0);
        roles.iter().map(|role| tasks.counts[*role as usize]).sum()
    }

    /// Has all that comes of `roles` cut.
    pub(crate) fn refuse(&self, roles: &[Role]) {
        let mut tasks = lock(&self.0);
        for role in roles {
            tasks.refused[*role as usize] = true;
        }
    }

    /// Cuts what is running of `roles`, and all that comes.
    pub(crate) fn cut(&self, roles: &[Role]) {
        self.refuse(roles);
        let mut tasks = lock(&self.0);
        let running = tasks.running.values_mut();
        let aborts: Vec<_> = running
            .filter(|task| roles.contains(&task.role))
            .filter_map(|task| task.abort.take())
            .collect();
        drop(tasks);
        for abort in aborts {
            abort.abort();
        }
    }

    /// Returns the reports of those that ended badly, and of those that have not ended at all.
    pub(crate) fn reports(&self) -> Vec<TaskReport> {
        let tasks = lock(&self.0);
        let alive = tasks.running.values().filter(|task| task.role.is_work());
        let alive = alive.map(|task| TaskReport {
            name: Arc::clone(&task.name),
            outcome: Outcome::Abandoned,
            duration: task.started_at.elapsed(),
            in_shutdown: true,
        });
        tasks.ends.reports().chain(alive).collect()
    }

    /// Returns how many ended badly beyond those that are reported.
    pub(crate) fn forgotten(&self) -> u64 {
        lock(&self.0).ends.forgotten()
    }

    /// Returns whether one has died that nothing has replaced.
    #[cfg(feature = "health")]
    pub(crate) fn one_is_dead(&self) -> bool {
        lock(&self.0).ends.dead().next().is_some()
    }

    /// Returns, by their names, those that are running and those that have died.
    #[cfg(feature = "health")]
    pub(crate) fn health(&self) -> Vec<ServiceHealth> {
        let mut names: BTreeMap<Arc<str>, Option<Outcome>> = BTreeMap::new();
        {
            let tasks = lock(&self.0);
            let running = tasks.running.values();
            names.extend(running.map(|task| (Arc::clone(&task.name), None)));
            let dead = tasks.ends.dead();
            names.extend(dead.map(|(name, outcome)| (Arc::clone(name), Some(outcome.clone()))));
        }
        // The text of an error is foreign, and made outside the lock.
        let health = |(name, outcome): (Arc<str>, Option<Outcome>)| {
            let (status, error) = match outcome {
                None => ("healthy", None),
                Some(Outcome::Completed) => ("stopped", None),
                Some(Outcome::Failed(error)) => ("failed", Some(Chain(&*error).to_string())),
                Some(outcome) => ("failed", Some(outcome.to_string())),
            };
            ServiceHealth {
                name,
                status,
                error,
            }
        };
        names.into_iter().map(health).collect()
    }
}
