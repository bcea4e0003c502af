//! The report as text, which fits on one screen whatever happened.

use std::fmt::{self, Display, Write};

use super::{PhaseReport, ShutdownReport};
use crate::error::Chain;
use crate::state::LifecycleState;

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
            write!(f, "\n  start-up      {}", OneLine(failure))?;
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
        let aborted = facts.aborted_work.iter();
        list(f, "cut", aborted.map(|item| (item, false)))?;
        let abandoned = facts.abandoned_work.iter();
        list(f, "abandoned", abandoned.map(|item| (item, false)))?;
        let errors = facts
            .server_errors
            .iter()
            .map(|error| (Chain(&**error), false));
        list(f, "server error", errors)?;
        let tasks = facts.tasks.iter();
        list(f, "task", tasks.map(|task| (task, false)))?;
        if facts.tasks_forgotten > 0 {
            let more = facts.tasks_forgotten;
            write!(f, "\n  tasks         {more} more did not end well")?;
        }
        let hooks = facts.hooks.iter();
        list(f, "hook", hooks.map(|hook| (hook, hook.is_completed())))?;
        let services = facts.services.iter();
        list(
            f,
            "service",
            services.map(|service| (service, service.is_completed())),
        )?;
        let saves = facts.saves.iter();
        list(f, "save", saves.map(|save| (save, save.is_completed())))
    }
}

/// Writes a line for each entry, which comes with whether it completed. If there are too many, the last line
/// says how many are left out.
fn list<T: Display>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    entries: impl Iterator<Item = (T, bool)>,
) -> fmt::Result {
    let entries: Vec<_> = entries.collect();
    let failed = entries.iter().filter(|(_, completed)| !completed).count();
    let mut room_for_failed = LISTED;
    let mut room_for_completed = LISTED.saturating_sub(failed);
    for (entry, completed) in &entries {
        let room = if *completed {
            &mut room_for_completed
        } else {
            &mut room_for_failed
        };
        if *room > 0 {
            *room -= 1;
            write!(f, "\n  {title:<13} {}", OneLine(entry))?;
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

/// Shows a text on one line: control characters are escaped, and what is too long is left out.
struct OneLine<T>(T);

impl<T: Display> Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let mut chars = text.chars();
        for char in chars.by_ref().take(WIDTH) {
            if char.is_control() {
                write!(f, "{}", char.escape_default())?;
            } else {
                f.write_char(char)?;
            }
        }
        if chars.next().is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}
