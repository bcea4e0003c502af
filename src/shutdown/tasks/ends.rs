//! Tasks that ended badly, for the report and, until they are replaced, for health.

use crate::shutdown::attempt::Shutdown;
use crate::shutdown::outcome::{Outcome, TaskReport};
use crate::sync::Arc;

/// How many ends are stored, so that a task that is spawned again and again does not fill the memory. All
/// ends are logged.
const REMEMBERED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Ends {
    bad: Vec<BadEnd>,
    forgotten: u64,
    /// By name, the tasks after which no task of the same name was spawned.
    #[cfg(feature = "health")]
    dead: Vec<(Arc<str>, Outcome)>,
}

#[derive(Debug)]
struct BadEnd {
    report: TaskReport,
    /// The shutdown during which the task ended. It may still be called off.
    shutdown: Option<Arc<Shutdown>>,
}

impl Ends {
    /// Returns the end that it replaces, whose error must be dropped outside the lock.
    pub(super) fn note(
        &mut self,
        report: TaskReport,
        shutdown: Option<Arc<Shutdown>>,
    ) -> Option<Outcome> {
        #[cfg(feature = "health")]
        let replaced = self.note_dead(&report);
        #[cfg(not(feature = "health"))]
        let replaced = None;
        if self.bad.len() < REMEMBERED {
            self.bad.push(BadEnd { report, shutdown });
        } else {
            self.forgotten += 1;
        }
        replaced
    }

    #[cfg(feature = "health")]
    fn note_dead(&mut self, report: &TaskReport) -> Option<Outcome> {
        if matches!(report.outcome, Outcome::Cut) || self.dead.len() >= REMEMBERED {
            return None;
        }
        let (name, outcome) = (Arc::clone(&report.name), report.outcome.clone());
        let replaced = self.replaced(&name);
        self.dead.push((name, outcome));
        replaced
    }

    /// Records that a task of this name runs again. Returns the end of the former one, whose error must be
    /// dropped outside the lock.
    #[cfg(feature = "health")]
    pub(super) fn replaced(&mut self, name: &Arc<str>) -> Option<Outcome> {
        let place = self.dead.iter().position(|(dead, _)| dead == name)?;
        Some(self.dead.swap_remove(place).1)
    }

    #[cfg(feature = "health")]
    pub(super) fn dead(&self) -> impl Iterator<Item = &(Arc<str>, Outcome)> {
        self.dead.iter()
    }

    pub(super) fn reports(&self) -> impl Iterator<Item = TaskReport> {
        self.bad.iter().map(|end| {
            // If that shutdown was called off, the task did not end in the one that is reported.
            let shutdown = end.shutdown.as_ref();
            TaskReport {
                in_shutdown: shutdown.is_some_and(|shutdown| !shutdown.is_called_off()),
                ..end.report.clone()
            }
        })
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
