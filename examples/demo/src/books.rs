//! The clients' books and the server's, side by side.

use std::fmt;
use std::time::Duration;

use drain_check::{Counts, Entry, Fate, Loss, Refusal, Unsent};
use tower_lifecycle::ShutdownReport;

use crate::clients::Ledgers;

/// The clients' books.
pub struct Books {
    counts: Counts,
    /// By a 503 with `Retry-After`. The server counts these.
    refused: u64,
    /// Of [`Ledgers::stuck`]: answered by a 503 without `Retry-After`, or in a body that ends in an error.
    cut: u64,
    /// What should not be: lost requests, and those of which a client cannot know the outcome.
    wrong: Vec<String>,
    first_red: Option<Duration>,
    first_unsent: Option<Duration>,
}

impl Books {
    pub fn close(ledgers: &Ledgers, first_red: Option<Duration>) -> Self {
        let (mut refused, mut cut, mut wrong) = (0, 0, Vec::new());
        let mut first_unsent = None;
        for entry in ledgers.all.take() {
            match entry.fate {
                Fate::Refused(Refusal::Later) => refused += 1,
                Fate::Answered | Fate::Refused(Refusal::Unprocessed) => {}
                Fate::NeverSent(Unsent::Refused) => {
                    first_unsent.get_or_insert(entry.ended);
                }
                Fate::NeverSent(_) => {}
                _ => wrong.push(describe(&entry)),
            }
        }
        for entry in ledgers.stuck.take() {
            match entry.fate {
                Fate::Refused(Refusal::Closing) | Fate::Lost(Loss::Truncated) => cut += 1,
                Fate::NeverSent(_) => {}
                _ => wrong.push(describe(&entry)),
            }
        }
        Self {
            counts: ledgers.all.counts(),
            refused,
            cut,
            wrong,
            first_red,
            first_unsent,
        }
    }

    /// Returns whether nothing was lost, and the server's counts are the same as the clients'.
    pub fn agree_with(&self, report: &ShutdownReport) -> bool {
        self.wrong.is_empty()
            && self.counts.answered + self.cut == report.admitted()
            && self.refused == report.refused()
            && self.cut == report.aborted()
    }

    /// Returns how long after the signal, at `signal`, a probe first saw red, and a client first failed to
    /// connect.
    pub fn order(&self, signal: Duration) -> Option<String> {
        let red = self.first_red?.saturating_sub(signal);
        let closed = self.first_unsent?.saturating_sub(signal);
        Some(format!(
            "in order      readiness red after {red:.1?}, nobody listens after {closed:.1?}"
        ))
    }
}

fn describe(entry: &Entry) -> String {
    let seen = entry.seen.as_deref().unwrap_or("nothing");
    format!("{:?} at {:.1?}: {seen}", entry.fate, entry.ended)
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            answered,
            refused,
            never_sent,
            ambiguous,
            lost,
            ..
        } = self.counts;
        write!(
            f,
            "clients: {} sent = {answered} answered in full + {refused} refused (safe to send again) + {} cut, \
             lost {}\n  never sent    {never_sent} attempts, for nobody listened any more",
            answered + refused + self.cut + ambiguous + lost,
            self.cut,
            self.wrong.len(),
        )?;
        // A few are enough to see what went wrong.
        for why in self.wrong.iter().take(5) {
            write!(f, "\n  lost          {why}")?;
        }
        Ok(())
    }
}
