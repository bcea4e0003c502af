//! The names of what is in flight.
//!
//! Counting needs no names. Work is listed here only if it asks for it, and requests only once they have
//! to wait, so that a request that ends in its first poll does not pay for the list.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Lease;
use super::places::Places;
use crate::sync::{Arc, Mutex, lock};

/// A piece of work in flight, with its name.
///
/// Created by [`ShutdownController::in_flight_now`](crate::ShutdownController::in_flight_now), and by the
/// report for work that was cut or abandoned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InFlightItem {
    /// What kind of work it is.
    pub kind: InFlightKind,
    /// Its name, of at most 200 characters without control characters.
    #[cfg_attr(feature = "serde", serde(serialize_with = "text"))]
    pub name: Arc<str>,
    /// What it is doing.
    pub stage: InFlightStage,
    /// For how long it has been in flight. A request counts from its first wait.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "age_seconds", serialize_with = "crate::config::seconds")
    )]
    pub age: Duration,
}

/// The kind of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum InFlightKind {
    /// A request, named by a [`RequestNamesLayer`](crate::layers::RequestNamesLayer).
    Request,
    /// A guard of [`track_named`](crate::ShutdownController::track_named).
    Guard,
    /// A task of [`spawn`](crate::ShutdownController::spawn).
    Task,
    /// A worker of [`spawn_worker`](crate::ShutdownController::spawn_worker).
    Worker,
    /// An upgraded connection, named by a [`RequestNamesLayer`](crate::layers::RequestNamesLayer).
    Upgrade,
}

/// What a piece of work is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum InFlightStage {
    /// A request waits until the service is ready. It has no name yet, since it has not been passed on.
    Readiness,
    /// The request has no response yet.
    Handler,
    /// The response has begun, and its body has not ended.
    Body,
    /// The response is an event stream, or the connection was upgraded.
    Stream,
    /// The guard or task exists.
    Running,
}

/// The list.
#[derive(Debug)]
pub(crate) struct Roster {
    /// Tells whether work is cut.
    gate: Lease,
    /// By the thread that listed the work.
    shards: Box<[Mutex<Places<Member>>]>,
    cut: Mutex<Vec<InFlightItem>>,
}

#[derive(Debug)]
struct Member {
    kind: InFlightKind,
    name: Arc<str>,
    stage: InFlightStage,
    since: Instant,
}

/// A place in the list, given back when dropped.
#[must_use = "dropping it takes the work off the list"]
pub(crate) struct Listed {
    roster: Arc<Roster>,
    shard: usize,
    place: usize,
}

/// How many pieces of work that were cut are remembered.
const MAX_CUT: usize = 100;
const MAX_NAME: usize = 200;

// ===== impl InFlightItem =====

impl fmt::Display for InFlightItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, stage, age, ..
        } = self;
        match stage {
            InFlightStage::Running => write!(f, "{name} ({age:.1?})"),
            _ => write!(f, "{name} ({}, {age:.1?})", stage.name()),
        }
    }
}

// ===== impl InFlightKind =====

impl InFlightKind {
    /// Returns the name in lower snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Guard => "guard",
            Self::Task => "task",
            Self::Worker => "worker",
            Self::Upgrade => "upgrade",
        }
    }
}

// ===== impl InFlightStage =====

impl InFlightStage {
    /// Returns the name in lower snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readiness => "readiness",
            Self::Handler => "handler",
            Self::Body => "body",
            Self::Stream => "stream",
            Self::Running => "running",
        }
    }
}

// ===== impl Roster =====

impl Roster {
    pub(crate) fn new(gate: &Lease) -> Arc<Self> {
        Arc::new(Self {
            gate: gate.clone(),
            shards: gate.shards().iter().map(|_| Mutex::default()).collect(),
            cut: Mutex::default(),
        })
    }

