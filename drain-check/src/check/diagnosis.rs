//! Names the likely cause of each kind of loss, and its remedy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::check::cause::Cause;
use crate::check::options::{Options, Via};
use crate::check::report::{Restart, index, relative};
use crate::ledger::{Entry, Fate, Loss, Sender, Work};

/// A request that fails this long before the end of its process fails because of the end: the kernel
/// closes the sockets, and only then a parent learns of it.
pub const AT_THE_END: Duration = Duration::from_millis(30);
/// A process that ends within this time has hardly waited for anything.
const AT_ONCE: Duration = Duration::from_millis(250);
/// A new connection that is accepted is answered, or closed, within this time.
const ACCEPTED: Duration = Duration::from_millis(50);
/// Readiness must be red for longer than this, for a balancer to see it.
const NOTICED: Duration = Duration::from_millis(500);

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Requests were lost, or a process was killed.
    Fault,
    /// Some clients may lose requests by it.
    Warning,
    /// It may matter, or not.
    Note,
}

/// A likely cause, and the requests that it explains.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// How much it matters.
    pub severity: Severity,
    /// How many requests it explains, or processes for [`Cause::NeverEnds`] without a request.
    pub count: u64,
    /// When the first of them failed, in milliseconds after its signal.
    pub first_ms: f64,
    /// When the last of them failed.
    pub last_ms: f64,
    /// What a client saw.
    pub example: String,
    /// What it is, in a sentence whose subject is the server.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Fault => "FAULT",
            Severity::Warning => "WARNING",
            Severity::Note => "NOTE",
        };
        let Self {
            what,
            remedy,
            count,
            first_ms,
            last_ms,
            ..
        } = self;
        write!(
            f,
            "{severity}: the server {what}\n    {count} times, from {first_ms:.0} to {last_ms:.0} ms after \
             the signal; seen: {}\n    remedy: {remedy}",
            self.example
        )
    }
}

/// Returns the likely causes, the faults first.
pub fn findings(options: &Options, restarts: &[Restart], entries: &[Entry]) -> Vec<Finding> {
    let mut found = BTreeMap::new();
    let mut add = |severity, cause: Cause, after_ms: f64, seen: &str| {
        let finding = found.entry((severity, cause)).or_insert_with(|| Finding {
            cause,
            severity,
            count: 0,
            first_ms: after_ms,
            last_ms: after_ms,
            example: seen.to_owned(),
            what: cause.what(),
            remedy: cause.remedy(),
        });
        finding.count += 1;
        finding.first_ms = finding.first_ms.min(after_ms);
        finding.last_ms = finding.last_ms.max(after_ms);
    };
    let lost = entries.iter().filter_map(|entry| match entry.fate {
        Fate::Lost(loss) => {
            let index = index(restarts, entry.ended);
            let why = why(options, &restarts[index], entry, loss);
            Some((index, entry, why))
        }
        _ => None,
    });
    let lost: Vec<_> = lost.collect();
    // What goes on all the time is neither the end's doing nor that of a new connection.
    let mut seen = BTreeMap::<_, u64>::new();
    for (index, _, why) in &lost {
        *seen.entry((*index, *why)).or_default() += 1;
    }
    let count = |index, why| seen.get(&(index, why)).copied().unwrap_or(0);
    let mut explained = vec![false; restarts.len()];
    for (index, entry, why) in lost {
        let restart = &restarts[index];
        let stops_accepting = count(index, Why::Cause(Cause::StopsAccepting)) > 0;
        let cause = match why {
            Why::New(_) if stops_accepting => Cause::StopsAccepting,
            Why::Cause(cause) | Why::WhileRunning(cause) | Why::New(cause) => cause,
            Why::AtTheEnd(cause)
                if count(index, Why::WhileRunning(cause)) > count(index, Why::AtTheEnd(cause)) =>
            {
                cause
            }
            Why::AtTheEnd(_) if restart.ended_after < AT_ONCE => Cause::ExitsAtOnce,
            Why::AtTheEnd(_) => Cause::EndsTooEarly,
        };
        explained[index] |= cause == Cause::NeverEnds;
        let after_ms = relative(entry.ended, restart.signal_at);
        add(
            Severity::Fault,
            cause,
            after_ms,
            entry.seen.as_deref().unwrap_or_default(),
        );
    }
    let severity = if options.strict {
        Severity::Fault
    } else {
        Severity::Warning
    };
    for entry in entries.iter().filter(|entry| entry.fate == Fate::Ambiguous) {
        let restart = &restarts[index(restarts, entry.ended)];
        let after_ms = relative(entry.ended, restart.signal_at);
        let cause = cause_of_ambiguous(restart, entry);
        add(
            severity,
            cause,
            after_ms,
            entry.seen.as_deref().unwrap_or_default(),
        );
    }
    for (restart, is_explained) in restarts.iter().zip(explained) {
        let ended_ms = relative(restart.ended_after, Duration::ZERO);
        if restart.was_killed && !is_explained {
            add(Severity::Fault, Cause::NeverEnds, ended_ms, &restart.exit);
        }
        let Some(refused) = restart.refused_after else {
            continue;
        };
        let red_for = restart.red_after.and_then(|red| refused.checked_sub(red));
        let severity = match red_for {
            Some(time) if time >= NOTICED => continue,
            // Without a probe, it cannot be known whether somebody else is told.
            None if options.ready_path.is_none() => Severity::Note,
            _ => Severity::Warning,
        };
        let refused_ms = relative(refused, Duration::ZERO);
        add(
            severity,
            Cause::ClosesListenerFirst,
            refused_ms,
            "connection refused",
        );
    }
    let faults = found.keys();
    let faults = faults.filter(|(severity, _)| *severity == Severity::Fault);
    let faults: Vec<_> = faults.map(|(_, cause)| *cause).collect();
    // A fault says enough.
    found.retain(|(severity, cause), _| *severity == Severity::Fault || !faults.contains(cause));
    let mut causes = found.keys().map(|(_, cause)| *cause);
    let is_named = causes.any(|cause| cause == Cause::NoSignalHandler);
    if let (Some(restart), false) = (
        restarts.iter().find(|restart| has_no_handler(restart)),
        is_named,
    ) {
        let ended_ms = relative(restart.ended_after, Duration::ZERO);
        let cause = Cause::NoSignalHandler;
        let finding = Finding {
            cause,
            severity: Severity::Warning,
            count: restarts
                .iter()
                .filter(|restart| has_no_handler(restart))
                .count() as u64,
            first_ms: ended_ms,
            last_ms: ended_ms,
            example: restart.exit.clone(),
            what: cause.what(),
            remedy: cause.remedy(),
        };
        found.insert((Severity::Warning, cause), finding);
    }
    let mut findings: Vec<_> = found.into_values().collect();
    findings.sort_by_key(|finding| (finding.severity, std::cmp::Reverse(finding.count)));
    findings
}

