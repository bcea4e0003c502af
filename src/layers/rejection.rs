//! The mark on a response that the layer created.

/// Marks a response that a [`DrainLayer`](crate::DrainLayer) created in place of the service.
///
/// It is in the [extensions](http::Response::extensions) of each response to a request that was
/// refused, or cut before it had a response. That holds for every protocol, status and body, including
/// gRPC and the responses of [`refuse_with`](crate::DrainLayer::refuse_with). Responses of the service
/// do not have it, unless the service contains another `DrainLayer`. Logs and metrics can use it to
/// distinguish the planned rejections of a shutdown from failures.
///
/// Extensions stay in the process, so clients do not see the mark. A response whose body is cut comes
/// from the service, and has no mark. Its body ends with [`Forced`](crate::error::Forced), or with
/// trailers if it is a gRPC stream.
///
/// # Examples
///
/// With this classifier, tower-http's `TraceLayer` does not treat a refusal as a failure, and does not
/// log it as an error. The `TraceLayer` is around the `DrainLayer`:
///
/// ```
/// use std::fmt::Display;
/// use axum::{Router, body::Body, http::{Request, Response}, routing::get};
/// use tower::ServiceExt;
/// use tower_http::classify::{
///     ClassifiedResponse, ClassifyResponse, NeverClassifyEos, ServerErrorsAsFailures,
///     ServerErrorsFailureClass, SharedClassifier,
/// };
/// use tower_http::trace::TraceLayer;
/// use tower_lifecycle::layers::Rejection;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// #[derive(Clone)]
/// struct Unplanned;
///
/// impl ClassifyResponse for Unplanned {
///     type FailureClass = ServerErrorsFailureClass;
///     type ClassifyEos = NeverClassifyEos<ServerErrorsFailureClass>;
///
///     fn classify_response<B>(
///         self,
///         response: &Response<B>,
///     ) -> ClassifiedResponse<Self::FailureClass, Self::ClassifyEos> {
///         match response.extensions().get() {
///             Some(Rejection::Refused) => ClassifiedResponse::Ready(Ok(())),
///             _ => ServerErrorsAsFailures::new().classify_response(response),
///         }
///     }
///
///     fn classify_error<E: Display + 'static>(self, error: &E) -> Self::FailureClass {
///         ServerErrorsAsFailures::new().classify_error(error)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()))
///     .layer(TraceLayer::new(SharedClassifier::new(Unplanned)));
///
/// ctl.force();
/// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(response.extensions().get(), Some(&Rejection::Refused));
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// The request was not admitted because of a shutdown or a
    /// [pause](crate::ShutdownController::pause). The service has not seen it, so it may be sent again.
    Refused,
    /// The request was admitted, and cut by force before it had a response. The service may have done
    /// part of the work.
    Cut,
}
