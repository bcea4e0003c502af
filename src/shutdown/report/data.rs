//! The report as data, for a deploy pipeline.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{PhaseReport, ShutdownReport};
use crate::error::Chain;
use crate::in_flight::InFlightItem;
use crate::shutdown::lame_duck::LameDuckEnd;
use crate::shutdown::outcome::Outcome;

/// The form of a report. Field names are part of the public API.
#[derive(Serialize)]
struct Data<'a> {
    result: &'static str,
    graceful: bool,
    forced: bool,
    exit_code: u8,
    reason: &'static str,
    signal: Option<&'static str>,
    duration_seconds: f64,
    phases: Vec<Phase>,
    lame_duck_end: Option<&'static str>,
    requests: Requests,
    abandoned: u64,
    connections_cut: u64,
    startup_failure: Option<String>,
    server_errors: Vec<String>,
    aborted_work: &'a [InFlightItem],
    abandoned_work: &'a [InFlightItem],
    tasks: Vec<Entry<'a>>,
    tasks_not_listed: u64,
    hooks: Vec<Entry<'a>>,
    services: Vec<Entry<'a>>,
    saves: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Phase {
    state: &'static str,
    duration_seconds: f64,
}

#[derive(Serialize)]
struct Requests {
    admitted: u64,
    refused: u64,
    in_flight_at_trigger: u64,
    late_in_lame_duck: u64,
    last_in_lame_duck_seconds: Option<f64>,
    lame_duck_was_too_short: bool,
    late_while_draining: u64,
    in_flight_at_force: u64,
    aborted: u64,
    abandoned: u64,
}

/// A task, hook, service or save.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<i32>,
    outcome: &'static str,
    error: Option<String>,
    duration_seconds: f64,
}

/// Serializes the report. With JSON, the form is:
///
/// | field | type | what it is |
/// |---|---|---|
/// | `result` | string | `graceful`, `with_errors`, `forced`, `interrupted` or `rolled_back` |
/// | `graceful`, `forced` | boolean | as [`is_graceful`](Self::is_graceful), [`is_forced`](Self::is_forced) |
/// | `exit_code` | number | as [`exit_code`](Self::exit_code) |
/// | `reason` | string | `signal`, `manual`, `timeout`, `error`, `server_exited`, `task_ended`, `hand_over`, `interrupted` |
/// | `signal` | string or null | the signal, such as `SIGTERM` |
/// | `duration_seconds` | number | from the trigger to the end |
/// | `phases` | array | each with `state` and `duration_seconds` |
/// | `lame_duck_end` | string or null | `in_full`, `early`, `forced` or `servers_ended` |
/// | `requests` | object | `admitted`, `refused`, `in_flight_at_trigger`, `late_in_lame_duck`, `last_in_lame_duck_seconds`, `lame_duck_was_too_short`, `late_while_draining`, `in_flight_at_force`, `aborted`, `abandoned` |
/// | `abandoned` | number | as [`abandoned`](Self::abandoned): requests, tasks, servers and connections |
/// | `connections_cut` | number | as [`connections_cut`](Self::connections_cut) |
/// | `startup_failure` | string or null | why the start-up failed |
/// | `server_errors` | array of strings | each with its causes |
/// | `aborted_work`, `abandoned_work` | arrays | named work, each with `kind`, `name`, `stage` and `age_seconds`; see [`InFlightItem`] |
/// | `tasks`, `hooks`, `services`, `saves` | arrays | each with `name`, `outcome`, `error`, `duration_seconds`; hooks also with `phase` |
/// | `tasks_not_listed` | number | tasks that did not end well and are not in `tasks` |
///
/// An `outcome` is `completed`, `failed`, `panicked`, `timed_out`, `cut`, `not_started` or `abandoned`. Later
/// versions may add fields and words.
impl Serialize for ShutdownReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Data::of(self).serialize(serializer)
    }
}

// ===== impl Data =====

impl<'a> Data<'a> {
    fn of(report: &'a ShutdownReport) -> Self {
        let facts = &*report.facts;
        let (reason, signal) = facts.reason.word();
        Self {
            result: report.result().1,
            graceful: report.is_graceful(),
            forced: facts.forced,
            exit_code: report.status(),
            reason,
            signal,
            duration_seconds: report.duration().as_secs_f64(),
            phases: facts.phases.iter().map(Phase::of).collect(),
            lame_duck_end: facts.lame_duck_end.map(LameDuckEnd::name),
            requests: Requests::of(report),
            abandoned: report.abandoned(),
            connections_cut: facts.connections_cut,
            startup_failure: facts.startup_failure.as_ref().map(ToString::to_string),
            server_errors: (facts.server_errors.iter())
                .map(|error| Chain(&**error).to_string())
                .collect(),
            aborted_work: &facts.aborted_work,
            abandoned_work: &facts.abandoned_work,
            tasks: (facts.tasks.iter())
                .map(|task| Entry::of(task.name(), None, task.outcome(), task.duration()))
                .collect(),
            tasks_not_listed: facts.tasks_forgotten,
            hooks: (facts.hooks.iter())
                .map(|hook| {
                    Entry::of(
                        hook.name(),
                        Some(hook.phase()),
                        hook.outcome(),
                        hook.duration(),
                    )
                })
                .collect(),
            services: (facts.services.iter())
                .map(|service| {
                    Entry::of(service.name(), None, service.outcome(), service.duration())
                })
                .collect(),
            saves: (facts.saves.iter())
                .map(|save| Entry::of(save.key(), None, save.outcome(), save.duration()))
                .collect(),
        }
    }
}

impl Phase {
    fn of(phase: &PhaseReport) -> Self {
        Self {
            state: phase.state.name(),
            duration_seconds: phase.duration.as_secs_f64(),
        }
    }
}

impl Requests {
    fn of(report: &ShutdownReport) -> Self {
        let facts = &*report.facts;
        let late = facts.late_arrivals;
        Self {
            admitted: facts.admitted,
            refused: facts.refused,
            in_flight_at_trigger: facts.in_flight_at_trigger,
            late_in_lame_duck: late.count,
            last_in_lame_duck_seconds: late.last.map(|last| last.as_secs_f64()),
            lame_duck_was_too_short: late.lame_duck_was_too_short,
            late_while_draining: facts.late_requests,
            in_flight_at_force: facts.in_flight_at_force,
            aborted: facts.aborted,
            abandoned: facts.abandoned_requests,
        }
    }
}

impl<'a> Entry<'a> {
    fn of(name: &'a str, phase: Option<i32>, outcome: &Outcome, duration: Duration) -> Self {
        Self {
            name,
            phase,
            outcome: outcome.name(),
            error: match outcome {
                Outcome::Failed(error) => Some(Chain(&**error).to_string()),
                Outcome::Panicked(message) => Some(message.clone()),
                _ => None,
            },
            duration_seconds: duration.as_secs_f64(),
        }
    }
}
