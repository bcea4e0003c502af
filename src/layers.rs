//! The layers for any service, and the services, futures and bodies that they make.

// A request comes in by `drain` or `tracking`, which take an entry of the wing `in_flight` for it. The `body`
// of its response carries the entry to the end. `reject` answers what is refused or cut, in the client's own
// protocol. The wing `server` uses the rules for lingering and the marks in a response's extensions.

mod admission;
mod body;
mod cold_box;
mod cut;
mod drain;
mod facts;
mod grpc;
mod linger;
mod long_lived;
mod mode;
mod options;
mod reject;
mod rejection;
mod tracking;
mod upgrade;

pub use self::body::{ResponseBody, TrackedBody};
pub use self::drain::{
    AnyResponseFuture as AnyDrainFuture, Drain, DrainLayer, ResponseFuture as DrainFuture,
};
pub use self::long_lived::LongLived;
pub use self::mode::{AnyService, Http};
pub use self::rejection::Rejection;
pub use self::tracking::{
    RequestTracking, RequestTrackingLayer, ResponseFuture as RequestTrackingFuture,
};
pub use self::upgrade::UpgradeGuard;

#[cfg(feature = "server")]
pub(crate) use self::facts::AskedToLeave;
#[cfg(feature = "server")]
pub(crate) use self::linger::{LEAST, Limits, SILENCE};
