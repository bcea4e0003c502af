//! Answers to readiness and liveness probes.

// `HealthService` answers them after it has run the checks of the application; `HealthLayer` does so in front
// of a service without a router. This wing asks the controller, and nobody else knows it.

mod background;
mod body;
mod check;
mod json;
mod layer;
mod round;
mod run;
mod runs;
mod service;
mod services;
mod step;

pub use self::body::HealthBody;
pub use self::layer::{Health, HealthLayer, ResponseFuture as HealthFuture};
pub use self::service::{HealthService, ResponseFuture as HealthServiceFuture};
