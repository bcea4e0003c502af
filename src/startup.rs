//! Starting services one after another, and stopping them again when one of them fails.

// `Startup` creates the controller, runs the steps, and registers the services that the shutdown stops. A
// rollback is driven like a shutdown. No other wing uses this one.

mod error;
mod run;
mod starting;
#[allow(clippy::module_inception)]
mod startup;
mod step;
mod watch;

pub use self::error::StartupError;
pub use self::starting::{StartFuture, StartStep};
pub use self::startup::Startup;
pub use self::step::{Step, Steps, step};
pub use crate::shutdown::StartupCause;
