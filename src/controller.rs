//! The handle on a service's lifecycle, and what it takes and gives.

// Each file adds the methods of one subject to `ShutdownController`. The work is done by the wing `shutdown`.

#[allow(clippy::module_inception)]
mod controller;
mod maintenance;
mod metrics;
#[cfg(feature = "persist")]
mod persist;
mod readiness;
mod run;
mod spawn;
mod supervised;
mod task;

pub use self::controller::ShutdownController;
pub use self::maintenance::ResumeError;
pub use self::metrics::Metrics;
pub use self::readiness::Readiness;
pub use self::run::Run;
pub use self::task::Task;
pub use crate::shutdown::{HookError, TaskPolicy};

pub(crate) use self::spawn::start;
