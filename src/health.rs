//! Readiness and liveness probes.

// `HealthService` runs the application's checks and answers a probe. `HealthLayer` puts it in front of a
// service that has no router. `LifecycleService` shows the whole lifecycle to people and programs. This
// module uses the controller. No other module uses this one.

mod background;
mod body;
mod check;
mod json;
mod layer;
#[cfg(feature = "admin")]
mod lifecycle_service;
mod prober;
mod round;
mod run;
mod runs;
mod service;
mod services;
mod step;

pub use self::body::HealthBody;
pub use self::layer::{Health, HealthLayer, ResponseFuture as HealthFuture};
#[cfg(feature = "admin")]
pub use self::lifecycle_service::{LifecycleService, ResponseFuture as LifecycleServiceFuture};
pub use self::service::{HealthService, ResponseFuture as HealthServiceFuture};
