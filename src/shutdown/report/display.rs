//! The report as text, which fits on one screen whatever happened.

use std::fmt::{self, Display};

use super::{HookReport, PhaseReport, SaveReport, ServiceReport, ShutdownReport};
use crate::error::Chain;
use crate::state::LifecycleState;
use crate::text::one_line;

/// How many hooks are listed at most, and how many services, tasks, and so on. Those that did not complete
/// come first.
const LISTED: usize = 3;
/// How many characters of an entry are shown at most.
const WIDTH: usize = 120;

impl Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.facts;
        let ((result, _), reason) = (self.result(), facts.reason);
        write!(
            f,
            "shutdown: {result} in {:.3?} (reason: {reason})",
            self.duration()
        )?;
        if let Some(failure) = &facts.startup_failure {
            let failure = failure.to_string();
            write!(f, "\n  start-up      {}", one_line(&failure, WIDTH))?;
        }
        for PhaseReport { state, duration } in &facts.phases {
            write!(f, "\n  {state:<13} {duration:.3?}")?;
            if let (LifecycleState::LameDuck, Some(end)) = (state, facts.lame_duck_end) {
                write!(f, ", {end}")?;
            }
        }
        write!(
            f,
            "\n  requests      {} admitted, {} refused, {} in flight at the trigger",
            facts.admitted, facts.refused, facts.in_flight_at_trigger
        )?;
        let late = facts.late_arrivals;
        if let Some(last) = late.last {
            let count = late.count;
            write!(
                f,
                "\n  late requests {count} in the lame duck, the last {last:.3?} into it"
            )?;
            if late.lame_duck_was_too_short {
                f.write_str(": the lame duck was too short")?;
            }
        }
        if facts.late_requests > 0 {
            let count = facts.late_requests;
            write!(f, "\n  late requests {count} while draining")?;
        }
        if facts.forced {
            let gone = facts.aborted + facts.abandoned_requests;
            write!(
                f,
                "\n  forced        {} in flight: {} cut, {} ended by themselves, {} abandoned",
                facts.in_flight_at_force,
                facts.aborted,
                facts.in_flight_at_force.saturating_sub(gone),
                facts.abandoned_requests,
            )?;
        }
        for (count, title, what) in [
            (facts.connections_cut, "connections", "closed by force"),
            (facts.abandoned_starts, "services", "still being started"),
            (facts.abandoned_servers, "servers", "had not ended"),
            (
                facts.abandoned_connections,
                "connections",
                "had not been closed",
            ),
        ] {
            if count > 0 {
                write!(f, "\n  {title:<13} {count} {what}")?;
            }
        }
        list(f, "cut", &failed(&facts.aborted_work))?;
        list(f, "abandoned", &failed(&facts.abandoned_work))?;
        let errors = facts.server_errors.iter();
        let errors: Vec<_> = errors.map(|error| Chain(&**error)).collect();
        list(f, "server error", &failed(&errors))?;
        list(f, "task", &failed(&facts.tasks))?;
        if facts.tasks_forgotten > 0 {
            let more = facts.tasks_forgotten;
            write!(f, "\n  tasks         {more} more did not end well")?;
        }
        list(f, "hook", &entries(&facts.hooks, HookReport::is_completed))?;
        list(
            f,
            "service",
            &entries(&facts.services, ServiceReport::is_completed),
        )?;
        list(f, "save", &entries(&facts.saves, SaveReport::is_completed))
    }
}

/// An entry of a list, and whether it completed.
type Entry<'a> = (&'a dyn Display, bool);

fn entries<T: Display>(all: &[T], is_completed: fn(&T) -> bool) -> Vec<Entry<'_>> {
    let entry = |one| (one as &dyn Display, is_completed(one));
    all.iter().map(entry).collect()
}

fn failed<T: Display>(all: &[T]) -> Vec<Entry<'_>> {
    entries(all, |_| false)
}

/// Writes a line for each entry. If there are too many, the last line says how many are left out.
fn list(f: &mut fmt::Formatter<'_>, title: &str, entries: &[Entry<'_>]) -> fmt::Result {
    let failed = entries.iter().filter(|(_, completed)| !completed).count();
    let mut room_for_failed = LISTED;
    let mut room_for_completed = LISTED.saturating_sub(failed);
    for (entry, completed) in entries {
        let room = if *completed {
            &mut room_for_completed
        } else {
            &mut room_for_failed
        };
        if *room > 0 {
            *room -= 1;
            let entry = entry.to_string();
            write!(f, "\n  {title:<13} {}", one_line(&entry, WIDTH))?;
        }
    }
    match (
        entries.len().saturating_sub(LISTED),
        failed.saturating_sub(LISTED),
    ) {
        (0, _) => Ok(()),
        (more, 0) => write!(f, "\n  {title:<13} {more} more, all completed"),
        (more, failed) => {
            write!(
                f,
                "\n  {title:<13} {more} more, {failed} of which did not complete"
            )
        }
    }
}
