//! What is in flight, by name.

use std::fmt;
use std::ops::Deref;

use super::controller::ShutdownController;
use crate::in_flight::{
    ConnectionItem, InFlightGuard, InFlightItem, InFlightKind, InFlightStage, Listed,
};
use crate::shutdown::Role;

/// What is in flight, created by [`ShutdownController::in_flight_now`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InFlightNow {
    /// The number of requests and guards in flight, with names and without.
    pub requests: u64,
    /// The number of running tasks and workers.
    pub tasks: u64,
    /// The number of open connections of [`serve`](crate::serve) and
    /// [`watch`](ShutdownController::watch).
    pub connections: u64,
    /// The named ones among the requests, upgraded connections, guards, tasks and workers, and requests that
    /// wait for a service. The oldest first, at most 1,000.
    pub items: Vec<InFlightItem>,
    /// The open connections of [`serve`](crate::serve), and those of [`watch`](ShutdownController::watch)
    /// that name their [`peer`](crate::server::WatchedConnection::peer): first those that are not idle,
    /// then the oldest, at most 1,000.
    pub connection_items: Vec<ConnectionItem>,
}

/// An [`InFlightGuard`] with a name, created by [`ShutdownController::track_named`].
#[must_use = "dropping the guard ends the work that it counts"]
pub struct NamedGuard {
    // Declared first, so that the work is off the list before the count can reach zero.
    listed: Listed,
    guard: InFlightGuard,
}

/// How many names are returned.
const MAX_ITEMS: usize = 1_000;

impl ShutdownController {
    /// Returns what is in flight at this moment, by name and age.
    ///
    /// Requests and upgraded connections have names if a
    /// [`RequestNamesLayer`](crate::layers::RequestNamesLayer) names them, guards if they are of
    /// [`track_named`](Self::track_named), and tasks always. The others are only counted. Connections are
    /// listed by the addresses of their peers. The call takes a lock for each shard and one for the
    /// connections, and copies the oldest names. It is for people and for admin ports, not for each
    /// request.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    /// use tower_lifecycle::controller::InFlightKind;
    ///
    /// let ctl = ShutdownController::new();
    /// let _import = ctl.track_named("import of orders.csv");
    /// let _other = ctl.track();
    ///
    /// let now = ctl.in_flight_now();
    /// assert_eq!(now.requests, 2);
    /// assert_eq!(now.items.len(), 1);
    /// assert_eq!(&*now.items[0].name, "import of orders.csv");
    /// assert_eq!(now.items[0].kind, InFlightKind::Guard);
    /// ```
    pub fn in_flight_now(&self) -> InFlightNow {
        let core = self.core();
        InFlightNow {
            requests: core.gate.in_flight(),
            tasks: core.tasks.running(&[Role::Task, Role::Worker]),
            connections: core.open_connections(),
            items: core.oldest_in_flight(MAX_ITEMS),
            connection_items: core.oldest_connections(MAX_ITEMS),
        }
    }

    /// Counts a unit of work like [`track`](Self::track), and lists it by name.
    ///
    /// The log names it while draining if it is among the oldest, and the
    /// [report](crate::ShutdownReport::abandoned_work) if it is abandoned.
    ///
    /// # Examples
    ///
    /// See [`in_flight_now`](Self::in_flight_now).
    pub fn track_named(&self, name: &str) -> NamedGuard {
        let guard = self.track();
        let roster = &self.core().roster;
        NamedGuard {
            listed: roster.list(InFlightKind::Guard, name, InFlightStage::Running),
            guard,
        }
    }
}

impl Deref for NamedGuard {
    type Target = InFlightGuard;

    fn deref(&self) -> &InFlightGuard {
        &self.guard
    }
}

impl fmt::Debug for NamedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedGuard")
            .field("listed", &self.listed)
            .field("guard", &self.guard)
            .finish()
    }
}
