//! Counts the work in flight.
//!
//! [`Gate`] counts work and decides whether more may enter. [`Entry`] is one unit of work in the
//! gate, and [`InFlightGuard`] is its public form. [`LayerHandle`] finds a layer's shard of the
//! gate. [`OpenConnection`] counts and lists connections. [`Milestones`] wakes tasks that wait for a point in
//! the lifecycle. This module depends only on the top-level modules of the crate.

pub(crate) mod arrivals;
mod connection_item;
#[cfg(feature = "server")]
mod connections;
mod ending;
mod gate;
mod gauge;
mod guard;
mod layer_shard;
mod milestones;
mod oldest;
mod places;
mod roster;
mod thread_index;
mod wakers;

pub use self::connection_item::{ConnectionItem, ConnectionStage};
pub use self::guard::{GuardWait, InFlightGuard};
pub use self::roster::{InFlightItem, InFlightKind, InFlightStage};

pub(crate) use self::arrivals::Arrivals;
#[cfg(feature = "server")]
pub(crate) use self::connections::{Connections, HasStage, OpenConnection};
pub(crate) use self::ending::runtime_is_ending;
pub(crate) use self::gate::{Gate, Lease, Shard, interest};
pub(crate) use self::guard::{Entry, Held};
pub(crate) use self::layer_shard::{LayerHandle, LayerTables};
pub(crate) use self::milestones::{Milestones, event};
pub(crate) use self::oldest::Oldest;
pub(crate) use self::places::Places;
pub(crate) use self::roster::{Listed, Roster};
pub(crate) use self::thread_index::thread_index;
#[cfg(feature = "server")]
pub(crate) use self::wakers::WakerSet;
pub(crate) use self::wakers::{Remembered, Slot};
