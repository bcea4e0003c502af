//! The handle to a service's lifecycle, and the types of its methods.

// Each file adds the methods of one topic to `ShutdownController`. The wing `shutdown` does the work.

#[allow(clippy::module_inception)]
mod controller;
mod in_flight_now;
mod maintenance;
mod metrics;
#[cfg(feature = "persist")]
mod persist;
mod readiness;
#[cfg(feature = "metrics")]
mod recorder;
mod reporting;
mod run;
mod spawn;
mod supervised;
mod task;

pub use self::controller::ShutdownController;
pub use self::in_flight_now::{InFlightNow, NamedGuard};
pub use self::maintenance::ResumeError;
pub use self::metrics::Metrics;
pub use self::readiness::Readiness;
pub use self::run::Run;
pub use self::task::Task;
pub use crate::in_flight::{
    ConnectionItem, ConnectionStage, InFlightItem, InFlightKind, InFlightStage,
};
pub use crate::shutdown::{HookError, TaskPolicy};

pub(crate) use self::spawn::start;