    /// Lists a piece of work until the returned value is dropped.
    pub(crate) fn list(
        self: &Arc<Self>,
        kind: InFlightKind,
        name: &str,
        stage: InFlightStage,
    ) -> Listed {
        let member = Member {
            kind,
            name: readable(name).into(),
            stage,
            since: Instant::now(),
        };
        let shard = self.gate.local_index();
        Listed {
            roster: Arc::clone(self),
            shard,
            place: lock(&self.shards[shard]).add(member),
        }
    }

    /// Returns at most `most` pieces of work, the oldest first.
    pub(crate) fn oldest(&self, most: usize) -> Vec<InFlightItem> {
        let now = Instant::now();
        let mut items = Vec::new();
        for shard in &self.shards {
            let places = lock(shard);
            let mut members: Vec<_> = places.iter().collect();
            // Not sorted under the lock: there may be a hundred thousand.
            if members.len() > most {
                members.select_nth_unstable_by_key(most, |member| member.since);
                members.truncate(most);
            }
            items.extend(members.iter().map(|member| member.item(now)));
        }
        items.sort_by_key(|item| Reverse(item.age));
        items.truncate(most);
        items
    }

    /// Returns the first hundred pieces of work that were cut.
    pub(crate) fn cut(&self) -> Vec<InFlightItem> {
        lock(&self.cut).clone()
    }

    /// Forgets what was cut, for another shutdown.
    pub(crate) fn forget_cut(&self) {
        drop(mem::take(&mut *lock(&self.cut)));
    }
}

/// Returns a name that is safe to show: short, and without control characters.
pub(super) fn readable(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if name.len() < MAX_NAME && name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let mut chars = name.chars().flat_map(|char| {
        let is_escaped = char.is_control();
        let escaped = is_escaped.then(|| char.escape_default());
        escaped
            .into_iter()
            .flatten()
            .chain((!is_escaped).then_some(char))
    });
    let mut readable: String = chars.by_ref().take(MAX_NAME - 1).collect();
    if chars.next().is_some() {
        readable.push('…');
    }
    Cow::Owned(readable)
}

impl Member {
    fn item(&self, now: Instant) -> InFlightItem {
        InFlightItem {
            kind: self.kind,
            name: Arc::clone(&self.name),
            stage: self.stage,
            age: now.saturating_duration_since(self.since),
        }
    }
}

// ===== impl Listed =====

impl Listed {
    /// Returns whether admitted work is cut.
    pub(crate) fn is_forced(&self) -> bool {
        self.roster.gate.local().is_forced()
    }

    pub(crate) fn set_stage(&self, stage: InFlightStage) {
        let mut places = lock(&self.roster.shards[self.shard]);
        if let Some(member) = places.member(self.place) {
            member.stage = stage;
        }
    }

    /// Lists the work as an upgraded connection from now on.
    pub(crate) fn upgrade(self) -> Self {
        let mut places = lock(&self.roster.shards[self.shard]);
        if let Some(member) = places.member(self.place) {
            (member.kind, member.stage) = (InFlightKind::Upgrade, InFlightStage::Stream);
        }
        drop(places);
        self
    }

    /// Takes the work off the list, and remembers it as cut. Returns what it was.
    pub(crate) fn cut(&self) -> Option<InFlightItem> {
        let item = self.take()?.item(Instant::now());
        let mut cut = lock(&self.roster.cut);
        if cut.len() < MAX_CUT {
            cut.push(item.clone());
        }
        Some(item)
    }

    fn take(&self) -> Option<Member> {
        lock(&self.roster.shards[self.shard]).take(self.place)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let member = lock(&self.roster.shards[self.shard]).remove(self.place);
        drop(member); // outside the lock
    }
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").finish_non_exhaustive()
    }
}

#[cfg(feature = "serde")]
pub(super) fn text<S: serde::Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_have_no_control_characters() {
        assert_eq!(readable("GET /\u{1b}[31m\n"), "GET /\\u{1b}[31m\\n");
        let long = "ä".repeat(1_000);
        let long = readable(&long);
        assert_eq!(long.chars().count(), MAX_NAME);
        assert!(long.ends_with('…'));
    }
}
