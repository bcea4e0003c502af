//! What a run has found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use crate::check::diagnosis::{self, AT_THE_END, Finding};
use crate::check::options::Options;
use crate::check::picture;
use crate::ledger::{Counts, Entry, Fate, Ledger, Unsent};

/// How long after an instance is ready again a request still belongs to its restart.
const AFTER_READY: Duration = Duration::from_millis(200);
/// How many failed requests are written to JSON one by one.
const FAILURES: usize = 500;

/// What a run has found. [`Display`](fmt::Display) is for people, [`json`](Self::json) for programs.
#[derive(Debug, Clone)]
pub struct Report {
    pub(crate) command: String,
    pub(crate) options: Options,
    pub(crate) seed: u64,
    pub(crate) counts: Counts,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) entries: Vec<Entry>,
}

/// A signal to an instance, and what followed. Times are relative to the signal, except its own.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Restart {
    /// From 1.
    pub round: u32,
    /// The port of the instance.
    pub port: u16,
    /// When the signal was sent, since the beginning of the run.
    #[serde(rename = "signal_at_ms", serialize_with = "millis")]
    pub signal_at: Duration,
    /// When the process had ended.
    #[serde(rename = "ended_after_ms", serialize_with = "millis")]
    pub ended_after: Duration,
    /// When the next process was ready, if it was started.
    #[serde(rename = "ready_after_ms", serialize_with = "maybe_millis")]
    pub ready_after: Option<Duration>,
    /// How the process ended.
    pub exit: String,
    /// Whether it did not end in time and was killed.
    pub was_killed: bool,
    /// Whether the signal itself ended it: it has no handler, or sends it to itself at the end.
    pub by_signal: bool,
    /// When `--ready-path` was first answered with another status than 2xx.
    #[serde(rename = "red_after_ms", serialize_with = "maybe_millis")]
    pub red_after: Option<Duration>,
    /// When a connection was first refused while the process still ran.
    #[serde(rename = "refused_after_ms", serialize_with = "maybe_millis")]
    pub refused_after: Option<Duration>,
    /// The requests that ended nearest to it.
    pub counts: Counts,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        seed: u64,
        ledger: &Ledger,
        mut restarts: Vec<Restart>,
    ) -> Self {
        let counts = ledger.counts();
        let entries = ledger.take();
        let is_direct = options.via == crate::Via::None;
        for entry in &entries {
            let nearest = index(&restarts, entry.ended);
            let restart = &mut restarts[nearest];
            restart.counts.add(entry.fate);
            let after = entry.ended.checked_sub(restart.signal_at);
            let while_running = after.filter(|after| *after + AT_THE_END < restart.ended_after);
            if entry.fate == Fate::NeverSent(Unsent::Refused) && is_direct {
                restart.refused_after = restart.refused_after.or(while_running);
            }
        }
        let findings = diagnosis::findings(options, &restarts, &entries);
        let command = options.command().unwrap_or_default().join(" ");
        Self {
            command,
            options: options.clone(),
            seed,
            counts,
            restarts,
            findings,
            entries,
        }
    }

    /// Returns how many requests had which fate.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns how many requests were lost, with `--strict` also those that are ambiguous.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let ambiguous = if self.options.strict {
            self.counts.ambiguous
        } else {
            0
        };
        self.counts.lost + ambiguous
    }

    /// Returns the signals, in their order.
    #[must_use]
    pub fn restarts(&self) -> &[Restart] {
        &self.restarts
    }

    /// Returns the likely causes, the faults first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns 0 if nothing was lost and each process ended by itself, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let was_killed = self.restarts.iter().any(|restart| restart.was_killed);
        u8::from(self.lost() > 0 || was_killed)
    }

    /// Returns the report as JSON. Times are milliseconds; those of requests are relative to the
    /// nearest signal.
    #[must_use]
    pub fn json(&self) -> String {
        let failed = self.entries.iter();
        let failed =
            failed.filter(|entry| !matches!(entry.fate, Fate::Answered | Fate::NeverSent(_)));
        let failures = failed
            .take(FAILURES)
            .map(|entry| self.failure(entry))
            .collect();
        let mut clients = BTreeMap::<String, Counts>::new();
        for entry in &self.entries {
            let name = client_name(entry);
            clients.entry(name).or_default().add(entry.fate);
        }
        let json = Json {
            drain_check: env!("CARGO_PKG_VERSION"),
            command: &self.command,
            url: &self.options.url,
            signal: self.options.signal.as_str(),
            seed: self.seed,
            verdict: if self.exit_code() == 0 {
                "nothing lost"
            } else {
                "lost"
            },
            exit_code: self.exit_code(),
            counts: self.counts,
            clients,
            findings: &self.findings,
            restarts: &self.restarts,
            failures,
        };
        serde_json::to_string_pretty(&json).expect("strings, numbers and lists")
    }

    /// Draws each request as a line over time, in SVG: all that failed, and a sample of the others.
    #[must_use]
    pub fn picture(&self) -> String {
        picture::svg(self)
    }

    /// Returns one HTML file with the picture and the report.
    #[must_use]
    pub fn page(&self) -> String {
        picture::html(self)
    }

    fn failure(&self, entry: &Entry) -> Failure {
        let restart = index(&self.restarts, entry.ended);
        let signal_at = self.restarts[restart].signal_at;
        Failure {
            restart,
            client: client_name(entry),
            began_ms: relative(entry.began, signal_at),
            ended_ms: relative(entry.ended, signal_at),
            fate: entry.fate,
            seen: entry.seen.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    drain_check: &'static str,
    command: &'a str,
    url: &'a str,
    signal: &'static str,
    seed: u64,
    verdict: &'static str,
    exit_code: u8,
    counts: Counts,
    clients: BTreeMap<String, Counts>,
    findings: &'a [Finding],
    restarts: &'a [Restart],
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    /// An index of `restarts`.
    restart: usize,
    client: String,
    began_ms: f64,
    ended_ms: f64,
    fate: Fate,
    seen: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            answered,
            refused,
            never_sent,
            ambiguous,
            lost,
        } = self.counts;
        let sent = answered + refused + ambiguous + lost;
        writeln!(
            f,
            "{}: {} to {} processes, seed {}",
            self.command,
            self.options.signal,
            self.restarts.len(),
            self.seed
        )?;
        writeln!(
            f,
            "  {sent} requests sent = {answered} answered in full + {refused} refused in a retry-safe \
             way + {ambiguous} ambiguous + {lost} lost"
        )?;
        writeln!(
            f,
            "  {never_sent} never sent: the connection was refused, or closed before"
        )?;
        // Those with a loss say more, and a screen is short.
        let mut shown: Vec<_> = self.restarts.iter().collect();
        shown.sort_by_key(|restart| (restart.counts.lost == 0, restart.signal_at));
        shown.truncate(10);
        shown.sort_by_key(|restart| restart.signal_at);
        for restart in &shown {
            writeln!(f, "  {restart}")?;
        }
        if shown.len() < self.restarts.len() {
            writeln!(f, "  and {} more", self.restarts.len() - shown.len())?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match (self.exit_code(), self.lost()) {
            (0, _) => f.write_str("verdict: nothing lost"),
            (_, 0) => f.write_str("verdict: FAILED, a process did not end"),
            (_, lost) => write!(f, "verdict: FAILED, {lost} lost"),
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}, port {}: ", self.round, self.port)?;
        if self.was_killed {
            write!(f, "KILLED after {:.2?}", self.ended_after)?;
        } else {
            write!(f, "ended after {:.2?} with {}", self.ended_after, self.exit)?;
        }
        if let Some(after) = self.red_after {
            write!(f, ", not ready after {after:.1?}")?;
        }
        if let Some(after) = self.refused_after {
            write!(f, ", connections refused after {after:.1?}")?;
        }
        let Counts {
            ambiguous, lost, ..
        } = self.counts;
        write!(f, "; {ambiguous} ambiguous, {lost} lost")
    }
}

/// Returns the index of the restart to which a moment belongs: the last one that is not over, or the
/// next.
pub(crate) fn index(restarts: &[Restart], moment: Duration) -> usize {
    let is_over = |restart: &Restart| match restart.ready_after {
        Some(after) => restart.signal_at + after + AFTER_READY <= moment,
        None => false,
    };
    let index = restarts.partition_point(is_over);
    index.min(restarts.len() - 1)
}

/// Returns a client's kind, such as "http1 upload".
pub(crate) fn client_name(entry: &Entry) -> String {
    format!("{} {}", entry.sender.name(), entry.work.name())
}

/// Returns milliseconds from the signal, with microseconds.
pub(crate) fn relative(moment: Duration, signal_at: Duration) -> f64 {
    let micros = moment.as_secs_f64() - signal_at.as_secs_f64();
    (micros * 1e6).round() / 1e3
}

fn millis<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(relative(*time, Duration::ZERO))
}

fn maybe_millis<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| relative(time, Duration::ZERO))
        .serialize(to)
}