/// Returns whether the signal ended the process. Some handle it, and send it to themselves when they
/// are done.
fn has_no_handler(restart: &Restart) -> bool {
    restart.by_signal && restart.ended_after < 2 * AT_THE_END
}

/// Returns why a kept connection was closed under a request.
fn cause_of_ambiguous(restart: &Restart, entry: &Entry) -> Cause {
    if restart.was_killed && entry.ended + AT_THE_END >= restart.signal_at + restart.ended_after {
        Cause::NeverEnds
    } else if has_no_handler(restart) {
        Cause::NoSignalHandler
    } else {
        Cause::ClosesIdleConnections
    }
}

/// Why a request was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Cause(Cause),
    /// By this fault, long before the end of the process.
    WhileRunning(Cause),
    /// The same on a connection that was new after the signal, and that nobody may have accepted.
    New(Cause),
    /// By the end of the process, or by this fault if it was at work before.
    AtTheEnd(Cause),
}

fn why(options: &Options, restart: &Restart, entry: &Entry, loss: Loss) -> Why {
    let Some(after) = entry.ended.checked_sub(restart.signal_at) else {
        return Why::Cause(Cause::LosesWithoutRestart);
    };
    let at_the_end = after + AT_THE_END >= restart.ended_after;
    let long_over = after > restart.ended_after + AT_THE_END;
    let by_balancer = options.via != Via::None;
    let is_new = loss == Loss::NotAccepted && entry.began > restart.signal_at;
    let has_waited = entry.ended - entry.began > ACCEPTED;
    let fault = match (loss, entry.work) {
        _ if restart.was_killed && at_the_end => return Why::Cause(Cause::NeverEnds),
        (Loss::Unavailable | Loss::Status(502 | 504), _) if by_balancer && long_over => {
            // Nobody listens there, and the balancer does not know it yet.
            return Why::Cause(Cause::BalancerAnswersErrors);
        }
        (Loss::Unavailable | Loss::Status(502 | 504), _) if by_balancer => {
            Cause::BalancerAnswersErrors
        }
        (Loss::Unavailable, _) => return Why::Cause(Cause::RefusesWithoutRetryAfter),
        (Loss::Status(_) | Loss::Content, _) => return Why::Cause(Cause::AnswersErrors),
        (Loss::TimedOut, _) => return Why::Cause(Cause::DoesNotAnswer),
        _ if has_no_handler(restart) => return Why::Cause(Cause::NoSignalHandler),
        (Loss::Events, _) => return Why::Cause(Cause::CutsEventStreams),
        (Loss::WebSocket, _) => return Why::Cause(Cause::CutsWebSockets),
        // An HTTP/2 server would have sent its settings.
        (Loss::NotAccepted, _) if entry.sender == Sender::Http2 => {
            return Why::Cause(Cause::StopsAccepting);
        }
        (Loss::NotAccepted, _) if is_new && has_waited && !at_the_end => {
            return Why::Cause(Cause::StopsAccepting);
        }
        (Loss::Truncated, _) => Cause::TruncatesBodies,
        (Loss::Upload | Loss::NoAnswer | Loss::NotAccepted, Work::Upload) => Cause::ResetsUploads,
        (Loss::Upload | Loss::NoAnswer | Loss::NotAccepted, _) => Cause::ClosesConnectionsInUse,
    };
    match (at_the_end, is_new) {
        (true, _) => Why::AtTheEnd(fault),
        (false, true) => Why::New(fault),
        (false, false) => Why::WhileRunning(fault),
    }
}
