#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! Graceful shutdown and lifecycle for any tower service.

mod body;
mod config;
mod controller;
mod core;
mod drain;
mod error;
mod gate;
mod guard;
#[cfg(feature = "health")]
mod health;
mod hooks;
mod layer_shard;
mod milestones;
mod mode;
mod notice;
mod race;
mod reject;
mod report;
mod run;
mod sequence;
#[cfg(feature = "signal")]
mod signal;
mod state;
mod sync;
mod tracking;
mod wait;
mod wakers;

pub use body::{ResponseBody, TrackedBody};
pub use config::{ConfigError, ShutdownConfig};
pub use controller::ShutdownController;
pub use drain::{Drain, DrainLayer};
pub use error::{BoxError, Forced, ShuttingDown};
pub use guard::{GuardWait, InFlightGuard};
#[cfg(feature = "health")]
pub use health::HealthService;
pub use hooks::{Hook, HookError};
pub use mode::{AnyService, Http};
pub use notice::ShutdownNotice;
pub use report::{HookOutcome, HookReport, PhaseReport, ShutdownReport};
pub use run::{Run, ServerOutput};
#[cfg(feature = "signal")]
pub use signal::SignalError;
pub use state::{LifecycleState, ShutdownReason};
pub use tracking::{RequestTracking, RequestTrackingLayer};
pub use wait::Wait;

/// The response futures of the services.
pub mod future {
    pub use crate::drain::{AnyResponseFuture as AnyDrainFuture, ResponseFuture as DrainFuture};
    #[cfg(feature = "health")]
    pub use crate::health::ResponseFuture as HealthFuture;
    pub use crate::tracking::ResponseFuture as RequestTrackingFuture;
}
