//! Named background tasks: plain tasks, workers, admin servers, and the futures that watch services.
//!
//! They are counted separately from requests. Each has a policy for its end. Health and the report name a
//! task that ends badly.

mod ends;
mod policy;

pub use self::policy::TaskPolicy;

pub(crate) use self::policy::Policies;

use std::time::Instant;

use tokio::task::AbortHandle;

use self::ends::Ends;
use super::attempt::Shutdown;
use super::outcome::{Outcome, TaskReport};
#[cfg(feature = "health")]
use super::services::ServiceHealth;
#[cfg(feature = "health")]
use crate::error::Chain;
use crate::in_flight::{InFlightItem, InFlightKind, InFlightStage, Oldest, Places};
use crate::panic;
use crate::sync::{Arc, Mutex, lock};

/// The tasks of one lifecycle.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Places<Running>,
    /// How many tasks of each role are running.
    counts: [u64; Role::COUNT],
    spawned: u64,
    ends: Ends,
    /// By role: `true` once the running tasks are being cut. New tasks are then cut at once.
    refused: [bool; Role::COUNT],
}

#[derive(Debug)]
struct Running {
    number: u64,
    name: Arc<str>,
    role: Role,
    policies: Policies,
    started_at: Instant,
    /// `None` until the runtime has spawned the task.
    abort: Option<AbortHandle>,
}

/// Identifies a task. The place in the list is the task's own until [`Tasks::end`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskId {
    place: usize,
    number: u64,
}

/// The role of a task, which decides when it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A plain task. The drain waits for it.
    Task,
    /// A worker. Told to stop after the drain. The clean-up begins when it has ended.
    Worker,
    /// An admin server. Told to close right before the end. Nothing waits for it earlier.
    Admin,
    /// Watches a service until the service has been stopped. Nothing waits for it.
    Watch,
}

// ===== impl Role =====

impl Role {
    const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Task, Self::Worker, Self::Admin, Self::Watch];

    /// Returns whether a task that is cut, or does not end, is reported.
    fn is_work(self) -> bool {
        matches!(self, Self::Task | Self::Worker)
    }
}

// ===== impl Tasks =====

impl Tasks {
    /// Registers a task. Returns whether it is cut at once, too.
    pub(crate) fn begin(&self, name: Arc<str>, role: Role, policies: Policies) -> (TaskId, bool) {
        let mut tasks = lock(&self.0);
        let number = tasks.spawned;
        tasks.spawned += 1;
        tasks.counts[role as usize] += 1;
        let is_refused = tasks.refused[role as usize];
        #[cfg(feature = "health")]
        let replaced = (!is_refused).then(|| tasks.ends.replaced(&name));
        let place = tasks.running.add(Running {
            number,
            name,
            role,
            policies,
            started_at: Instant::now(),
            abort: None,
        });
        drop(tasks);
        #[cfg(feature = "health")]
        panic::dropped(replaced);
        (TaskId { place, number }, is_refused)
    }

    pub(crate) fn spawned(&self, id: TaskId, abort: AbortHandle) {
        let mut tasks = lock(&self.0);
        let refused = tasks.refused;
        let task = tasks.running.member(id.place);
        // The task may have ended already, and its place may be another one's.
        let Some(task) = task.filter(|task| task.number == id.number) else {
            return;
        };
        if !refused[task.role as usize] {
            task.abort = Some(abort);
            return;
        }
        drop(tasks);
        abort.abort();
    }

    /// Records that a task has ended. `ended` is its outcome if it ended by itself, or `None` if it was cut
    /// or dropped. A killed task was dropped by the end of its runtime, during a shutdown. Returns the report
    /// and the policy for this end, unless there is nothing to report.
    pub(crate) fn end(
        &self,
        id: TaskId,
        ended: Option<Outcome>,
        is_killed: bool,
        shutdown: Option<Arc<Shutdown>>,
    ) -> Option<(TaskReport, TaskPolicy)> {
        let mut tasks = lock(&self.0);
        let task = tasks.running.remove(id.place)?;
        tasks.counts[task.role as usize] -= 1;
        let is_cut = task.role.is_work() && tasks.refused[task.role as usize];
        let (outcome, policy) = match ended {
            Some(outcome) => {
                let policy = task.policies.of(&outcome, shutdown.is_some())?;
                (outcome, policy)
            }
            None if is_killed && task.role.is_work() => (Outcome::Abandoned, TaskPolicy::Note),
            None if is_cut => (Outcome::Cut, TaskPolicy::Note),
            // Aborted by its owner, or dropped with its runtime: not reported.
            None => return None,
        };
        let report = TaskReport {
            name: task.name,
            outcome,
            duration: task.started_at.elapsed(),
            in_shutdown: shutdown.is_some(),
        };
        let mut replaced = None;
        if policy != TaskPolicy::Ignore {
            replaced = tasks.ends.note(report.clone(), shutdown);
        }
        drop((tasks, task.abort));
        panic::dropped(replaced);
        Some((report, policy))
    }

