//! The outcome of each request, as its client saw it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tower_lifecycle::ShutdownReport;

/// How a request ended.
pub enum Outcome {
    /// 200, and the whole body.
    Answered,
    /// 503 with `Retry-After`: never started, can be sent to another instance.
    Refused,
    /// Marked as incomplete: 503 without `Retry-After`, or a body that ends in an error.
    Cut,
    /// No connection: can be sent to another instance.
    NeverSent,
    /// Anything else: the client cannot know the outcome.
    Lost(String),
}

#[derive(Default)]
pub struct Ledger(Mutex<Entries>);

#[derive(Default, Clone)]
pub struct Entries {
    pub sent: u64,
    pub answered: u64,
    pub refused: u64,
    pub cut: u64,
    pub never_sent: u64,
    pub lost: Vec<String>,
    first_red: Option<Instant>,
    first_unsent: Option<Instant>,
}

impl Ledger {
    /// Returns a copy of the current entries.
    pub fn read(&self) -> Entries {
        self.entries().clone()
    }

    pub fn begin(&self) {
        self.entries().sent += 1;
    }

    pub fn end(&self, outcome: Outcome) {
        let mut entries = self.entries();
        match outcome {
            Outcome::Answered => entries.answered += 1,
            Outcome::Refused => entries.refused += 1,
            Outcome::Cut => entries.cut += 1,
            Outcome::NeverSent => {
                entries.sent -= 1;
                entries.never_sent += 1;
                entries.first_unsent.get_or_insert_with(Instant::now);
            }
            Outcome::Lost(why) => entries.lost.push(why),
        }
    }

    /// Records that a probe found the readiness red.
    pub fn red(&self) {
        self.entries().first_red.get_or_insert_with(Instant::now);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Returns whether nothing was lost, every request has an outcome, and the server's counts are
    /// the same as the clients'.
    pub fn agree_with(&self, report: &ShutdownReport) -> bool {
        self.lost.is_empty()
            && self.sent == self.answered + self.refused + self.cut
            && self.answered + self.cut == report.admitted()
            && self.refused == report.refused()
            && self.cut == report.aborted()
    }

    /// Returns how long after `signal` a probe first saw red, and a client first failed to connect.
    pub fn order(&self, signal: Instant) -> Option<String> {
        let red = self.first_red?.saturating_duration_since(signal);
        let closed = self.first_unsent?.saturating_duration_since(signal);
        Some(format!(
            "in order      readiness red after {red:.1?}, nobody listens after {closed:.1?}"
        ))
    }
}

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clients: {} sent = {} answered in full + {} refused (503, Retry-After) + {} cut, lost {}\n  \
             never sent    {}, for nobody listened any more",
            self.sent,
            self.answered,
            self.refused,
            self.cut,
            self.lost.len(),
            self.never_sent
        )?;
        // A few are enough to see what went wrong.
        for why in self.lost.iter().take(5) {
            write!(f, "\n  lost          {why}")?;
        }
        Ok(())
    }
}
