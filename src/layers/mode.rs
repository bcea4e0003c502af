//! The kind of service that a layer wraps: an HTTP service, or any service.

/// The mode for HTTP services.
///
/// Requests are refused with a response, and counted until the response body ends. This is the
/// default mode of the layers and their services, so it need not be named.
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use tower::Layer;
/// use tower_lifecycle::layers::{Drain, Http};
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// let layer: DrainLayer = DrainLayer::new(ShutdownController::new());
/// let app: Drain<Router, Http> = layer.layer(Router::new()); // or `Drain<Router>`
/// assert!(!app.get_ref().has_routes());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Http;

/// The mode for any tower service.
///
/// Requests are refused with an error, and counted until the response future completes.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_lifecycle::layers::{AnyService, Drain};
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// /// Takes its jobs from a queue.
/// struct Worker<S> {
///     jobs: Drain<S, AnyService>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let layer = DrainLayer::new(ShutdownController::new()).reject_with_error();
/// let double = service_fn(|n: u32| async move { Ok::<_, Infallible>(2 * n) });
/// let mut worker = Worker { jobs: layer.layer(double) };
/// assert_eq!(worker.jobs.ready().await.unwrap().call(21).await.unwrap(), 42);
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyService;
