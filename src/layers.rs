//! Layers for any service, with their services, futures and bodies.

// `drain` and `tracking` take an entry of the wing `in_flight` for each request. The `body` of the response
// holds the entry until it ends. `reject` creates the responses to requests that are refused or cut, in the
// client's protocol. `names` lists requests, and logs those that are cut by name, so that `cut_event` logs them
// once. The wing `server` uses the limits for lingering and the marks in response extensions.

mod alarm;
mod body;
mod cold_box;
mod cut;
mod cut_event;
mod drain;
mod facts;
mod grpc;
mod linger;
mod long_lived;
mod mode;
mod names;
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
pub use self::names::{
    NamedBody, RequestNames, RequestNamesLayer, ResponseFuture as RequestNamesFuture,
};
pub use self::rejection::Rejection;
pub use self::tracking::{
    RequestTracking, RequestTrackingLayer, ResponseFuture as RequestTrackingFuture,
};
pub use self::upgrade::UpgradeGuard;

#[cfg(feature = "server")]
pub(crate) use self::facts::AskedToLeave;
#[cfg(feature = "server")]
pub(crate) use self::linger::{LEAST, Limits, SILENCE};
