//! What is in flight, and how it is counted.
//!
//! The [`Gate`] counts and says whether more may enter. An [`Entry`] stands for one unit of work in it,
//! [`InFlightGuard`] is the public one. [`LayerHandle`] leads a layer's services to their shard of the
//! gate, [`OpenConnection`] counts connections. The milestones wake those who wait for the lifecycle to
//! come to a certain point. This wing knows only the ground.

pub(crate) mod arrivals;
#[cfg(feature = "server")]
mod connections;
mod ending;
mod gate;
mod guard;
mod layer_shard;
mod milestones;
mod thread_index;
mod wakers;

pub use self::guard::{GuardWait, InFlightGuard};

pub(crate) use self::arrivals::Arrivals;
#[cfg(feature = "server")]
pub(crate) use self::connections::{Connections, OpenConnection};
pub(crate) use self::ending::runtime_is_ending;
pub(crate) use self::gate::{Gate, Shard, interest};
pub(crate) use self::guard::{Entry, Held, ShardRef};
pub(crate) use self::layer_shard::{LayerHandle, LayerTables};
pub(crate) use self::milestones::{Milestones, event};
#[cfg(feature = "server")]
pub(crate) use self::wakers::WakerSet;
pub(crate) use self::wakers::{Remembered, Slot};
