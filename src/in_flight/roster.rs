//! The names of what is in flight.
//!
//! Counting needs no names. Work is listed here only if it asks for it, and requests only once they have
//! to wait, so that a request that ends in its first poll does not pay for the list.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Lease;
use super::oldest::Oldest;
use super::places::Places;
use crate::sync::{Arc, Mutex, lock};
use crate::text::one_line;

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
    /// Its name, of at most 200 characters that do not break or reverse the line.
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
    /// Has as many shards as the list, and knows whether work is cut.
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

    /// Adds all pieces of work.
    pub(crate) fn collect(&self, oldest: &mut Oldest<InFlightItem>) {
        let now = Instant::now();
        for shard in &self.shards {
            for member in lock(shard).iter() {
                oldest.add(false, member.age(now), || member.item(now));
            }
        }
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

/// Returns a name that is safe to show.
pub(super) fn readable(name: &str) -> Cow<'_, str> {
    // The last one may be `…`.
    one_line(name, MAX_NAME - 1)
}

impl Member {
    fn item(&self, now: Instant) -> InFlightItem {
        InFlightItem {
            kind: self.kind,
            name: Arc::clone(&self.name),
            stage: self.stage,
            age: self.age(now),
        }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
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
