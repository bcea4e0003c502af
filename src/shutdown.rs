//! The shutdown: its shared state, its sequence and its report.
//!
//! [`Core`] is shared by the handle, the waits and the sequence. It holds the gate and the registries of
//! hooks, services, tasks and servers, which do not refer to it. [`sequence`] leads from the trigger to the
//! report, and [`driver`] runs it. [`Wait`] is the future that the waiting methods return.

mod attempt;
mod cleanup;
mod core;
pub(crate) mod driver;
mod exit;
#[cfg(all(unix, any(feature = "restart", feature = "systemd")))]
mod hand_over;
mod hooks;
mod into_result;
mod lame_duck;
#[cfg(feature = "signal")]
mod listening;
mod notice;
mod outcome;
mod pulse;
mod race;
mod readiness;
mod report;
mod sequence;
mod servers;
mod services;
mod startup_failure;
mod tasks;
mod wait;

pub use self::hooks::{Hook, HookError};
pub use self::into_result::IntoResult;
pub use self::lame_duck::LameDuckEnd;
pub use self::notice::ShutdownNotice;
pub use self::outcome::{HookReport, Outcome, SaveReport, ServiceReport, TaskReport};
pub use self::report::{PhaseReport, ShutdownReport};
pub use self::startup_failure::StartupCause;
pub use self::tasks::TaskPolicy;
pub use self::wait::Wait;

#[cfg(any(feature = "signal", all(unix, feature = "restart")))]
pub(crate) use self::attempt::Shutdown;
pub(crate) use self::cleanup::{BoxFuture, Job};
pub(crate) use self::core::{Core, ENDED};
#[cfg(all(unix, feature = "systemd"))]
pub(crate) use self::hand_over::HandOverState;
#[cfg(feature = "admin")]
pub(crate) use self::hooks::HookStatus;
#[cfg(feature = "signal")]
pub(crate) use self::listening::Start;
#[cfg(feature = "server")]
pub(crate) use self::notice::earlier;
#[cfg(feature = "server")]
pub(crate) use self::race::let_others_run;
#[cfg(any(feature = "server", feature = "axum", all(unix, feature = "systemd")))]
pub(crate) use self::race::until;
pub(crate) use self::race::{Either, race};
pub(crate) use self::servers::ServerError;
#[cfg(feature = "health")]
pub(crate) use self::services::ServiceHealth;
pub(crate) use self::services::Stop;
pub(crate) use self::startup_failure::StartupFailure;
pub(crate) use self::tasks::{Policies, Role, TaskId};