    /// Returns how many tasks of `roles` are running.
    pub(crate) fn running(&self, roles: &[Role]) -> u64 {
        let tasks = lock(&self.0);
        roles.iter().map(|role| tasks.counts[*role as usize]).sum()
    }

    /// Causes new tasks of `roles` to be cut.
    pub(crate) fn refuse(&self, roles: &[Role]) {
        let mut tasks = lock(&self.0);
        for role in roles {
            tasks.refused[*role as usize] = true;
        }
    }

    /// Cuts the running tasks of `roles`, and all new ones.
    pub(crate) fn cut(&self, roles: &[Role]) {
        self.refuse(roles);
        let mut tasks = lock(&self.0);
        let running = tasks.running.iter_mut();
        let aborts: Vec<_> = running
            .filter(|task| roles.contains(&task.role))
            .filter_map(|task| task.abort.take())
            .collect();
        drop(tasks);
        for abort in aborts {
            abort.abort();
        }
    }

    /// Returns the reports of tasks that ended badly, and of those that have not ended.
    pub(crate) fn reports(&self) -> Vec<TaskReport> {
        let tasks = lock(&self.0);
        let alive = tasks.running.iter().filter(|task| task.role.is_work());
        let alive = alive.map(|task| TaskReport {
            name: Arc::clone(&task.name),
            outcome: Outcome::Abandoned,
            duration: task.started_at.elapsed(),
            in_shutdown: true,
        });
        tasks.ends.reports().chain(alive).collect()
    }

    /// Adds the running tasks and workers.
    pub(crate) fn collect(&self, oldest: &mut Oldest<InFlightItem>) {
        for task in lock(&self.0).running.iter() {
            let kind = match task.role {
                Role::Task => InFlightKind::Task,
                Role::Worker => InFlightKind::Worker,
                Role::Admin | Role::Watch => continue,
            };
            let age = task.started_at.elapsed();
            oldest.add(false, age, || InFlightItem {
                kind,
                name: Arc::clone(&task.name),
                stage: InFlightStage::Running,
                age,
            });
        }
    }

    /// Returns how many more tasks ended badly than are in the reports.
    pub(crate) fn forgotten(&self) -> u64 {
        lock(&self.0).ends.forgotten()
    }

    /// Returns whether a task ended badly and has not been replaced.
    #[cfg(feature = "health")]
    pub(crate) fn one_is_dead(&self) -> bool {
        lock(&self.0).ends.dead().next().is_some()
    }

    /// Returns the status of running tasks and of those that ended badly, sorted by name.
    #[cfg(feature = "health")]
    pub(crate) fn health(&self) -> Vec<ServiceHealth> {
        let mut names: Vec<(Arc<str>, Option<Outcome>)> = Vec::new();
        {
            let tasks = lock(&self.0);
            let dead = tasks.ends.dead();
            names.extend(dead.map(|(name, outcome)| (Arc::clone(name), Some(outcome.clone()))));
            let running = tasks.running.iter();
            names.extend(running.map(|task| (Arc::clone(&task.name), None)));
        }
        // Of one name, a task that ended badly comes first, and is the one that is kept.
        names.sort_unstable_by(|(one, bad), (other, other_bad)| {
            (one, bad.is_none()).cmp(&(other, other_bad.is_none()))
        });
        names.dedup_by(|later, first| later.0 == first.0);
        // Formatting an error runs user code, so it happens outside the lock.
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

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    /// A task may end before the runtime has returned its handle. By then its place may be another one's.
    #[tokio::test]
    async fn the_handle_of_a_task_that_ended_is_not_taken_for_that_of_the_next() {
        let tasks = Tasks::default();
        let begin = |name: &str| {
            let policies = Policies::default_of(Role::Task);
            tasks.begin(name.into(), Role::Task, policies).0
        };
        let [ended, next] = [(); 2].map(|()| tokio::spawn(pending::<()>()));

        let ended_id = begin("ended");
        tasks.end(ended_id, Some(Outcome::Completed), false, None);
        let next_id = begin("next");
        assert_eq!(next_id.place, ended_id.place);
        tasks.spawned(next_id, next.abort_handle());
        tasks.spawned(ended_id, ended.abort_handle());

        tasks.cut(&[Role::Task]);
        yield_now().await;
        assert!(next.is_finished());
        assert!(!ended.is_finished());
    }
}
